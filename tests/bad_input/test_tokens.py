"""Tokens that prove nothing: refused at hello and in place, with one answer and the close code that says what to do."""

from __future__ import annotations

import base64
import json
import time
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.closing import CloseCode
from protocol.refusals import ErrorCode
from tests.hosting import SIGNING_KEY
from tests.standing import Room, Standing
from tests.visitors import approach, arrive, bystander, visit

OURS = base64.urlsafe_b64decode(SIGNING_KEY.partition(":")[2] + "=")
HEADER = {"kid": "test", "alg": "EdDSA", "typ": "at+jwt"}


def encoded(data: bytes) -> str:
    """Encode as a part of a token."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(good: str, header: dict[str, Any] = HEADER, seed: bytes = OURS, **claims: Any) -> str:
    """Take the claims of a good token, change some, and sign them."""
    body = good.split(".")[1]
    changed = json.loads(base64.urlsafe_b64decode(body + "==")) | claims
    head = json.dumps(header, separators=(",", ":")).encode()
    text = f"{encoded(head)}.{encoded(json.dumps(changed).encode())}"
    return f"{text}.{encoded(Ed25519PrivateKey.from_private_bytes(seed).sign(text.encode()))}"


def tampered(good: str) -> str:
    """Make somebody else of who a token is about, and keep its signature."""
    head, _, signature = good.split(".")
    return f"{head}.{forged(good, sub=str(uuid4())).split('.')[1]}.{signature}"


INVALID = {
    "unsigned": lambda good: good.rpartition(".")[0] + ".",
    "alg none": lambda good: forged(good, {**HEADER, "alg": "none"}).rpartition(".")[0] + ".",
    "wrong audience": lambda good: forged(good, aud="another service"),
    "wrong issuer": lambda good: forged(good, iss="another service"),
    "tampered": tampered,
    "one character changed": lambda good: good[:-10] + ("A" if good[-10] != "A" else "B") + good[-9:],
    "signed by another": lambda good: forged(good, seed=bytes(range(32))),
    "of another key": lambda good: forged(good, {**HEADER, "kid": "other"}),
    "of the future": lambda good: forged(good, iat=int(time.time()) + 3600),
    "a refresh token": lambda _: encoded(bytes(32)),
    "a word": lambda _: "please",
}


async def test_the_forger_is_able(nodes: Standing) -> None:
    """A token that is forged without a change is a good one; so each above is refused for what its name says."""
    visitor = await arrive(nodes.north, forged(await nodes.north.token("visitor")))
    assert visitor.welcome["type"] == "welcome"


@pytest.mark.parametrize("attack", INVALID.values(), ids=INVALID.keys())
async def test_hello_with_no_token_of_ours(nodes: Standing, room: Room, attack: Any) -> None:
    """The hello is answered with token_invalid, and the connection is closed with 4500: sign in again."""
    async with bystander(nodes.north, room.id):
        stranger = await approach(nodes.north)
        token = attack(await nodes.north.token("visitor"))
        answer = await stranger.call("hello", token=token)
        assert answer == {
            "type": "error",
            "id": 1,
            "code": ErrorCode.TOKEN_INVALID,
            "message": ErrorCode.TOKEN_INVALID.advice,
        }
        gone = await stranger.connection.gone
        assert (gone.code, gone.reason) == (CloseCode.TOKEN_REFUSED, CloseCode.TOKEN_REFUSED.meaning)
        assert stranger.heard == []


async def test_hello_with_an_expired_token(nodes: Standing, room: Room) -> None:
    """It is told apart from one that never was good, and closed with 4001: get a new one and come back."""
    now = int(time.time())
    async with bystander(nodes.north, room.id):
        stranger = await approach(nodes.north)
        token = forged(await nodes.north.token("visitor"), iat=now - 700, exp=now - 100)
        answer = await stranger.call("hello", token=token)
        assert (answer["code"], answer["message"]) == (
            ErrorCode.TOKEN_EXPIRED,
            ErrorCode.TOKEN_EXPIRED.advice,
        )
        assert (await stranger.connection.gone).code == CloseCode.TOKEN_EXPIRED


async def test_hello_for_another_session(nodes: Standing, room: Room) -> None:
    """A session that was never there, and one of somebody else, admit nobody, even if we should have signed it."""
    async with bystander(nodes.north, room.id):
        other = await visit(nodes.north, "other")
        good = await nodes.north.token("visitor")
        for claims, code, closed in (
            ({"sid": str(uuid4())}, ErrorCode.SESSION_ENDED, CloseCode.SESSION_ENDED),
            ({"sid": other.welcome["session"]}, None, CloseCode.TOKEN_REFUSED),
            ({"sub": str(other.person.id)}, None, CloseCode.TOKEN_REFUSED),
        ):
            stranger = await approach(nodes.north)
            stranger.connection.send({"type": "hello", "id": 1, "token": forged(good, **claims)})
            assert (await stranger.connection.gone).code == closed
            assert [error["code"] for error in stranger.errors] == ([code] if code else [])
        await other.settle()


@pytest.mark.parametrize("attack", INVALID.values(), ids=INVALID.keys())
async def test_refresh_with_no_token_of_ours(nodes: Standing, room: Room, attack: Any) -> None:
    """A live connection that refreshes with it is told so, and goes on with the token that it has."""
    async with bystander(nodes.north, room.id):
        good = await nodes.north.token("visitor")
        visitor = await arrive(nodes.north, good)
        answer = await visitor.call("token.refresh", token=attack(good))
        assert (answer["type"], answer["code"]) == ("error", ErrorCode.TOKEN_INVALID)
        assert (await visitor.call("token.refresh", token=good))["type"] == "token.refreshed"


async def test_refresh_with_the_token_of_another(nodes: Standing, room: Room) -> None:
    """A good token of another person, or of another session of one's own, doesn't change who is on a connection."""
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor")
        for token in (
            await nodes.north.token("other"),
            await nodes.north.token("visitor", visitor.person),
        ):
            answer = await visitor.call("token.refresh", token=token)
            assert (answer["code"], answer["message"]) == (
                ErrorCode.TOKEN_INVALID,
                "Refresh with a token of the session that said hello.",
            )


@pytest.mark.parametrize(
    ("fields", "path"),
    [({}, "$"), ({"token": ""}, "$.token"), ({"token": 7}, "$.token"), ({"token": None}, "$.token")],
)
async def test_hello_without_a_token(nodes: Standing, room: Room, fields: dict[str, Any], path: str) -> None:
    """It can be said again as it should be, in the time that there is for it."""
    async with bystander(nodes.north, room.id):
        stranger = await approach(nodes.north)
        answer = await stranger.call("hello", **fields)
        assert (answer["code"], answer["path"]) == (ErrorCode.INVALID, path)
        welcome = await stranger.call("hello", token=await nodes.north.token("visitor"))
        assert welcome["type"] == "welcome"


async def test_a_hello_that_is_too_long(nodes: Standing, room: Room) -> None:
    """Past 4 KiB it is not read at all: close code 4503, don't come back like this."""
    async with bystander(nodes.north, room.id):
        stranger = await approach(nodes.north)
        stranger.connection.send({"type": "hello", "id": 1, "token": "x" * 4096})
        gone = await stranger.connection.gone
        assert (gone.code, gone.reason) == (CloseCode.BAD_HELLO, "hello is at most 4096 bytes")
        assert stranger.heard == []


async def test_nobody_is_heard_before_hello(nodes: Standing, room: Room) -> None:
    """Whatever else comes first is refused, and has no effect; a second hello is refused, too."""
    async with bystander(nodes.north, room.id):
        stranger = await approach(nodes.north)
        for command in ("room.join", "room.get", "session.ping", "token.refresh"):
            answer = await stranger.call(command, room=room.slug, token="x")
            assert (answer["code"], answer["message"]) == (
                ErrorCode.HELLO_FIRST,
                ErrorCode.HELLO_FIRST.advice,
            )
        token = await nodes.north.token("visitor")
        assert (await stranger.call("hello", token=token))["type"] == "welcome"
        assert (await stranger.call("hello", token=token))["code"] == ErrorCode.HELLO_AGAIN
        await stranger.settle()
