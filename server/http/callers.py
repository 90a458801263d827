"""Who asks, over HTTP: what the access token proves, if its session still lives, and from which address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct
from starlette.requests import Request

from protocol.envelope import SessionId
from protocol.refusals import ErrorCode, Refused
from server.tokens import Claims
from storage.people import Account, account_of_session
from storage.session import session_age

if TYPE_CHECKING:
    from server.node import Node

REFUSALS: Final = (
    ErrorCode.TOKEN_INVALID,
    ErrorCode.TOKEN_EXPIRED,
    ErrorCode.SESSION_ENDED,
    ErrorCode.UNAVAILABLE,
)
"""What every operation refuses that must know who asks."""


class Caller(Struct, frozen=True):
    """A person, on one of their sessions."""

    account: Account
    session: SessionId


FRESH_SECONDS: Final = 600.0
"""So long after a sign-in one has just shown who one is."""


async def caller_of(node: Node, request: Request) -> Caller:
    """Return whose access token the request carries. Raises `Refused` when there is none that counts."""
    claims = claims_of(node, request)
    found = await account_of_session(node.stores.pool, node.stores.sealer, claims.session)
    if found is None or found.ended or found.banned or found.account.id != claims.user:
        raise Refused(ErrorCode.SESSION_ENDED)
    return Caller(found.account, claims.session)


async def only_fresh(node: Node, caller: Caller) -> None:
    """Raise `Refused` (proof_required) for one who has not just signed in: it may be somebody else at their device."""
    if await session_age(node.stores.pool, caller.session) > FRESH_SECONDS:
        raise Refused(ErrorCode.PROOF_REQUIRED)


def claims_of(node: Node, request: Request) -> Claims:
    """Return what the access token of the request proves; it is verified once. Raises `Refused`."""
    known: Claims | None = getattr(request.state, "claims", None)
    if known is None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Refused(ErrorCode.TOKEN_INVALID, "Send the header Authorization: Bearer <access token>.")
        known = request.state.claims = node.tokens.verify(token.strip())
    return known


def address_of(node: Node, request: Request) -> str:
    """Return the address that the request comes from, seen through the proxies that are trusted."""
    peer = request.client.host if request.client is not None else ""
    return node.addresses.of(peer, request.headers.getlist("x-forwarded-for"))
