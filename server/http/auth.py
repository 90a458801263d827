"""Accounts over HTTP: register, sign in, refresh, sign out, and who am I.

Nothing here tells whether an address has an account, but registering with it: a wrong password and an unknown address do
the same work and get the same answer.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct
from starlette.requests import Request

from protocol.refusals import ErrorCode, Refused
from protocol.text import normalised
from server.http.callers import REFUSALS, address_of, caller_of
from server.http.endpoint import Endpoint, WithCookies
from server.http.grants import Grants, SignedIn, Tokens
from server.http.guesses import Guesses
from server.passwords import LONGEST, Passwords, check_strength
from storage.people import Account, create_account, find_by_email, keep_new_hash
from storage.redis.limits import Limit

if TYPE_CHECKING:
    from server.node import Node

REGISTRATIONS: Final = Limit("registrations", burst=30, rate=1 / 20)
"""Accounts that one address may make."""
SIGN_INS: Final = Limit("sign-ins", burst=60, rate=1)
"""Attempts to sign in from one address, right or wrong: each costs 20 ms of a core."""
LONGEST_EMAIL: Final = 254
LONGEST_NAME: Final = 80

_LOCAL = re.compile(r"[^\s@\"(),:;<>\[\\\]]{1,64}")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W_](?:[\w-]{0,61}[^\W_])")

Email = Annotated[str, Meta(min_length=3, max_length=1000, description="Upper and lower case are the same.")]
Password = Annotated[
    str, Meta(max_length=4096, description="8 to 1,024 characters, none of the common ones.")
]
RefreshToken = Annotated[
    str,
    Meta(min_length=1, max_length=256, description="The last one that was given out. A page leaves it out."),
]


class Register(Struct):
    """A new account, signed in at once."""

    email: Email
    password: Password
    name: Annotated[
        str, Meta(min_length=1, max_length=1000, description="What others see; at most 80 characters.")
    ]


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
        """Create an account, and sign in."""
        email = normalised_email(body.email)
        name = normalised(body.name).replace("\n", " ")
        if not name:
            raise Refused(ErrorCode.TEXT_EMPTY, path="$.name")
        if len(name) > LONGEST_NAME:
            raise Refused(ErrorCode.INVALID, f"A name has at most {LONGEST_NAME} characters.", path="$.name")
        check_strength(body.password, email, email.partition("@")[0], name)
        password_hash = await self._passwords.hash(body.password)
        stores = self._node.stores
        account = await create_account(stores.pool, stores.sealer, email, password_hash, name)
        return await self._grants.sign_in(request, account)

    async def login(self, request: Request, body: Login) -> SignedIn | WithCookies:
        """Sign in with an address and its password. Each sign-in is a session of its own."""
        email = normalised_email(body.email)
        pool = self._node.stores.pool
        address = address_of(self._node, request)
        await self._guesses.check(address, email)
        found = await find_by_email(pool, self._node.stores.sealer, email)
        stored = None if found is None else found.password_hash
        # No password is longer, so what follows can't be right; but it costs no more than any other.
        matches = await self._passwords.matches(stored, body.password[: LONGEST + 1])
        if found is None or stored is None or not matches:
            await self._guesses.wrong(address, email)
            raise Refused(ErrorCode.CREDENTIALS_REFUSED)
        if found.banned:
            raise Refused(ErrorCode.FORBIDDEN, "This account may not sign in.")
        if self._passwords.is_outdated(stored):
            renewed = await self._passwords.hash(body.password)
            await keep_new_hash(pool, found.account.id, stored, renewed)
        await self._guesses.right(address, email)
        return await self._grants.sign_in(request, found.account)

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
            answer=SignedIn,
            status=201,
            refuses=(ErrorCode.EMAIL_TAKEN, ErrorCode.PASSWORD_WEAK, ErrorCode.TEXT_EMPTY, *busy),
            group="Accounts",
        ),
        Endpoint(
            method="POST",
            path="/auth/login",
            summary="Sign in",
            handle=accounts.login,
            limits=(SIGN_INS,),
            body=Login,
            answer=SignedIn,
            refuses=(ErrorCode.CREDENTIALS_REFUSED, ErrorCode.FORBIDDEN, *busy),
            group="Accounts",
        ),
        Endpoint(
            method="POST",
            path="/auth/refresh",
            summary="Get new tokens",
            handle=accounts.refresh,
            body=Refresh,
            answer=Tokens,
            refuses=(ErrorCode.TOKEN_INVALID, ErrorCode.SESSION_ENDED, ErrorCode.UNAVAILABLE),
            group="Accounts",
        ),
        Endpoint(
            method="POST",
            path="/auth/logout",
            summary="Sign out",
            handle=accounts.logout,
            body=Logout,
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


def normalised_email(text: str) -> str:
    """Return the one spelling of an address under which its account is found. Raises `Refused` (invalid)."""
    email = unicodedata.normalize("NFKC", text.strip()).lower()
    local, _, domain = email.rpartition("@")
    if (
        len(email) > LONGEST_EMAIL
        or not email.isprintable()
        or not _LOCAL.fullmatch(local)
        or not _DOMAIN.fullmatch(domain)
        or ".." in f".{local}."
    ):
        raise Refused(ErrorCode.INVALID, "This is no e-mail address.", path="$.email")
    return email
