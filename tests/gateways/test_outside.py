"""Calls to a service outside: a deadline, a few at a time, nothing large, no redirects; against a real socket."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable

import httpx2
import pytest

from protocol.refusals import ErrorCode, Refused
from server.gateways.gate import TOGETHER, WAITING
from server.gateways.outside import MOST_BYTES, Outside

SECONDS = 0.5


class Peer:
    """Answers each request with what `answers` says; None hangs."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: Callable[[str], bytes | None] = lambda _: response(b"{}")
        self.requests: list[bytes] = []
        self.open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one request of a connection."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            writer.close()
            return
        self.open += 1
        self.requests.append(head)
        answer = self.answers(head.split()[1].decode())
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
        self.open -= 1
        writer.close()


def response(body: bytes, status: int = 200, *headers: str) -> bytes:
    """Write a response."""
    lines = [f"HTTP/1.1 {status} x", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """Run a peer."""
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield peer
    server.close()


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    """Give a way to call it, with a short deadline."""
    async with httpx2.AsyncClient() as client:
        yield Outside("Google", client, asyncio.get_running_loop().time, seconds=SECONDS)


async def refused(call: object) -> Refused:
    """Return how a call was refused."""
    with pytest.raises(Refused) as caught:
        await call  # type: ignore[misc] # any of the two methods
    assert caught.value.code is ErrorCode.UNAVAILABLE
    return caught.value


async def test_what_it_says(peer: Peer, outside: Outside) -> None:
    """Status and JSON object are handed over, of whatever is no object nothing; a 4xx is an answer like others."""
    peer.answers = lambda path: {
        "/good": response(b'{"a": 1}'),
        "/bad": response(b'{"error": "invalid_grant"}', 400),
        "/list": response(b"[1]"),
        "/html": response(b"<html>"),
        "/bytes": response(b'{"a": "\xff"}'),
        "/deep": response(b"[" * 100_000),
    }[path]
    assert (await outside.get(f"{peer.url}/good")).body == {"a": 1}
    bad = await outside.post(f"{peer.url}/bad", {"code": "a b"})
    assert (bad.status, bad.good, bad.body) == (400, False, {"error": "invalid_grant"})
    for path in ("list", "html", "bytes", "deep"):
        assert (await outside.get(f"{peer.url}/{path}")).body == {}
    assert not outside.breaker.open


async def test_an_object_is_sent_as_somebody(peer: Peer, outside: Outside) -> None:
    """A JSON object goes out with the token of whoever sends it, and how long to wait comes back, if it is said in seconds."""
    peer.answers = lambda _: response(b"{}", 429, "retry-after: 7")
    answer = await outside.post_json(peer.url, {"a": 1}, bearer="a-token")
    assert (answer.status, answer.retry_after) == (429, 7.0)
    (head,) = peer.requests
    assert b"authorization: bearer a-token" in head.lower()
    assert b"content-type: application/json" in head.lower()
    peer.answers = lambda _: response(b"", 503, "retry-after: 100000")
    assert (await refused(outside.post_json(peer.url, {}, bearer="x"))).retry_after == 3600.0


async def test_no_redirect_is_followed(peer: Peer, outside: Outside) -> None:
    """Where the service would send us is nowhere that we go."""
    peer.answers = lambda _: response(b"{}", 302, f"location: {peer.url}/elsewhere")
    answer = await outside.get(f"{peer.url}/here")
    assert (answer.status, answer.good) == (302, False)
    assert len(peer.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        response(b"", 500),
        response(b'{"a": 1}', 503),
        response(b" " * (MOST_BYTES + 1)),
        b"nonsense\r\n\r\n",
        b"",
        b"HTTP/1.1 200 x\r\ncontent-length: 10\r\n\r\n{}",
        None,
    ],
    ids=["500", "503", "too large", "no HTTP", "nothing", "half", "hangs"],
)
async def test_what_counts_as_away(peer: Peer, outside: Outside, answer: bytes | None) -> None:
    """Whatever is no answer is said to be away, after the deadline at the latest; three times, and it is left alone."""
    peer.answers = lambda _: answer
    for _ in range(3):
        await refused(outside.get(peer.url))
    asked = len(peer.requests)
    assert (await refused(outside.get(peer.url))).retry_after == 2.0
    assert len(peer.requests) == asked


async def test_nobody_there(outside: Outside) -> None:
    """A port that nobody listens on is away like everything else."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    await refused(outside.get(url))


async def test_a_dripping_answer(peer: Peer, outside: Outside) -> None:
    """The deadline is for the whole, not for each byte."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 x\r\ncontent-length: 1000\r\n\r\n")
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    async with asyncio.timeout(10 * SECONDS):
        await refused(outside.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    server.close()


async def test_a_crowd_at_a_service_that_hangs(peer: Peer, outside: Outside) -> None:
    """A few are under way, some wait, everyone else is told at once; all are told within one deadline."""
    peer.answers = lambda _: None
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def call() -> float:
        await refused(outside.get(peer.url))
        return loop.time() - began

    waits = sorted(await asyncio.gather(*(call() for _ in range(3 * WAITING))))
    assert (
        len(peer.requests) <= 3 * TOGETHER
    )  # some got a place in their last moment, more of them on a slow machine
    assert waits[2 * WAITING - 1] < SECONDS <= waits[2 * WAITING]


async def test_who_goes_away(peer: Peer, outside: Outside) -> None:
    """A caller that is cancelled frees its place, and is no failure of the service."""
    peer.answers = lambda _: None
    calls = [asyncio.create_task(outside.get(peer.url)) for _ in range(TOGETHER)]
    while peer.open < TOGETHER:
        assert not any(call.done() for call in calls)
        await asyncio.sleep(0.001)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert not outside.breaker.open
    peer.answers = lambda _: response(b'{"a": 1}')
    assert (await outside.get(peer.url)).body == {"a": 1}


async def test_what_is_logged(peer: Peer, outside: Outside, caplog: pytest.LogCaptureFixture) -> None:
    """That it is away, once for each call; never an address with what stands in it."""
    peer.answers = lambda _: response(b"secret", 500)
    with caplog.at_level(logging.INFO):
        await refused(outside.post(f"{peer.url}/token?code=secret", {"client_secret": "secret"}))
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text
