"""Signing in over HTTP, against a server that answers what a test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from protocol.client.account import register, sign_in
from protocol.refusals import ErrorCode, Refused


class Script:
    """Answers for requests to come, and the requests that came."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.answers: list[tuple[int, bytes]] = []

    def gives(self, access: str, *, expires_in: float = 600) -> None:
        """Answer with tokens."""
        body = {
            "access_token": access,
            "refresh_token": f"refresh-{access}",
            "expires_in": expires_in,
            "user": {},
        }
        self.answers.append((200, json.dumps(body).encode()))

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(
            int(x.split(":")[1]) for x in head.split("\r\n") if x.lower().startswith("content-length")
        )
        self.requests.append((head.split()[1], json.loads(await reader.readexactly(length))))
        status, body = self.answers.pop(0)
        if status:
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        else:
            writer.write(body)
        await writer.drain()
        writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[Script]:
    """Run the scripted server."""
    script = Script()
    async with await asyncio.start_server(script.handle, "127.0.0.1", 0) as server:
        script.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield script


async def test_signing_in_gives_tokens_as_long_as_they_are_fresh() -> None:
    """A token is used for half of its life, then refreshed: so a new one is at hand when the server asks for it."""
    async with serving() as script:
        script.gives("one")
        account = await sign_in(script.url, "ada@example.com", "secret")
        assert [await account(), await account()] == ["one", "one"]
        assert script.requests == [("/auth/login", {"email": "ada@example.com", "password": "secret"})]


async def test_an_older_token_is_refreshed_once() -> None:
    """Two who ask at the same time cost one refresh, because a refresh token is used once."""
    async with serving() as script:
        script.gives("one", expires_in=0)
        script.gives("two")
        account = await register(script.url, "ada@example.com", "secret", "Ada")
        assert list(await asyncio.gather(account(), account())) == ["two", "two"]
        assert script.requests == [
            ("/auth/register", {"email": "ada@example.com", "password": "secret", "name": "Ada"}),
            ("/auth/refresh", {"refresh_token": "refresh-one"}),
        ]


async def test_a_refusal_keeps_its_code_and_sentence() -> None:
    """A problem document becomes the same exception as over the websocket."""
    async with serving() as script:
        problem = {
            "type": "about:blank",
            "status": 429,
            "code": "rate_limited",
            "detail": "Slowly.",
            "retry_after": 3,
        }
        script.answers.append((429, json.dumps(problem).encode()))
        with pytest.raises(Refused, match="Slowly") as caught:
            await sign_in(script.url, "a@example.com", "b")
        assert caught.value.code is ErrorCode.RATE_LIMITED
        assert caught.value.retry_after == 3


@pytest.mark.parametrize(
    "answer", [(200, b"<html>"), (500, b"oops"), (200, b"\xff"), (0, b"SSH-2.0\r\n\r\n")]
)
async def test_a_server_that_is_something_else(answer: tuple[int, bytes]) -> None:
    """A web server that is not ours is told from one that refuses us."""
    async with serving() as script:
        script.answers.append(answer)
        with pytest.raises(ConnectionError, match="http://"):
            await sign_in(script.url, "a@example.com", "b")


async def test_no_server_and_no_address() -> None:
    """Both are said before anything else."""
    async with serving() as script:
        url = script.url
    with pytest.raises(OSError, match="refused"):
        await sign_in(url, "a@example.com", "b")
    with pytest.raises(ValueError, match="not an address"):
        await sign_in("ws://127.0.0.1", "a@example.com", "b")
