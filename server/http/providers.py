"""Signing in with Google and Apple: in a browser that goes there and comes back, or with an ID token that an app has.

Whoever is not known by their subject there gets an account of their own, unless an account has their address: then they are
told so, and may link the provider to it once they are signed in to it. Nobody is ever let in, or linked, by an address.

A browser that comes back with what it began is always sent on to where it wanted to go, with what became of it after a ``#``:
``signed_in=google``, ``linked=google``, or ``error=`` and a code. One that comes back with anything else gets no further.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import parse_qsl

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from protocol.envelope import SessionId
from protocol.refusals import ErrorCode, Refused
from server.gateways.identity import Provider
from server.http.auth import SIGN_INS, SIGNED_IN
from server.http.cookies import cookie, kept, no_cookie
from server.http.endpoint import FORM, Endpoint, Parameter, WithCookies, read_body
from server.http.flows import FLOW_SECONDS, Flows, UnderWay, checked_place, cookie_name, same_site
from server.http.grants import Grants, SignedIn
from server.http.proofs import (
    ID_TOKEN_EXAMPLE,
    UNNAMED,
    IdToken,
    Proven,
    name_in,
    proven_in_browser,
    proven_on_device,
)
from storage.identities import enter, link
from storage.people import account_of_session

if TYPE_CHECKING:
    from server.node import Node

PROVIDER: Final = Parameter(
    "provider",
    "path",
    "With whom. One that `GET /auth/providers` does not list is not there.",
    choices=("google", "apple"),
)
_CANCELLED: Final = ("access_denied", "user_cancelled_authorize")


class Offered(Struct):
    """A provider that one can sign in with."""

    name: Annotated[str, Meta(description="`google` or `apple`.")]
    start: Annotated[
        str, Meta(description="Where a button leads; with `?then=` and where to go afterwards, else to `/`.")
    ]


class Returned(Struct):
    """What a browser brings back from Apple, as a form."""

    state: Annotated[str, Meta(description="What the browser was sent there with.")]
    code: Annotated[str, Meta(description="What the provider gave.")] = ""
    error: Annotated[str, Meta(description="Why it gave none.")] = ""
    user: Annotated[str, Meta(description="The first time: who one is, as JSON of Apple.")] = ""


class AllOffered(Struct):
    """The providers that one can sign in with here; none when none is set up."""

    providers: Annotated[list[Offered], Meta(description="In the order of their buttons.")]


class Arrivals:
    """The operations on signing in through providers, of one node."""

    def __init__(self, node: Node, grants: Grants) -> None:
        self._node = node
        self._grants = grants
        self._flows = Flows(node.tokens)

    async def providers(self, _: Request) -> AllOffered:
        """List with whom one can sign in here."""
        home = self._node.settings.home
        offered = self._node.providers.all()
        return AllOffered([Offered(one.name, f"{home}/auth/{one.name}/start") for one in offered])

    async def start_sign_in(self, request: Request) -> Response:
        """Send a browser to the provider. A link or a button leads here; a script can't follow.

        The browser ends at `then`, with what became of it after a `#`: `signed_in=google`, or `error=` and `cancelled` or one of
        the codes below `POST /auth/{provider}/token`. A page that sees `signed_in` gets its access token by
        `POST /auth/refresh` with `{}`.
        """
        provider = self.provider(request)
        then = checked_place(request.query_params.get("then", "/"), self._node.settings.allowed_origins)
        before = self._flows.taken_up(kept(request, cookie_name(provider)), provider.name)
        under_way = self._flows.begin(
            provider.name,
            then,
            replaces=await self._grants.kept_session(request),
            name=before.flow.name if before else None,
        )
        return _sent_on(self._address(provider, under_way), [_keeping(provider, under_way)])

    async def come_back(self, request: Request) -> Response:
        """Take a browser that comes back from Google, and send it on to where it wanted to go. Nothing else leads here."""
        return await self._come_back(
            request, self.provider(request, posts=False), request.query_params.multi_items()
        )

    async def come_back_with_form(self, request: Request) -> Response:
        """Take a browser that comes back from Apple, and send it on to where it wanted to go. Nothing else leads here."""
        provider = self.provider(request, posts=True)
        form = (await read_body(request, FORM)).decode("utf-8", "replace")
        return await self._come_back(request, provider, parse_qsl(form, keep_blank_values=True))

    async def sign_in_on_device(self, request: Request, body: IdToken) -> SignedIn | WithCookies:
        """Sign in with an ID token that the provider gave to an app. It is good for one sign-in."""
        proven = await proven_on_device(self.provider(request), body)
        stores = self._node.stores
        account = await enter(
            stores.pool,
            stores.sealer,
            proven.known,
            proven.spent,
            name=proven.name or UNNAMED,
            granted=proven.granted,
            invited=self._node.settings.registration == "invited",
        )
        return await self._grants.sign_in(request, account)

    def provider(self, request: Request, *, posts: bool | None = None) -> Provider:
        """Return the provider that the path names. Raises `Refused` (not_found)."""
        provider = self._node.providers.find(request.path_params["provider"])
        if posts is not None and provider.posts is not posts:
            raise Refused(ErrorCode.NOT_FOUND)
        return provider

    def begin_link(self, provider: Provider, then: str, session: SessionId) -> tuple[str, str]:
        """Begin to link `provider` to the account of `session`: return where its browser must go, and the cookie to keep."""
        place = checked_place(then, self._node.settings.allowed_origins)
        under_way = self._flows.begin(provider.name, place, link=session)
        return self._address(provider, under_way), _keeping(provider, under_way)

    def _address(self, provider: Provider, under_way: UnderWay) -> str:
        return provider.authorize_url(
            redirect_uri=self._return_address(provider),
            state=under_way.state,
            nonce=under_way.nonce,
            challenge=under_way.challenge,
        )

    def _return_address(self, provider: Provider) -> str:
        """Return the one address that a browser comes back to. It is made of the settings alone, never of a request."""
        return f"{self._node.settings.home}/auth/{provider.name}/callback"

    async def _come_back(
        self, request: Request, provider: Provider, fields: Sequence[tuple[str, str]]
    ) -> Response:
        said = dict(fields)
        under_way = self._flows.taken_up(kept(request, cookie_name(provider)), provider.name)
        if under_way is None or len(said) != len(fields) or not under_way.fits(said.get("state", "")):
            raise Refused(ErrorCode.SIGN_IN_REFUSED)
        flow = under_way.flow
        name = name_in(said.get("user")) or flow.name
        if "code" not in said:
            error = "cancelled" if said.get("error") in _CANCELLED else ErrorCode.SIGN_IN_REFUSED.value
            return _sent_on(f"{flow.then}#error={error}", [self._ended(provider, name)])
        try:
            proven = await proven_in_browser(
                provider, under_way, said["code"], self._return_address(provider)
            )
            if flow.link is None:
                cookies = [await self._sign_in(request, proven, name)]
                if flow.replaces is not None:
                    await self._grants.supersede(flow.replaces)
            else:
                cookies = []
                await self._link(flow.link, proven)
        except Refused as refused:
            return _sent_on(f"{flow.then}#error={refused.code.value}", [self._ended(provider, name)])
        outcome = "signed_in" if flow.link is None else "linked"
        return _sent_on(f"{flow.then}#{outcome}={provider.name}", [*cookies, self._ended(provider, None)])

    async def _sign_in(self, request: Request, proven: Proven, name: str | None) -> str:
        """Sign the browser in, and return the cookie that it keeps."""
        stores = self._node.stores
        account = await enter(
            stores.pool,
            stores.sealer,
            proven.known,
            proven.spent,
            name=proven.name or name or UNNAMED,
            granted=proven.granted,
            invited=self._node.settings.registration == "invited",
        )
        refresh_token, _, _ = await self._grants.open(request, account)
        return self._grants.keeping(refresh_token)

    async def _link(self, session: SessionId, proven: Proven) -> None:
        stores = self._node.stores
        found = await account_of_session(stores.pool, stores.sealer, session)
        if found is None or found.ended or found.banned:
            raise Refused(ErrorCode.SESSION_ENDED)
        await link(
            stores.pool, stores.sealer, found.account.id, proven.known, proven.spent, granted=proven.granted
        )

    def _ended(self, provider: Provider, name: str | None) -> str:
        """Return the cookie for after a return: none; or one that only remembers what Apple does not say again."""
        if name is None:
            return no_cookie(cookie_name(provider), same_site=same_site(provider))
        return _keeping(provider, self._flows.begin(provider.name, "/", name=name))


def elsewhere(node: Node) -> dict[str, frozenset[str]]:
    """Return the paths to which pages of others may post, and whose pages.

    Some browsers name the provider as the origin of what it posts, others hide it as ``null``. What is posted counts only with
    what this very browser began.
    """
    return {
        f"/auth/{one.name}/callback": frozenset((one.issuer, "null"))
        for one in node.providers.all()
        if one.posts
    }


def _keeping(provider: Provider, under_way: UnderWay) -> str:
    return cookie(
        cookie_name(provider), under_way.cookie, seconds=FLOW_SECONDS, same_site=same_site(provider)
    )


def _sent_on(place: str, cookies: Sequence[str]) -> Response:
    response = Response(status_code=303, headers={"location": place, "cache-control": "no-store"})
    for one in cookies:
        response.headers.append("set-cookie", one)
    return response


def endpoints(arrivals: Arrivals) -> list[Endpoint]:
    """List the operations on signing in through providers."""
    return [
        Endpoint(
            method="GET",
            path="/auth/providers",
            summary="With whom can I sign in",
            handle=arrivals.providers,
            answer=AllOffered,
            group="Google and Apple",
        ),
        Endpoint(
            method="GET",
            path="/auth/{provider}/start",
            summary="Sign in with Google or Apple",
            handle=arrivals.start_sign_in,
            parameters=(
                PROVIDER,
                Parameter("then", "query", "A path, or a page of an allowed origin.", required=False),
            ),
            status=303,
            refuses=(ErrorCode.NOT_FOUND, ErrorCode.INVALID, ErrorCode.UNAVAILABLE),
            limits=(SIGN_INS,),
            group="Google and Apple",
        ),
        Endpoint(
            method="GET",
            path="/auth/{provider}/callback",
            summary="Come back from Google",
            handle=arrivals.come_back,
            parameters=(
                PROVIDER,
                Parameter("state", "query", "What the browser was sent there with."),
                Parameter("code", "query", "What the provider gave.", required=False),
                Parameter("error", "query", "Why it gave none.", required=False),
            ),
            status=303,
            refuses=(ErrorCode.NOT_FOUND, ErrorCode.SIGN_IN_REFUSED),
            limits=(SIGN_INS,),
            group="Google and Apple",
        ),
        Endpoint(
            method="POST",
            path="/auth/{provider}/callback",
            summary="Come back from Apple",
            handle=arrivals.come_back_with_form,
            parameters=(PROVIDER,),
            body=Returned,
            reads=FORM,
            status=303,
            refuses=(
                ErrorCode.NOT_FOUND,
                ErrorCode.SIGN_IN_REFUSED,
                ErrorCode.MEDIA_TYPE_REFUSED,
                ErrorCode.TOO_LARGE,
                ErrorCode.TOO_SLOW,
            ),
            limits=(SIGN_INS,),
            group="Google and Apple",
        ),
        Endpoint(
            method="POST",
            path="/auth/{provider}/token",
            summary="Sign in with the ID token of an app",
            handle=arrivals.sign_in_on_device,
            parameters=(PROVIDER,),
            body=IdToken,
            example=IdToken(id_token=ID_TOKEN_EXAMPLE, nonce="9f1c7a20d3b84e56", name="Ada Lovelace"),
            answer=SignedIn,
            links=SIGNED_IN,
            refuses=(
                ErrorCode.NOT_FOUND,
                ErrorCode.SIGN_IN_REFUSED,
                ErrorCode.ACCOUNT_EXISTS,
                ErrorCode.INVITATION_REQUIRED,
                ErrorCode.FORBIDDEN,
                ErrorCode.UNAVAILABLE,
            ),
            limits=(SIGN_INS,),
            group="Google and Apple",
        ),
    ]
