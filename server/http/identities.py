"""The ways in to one's own account: seeing them, adding another one, and taking one away. The last one stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, Struct
from starlette.requests import Request

from protocol.refusals import ErrorCode, Refused
from server.emails import Email, mailbox, normalised_email
from server.http.auth import ASKED_LETTERS, LETTERS, SIGN_INS, NewPassword
from server.http.callers import REFUSALS, Caller, caller_of, only_fresh
from server.http.endpoint import Endpoint, WithCookies
from server.http.passwords import OwnPassword, Proofs
from server.http.proofs import ID_TOKEN_EXAMPLE, IdToken, proven_on_device
from server.http.providers import PROVIDER, Arrivals
from server.passwords import Passwords, check_strength
from server.session import end_others
from storage.emails import ask_for_first
from storage.identities import EMAIL, link, unlink, ways_in

if TYPE_CHECKING:
    from server.node import Node


class Identity(Struct, kw_only=True):
    """One way in."""

    provider: Annotated[str, Meta(description="`email`, `google` or `apple`.")]
    address: Annotated[
        str | None, Meta(description="The address there; null when the provider has not verified one.")
    ]
    hidden: Annotated[bool, Meta(description="Whether the address is one that the provider forwards from.")]
    linked: Annotated[int, Meta(description="When it was added: milliseconds since 1970.")]


class Identities(Struct):
    """All ways in, in the order in which they were added."""

    identities: Annotated[list[Identity], Meta(description="The oldest first.")]


class LinkOnDevice(IdToken, kw_only=True):
    """An ID token that the provider gave to an app on its device, to be linked to the account that is signed in."""

    provider: Annotated[
        str, Meta(description="With whom.", extra_json_schema={"enum": list(PROVIDER.choices)})
    ]
    password: OwnPassword | None = None


class LinkInPage(Struct):
    """Where the page wants its browser to be after it has been at the provider."""

    then: Annotated[str, Meta(max_length=500, description="A path, or a page of an allowed origin.")] = "/"
    password: OwnPassword | None = None


class LinkBegun(Struct):
    """Where the page must send its browser now, within ten minutes."""

    url: Annotated[str, Meta(description="An address of the provider; set `location` of the page to it.")]


class AddEmail(Struct):
    """An address to sign in with, and a password for it."""

    email: Email
    password: NewPassword


class OwnIdentities:
    """The operations on one's own identities, of one node."""

    def __init__(self, node: Node, arrivals: Arrivals, passwords: Passwords, proofs: Proofs) -> None:
        self._node = node
        self._arrivals = arrivals
        self._proofs = proofs
        self._passwords = passwords

    async def identities(self, request: Request) -> Identities:
        """List how you can sign in."""
        caller = await caller_of(self._node, request)
        stores = self._node.stores
        return Identities(
            [
                Identity(
                    provider=way.provider.lower(),
                    address=way.address,
                    hidden=way.hidden,
                    linked=way.linked,
                )
                for way in await ways_in(stores.pool, stores.sealer, caller.account.id)
            ]
        )

    async def link_on_device(self, request: Request, body: LinkOnDevice) -> None:
        """Add Google or Apple, with an ID token that an app has, and your password or a fresh sign-in. What was refused for its address at a sign-in is still good."""
        caller = await caller_of(self._node, request)
        provider = self._node.providers.find(body.provider)
        await self._proofs.of_person(request, caller, body.password)
        proven = await proven_on_device(provider, body)
        stores = self._node.stores
        await link(
            stores.pool,
            stores.sealer,
            caller.account.id,
            proven.known,
            proven.spent,
            granted=proven.granted,
        )

    async def link_in_page(self, request: Request, body: LinkInPage) -> WithCookies:
        """Begin to add Google or Apple, with your password or a fresh sign-in: the page sends its browser to the address in the answer."""
        caller = await caller_of(self._node, request)
        provider = self._arrivals.provider(request)
        await self._proofs.of_person(request, caller, body.password)
        url, keeping = self._arrivals.begin_link(provider, body.then, caller.session)
        return WithCookies(LinkBegun(url), (keeping,))

    async def add_email(self, request: Request, body: AddEmail) -> None:
        """Sign in with an address and a password, too, if so far you only do with Google or Apple.

        You must have signed in within the last 10 minutes, and the address counts once the link is opened that is mailed to it, within
        a day: that the provider names an address proves nothing here. The answer is the same whether somebody has it already or not.
        """
        caller = await caller_of(self._node, request)
        email = normalised_email(body.email)
        await only_fresh(self._node, caller)
        check_strength(body.password, email, email.partition("@")[0], caller.account.name)
        if caller.account.email is not None:
            raise Refused(ErrorCode.IDENTITY_TAKEN)
        await self._node.quotas.demand(LETTERS, mailbox(email))
        password_hash = await self._passwords.hash(body.password)
        stores = self._node.stores
        await ask_for_first(stores.pool, stores.sealer, caller.account.id, email, password_hash)

    async def remove_email(self, request: Request) -> None:
        """Sign in without an address and a password from now on. You must have signed in within the last 10 minutes.

        All your other sessions end: whoever knows the password may have them. The last way in stays.
        """
        caller = await caller_of(self._node, request)
        await only_fresh(self._node, caller)
        await self._unlink(caller, EMAIL)
        await end_others(self._node, caller.account.id, caller.session)

    async def unlink(self, request: Request) -> None:
        """Take Google or Apple away. The last way in stays."""
        caller = await caller_of(self._node, request)
        name = request.path_params["provider"]
        if name not in ("google", "apple"):
            raise Refused(ErrorCode.NOT_FOUND)
        await self._unlink(caller, name.upper())

    async def _unlink(self, caller: Caller, provider: str) -> None:
        stores = self._node.stores
        offered = [one.name.upper() for one in self._node.providers.all()]
        await unlink(stores.pool, stores.sealer, caller.account.id, provider, offered)


def endpoints(own: OwnIdentities) -> list[Endpoint]:
    """List the operations on one's own identities."""
    proving = (ErrorCode.PROOF_REQUIRED, ErrorCode.CREDENTIALS_REFUSED, ErrorCode.BUSY)
    linking = (
        *proving,
        ErrorCode.NOT_FOUND,
        ErrorCode.SIGN_IN_REFUSED,
        ErrorCode.IDENTITY_TAKEN,
        ErrorCode.EMAIL_UNVERIFIED,
    )
    return [
        Endpoint(
            method="GET",
            path="/me/identities",
            summary="How can I sign in",
            handle=own.identities,
            answer=Identities,
            signed_in=True,
            refuses=REFUSALS,
            group="Google and Apple",
        ),
        Endpoint(
            method="POST",
            path="/me/identities",
            summary="Add Google or Apple in an app",
            handle=own.link_on_device,
            limits=(SIGN_INS,),
            body=LinkOnDevice,
            example=LinkOnDevice(provider="google", id_token=ID_TOKEN_EXAMPLE, nonce="9f1c7a20d3b84e56"),
            status=204,
            signed_in=True,
            refuses=(*REFUSALS, *linking),
            group="Google and Apple",
        ),
        Endpoint(
            method="POST",
            path="/me/identities/email",
            summary="Add an address and a password",
            handle=own.add_email,
            limits=(ASKED_LETTERS,),
            body=AddEmail,
            example=AddEmail("ada@example.org", "violets under a lamp"),
            status=202,
            signed_in=True,
            refuses=(
                *REFUSALS,
                ErrorCode.PROOF_REQUIRED,
                ErrorCode.IDENTITY_TAKEN,
                ErrorCode.PASSWORD_WEAK,
                ErrorCode.BUSY,
            ),
            group="Google and Apple",
        ),
        Endpoint(
            method="DELETE",
            path="/me/identities/email",
            summary="Take the address and the password away",
            handle=own.remove_email,
            status=204,
            signed_in=True,
            refuses=(*REFUSALS, ErrorCode.PROOF_REQUIRED, ErrorCode.NOT_FOUND, ErrorCode.LAST_IDENTITY),
            group="Google and Apple",
        ),
        Endpoint(
            method="POST",
            path="/me/identities/{provider}",
            summary="Add Google or Apple in a page",
            handle=own.link_in_page,
            limits=(SIGN_INS,),
            parameters=(PROVIDER,),
            body=LinkInPage,
            example=LinkInPage("/settings"),
            answer=LinkBegun,
            signed_in=True,
            refuses=(*REFUSALS, ErrorCode.NOT_FOUND, *proving),
            group="Google and Apple",
        ),
        Endpoint(
            method="DELETE",
            path="/me/identities/{provider}",
            summary="Take Google or Apple away",
            handle=own.unlink,
            parameters=(PROVIDER,),
            status=204,
            signed_in=True,
            refuses=(*REFUSALS, ErrorCode.NOT_FOUND, ErrorCode.LAST_IDENTITY),
            group="Google and Apple",
        ),
    ]
