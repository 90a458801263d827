"""One websocket: what the client makes of servers that are not ours, or not ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from protocol.client.link import MAX_MESSAGE, Link, LinkLost, open_link
from protocol.codec import JSON
from protocol.session import Hello
from tests.protocol.client.peer import listening, said


async def opened(url: str) -> Link:
    """Open a link with the shortest hello."""
    return await open_link(
        url, JSON, hello=Hello("token", id=1), compression=False, open_timeout=2, close_timeout=0.2
    )


@asynccontextmanager
async def answering(status: int, **headers: str) -> AsyncIterator[str]:
    """Run a server that answers each handshake with an HTTP status."""

    def refuse(_: ServerConnection, __: Request) -> Response:
        return Response(status, "No", Headers(headers))

    async def never(_: ServerConnection) -> None:
        raise AssertionError

    async with serve(never, "127.0.0.1", 0, process_request=refuse) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/ws"


@asynccontextmanager
async def speaking(answer: bytes) -> AsyncIterator[str]:
    """Run a server that says the same bytes to everyone and closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"


@pytest.mark.parametrize("status", [400, 403, 404, 426])
async def test_a_server_that_says_no_is_no_server(status: int) -> None:
    """Where nobody speaks our protocol, the answer's status is told."""
    async with answering(status) as url:
        with pytest.raises(ConnectionRefusedError, match=str(status)):
            await opened(url)


@pytest.mark.parametrize(("status", "header", "wait"), [(503, "7", 7.0), (429, "2", 2.0), (500, "soon", 0.0)])
async def test_a_server_that_says_later_is_come_back_to(status: int, header: str, wait: float) -> None:
    """A node that stops or is full answers before the websocket; its Retry-After counts."""
    async with answering(status, **{"Retry-After": header}) as url:
        with pytest.raises(LinkLost) as caught:
            await opened(url)
        assert caught.value.wait == wait
        assert not caught.value.final


async def test_a_server_that_hangs_up_is_come_back_to() -> None:
    """The handshake broke off: the node may just have died."""
    async with speaking(b"") as url:
        with pytest.raises(LinkLost) as caught:
            await opened(url)
        assert not caught.value.final


async def test_a_server_that_is_no_websocket() -> None:
    """A web server that switches to something else is not ours."""
    answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with speaking(answer) as url:
        with pytest.raises(ConnectionRefusedError, match="no server of ours"):
            await opened(url)


async def test_a_websocket_that_speaks_something_else() -> None:
    """Without our subprotocol there is nothing to say, now or later."""

    async def handle(websocket: ServerConnection) -> None:
        await websocket.wait_closed()

    async with serve(handle, "127.0.0.1", 0) as server:
        url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/ws"
        with pytest.raises(LinkLost, match="does not speak") as caught:
            await opened(url)
        assert caught.value.final


async def test_noise_before_the_welcome_is_ignored() -> None:
    """Bytes that are no message, and events that came too early."""
    async with listening() as peer:
        opening = asyncio.create_task(opened(peer.url))
        server = await peer.accept()
        await server.says_bytes(b"noise")
        await server.says(said(1))
        await server.welcomes()
        link = await opening
        assert link.welcome.user.name == "Ada"
        await link.close()


async def test_a_message_that_is_too_large_ends_the_link() -> None:
    """Memory is bounded whatever the server says."""
    async with listening() as peer:
        opening = asyncio.create_task(opened(peer.url))
        server = await peer.accept()
        await server.welcomes()
        link = await opening
        saying = asyncio.create_task(server.says_bytes(b"x" * (MAX_MESSAGE + 1)))
        with pytest.raises(LinkLost):
            await link.receive()
        await asyncio.wait({saying})
        saying.exception()
        await link.close()


@pytest.mark.parametrize("act", [Link.abort, lambda link: None], ids=["aborted", "open"])
async def test_sending_on_a_lost_link_is_no_error(act: Callable[[Link], None]) -> None:
    """Whether a command was answered is judged in one place, and that is not where it was sent."""
    async with listening() as peer:
        opening = asyncio.create_task(opened(peer.url))
        server = await peer.accept()
        await server.welcomes()
        link = await opening
        act(link)
        await asyncio.sleep(0)
        await link.send(b'{"type": "session.ping", "id": 2}')
        link.post(b'{"type": "session.ping", "id": 3}')
        await link.close()
