"""One websocket, from the handshake to its end: connect, say hello, then bytes in and bytes out.

A `Link` never comes back; `protocol.client.connection` opens another one.
"""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.asyncio.connection import broadcast
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus
from websockets.typing import Subprotocol

from protocol.client.calls import refused
from protocol.closing import CloseCode, reconnects
from protocol.codec import TEXT, Codec, Unreadable
from protocol.envelope import Error
from protocol.session import Hello, Welcome

MAX_MESSAGE: Final = 4 * 1024 * 1024
"""Bytes of the largest message taken: a join's snapshot with 200 members and 50 long lines is half a megabyte."""

ABNORMAL: Final = 1006
"""RFC 6455, section 7.1.5: the connection ended without a close frame."""


class LinkLost(Exception):  # noqa: N818 - an event of a connection's life, not a mistake
    """The websocket ended. `wait` is the least time in seconds that the server asked for, if it did."""

    def __init__(self, code: int, reason: str, *, wait: float = 0.0) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason
        self.wait = wait

    @property
    def final(self) -> bool:
        """Whether coming back is pointless."""
        return not reconnects(self.code)


class Listening(ClientConnection):
    """A client connection that remembers when it heard anything last: a ping of the server counts, half a frame too."""

    heard = 0.0

    def data_received(self, data: bytes) -> None:
        """Take bytes from the transport."""
        self.heard = self.loop.time()
        super().data_received(data)


class Link:
    """An open websocket whose hello was answered by `welcome`."""

    def __init__(self, websocket: Listening, codec: Codec, welcome: Welcome) -> None:
        self._websocket = websocket
        self._text = codec.opcode == TEXT
        self.welcome = welcome
        self.opened = websocket.loop.time()
        self.lost: LinkLost | None = None
        self.held = False
        """Whether reading stands still because nobody takes the events."""

    @property
    def heard(self) -> float:
        """When anything was heard last, by the loop's clock."""
        return self._websocket.heard

    async def receive(self) -> bytes:
        """Return the next message. Raises `LinkLost`."""
        try:
            return await self._websocket.recv(decode=False)
        except ConnectionClosed as closed:
            raise _lost(closed) from None

    async def send(self, data: bytes) -> None:
        """Send a message; wait while the server does not read. On a link that is lost, nothing happens."""
        try:
            await self._websocket.send(data, text=self._text)
        except ConnectionClosed:
            return  # the reader sees it too, and what waits for an answer is decided there

    def post(self, data: bytes) -> None:
        """Send a message without waiting. On a link that is lost, nothing happens."""
        broadcast([self._websocket], data, text=self._text)

    def abort(self) -> None:
        """Drop the TCP connection at once."""
        self._websocket.transport.abort()

    async def close(self) -> None:
        """Close with 1000, waiting at most the close timeout for the server to agree."""
        try:
            await self._websocket.close()
        finally:
            self._websocket.transport.abort()


async def open_link(
    url: str,
    codec: Codec,
    *,
    hello: Hello,
    compression: bool,
    open_timeout: float,
    close_timeout: float,
) -> Link:
    """Connect and say `hello`; return the link once the server has answered with a welcome.

    Raises `LinkLost`; `protocol.refusals.Refused` when the hello is; OSError (TimeoutError among them) when nobody is
    there, or nobody who speaks this protocol.
    """
    try:
        async with asyncio.timeout(open_timeout):
            websocket = await open_websocket(
                url,
                subprotocols=[Subprotocol(codec.name)],
                compression="deflate" if compression else None,
                create_connection=Listening,
                open_timeout=None,
                close_timeout=close_timeout,
                ping_interval=None,  # the server pings, and `heartbeat` asks in the protocol's own words
                max_size=MAX_MESSAGE,
                max_queue=64,
                proxy=None,
            )
            assert isinstance(websocket, Listening)
            try:
                return await _greet(websocket, codec, hello)
            except BaseException:
                websocket.transport.abort()
                raise
    except InvalidStatus as refusal:
        response = refusal.response
        if response.status_code != 429 and response.status_code < 500:
            raise ConnectionRefusedError(f"The server answered {response.status_code}.") from None
        asked = response.headers.get("Retry-After", "")
        wait = float(asked) if asked.isdecimal() else 0.0
        raise LinkLost(ABNORMAL, f"The server answered {response.status_code}.", wait=wait) from None
    except InvalidMessage:
        raise LinkLost(ABNORMAL, "The connection ended in the handshake.") from None
    except InvalidHandshake as problem:
        raise ConnectionRefusedError(f"This is no server of ours: {problem}") from None


async def _greet(websocket: Listening, codec: Codec, hello: Hello) -> Link:
    if websocket.subprotocol != codec.name:
        raise LinkLost(CloseCode.BAD_HELLO, f"The server does not speak {codec.name}.")
    try:
        await websocket.send(codec.encode(hello), text=codec.opcode == TEXT)
        while True:
            try:
                answer = codec.decode_reply(await websocket.recv(decode=False))
            except Unreadable:
                continue
            if isinstance(answer, Welcome):
                return Link(websocket, codec, answer)
            if isinstance(answer, Error):
                raise refused(answer)
    except ConnectionClosed as closed:
        raise _lost(closed) from None


def _lost(closed: ConnectionClosed) -> LinkLost:
    frame = closed.rcvd
    if frame is None:
        return LinkLost(ABNORMAL, "The connection broke.")
    return LinkLost(frame.code, frame.reason)


def websocket_url(url: str) -> str:
    """Return the websocket's address of a server: ``http`` becomes ``ws``, and a missing path becomes ``/ws``.

    Raises ValueError when it is no address.
    """
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise ValueError(f"{url!r} is not an address such as ws://127.0.0.1:8000/ws")
    path = parts.path if parts.path not in ("", "/") else "/ws"
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))
