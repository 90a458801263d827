"""A client that keeps no rules: it may lie, fall silent, stop reading, or break its connection; and thousands fit in a test.

Frames are built and read by hand (RFC 6455, section 5.2). The mask is zero, which is allowed and costs nothing.
"""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import struct
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

_TEXT: Final = 0x1
_CLOSE: Final = 0x8
_PING: Final = 0x9
_PONG: Final = 0xA

Message = dict[str, Any]

OPEN: set[asyncio.Transport] = set()
"""The connections that stand; a test's end breaks them."""


class Gone(ConnectionError):  # noqa: N818 - it says what happened, which may be no error
    """The connection is over; `code` is its close code, 1006 without one."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


class RawConnection(asyncio.Protocol):
    """One websocket with the JSON subprotocol. `heard` is called with each message that is no answer."""

    def __init__(self, heard: Callable[[Message], None]) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.gone: asyncio.Future[Gone] = loop.create_future()
        self.silent = False
        self.pings = 0
        """How many were answered."""
        self._heard = heard
        self._answers: dict[int, asyncio.Future[Message]] = {}
        self._ids = 0
        self._buffer = bytearray()
        self._upgraded = False
        self._close: Gone | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self.transport = cast("asyncio.Transport", transport)
        OPEN.add(self.transport)
        key = base64.b64encode(os.urandom(16)).decode()
        self.transport.write(
            "GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: looprooms.v1+json\r\n\r\n".encode()
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Give everyone who waits the end."""
        OPEN.discard(self.transport)
        gone = self._close or Gone(1006)
        if not self.opened.done():
            self.opened.set_exception(gone)
            self.opened.exception()
        if not self.gone.done():
            self.gone.set_result(gone)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(gone)
                answer.exception()
        self._answers.clear()

    def data_received(self, data: bytes) -> None:
        """Read the handshake, then frames."""
        buffer = self._buffer
        buffer += data
        if not self._upgraded:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            status = bytes(buffer[:end]).split(b"\r\n", 1)[0]
            del buffer[: end + 4]
            if b" 101 " not in status:
                self._close = Gone(1006, status.decode())
                self.transport.abort()
                return
            self._upgraded = True
            if not self.opened.done():
                self.opened.set_result(None)
        at = 0
        while True:
            if len(buffer) - at < 2:
                break
            opcode, size, head = buffer[at] & 0x0F, buffer[at + 1] & 0x7F, 2
            if size == 126:
                if len(buffer) - at < 4:
                    break
                (size,), head = struct.unpack_from("!H", buffer, at + 2), 4
            elif size == 127:
                if len(buffer) - at < 10:
                    break
                (size,), head = struct.unpack_from("!Q", buffer, at + 2), 10
            if len(buffer) - at < head + size:
                break
            payload = bytes(buffer[at + head : at + head + size])
            at += head + size
            self._frame(opcode, payload)
        del buffer[:at]

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == _TEXT:
            message: Message = msgspec.json.decode(payload)
            answer = self._answers.pop(message.get("id") or 0, None)
            if answer is None:
                self._heard(message)
            elif not answer.done():
                if message["type"] in ("welcome", "room.joined"):
                    self._heard(message)  # in its place among the events, which may stand in the same read
                answer.set_result(message)
        elif opcode == _PING and not self.silent:
            self.pings += 1
            self.frame(_PONG, payload)
        elif opcode == _CLOSE:
            code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else 1005
            self._close = Gone(code, payload[2:].decode())
            self.frame(_CLOSE, payload[:2])

    def frame(self, opcode: int, payload: bytes) -> None:
        """Send one whole frame."""
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
        elif size < 65536:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
        if not self.transport.is_closing():
            self.transport.write(head + b"\0\0\0\0" + payload)

    def send(self, message: Message) -> None:
        """Send a message as it is, true or not."""
        self.frame(_TEXT, msgspec.json.encode(message))

    async def call(self, type: str, within: float = 5.0, **fields: object) -> Message:  # noqa: A002 - as on the wire
        """Send a command and return its answer, be it an error. Raises `Gone`, TimeoutError."""
        self._ids += 1
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        if self.gone.done():
            raise self.gone.result()
        self._answers[self._ids] = answer
        self.send({"type": type, "id": self._ids, **fields})
        async with asyncio.timeout(within):
            return await answer

    def leave(self) -> None:
        """Say goodbye (close code 1000)."""
        self.frame(_CLOSE, struct.pack("!H", 1000))
        self.transport.close()

    def vanish(self) -> None:
        """Read and answer nothing any more, and keep the connection."""
        self.silent = True
        self.transport.pause_reading()

    def finish(self) -> None:
        """End with a FIN, without a word."""
        self.transport.close()

    def reset(self) -> None:
        """End with an RST."""
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


async def open_raw(port: int, heard: Callable[[Message], None], within: float = 3.0) -> RawConnection:
    """Connect to a node. Raises `OSError` (`Gone`, TimeoutError among them)."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(within):
        _, connection = await loop.create_connection(lambda: RawConnection(heard), "127.0.0.1", port)
        try:
            await connection.opened
        except BaseException:
            connection.transport.abort()
            raise
    return connection
