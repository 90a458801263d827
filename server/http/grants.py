"""What a sign-in gives, whichever way one came: a session, its access token, and the refresh token where it is safe.

A client that is not a browser gets the refresh token in the body. A page - a request with an Origin, which the guard found
on the list - gets it as a cookie that no script can read, never in the body: what runs in a page may be a stranger's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct
from starlette.requests import Request

from protocol.envelope import SessionId
from protocol.refusals import ErrorCode, Refused
from protocol.text import normalised
from server.http.cookies import REFRESH, cookie, from_page, kept, no_cookie, only_from_page
from server.http.endpoint import WithCookies
from server.tokens import new_refresh_token, refresh_hash
from storage.people import Account
from storage.session import (
    Outcome,
    end_family,
    open_session,
    session_of_token,
    supersede_session,
    use_token,
)

if TYPE_CHECKING:
    from server.node import Node

REPEAT_SECONDS: Final = 10.0
"""How long the last refresh token may come again for the same successor."""
_DAY: Final = 86400.0
_LONGEST_DEVICE: Final = 200


class Tokens(Struct, kw_only=True):
    """What to say hello with, and how to get the next one."""

    access_token: Annotated[str, Meta(description="For `Authorization: Bearer` and for `hello`.")]
    token_type: Annotated[str, Meta(description="Always `Bearer`.")] = "Bearer"  # noqa: S105 - a scheme's name
    expires_in: Annotated[float, Meta(description="Seconds that the access token lives.")]
    refresh_token: Annotated[
        str | None,
        Meta(
            description="Good for one use, within 30 days unless set otherwise. A page gets null: its browser keeps it in a "
            "cookie."
        ),
    ]


class SignedIn(Tokens, kw_only=True):
    """Tokens, and whose they are."""

    user: Annotated[Account, Meta(description="As `GET /me` answers.")]


class Grants:
    """Gives, renews and ends what one is signed in with, at one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lifetime = node.settings.refresh_token_days * _DAY

    async def sign_in(self, request: Request, account: Account) -> SignedIn | WithCookies:
        """Begin a session of `account` on the device that asks."""
        in_page = from_page(request)
        refresh_token, access_token, expires_in = await self.open(request, account)
        if in_page:
            await self.end_kept(request)
        signed_in = SignedIn(
            access_token=access_token,
            expires_in=expires_in,
            refresh_token=None if in_page else refresh_token,
            user=account,
        )
        return WithCookies(signed_in, (self.keeping(refresh_token),)) if in_page else signed_in

    async def open(self, request: Request, account: Account) -> tuple[str, str, float]:
        """Begin a session; return refresh token, access token, and the seconds that the latter lives."""
        refresh_token = new_refresh_token()
        stores = self._node.stores
        session = await open_session(
            stores.pool,
            stores.sealer,
            account.id,
            normalised(request.headers.get("user-agent", ""))[:_LONGEST_DEVICE],
            refresh_hash(refresh_token),
            lifetime=self._lifetime,
        )
        access_token, expires_in = self._node.tokens.sign(
            user=account.id, session=session, role=account.role, tier=account.tier
        )
        return refresh_token, access_token, expires_in

    def keeping(self, refresh_token: str) -> str:
        """Return the ``Set-Cookie`` that has a browser keep a refresh token."""
        return cookie(REFRESH, refresh_token, seconds=self._lifetime)

    async def renew(self, request: Request, presented: str | None) -> Tokens | WithCookies:
        """Use up a refresh token: the one `presented` in the body, else the one that the browser keeps.

        Raises `Refused`: ``token_invalid``, ``session_ended``, or ``origin_refused`` for a cookie without an allowed page.
        """
        token = presented if presented is not None else _kept_by_page(request)
        if token is None:
            raise Refused(ErrorCode.TOKEN_INVALID, "There is no refresh token. Sign in.")
        tokens = self._node.tokens
        successors = {refresh_hash(after): after for after in tokens.successors(token)}
        family = await use_token(
            self._node.stores.pool,
            refresh_hash(token),
            list(successors),
            lifetime=self._lifetime,
            grace=REPEAT_SECONDS,
        )
        if family is None:
            raise Refused(ErrorCode.TOKEN_INVALID)
        if family.outcome is Outcome.REUSED:
            self._node.session_ended(family.session)
        if family.outcome in (Outcome.REUSED, Outcome.ENDED):
            raise Refused(ErrorCode.SESSION_ENDED)
        access_token, expires_in = tokens.sign(
            user=family.user, session=family.session, role=family.role, tier=family.tier
        )
        successor = successors[family.successor]
        renewed = Tokens(
            access_token=access_token,
            expires_in=expires_in,
            refresh_token=successor if presented is not None else None,
        )
        return renewed if presented is not None else WithCookies(renewed, (self.keeping(successor),))

    async def end(self, request: Request, presented: str | None) -> WithCookies | None:
        """End the session of a refresh token, presented or kept. One of no session, or of one that has ended, is no error."""
        if presented is not None:
            await self._end(presented)
            return None
        if (token := _kept_by_page(request)) is not None:
            await self._end(token)
        return WithCookies(None, (no_cookie(REFRESH),))

    async def end_kept(self, request: Request) -> None:
        """End the session that the browser has had so far: nobody will have its refresh token any more."""
        if (token := kept(request, REFRESH)) is not None:
            await self._end(token)

    async def kept_session(self, request: Request) -> SessionId | None:
        """Return the session that the browser has so far, if it shows it: on the way back from another site it does not."""
        token = kept(request, REFRESH)
        if token is None:
            return None
        return await session_of_token(self._node.stores.pool, refresh_hash(token))

    async def supersede(self, session: SessionId) -> None:
        """End a session whose browser has another one now."""
        await supersede_session(self._node.stores.pool, session)
        self._node.session_ended(session)

    async def _end(self, token: str) -> None:
        session = await end_family(self._node.stores.pool, refresh_hash(token), "signed out")
        if session is not None:
            self._node.session_ended(session)


def _kept_by_page(request: Request) -> str | None:
    """Return the refresh token that the browser of an allowed page keeps, if any. Raises `Refused` for any other client."""
    token = kept(request, REFRESH)
    if token is not None:
        only_from_page(request)
    elif not from_page(request):
        raise Refused(ErrorCode.INVALID, "Send the refresh token.", path="$.refresh_token")
    return token
