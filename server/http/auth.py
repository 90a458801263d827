"""Accounts over HTTP: register, sign in, refresh, sign out, and who am I.

Nothing here tells whether an address has an account. Registering with one that somebody has makes an account all the same, which
only claims the address, and its owner is told by a letter (`storage.emails`); a wrong password and an unknown address do the same
work and get the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct
from starlette.requests import Request

from protocol.refusals import ErrorCode, Refused
from protocol.text import normalised
from server.emails import Email, mailbox, normalised_email
from server.http.callers import REFUSALS, address_of, caller_of
from server.http.endpoint import Endpoint, Link, WithCookies
from server.http.grants import Grants, SignedIn, Tokens
from server.http.guesses import Guesses
from server.passwords import LONGEST, SHORTEST, Passwords, check_strength
from storage.emails import candidates, claim_address
from storage.people import Account, Credentials, keep_new_hash
from storage.redis.limits import Limit
from storage.waitlist import accept, invited_address

if TYPE_CHECKING:
    from server.node import Node

REGISTRATIONS: Final = Limit("registrations", burst=30, rate=1 / 20)
"""Accounts that one address may make."""
SIGN_INS: Final = Limit("sign-ins", burst=60, rate=1)
"""Passwords that are tried from one address, to sign in or to prove who one is, right or wrong: each costs 20 ms of a core."""
LETTERS: Final = Limit("letters", burst=6, rate=1 / 3600)
"""Letters to a mailbox that somebody, who may be anybody, may ask for."""
ASKED_LETTERS: Final = Limit("letters-asked", burst=20, rate=1 / 30)
"""Letters that one address asks for, whoever gets them."""
LONGEST_NAME: Final = 80

Password = Annotated[str, Meta(max_length=4096, description="The one that the account has.")]
NewPassword = Annotated[
    str,
    Meta(
        max_length=4096,
        description="8 to 1,024 characters, none of the common ones, and not your name or your address.",
        extra_json_schema={"minLength": SHORTEST, "maxLength": LONGEST},
    ),
]
Invitation = Annotated[
    str, Meta(max_length=256, description="What stands after the `#` of the link in an invitation.")
]
RefreshToken = Annotated[
    str,
    Meta(min_length=1, max_length=256, description="The last one that was given out. A page leaves it out."),
]


class Register(Struct):
    """A new account, signed in at once. Its address counts once the link is opened that is mailed to it."""

    email: Email
    password: NewPassword
    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=1000,
            description="What others see; not only spaces.",
            extra_json_schema={"maxLength": LONGEST_NAME},
        ),
    ]
    invitation: Invitation | None = None


class Login(Struct):
    """Sign in with an address and its password."""

    email: Email
    password: Password


class Refresh(Struct):
    """Trade the refresh token for new tokens. It is used up by this; keep the one in the answer."""

    refresh_token: RefreshToken | None = None


class Logout(Struct):
    """End the session that a refresh token belongs to."""

    refresh_token: RefreshToken | None = None


class Accounts:
    """The operations on accounts, of one node."""

    def __init__(self, node: Node, passwords: Passwords, grants: Grants) -> None:
        self._node = node
        self._passwords = passwords
        self._guesses = Guesses(node.quotas, node.stores.redis)
        self._grants = grants

    async def register(self, request: Request, body: Register) -> SignedIn | WithCookies:
        """Create an account, and sign in.

        The answer is the same whether somebody has the address already or not. If somebody has, this is another account, and they
        are told by mail.
        """
        return await self._grants.sign_in(request, await self.create(body))

    async def create(self, body: Register) -> Account:
        """Create an account. Raises `Refused`."""
        if body.invitation is None and self._node.settings.registration == "invited":
            raise Refused(ErrorCode.INVITATION_REQUIRED)
        email = normalised_email(body.email)
        name = normalised(body.name).replace("\n", " ")
        if not name:
            raise Refused(ErrorCode.TEXT_EMPTY, path="$.name")
        if len(name) > LONGEST_NAME:
            raise Refused(ErrorCode.INVALID, f"A name has at most {LONGEST_NAME} characters.", path="$.name")
        check_strength(body.password, email, email.partition("@")[0], name)
        pool, sealer = self._node.stores.pool, self._node.stores.sealer
        if body.invitation is None:
            password_hash = await self._passwords.hash(body.password)
            verdict = await self._node.quotas.take(LETTERS, mailbox(email))
            return await claim_address(pool, sealer, email, password_hash, name, letter=verdict.allowed)
        if await invited_address(pool, sealer, body.invitation) != email:
            raise Refused(ErrorCode.LINK_INVALID, "The invitation is for another address.", path="$.email")
        password_hash = await self._passwords.hash(body.password)
        return await accept(pool, sealer, body.invitation, email, password_hash, name)

    async def accept(self, fields: Mapping[str, str]) -> None:
        """Create the account that somebody is invited to make: `fields` are token, name and password. Raises `Refused`."""
        token = fields["token"]
        email = await invited_address(self._node.stores.pool, self._node.stores.sealer, token)
        await self.create(
            Register(email=email, password=fields["password"], name=fields["name"], invitation=token)
        )

    async def login(self, request: Request, body: Login) -> SignedIn | WithCookies:
        """Sign in with an address and its password. Each sign-in is a session of its own.

        Whoever has proven that the address is theirs comes first, then whoever claimed it last.
        """
        email = normalised_email(body.email)
        stores = self._node.stores
        address = address_of(self._node, request)
        await self._guesses.check(address, email)
        proven, claiming = await candidates(stores.pool, stores.sealer, email)
        found = await self._matching(proven, body.password) or await self._matching(claiming, body.password)
        if found is None:
            await self._guesses.wrong(address, email)
            raise Refused(ErrorCode.CREDENTIALS_REFUSED)
        if found.banned:
            raise Refused(ErrorCode.FORBIDDEN, "This account may not sign in.")
        if self._passwords.is_outdated(found.password_hash):
            renewed = await self._passwords.hash(body.password)
            await keep_new_hash(stores.pool, found.account.id, found.password_hash, renewed)
        if found is proven:
            await self._guesses.right(address, email)
        return await self._grants.sign_in(request, found.account)

    async def _matching(self, found: Credentials | None, password: str) -> Credentials | None:
        """Return `found` if the password is theirs; where there is nobody it takes the same time to find that out."""
        stored = None if found is None else found.password_hash
        # No password is longer, so what follows can't be right; but it costs no more than any other.
        return found if await self._passwords.matches(stored, password[: LONGEST + 1]) else None

    async def refresh(self, request: Request, body: Refresh) -> Tokens | WithCookies:
        """Use up a refresh token: the one in the body, or, for a page, the one in its browser's cookie.

        The last one again within 10 s gets the same successor, so a lost answer is no loss. An older one was copied by
        somebody: the session ends, with all its connections.
        """
        return await self._grants.renew(request, body.refresh_token)

    async def logout(self, request: Request, body: Logout) -> WithCookies | None:
        """End a session and close its connections. A token of no session, or of one that has ended, is no error."""
        return await self._grants.end(request, body.refresh_token)

    async def me(self, request: Request) -> Account:
        """Return the account of the access token."""
        return (await caller_of(self._node, request)).account


_TOKEN: Final = {"refresh_token": "/refresh_token"}
RENEWED: Final = (
    Link(operation="refresh", meaning="Get new tokens with the refresh token, once.", body=_TOKEN),
    Link(operation="logout", meaning="End the session that the refresh token belongs to.", body=_TOKEN),
    Link(operation="sessions", meaning="See where you are signed in, with the access token."),
)
"""What tokens are good for."""
SIGNED_IN: Final = (*RENEWED, Link(operation="me", meaning="See who you are, with the access token."))


def endpoints(accounts: Accounts) -> list[Endpoint]:
    """List the operations on accounts."""
    busy = (ErrorCode.BUSY, ErrorCode.UNAVAILABLE)
    return [
        Endpoint(
            method="POST",
            path="/auth/register",
            summary="Create an account",
            handle=accounts.register,
            limits=(REGISTRATIONS,),
            body=Register,
            example=Register("ada@example.org", "violets under a lamp", "Ada"),
            answer=SignedIn,
            links=SIGNED_IN,
            status=201,
            refuses=(
                ErrorCode.PASSWORD_WEAK,
                ErrorCode.TEXT_EMPTY,
                ErrorCode.INVITATION_REQUIRED,
                ErrorCode.LINK_INVALID,
                ErrorCode.EMAIL_TAKEN,
                *busy,
            ),
            group="Accounts",
        ),
        Endpoint(
            method="POST",
            path="/auth/login",
            summary="Sign in",
            handle=accounts.login,
            limits=(SIGN_INS,),
            body=Login,
            example=Login("ada@example.org", "violets under a lamp"),
            answer=SignedIn,
            links=SIGNED_IN,
            refuses=(ErrorCode.CREDENTIALS_REFUSED, ErrorCode.FORBIDDEN, *busy),
            group="Accounts",
        ),
        Endpoint(
            method="POST",
            path="/auth/refresh",
            summary="Get new tokens",
            handle=accounts.refresh,
            body=Refresh,
            example=Refresh("q0rS2nO6mJxVb7Yc1dTzU4wKf9hLgE3a5iPsRkNvXyM"),
            answer=Tokens,
            links=RENEWED,
            refuses=(ErrorCode.TOKEN_INVALID, ErrorCode.SESSION_ENDED, ErrorCode.UNAVAILABLE),
            group="Accounts",
        ),
        Endpoint(
            method="POST",
            path="/auth/logout",
            summary="Sign out",
            handle=accounts.logout,
            body=Logout,
            example=Logout("q0rS2nO6mJxVb7Yc1dTzU4wKf9hLgE3a5iPsRkNvXyM"),
            status=204,
            refuses=(ErrorCode.UNAVAILABLE,),
            group="Accounts",
        ),
        Endpoint(
            method="GET",
            path="/me",
            summary="Who am I",
            handle=accounts.me,
            answer=Account,
            signed_in=True,
            refuses=REFUSALS,
            group="Accounts",
        ),
    ]
