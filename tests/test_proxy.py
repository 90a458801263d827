"""The bad network itself: what other tests blame on it must be what it does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from tests.proxy import Proxy, proxied


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    """A proxy to a server that sends everything back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
        writer.close()

    async with (
        await asyncio.start_server(echo, "127.0.0.1", 0) as server,
        proxied("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy,
    ):
        yield proxy


async def said(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> bytes:
    """Say something and return what comes back."""
    stream[1].write(data)
    return await asyncio.wait_for(stream[0].readexactly(len(data)), 5)


async def test_bytes_pass_both_ways_and_so_does_the_end(proxy: Proxy) -> None:
    """With nothing set it is not there."""
    stream = await asyncio.open_connection(proxy.host, proxy.port)
    assert await said(stream, b"hello") == b"hello"
    stream[1].write_eof()
    assert await asyncio.wait_for(stream[0].read(), 5) == b""
    stream[1].close()
    assert proxy.accepted == 1


async def test_a_cut_breaks_what_stands(proxy: Proxy) -> None:
    """Both ends lose the connection; a new one may be made."""
    stream = await asyncio.open_connection(proxy.host, proxy.port)
    assert await said(stream, b"hello") == b"hello"
    proxy.cut()
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(stream[0].read(), 5) == b""
    stream[1].close()
    stream = await asyncio.open_connection(proxy.host, proxy.port)
    assert await said(stream, b"again") == b"again"
    stream[1].close()


async def test_a_stall_holds_bytes_back(proxy: Proxy) -> None:
    """Nothing arrives and nothing is lost."""
    stream = await asyncio.open_connection(proxy.host, proxy.port)
    assert await said(stream, b"hello") == b"hello"
    proxy.stall()
    stream[1].write(b"later")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(stream[0].read(1), 0.1)
    proxy.flow()
    assert await asyncio.wait_for(stream[0].readexactly(5), 5) == b"later"
    stream[1].close()


async def test_a_delay_and_a_closed_door(proxy: Proxy) -> None:
    """Each piece is later by the delay each way; refused connections are refused, and taken again after `listen`."""
    stream = await asyncio.open_connection(proxy.host, proxy.port)
    proxy.delay = 0.05
    begun = time.monotonic()
    assert await said(stream, b"hello") == b"hello"
    assert time.monotonic() - begun >= 0.1
    stream[1].close()
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(proxy.host, proxy.port)
    await proxy.listen()
    stream = await asyncio.open_connection(proxy.host, proxy.port)
    stream[1].close()
