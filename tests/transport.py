"""A transport that records, and a peer that speaks websocket through it: bytes in, bytes out, no socket and no loop."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from msgspec import Struct
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from protocol.codec import JSON, Codec
from protocol.envelope import Message


class RecordingTransport(asyncio.Transport):
    """Keeps what is written to it. Like uvloop's, it raises when it is written to after its end."""

    def __init__(self, protocol: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__({"peername": ("192.0.2.7", 50_000)})
        self._protocol: asyncio.Protocol | None = protocol
        self._loop = loop
        self._closing = False
        self.written: list[bytes] = []
        self.held = 0
        """Bytes that wait to be sent, as the test wants it."""
        self.high_water: int | None = None
        self._reading = True
        self.paused = 0
        """How often reading was paused."""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Record one write."""
        if self.has_ended():
            raise RuntimeError("the transport is closed")
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        """Say whether the end has begun."""
        return self._closing

    def close(self) -> None:
        """End when nothing waits any more: soon, or by `end`."""
        self._closing = True
        if not self.held:
            self._loop.call_soon(self.end)

    def abort(self) -> None:
        """End soon, whatever waits."""
        self._closing = self.aborted = True
        self.held = 0
        self._loop.call_soon(self.end)

    def end(self) -> None:
        """Tell the protocol that the connection is lost."""
        self._closing = True
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(None)

    def has_ended(self) -> bool:
        """Say whether the protocol was told of the end."""
        return self._protocol is None

    def reads(self) -> bool:
        """Say whether reading is not paused."""
        return self._reading

    def get_write_buffer_size(self) -> int:
        """Return what the test has set."""
        return self.held

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Note the limit; it is the test that decides when it is reached."""
        self.high_water = high

    def pause_reading(self) -> None:
        """Note it."""
        assert self._reading, "reading is paused already"
        self._reading = False
        self.paused += 1

    def resume_reading(self) -> None:
        """Note it."""
        assert not self._reading, "reading is not paused"
        self._reading = True


class Heard(Struct):
    """What a peer was sent, in order: messages, control frames, and with which code the server closed."""

    messages: list[Any] = []
    pings: int = 0
    pongs: int = 0
    closed: int | None = None
    reason: str = ""


class Peer:
    """The client's end of a connection, by the `websockets` library: whatever comes must be correct by its measure."""

    def __init__(
        self,
        protocol: asyncio.Protocol,
        loop: asyncio.AbstractEventLoop,
        *,
        codec: Codec = JSON,
        deflate: bool = False,
        window: int | None = None,
        path: str = "/ws",
        host: str = "localhost",
        subprotocols: list[str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.codec = codec
        self._server = protocol
        self.transport = RecordingTransport(protocol, loop)
        self._extensions = (
            [
                ClientPerMessageDeflateFactory(
                    server_no_context_takeover=True,
                    client_no_context_takeover=True,
                    server_max_window_bits=window,
                )
            ]
            if deflate
            else None
        )
        self.client = ClientProtocol(
            parse_uri(f"ws://{host}{path}"),
            extensions=self._extensions,
            subprotocols=[codec.name] if subprotocols is None else subprotocols,  # type: ignore[arg-type,list-item] # NewType of str
            max_size=None,
        )
        self._headers = headers or {}
        self._read = 0
        self.response: Response | None = None
        """The server's answer to the handshake."""
        self.heard = Heard()

    def open(self) -> Self:
        """Connect and shake hands."""
        self._server.connection_made(self.transport)
        request = self.client.connect()
        for name, value in self._headers.items():
            request.headers.pop(name, None)
            request.headers[name] = value
        self.client.send_request(request)
        self.flush()
        return self

    @property
    def is_open(self) -> bool:
        """Whether the handshake succeeded and nothing has ended the connection."""
        return (
            self.response is not None and self.response.status_code == 101 and not self.transport.has_ended()
        )

    def say(self, *messages: Message) -> None:
        """Send messages, all in one piece."""
        for message in messages:
            self._frame(self.codec.opcode, self.codec.encode(message))
        self.flush()

    def say_bytes(self, data: bytes, opcode: int | None = None) -> None:
        """Send one whole message of any bytes."""
        self._frame(self.codec.opcode if opcode is None else opcode, data)
        self.flush()

    def say_frames(self, *frames: Frame) -> None:
        """Send frames, all in one piece."""
        for frame in frames:
            self.client.send_frame(frame)
        self.flush()

    def leave(self, code: int | None = 1000) -> None:
        """Begin to close."""
        self.client.send_close(code)
        self.flush()

    def flush(self) -> None:
        """Read what the server wrote, give it what waits to be sent, and read again."""
        self.listen()
        if data := b"".join(self.client.data_to_send()):
            self.feed(data)
        self.listen()

    def feed(self, data: bytes) -> None:
        """Give the server raw bytes, as asyncio would: not after the end, not while it does not read."""
        if not self.transport.is_closing():
            assert self.transport.reads(), "the server does not read"
            self._server.data_received(data)

    def listen(self) -> None:
        """Read what the server wrote since the last time. What the client answers by itself waits for `flush`."""
        written = self.transport.written[self._read :]
        self._read += len(written)
        for data in written:
            assert self.heard.closed is None, "something came after the close frame"
            self.client.receive_data(data)
            for event in self.client.events_received():
                if isinstance(event, Response):
                    self.response = event
                elif isinstance(event, Frame):
                    self._hear(event)
        if self.client.handshake_exc is not None:
            assert isinstance(self.client.handshake_exc, InvalidStatus)
        assert self.client.parser_exc is None

    def take(self) -> list[Any]:
        """Read, and return the messages that have come since the last `take`."""
        self.listen()
        taken, self.heard.messages = self.heard.messages, []
        return taken

    def _frame(self, opcode: int, data: bytes) -> None:
        self.client.send_frame(Frame(Opcode(opcode), data))

    def _hear(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PING:
            self.heard.pings += 1
        elif frame.opcode is Opcode.PONG:
            self.heard.pongs += 1
        elif frame.opcode is Opcode.CLOSE:
            assert self.client.close_rcvd is not None
            self.heard.closed = self.client.close_rcvd.code
            self.heard.reason = self.client.close_rcvd.reason
        else:
            assert frame.opcode == self.codec.opcode
            assert frame.fin
            self.heard.messages.append(self.codec.decode_reply(bytes(frame.data)))
