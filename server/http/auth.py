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
from server.http.callers import REFUSALS, caller_of
from server.http.endpoint import Endpoint
from server.http.guesses import Guesses, address_of
from server.passwords import LONGEST, Passwords, check_strength
from server.tokens import new_refresh_token, refresh_hash
from storage.people import Account, create_account, find_by_email, keep_new_hash
from storage.session import Outcome, end_family, open_session, use_token

if TYPE_CHECKING:
    from server.node import Node

REPEAT_SECONDS: Final = 10.0
"""How long the last refresh token may come again for the same successor."""
LONGEST_EMAIL: Final = 254
LONGEST_NAME: Final = 80
_DAY: Final = 86400.0
_LONGEST_DEVICE: Final = 200

_LOCAL = re.compile(r"[^\s@\"(),:;<>\[\\\]]{1,64}")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W_](?:[\w-]{0,61}[^\W_])")

Email = Annotated[str, Meta(min_length=3, max_length=1000, description="Upper and lower case are the same.")]
Password = Annotated[
    str, Meta(max_length=4096, description="8 to 1,024 characters, none of the common ones.")
]
RefreshToken = Annotated[
    str, Meta(min_length=1, max_length=256, description="The last one that was given out.")
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

    refresh_token: RefreshToken


class Logout(Struct):
    """End the session that a refresh token belongs to."""

    refresh_token: RefreshToken


class Tokens(Struct, kw_only=True):
    """What to say hello with, and how to get the next one."""

    access_token: Annotated[str, Meta(description="For `Authorization: Bearer` and for `hello`.")]
    token_type: Annotated[str, Meta(description="Always `Bearer`.")] = "Bearer"  # noqa: S105 - a scheme's name
    expires_in: Annotated[float, Meta(description="Seconds that the access token lives.")]
    refresh_token: Annotated[str, Meta(description="Good for one use, within 30 days unless set otherwise.")]


class SignedIn(Tokens, kw_only=True):
    """Tokens, and whose they are."""

    user: Account


class Accounts:
    """The operations on accounts, of one node."""

    def __init__(self, node: Node, passwords: Passwords) -> None:
        self._node = node
        self._passwords = passwords
        self._guesses = Guesses(node.quotas, node.stores.redis)
        self._lifetime = node.settings.refresh_token_days * _DAY

    async def register(self, request: Request, body: Register) -> SignedIn:
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
        return await self._sign_in(request, account)

    async def login(self, request: Request, body: Login) -> SignedIn:
        """Sign in with an address and its password. Each sign-in is a session of its own."""
        email = normalised_email(body.email)
        pool = self._node.stores.pool
        address = address_of(request, self._node.addresses)
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
        return await self._sign_in(request, found.account)

    async def refresh(self, _: Request, body: Refresh) -> Tokens:
        """Use up a refresh token.

        The last one again within 10 s gets the same successor, so a lost answer is no loss. An older one was copied by
        somebody: the session ends, with all its connections.
        """
        tokens = self._node.tokens
        successors = {refresh_hash(token): token for token in tokens.successors(body.refresh_token)}
        family = await use_token(
            self._node.stores.pool,
            refresh_hash(body.refresh_token),
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
        return Tokens(
            access_token=access_token, expires_in=expires_in, refresh_token=successors[family.successor]
        )

    async def logout(self, _: Request, body: Logout) -> None:
        """End a session and close its connections. A token of no session, or of one that has ended, is no error."""
        session = await end_family(self._node.stores.pool, refresh_hash(body.refresh_token), "signed out")
        if session is not None:
            self._node.session_ended(session)

    async def me(self, request: Request) -> Account:
        """Return the account of the access token."""
        return (await caller_of(self._node, request)).account

    async def _sign_in(self, request: Request, account: Account) -> SignedIn:
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
        return SignedIn(
            access_token=access_token, expires_in=expires_in, refresh_token=refresh_token, user=account
        )


def endpoints(accounts: Accounts) -> list[Endpoint]:
    """List the operations on accounts."""
    busy = (ErrorCode.BUSY, ErrorCode.UNAVAILABLE)
    return [
        Endpoint(
            method="POST",
            path="/auth/register",
            summary="Create an account",
            handle=accounts.register,
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
            body=Login,
            answer=SignedIn,
            refuses=(ErrorCode.CREDENTIALS_REFUSED, ErrorCode.FORBIDDEN, ErrorCode.RATE_LIMITED, *busy),
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
