"""A client from its entering to its end."""

from __future__ import annotations

import asyncio

import pytest

from protocol.chat import SendChat
from protocol.client import Backoff, Disconnected, connect
from protocol.client.link import websocket_url
from protocol.closing import CloseCode
from protocol.envelope import Error
from protocol.refusals import ErrorCode, Refused
from protocol.session import Hello
from tests.protocol.client.meeting import SLUG, both, dial, everything, meeting, welcomed
from tests.protocol.client.peer import ADA, Peer, said

# Entering


async def test_the_welcome_says_who_we_are(peer: Peer) -> None:
    """The token goes with the hello, never with the address."""
    async with meeting(peer, token="secret") as (client, server):
        assert client.user == ADA
        assert client.connected
        assert server.websocket.request is not None
        assert "secret" not in server.websocket.request.path


async def test_no_server_is_an_error_at_once(unused_tcp_port: int) -> None:
    """Who starts without a server learns it immediately, and is not left waiting."""
    with pytest.raises(OSError, match=str(unused_tcp_port)):
        async with connect(f"ws://127.0.0.1:{unused_tcp_port}/ws", token="t"):
            pass


async def test_a_token_that_is_not_taken_is_refused(peer: Peer) -> None:
    """The refusal of a hello is raised where the client is entered."""
    entering = asyncio.create_task(dial(peer).__aenter__())
    server = await peer.accept()
    hello = await server.hears(Hello)
    await server.says(Error(id=hello.id, code="token_invalid", message="No."))
    with pytest.raises(Refused) as caught:
        await entering
    assert caught.value.code is ErrorCode.TOKEN_INVALID
    assert await server.ends() == 1006


async def test_a_close_that_says_no_is_raised_on_entering(peer: Peer) -> None:
    """A banned account is not tried again."""
    entering = asyncio.create_task(dial(peer).__aenter__())
    server = await peer.accept()
    await server.closes(CloseCode.BANNED, "gone")
    with pytest.raises(Disconnected, match="gone") as caught:
        await entering
    assert caught.value.code == 4502
    assert peer.opened == 1


async def test_a_busy_server_is_asked_again_on_entering(peer: Peer) -> None:
    """Both ways to say "later", an error and a close code, are waited out."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def play() -> None:
        first = await peer.accept()
        await first.closes(CloseCode.BUSY)
        second = await peer.accept()
        hello = await second.hears(Hello)
        await second.says(Error(id=hello.id, code="busy", message="Later.", retry_after=3))
        await second.ends()
        await welcomed(peer)

    client = dial(peer, backoff=Backoff(0.5, 20, random=lambda: 1.0), sleep=sleep)
    await both(client.__aenter__(), play())
    assert waits == [1.0, 3]
    await client.close()


async def test_a_server_that_never_welcomes_times_out(peer: Peer) -> None:
    """Entering is bounded."""
    with pytest.raises(TimeoutError):
        async with dial(peer, open_timeout=0.05):
            pass


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://127.0.0.1:8000", "ws://127.0.0.1:8000/ws"),
        ("https://example.org/", "wss://example.org/ws"),
        ("ws://[::1]:80/other", "ws://[::1]:80/other"),
    ],
)
def test_addresses_as_people_write_them(given: str, meant: str) -> None:
    """An HTTP address of the server is understood."""
    assert websocket_url(given) == meant


@pytest.mark.parametrize("address", ["", "127.0.0.1:8000", "ftp://host/ws", "ws://"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """Before anything is sent anywhere."""
    with pytest.raises(ValueError, match="not an address"):
        connect(address, token="t")


# The end


async def test_close_is_clean(peer: Peer) -> None:
    """The server sees 1000, the iteration stops, calls say why, and closing again does nothing."""
    async with meeting(peer) as (client, server):
        calling = asyncio.create_task(client.send_chat(SLUG, "hello"))
        await server.hears(SendChat)
        ending = asyncio.create_task(server.ends())
        await client.close()
        assert await ending == 1000
        with pytest.raises(Disconnected):
            await calling
        with pytest.raises(StopAsyncIteration):
            await anext(client)
        await client.close()


async def test_close_while_away(peer: Peer) -> None:
    """A client that waits to come back can be closed at once."""
    away = asyncio.Event()

    async def sleep(seconds: float) -> None:
        away.set()
        await asyncio.sleep(3600)

    async with meeting(peer, sleep=sleep) as (client, server):
        server.breaks()
        await asyncio.wait_for(away.wait(), 5)
        async with asyncio.timeout(1):
            await client.close()


async def test_close_with_a_server_that_does_not_answer(peer: Peer) -> None:
    """Closing is bounded by its timeout, even when events wait unread."""
    async with meeting(peer, at=0, waiting=2, close_timeout=0.1) as (client, server):
        await server.says(*(said(n, "x" * 2000) for n in range(1, 200)))
        server.websocket.transport.pause_reading()
        async with asyncio.timeout(2):
            await client.close()


async def test_a_cancelled_user_leaves_nothing_behind(peer: Peer) -> None:
    """Cancelling whoever is inside closes the connection with 1000."""
    inside = asyncio.Event()

    async def use() -> None:
        async with dial(peer) as client:
            inside.set()
            await everything(client)

    using = asyncio.create_task(use())
    server, _ = await welcomed(peer)
    await asyncio.wait_for(inside.wait(), 5)
    using.cancel()
    assert await server.ends() == 1000
    with pytest.raises(asyncio.CancelledError):
        await using


async def test_cancelling_the_entering(peer: Peer) -> None:
    """Someone who gives up before the welcome leaves no socket open."""
    entering = asyncio.create_task(dial(peer).__aenter__())
    server = await peer.accept()
    await server.hears(Hello)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert await server.ends() == 1006
