"""What an HTTP connection may send, and for how long: floods, silence and drips on real sockets, with the deadlines turned down."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from server.http.connection import HttpConnection
from tests.http.conftest import Servers
from tests.http.serving import Site, serving
from tests.redis.valkeys import Valkey
from tests.stores import valkey
from tests.waiting import until

__all__ = ["valkey"]

LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class Hurried(HttpConnection):
    """The limits, in less time."""

    HEAD_SECONDS: ClassVar[float] = 0.3
    BODY_SECONDS: ClassVar[float] = 0.3
    IDLE_SECONDS: ClassVar[float] = 0.5
    LOOK_SECONDS: ClassVar[float] = 0.2


@pytest.fixture
def site(standing: Site) -> Site:
    """Share a node."""
    return standing


@pytest.fixture(scope="module")
async def hurried(servers: Servers) -> AsyncIterator[Site]:
    """Give a node whose connections have little time."""
    async with serving(await servers.settings(), Hurried) as running:
        yield running


def status(answer: bytes) -> int:
    """Read the status of a response; 0 when nothing came."""
    return int(answer.split(b" ", 2)[1]) if answer else 0


def code(answer: bytes) -> str:
    """Read the code of a problem."""
    return str(msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])["code"])


def resident() -> int:
    """Return the bytes of memory that this process, server and client, has."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def is_alive(site: Site) -> bool:
    """Say whether others are served."""
    return (await site.client.get("/health/live")).status_code == 200


async def drip(
    site: Site, start: bytes, drop: bytes, every: float = 0.05, most: float = 5.0
) -> tuple[bytes, float]:
    """Send a little again and again; return what came, and after how many seconds it ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    began = time.monotonic()
    writer.write(start)

    async def go_on() -> None:
        while True:
            await asyncio.sleep(every)
            writer.write(drop)

    dripping = asyncio.create_task(go_on())
    try:
        async with asyncio.timeout(most):
            answer = await reader.read()
    finally:
        dripping.cancel()
        writer.transport.abort()
    return answer, time.monotonic() - began


def test_the_real_deadlines() -> None:
    """Nobody may stay longer than ten seconds without a whole request, and the clock is looked at often enough for it."""
    assert HttpConnection.HEAD_SECONDS <= 10
    assert HttpConnection.BODY_SECONDS <= 10
    for kind in (HttpConnection, Hurried):
        assert min(kind.HEAD_SECONDS, kind.BODY_SECONDS, kind.IDLE_SECONDS) >= kind.LOOK_SECONDS


async def test_headers_as_large_as_allowed(site: Site) -> None:
    """31 KiB of headers pass, 33 don't, in one or in many."""
    for size, expected in ((31 * 1024, 200), (33 * 1024, 431)):
        one = LIVE[:-2] + b"X: " + b"a" * size + b"\r\n\r\n"
        assert status(await answer_to(site, one)) == expected
        lines = b"".join(b"X-%02d: %s\r\n" % (number, b"a" * (size // 32 - 8)) for number in range(32))
        assert status(await answer_to(site, LIVE[:-2] + lines + b"\r\n")) == expected
    assert await is_alive(site)


async def answer_to(site: Site, request: bytes) -> bytes:
    """Send a request and return its response, the connection left open or not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    try:
        writer.write(request)
        async with asyncio.timeout(5):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.partition(b":")[2])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            )
            return head + await reader.readexactly(length)
    finally:
        writer.transport.abort()


async def test_long_request_line(site: Site) -> None:
    """The request line counts as well."""
    answer = await answer_to(site, b"GET /" + b"a" * 33 * 1024 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (status(answer), code(answer)) == (431, "too_large")


async def test_many_headers(site: Site) -> None:
    """64 headers pass, 65 don't."""
    for count, expected in ((63, 200), (64, 431)):
        lines = b"".join(b"X%d: y\r\n" % number for number in range(count))
        assert status(await answer_to(site, LIVE[:-2] + lines + b"\r\n")) == expected


@pytest.mark.parametrize(
    "pattern",
    [b"X: yyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 2048, b"a" * 65536, b"X" * 65535 + b":", b"\r\n" * 32768],
    ids=["many headers", "one value", "one name", "empty lines"],
)
async def test_flood_of_headers(site: Site, pattern: bytes) -> None:
    """Two hundred megabytes of headers are not read, and take no memory."""
    start = b"" if pattern.startswith(b"\r\n") else LIVE[:-2] + b"X: y"
    before = resident()
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    began = time.monotonic()
    sent = 0
    try:
        writer.write(start)
        while sent < 200 * 1024 * 1024:
            writer.write(pattern)
            sent += len(pattern)
            async with asyncio.timeout(5):
                await writer.drain()
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.transport.abort()
        reader.feed_eof()
    assert sent < 20 * 1024 * 1024
    assert time.monotonic() - began < 5
    assert resident() - before < 10 * 1024 * 1024
    assert await is_alive(site)


async def test_silence(hurried: Site) -> None:
    """A connection that says nothing is closed, without a word."""
    answer, seconds = await drip(hurried, b"", b"")
    assert answer == b""
    assert 0.2 < seconds < 1.5


@pytest.mark.parametrize(
    ("start", "drop"),
    [(LIVE[:-2], b"X: y\r\n"), (b"G", b"E"), (b"", b"\r\n"), (LIVE[:-2] + b"X: ", b"y")],
    ids=["headers", "method", "empty lines", "value"],
)
async def test_dripped_head(hurried: Site, start: bytes, drop: bytes) -> None:
    """A head that does not end is closed at its deadline, however it drips."""
    answer, seconds = await drip(hurried, start, drop)
    assert status(answer) in (400, 408)
    assert b"connection: close" in answer
    assert seconds < 1.5
    assert await is_alive(hurried)


async def test_dripped_body(hurried: Site) -> None:
    """A body that does not end is closed at its deadline; the handler that waits for it is let go."""
    answer, seconds = await drip(hurried, POST + b"Content-Length: 60000\r\n\r\n", b" ")
    assert (status(answer), code(answer)) == (408, "too_slow")
    assert 0.2 < seconds < 1.5
    assert await is_alive(hurried)


async def test_dripped_second_request(hurried: Site) -> None:
    """The deadline counts anew for each request of a connection, from its first byte."""
    answer, seconds = await drip(hurried, LIVE + LIVE[:-2], b"X: y\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in answer
    assert seconds < 1.5


async def test_idle(hurried: Site) -> None:
    """After an answer one may be quiet for a while, then the connection is closed without a word."""
    answer, seconds = await drip(hurried, LIVE, b"")
    assert answer.count(b"HTTP/1.1") == 1
    assert 0.4 < seconds < 2


async def test_slow_but_steady(hurried: Site) -> None:
    """A connection that keeps asking lives on past every deadline."""
    reader, writer = await asyncio.open_connection("127.0.0.1", hurried.port)
    for _ in range(8):
        writer.write(LIVE)
        async with asyncio.timeout(2):
            assert status(await reader.readuntil(b'{"status":"ok"}')) == 200
        await asyncio.sleep(0.15)
    writer.transport.abort()


async def test_pipelined(site: Site) -> None:
    """Requests sent at once are answered in order."""
    closing = LIVE[:-2] + b"Connection: close\r\n\r\n"
    answer = await site.raw(LIVE * 5 + closing)
    assert answer.count(b"HTTP/1.1 200") == 6


async def test_pipelined_flood(site: Site) -> None:
    """Thousands of requests at once are not queued up."""
    answer = await site.raw(LIVE * 5000)
    assert answer.count(b"HTTP/1.1 200") < 50
    assert await is_alive(site)


@pytest.mark.parametrize(
    "nonsense",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http:// HTTP/1.1\r\nHost: localhost\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
        POST + b"Content-Length: -1\r\n\r\n{}",
        POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_not_http(site: Site, nonsense: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """What is no HTTP is answered with 400, once, and the connection is closed; the log is spared."""
    answer = await site.raw(nonsense)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request")
    assert answer.count(b"HTTP/1.1") == 1
    assert code(answer) in ("malformed", "host_refused")
    assert caplog.records == []
    assert await is_alive(site)


async def test_trailers(site: Site) -> None:
    """Trailers are dropped; a flood of them, or of chunk extensions, is refused."""
    body = b'{"refresh_token":"x"}'
    request = POST.replace(b"login", b"logout") + b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"%x\r\n%s\r\n" % (len(body), body)
    answer = await site.raw(request + chunk + b"0\r\nX: y\r\n\r\n" + LIVE[:-2] + b"Connection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 204")
    assert answer.count(b"HTTP/1.1") == 2
    flood = request + chunk + b"0\r\n" + b"X: yyyyyyyyyyyyyyyyyyy\r\n" * 8000
    assert b"200 OK" not in await ended(site, flood)
    flood = request + b"1;" + b"e" * 200_000
    assert status(await ended(site, flood)) in (0, 431)
    assert await is_alive(site)


async def ended(site: Site, data: bytes) -> bytes:
    """Send what gets a connection closed, maybe by a reset, and return what came before."""
    try:
        return await site.raw(data)
    except ConnectionError:
        return b""


async def test_body_in_tiny_chunks(site: Site) -> None:
    """A body in chunks of one byte is clumsy, but no abuse."""
    body = b'{"refresh_token":"%s"}' % (b"x" * 200)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = POST.replace(b"login", b"logout") + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    assert status(await site.raw(head + chunks)) == 204


async def test_refused_body_goes_on(site: Site) -> None:
    """Who is told 413 while still sending gets the answer; the rest is dropped, and not for ever."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(POST + b"Content-Length: 1000000000\r\n\r\n" + b"x" * 1000)
    async with asyncio.timeout(5):
        head = await reader.readuntil(b"\r\n\r\n")
    assert status(head) == 413
    sent = 0
    try:
        while sent < 100_000_000:
            writer.write(b"x" * 65536)
            sent += 65536
            async with asyncio.timeout(5):
                await writer.drain()
    except ConnectionError:
        pass
    writer.transport.abort()
    assert sent < 20_000_000
    assert await is_alive(site)


async def test_byte_by_byte(site: Site) -> None:
    """A request in segments of one byte has the same answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    for byte in LIVE:
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert status(await reader.readuntil(b'{"status":"ok"}')) == 200
    writer.transport.abort()


async def test_continue(site: Site) -> None:
    """Who asks before sending the body is told to go on, or that it is too large."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    async with asyncio.timeout(5):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        writer.write(b"{}")
        assert status(await reader.readuntil(b"\r\n\r\n")) == 422
    writer.transport.abort()
    answer = await answer_to(site, POST + b"Expect: 100-continue\r\nContent-Length: 70000\r\n\r\n")
    assert status(answer) == 413


async def test_other_upgrades(site: Site) -> None:
    """An upgrade that is not ours is not made; the request is answered."""
    answer = await answer_to(site, LIVE[:-2] + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
    assert status(answer) == 200


UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Protocol: looprooms.v1+json\r\n%s\r\n"
)


@pytest.mark.parametrize(
    ("path", "more", "expected"),
    [
        (b"/ws?from=here", b"Cookie: a=\xe4\r\n", 101),
        (b"/elsewhere", b"", 404),
        (b"/ws", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", 400),
        (b"/ws", b"Transfer-Encoding: chunked\r\n", 400),
        (b"/\xe4", b"", 400),
    ],
)
async def test_websockets(site: Site, path: bytes, more: bytes, expected: int) -> None:
    """A handshake is handed over as it was read, whatever stands in it; one that is no websocket's ends here."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    request = UPGRADE % (path, more)
    writer.write(request[:30])
    await asyncio.sleep(0.01)
    writer.write(request[30:])
    assert status(await reader.readuntil(b"\r\n")) == expected
    writer.transport.abort()


async def test_reader_that_does_not_read(hurried: Site) -> None:
    """Answers that nobody takes do not stay in memory: the connection is dropped."""
    reader, writer = await asyncio.open_connection("127.0.0.1", hurried.port, limit=1024)
    request = b"GET /schema.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    began = time.monotonic()
    try:
        while time.monotonic() - began < 10:
            writer.write(request * 4)
            await asyncio.sleep(0.02)
            if writer.transport.is_closing():
                break
    except ConnectionError:
        pass
    assert time.monotonic() - began < 10
    writer.transport.abort()
    reader.feed_eof()
    assert await is_alive(hurried)


async def test_resets_leave_nothing(site: Site) -> None:
    """Peers that vanish in any phase leave no connection behind."""
    starts = [b"", LIVE[:10], LIVE, POST + b"Content-Length: 100\r\n\r\n{", POST]
    connections = site.connections
    before = len(connections)
    for start in starts * 20:
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(start)
        await asyncio.sleep(0)
        writer.transport.abort()
    deadline = time.monotonic() + 5
    while len(connections) > before and time.monotonic() < deadline:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    assert len(connections) <= before
    assert await is_alive(site)


async def test_too_many_connections(servers: Servers, valkey: Valkey) -> None:
    """An address that connects too often is told so without being heard, and nothing of it is kept; the next second is another."""
    settings = await servers.settings(REDIS_URL=valkey.url, LOOPROOMS_LIMITS_FACTOR="0.01")
    async with serving(settings) as site:
        closing = LIVE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        answers = await asyncio.gather(*(site.raw(closing) for _ in range(50)))
        refused = [answer for answer in answers if status(answer) == 429]
        assert len(refused) >= 45
        assert {status(answer) for answer in answers} == {200, 429}
        assert code(refused[0]) == "rate_limited"
        assert b"\r\nretry-after: 1\r\n" in refused[0]
        door = site.node.door
        assert door.turned_away == len(refused)
        await until(lambda: door.lingering == 0)
        assert not site.connections


async def test_a_flood_of_connections_is_cut_off(servers: Servers, valkey: Valkey) -> None:
    """Past some who are told why, those that are turned away are cut off, and take no place."""
    settings = await servers.settings(REDIS_URL=valkey.url, LOOPROOMS_LIMITS_FACTOR="0.01")
    async with serving(settings) as site:
        writers = [(await asyncio.open_connection("127.0.0.1", site.port))[1] for _ in range(300)]
        door = site.node.door
        await until(lambda: door.turned_away >= 290)
        assert door.lingering <= 100
        assert len(site.connections) <= 10
        for writer in writers:
            writer.transport.abort()
