"""Frames as nobody should send them, and a peer that reads whatever comes: RFC 6455 by hand, on a socket of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
RSV1: Final = 0x40
KEY: Final = "AAAAAAAAAAAAAAAAAAAAAA=="
DEFLATE: Final = "Sec-WebSocket-Extensions: permessage-deflate\r\n"

Frame = tuple[int, bytes]


def handshake(
    *, method: str = "GET", version: str = "1.1", path: str = "/ws", drop: Iterable[str] = (), **headers: str
) -> bytes:
    """Return a request for a websocket; `headers` (with _ for -) replace the usual ones, `drop` leaves some out."""
    usual = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "looprooms.v1+json",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = [f"{name}: {value}" for name, value in usual.items() if name not in drop]
    return "\r\n".join([f"{method} {path} HTTP/{version}", *lines, "", ""]).encode()


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """Return one frame. Its mask is zero, which is allowed."""
    first, size, mask = (0x80 if fin else 0) | rsv | opcode, len(payload), 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", first, mask | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, mask | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask | 127, size)
    return head + (b"\0\0\0\0" if masked else b"") + payload


def deflated(payload: bytes) -> bytes:
    """Return a payload as permessage-deflate has it (RFC 7692, section 7.2.1)."""
    press = zlib.compressobj(wbits=-15)
    return (press.compress(payload) + press.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")


def bomb(inflated: int) -> bytes:
    """Return zeros, so many, deflated to a thousandth: a mebibyte of them, over and over."""
    press = zlib.compressobj(9, wbits=-15)
    piece = press.compress(bytes(1 << 20)) + press.flush(zlib.Z_FULL_FLUSH)
    return (piece * (inflated >> 20)).removesuffix(b"\0\0\xff\xff")


def closing(payload: bytes) -> tuple[int, str]:
    """Read a close frame; 1005 when it has no code."""
    return (struct.unpack("!H", payload[:2])[0], payload[2:].decode()) if payload else (1005, "")


class Wire:
    """A connection on which anything may be said. Made by `dial`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *data: bytes) -> None:
        """Write, all of it at once."""
        self.writer.write(b"".join(data))

    def say(self, **message: Any) -> None:
        """Send one message as it should be."""
        self.send(frame(TEXT, msgspec.json.encode(message)))

    async def drip(self, data: bytes) -> None:
        """Send byte for byte, each in a segment of its own."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(data)):
            self.writer.write(data[at : at + 1])
            await self.writer.drain()
            await asyncio.sleep(0)

    async def upgrade(self, request: bytes | None = None) -> int:
        """Ask for a websocket; return the status, 0 when there was no answer. What stands after the head stays unread."""
        self.send(handshake() if request is None else request)
        return (await self.head())[0]

    async def head(self) -> tuple[int, bytes]:
        """Read the head of a response; return its status and all of it."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0, b""
        return int(head.split(b" ", 2)[1]), head

    async def read(self) -> Frame | None:
        """Read a frame; None at the end. A deflated one comes inflated."""
        try:
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            payload = await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        if first & RSV1:
            payload = zlib.decompressobj(wbits=-15).decompress(payload + b"\0\0\xff\xff")
        return first & 0x0F, payload

    async def message(self) -> dict[str, Any]:
        """Read the next message. Raises `AssertionError` for anything else."""
        found = await self.read()
        assert found is not None, "the connection ended"
        assert found[0] == TEXT, f"not a message: {found}"
        message: dict[str, Any] = msgspec.json.decode(found[1])
        return message

    async def end(self) -> tuple[list[Frame], tuple[int, str] | None]:
        """Read until the end; return what came before the close frame, and its code and reason; None without one."""
        before: list[Frame] = []
        close = None
        while (found := await self.read()) is not None:
            if found[0] == CLOSE:
                close = closing(found[1])
                self.send(frame(CLOSE, found[1][:2]))
            else:
                before.append(found)
        return before, close

    def reset(self) -> None:
        """End with an RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def dial(port: int, *, source: str = "127.0.0.1", buffer: int = 0) -> AsyncIterator[Wire]:
    """Connect from an address of loopback; `buffer` is the size of the receive buffer in bytes, 0 the system's own."""
    sock = socket.socket(proto=socket.IPPROTO_TCP)
    sock.setblocking(False)
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    try:
        sock.bind((source, 0))
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        wire = Wire(*await asyncio.open_connection(sock=sock))
    except BaseException:
        sock.close()
        raise
    try:
        yield wire
    finally:
        wire.writer.transport.abort()


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has."""
    return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def files(pid: int) -> int:
    """Count the open files of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
