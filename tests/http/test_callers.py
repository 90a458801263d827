"""Who asks over HTTP: a token that counts, of a session that lives, from an address that is believed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from starlette.requests import Request

from protocol.envelope import SessionId, UserId
from protocol.refusals import ErrorCode, Refused
from server.addresses import Addresses
from server.http.callers import address_of, caller_of, claims_of
from tests.http.serving import Site


def request(*headers: tuple[str, str], peer: str | None = "192.0.2.1") -> Request:
    """Return a request with these headers."""
    return Request(
        {
            "type": "http",
            "method": "GET",
            "path": "/",
            "headers": [(name.encode(), value.encode()) for name, value in headers],
            "client": None if peer is None else (peer, 1),
            "state": {},
        }
    )


@pytest.fixture
def site(standing: Site) -> Site:
    """Share a node."""
    return standing


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic abc", "abc"])
def test_no_token(site: Site, header: str) -> None:
    """Without a bearer token one is told which header to send, or that the token is none."""
    with pytest.raises(Refused) as refusal:
        claims_of(site.node, request(("authorization", header)))
    assert refusal.value.code is ErrorCode.TOKEN_INVALID


def test_the_token_is_verified_once(site: Site) -> None:
    """However often it is asked for during a request, and however the scheme is spelled."""
    user, session = UserId(uuid4()), SessionId(uuid4())
    token = site.node.tokens.sign(user=user, session=session, role="MEMBER", tier="FREE")[0]
    asked = request(("authorization", f"bearer  {token}"))
    claims = claims_of(site.node, asked)
    assert (claims.user, claims.session) == (user, session)
    assert claims_of(site.node, asked) is claims


async def test_a_session_that_lives(site: Site) -> None:
    """The token says which session it is; whether that still counts is read from Postgres."""
    registered = await site.register()
    asked = request(("authorization", f"Bearer {registered['access_token']}"))
    caller = await caller_of(site.node, asked)
    assert caller.account.email == registered["email"]
    await site.node.stores.pool.execute("update sessions set ended_at = now() where id = $1", caller.session)
    with pytest.raises(Refused) as refusal:
        await caller_of(site.node, asked)
    assert refusal.value.code is ErrorCode.SESSION_ENDED


async def test_a_session_that_never_was(site: Site) -> None:
    """A token of a session that is not there, or that is another person's, is worth nothing."""
    registered = await site.register()
    other = claims_of(site.node, request(("authorization", f"Bearer {registered['access_token']}"))).session
    for session in (SessionId(uuid4()), other):
        token = site.node.tokens.sign(user=UserId(uuid4()), session=session, role="MEMBER", tier="FREE")[0]
        with pytest.raises(Refused) as refusal:
            await caller_of(site.node, request(("authorization", f"Bearer {token}")))
        assert refusal.value.code is ErrorCode.SESSION_ENDED


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "address"),
    [
        ((), "192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        (("192.0.2.1",), "192.0.2.1", ["198.51.100.7"], "198.51.100.7"),
        (("192.0.2.1",), "203.0.113.9", ["198.51.100.7"], "203.0.113.9"),
        (("192.0.2.1",), "192.0.2.1", [], "192.0.2.1"),
        ((), None, [], ""),
    ],
)
def test_addresses(trusted: tuple[str, ...], peer: str | None, forwarded: list[str], address: str) -> None:
    """What a proxy says is believed only of those that are trusted."""
    node = cast("Any", SimpleNamespace(addresses=Addresses(trusted)))
    headers = [("x-forwarded-for", value) for value in forwarded]
    assert address_of(node, request(*headers, peer=peer)) == address
