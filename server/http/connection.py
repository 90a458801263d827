"""One connection that speaks HTTP: uvicorn's own class, with the limits and deadlines that it lacks.

Stock uvicorn takes 200 MB of headers, and keeps a silent connection and a half-sent request for ever. Here

- the head of a request (request line and headers) has at most `HEAD_BYTES` and `MOST_HEADERS`, else 431;
- the head must be complete `HEAD_SECONDS` after the connection was made or its first byte came, and the body
  `BODY_SECONDS` after the head, else 408; a connection that never said anything is closed without a word;
- whatever is sent besides the body's own bytes (chunk framing, trailers, requests queued up behind one that is under way)
  is bounded, too;
- an idle connection is closed after `IDLE_SECONDS`, and a response that nobody reads is dropped.

An operation that has looked at who asks, and takes or gives a long body, says so of its request (`server.http.pace`): then it
is not the body as a whole that has a time, but each stretch of it. Nothing else gets any of that patience.

It costs two additions and a comparison per read, and one timer per connection: the timer is not moved when a deadline
moves, it looks at the deadline when it fires and sleeps again. For that no deadline may be shorter than `LOOK_SECONDS`.

A websocket handshake is handed over to the hub's class; from then on this object is gone. Uvicorn would write the request anew, to be
parsed a second time: here it is handed over as it was read, which takes 20 us less.

Whom the `Door` does not let in is answered 429 without having been asked what for; when many are, they are cut off without a
word: an answer that can be read takes a place for a second.
"""

from __future__ import annotations

import asyncio
import math
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from websockets.datastructures import Headers
from websockets.http11 import Request

from protocol.refusals import ErrorCode, Refused
from server.door import Door
from server.http.pace import EXTENSION, Pace
from server.http.problems import MEDIA_TYPE, problem_of

if TYPE_CHECKING:
    from server.hub.connection import Connection

_OVERHEAD: Final = 8
"""Bytes on the wire for one byte of body, in the worst way of chunking it that is not abuse."""
_LINGER_SECONDS: Final = 1.0
_LINGER_BYTES: Final = 262144
_MOST_LINGERING: Final = 100
_MOST_PIPELINED: Final = 16
_NEVER: Final = math.inf


class _TooMuch(Exception):  # noqa: N818 - only a way out of the parser
    """Raised in a callback of the parser to stop it."""


class HttpConnection(HttpToolsProtocol):
    """Made by uvicorn, once per connection. The class attributes are the limits; a subclass may have others."""

    HEAD_BYTES: ClassVar[int] = 32768
    MOST_HEADERS: ClassVar[int] = 64
    HEAD_SECONDS: ClassVar[float] = 10.0
    BODY_SECONDS: ClassVar[float] = 10.0
    IDLE_SECONDS: ClassVar[float] = 20.0
    LOOK_SECONDS: ClassVar[float] = 10.0
    """How often a connection is looked at; the shortest of the deadlines."""
    DISCARD_BYTES: ClassVar[int] = 1048576
    """What is still read of a body that was refused already, so that the refusal can be read."""

    def __init__(self, *args: Any, door: Door | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._door = door
        self._turned_away_by: Door | None = None
        self._received = 0
        """Bytes since the end of the last request."""
        self._delivered = 0
        """Bytes of the body among them."""
        self._unheard = 0
        """Bytes of the body that came before the request had its answer."""
        self._pace = Pace()
        self._head = 0
        self._in_head = False
        self._in_request = False
        self._served = False
        """Whether a request was complete."""
        self._refused = False
        self._stuck = False
        self._deadline = _NEVER
        self._timer: asyncio.TimerHandle | None = None

    # The transport's side.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Start the clock."""
        peer = transport.get_extra_info("peername")
        if self._door is not None and peer and not self._door.admits(peer[0]):
            self._turn_away(self._door, transport)
            return
        super().connection_made(transport)
        self._deadline = self.loop.time() + self.HEAD_SECONDS
        self._timer = self.loop.call_at(self._deadline, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._turned_away_by is not None:
            self._turned_away_by.lingering -= 1
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and refuse what is too much or no HTTP."""
        self._received += len(data)
        if self._refused:
            if self._received > _LINGER_BYTES:
                self.transport.abort()
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if self._should_upgrade():
                self.handle_websocket_upgrade()
                return
        except httptools.HttpParserError as error:
            too_much = isinstance(error.__context__, _TooMuch)
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE if too_much else HTTPStatus.BAD_REQUEST)
            return
        if self._received > self.HEAD_BYTES + _OVERHEAD * self._delivered:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def handle_websocket_upgrade(self) -> None:
        """Hand the transport over. What is handed over is a request of HTTP/1.1, so one of HTTP/1.0 goes no further."""
        if self.parser.get_http_version() != "1.1":
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        headers = Headers()
        for name, value in self.scope["headers"]:
            headers[name.decode("ascii")] = value.decode("iso-8859-1")
        if "transfer-encoding" in headers or not self.url.isascii():
            self._refuse(HTTPStatus.BAD_REQUEST)
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.connections.discard(self)
        connection = cast(
            "Connection",
            self.ws_protocol_class(  # type: ignore[call-arg,misc] # ours, by what uvicorn gives to any
                config=self.config, server_state=self.server_state, app_state=self.app_state
            ),
        )
        connection.connection_made(self.transport)
        connection.request(Request(self.url.decode("ascii"), headers, self.scope["method"]))
        self.transport.set_protocol(connection)
        self.parser = None  # type: ignore[assignment] # it refers to this object, which would otherwise be kept until a collection

    # The parser's side.

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head = 0
        self._in_head = True
        self._in_request = True
        if self._served:  # the clock of the first request began with the connection
            self._deadline = self.loop.time() + self.HEAD_SECONDS

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request target."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. What comes after the body (a trailer) is dropped: nothing here reads it."""
        self._count(len(name) + len(value) + 4)
        if self._in_head:
            if len(self.headers) >= self.MOST_HEADERS:
                raise _TooMuch
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete."""
        if len(self.pipeline) >= _MOST_PIPELINED:
            raise _TooMuch
        pace = Pace()
        self.scope["extensions"] = {EXTENSION: {"pace": pace}}
        super().on_headers_complete()
        self._pace = pace
        self._unheard = 0
        self._in_head = False
        self._deadline = self.loop.time() + self.BODY_SECONDS

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._delivered += len(body)
        if not self._is_answered():
            self._unheard = self._delivered
        elif self._delivered - self._unheard > self.DISCARD_BYTES:
            raise _TooMuch
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete: the deadline is now the application's own matter."""
        super().on_message_complete()
        self._received = self._delivered = 0
        self._in_request = False
        self._served = True
        self._deadline = _NEVER
        if self._is_answered():
            self._deadline = self.loop.time() + self.IDLE_SECONDS

    def _is_answered(self) -> bool:
        """Whether the newest request has its whole answer."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and cycle.response_complete

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > self.HEAD_BYTES:
            raise _TooMuch

    # The application's side.

    def on_response_complete(self) -> None:
        """Go on with the next request, or wait for one. Replaces uvicorn's, which starts a timer of its own each time."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif not self._in_request:
            self._deadline = self.loop.time() + self.IDLE_SECONDS

    # The clock's side.

    def _look(self) -> None:
        """Do what is due; come again when something may be."""
        now = self.loop.time()
        if self.transport.is_closing():
            self.transport.abort()  # it was closed long ago, and the peer takes nothing
            return
        if now >= self._deadline:
            self._expire()
            return
        if self._deadline is _NEVER:
            # The application works, or the peer does not read: two looks apart that is no coincidence.
            moved = self._pace.kept()
            if self.flow.write_paused and self._stuck and not moved:
                self.transport.abort()
                return
            self._stuck = self.flow.write_paused
        self._timer = self.loop.call_at(min(self._deadline, now + self.LOOK_SECONDS), self._look)

    def _expire(self) -> None:
        if self._refused or self.transport.get_write_buffer_size():
            self.transport.abort()
        elif not self._in_request and not self._received:
            self.transport.close()
            self._again(self.LOOK_SECONDS)
        elif self.flow.read_paused or self._pace.kept():
            # It is the application that keeps the rest of the request waiting; or it is long, and goes on.
            self._deadline = self.loop.time() + self.BODY_SECONDS
            self._again(self.LOOK_SECONDS)
        else:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _turn_away(self, door: Door, transport: asyncio.Transport) -> None:
        self.transport = transport
        if door.lingering >= _MOST_LINGERING:
            transport.abort()
            return
        door.lingering += 1
        self._turned_away_by = door
        self._refuse(HTTPStatus.TOO_MANY_REQUESTS)

    def _refuse(self, status: HTTPStatus) -> None:
        """Say why, then close; meanwhile what comes is read and dropped, for a reset would take the answer away again."""
        self._refused = True
        self._received = 0
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not (self._in_head and cycle.response_complete):
            # The request has a cycle of its own: its answer must not follow this, nor this follow its answer.
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.abort()
                return
        self.pipeline.clear()
        self.transport.write(_refusal(status))
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self._again(_LINGER_SECONDS)
            self._deadline = self.loop.time()
        else:
            self.transport.close()

    def _again(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(seconds, self._look)

    def _unset_keepalive_if_required(self) -> None:
        """There is no such timer here."""

    def _unsupported_upgrade_warning(self) -> None:
        """One is free to ask; the request is answered as if it had not."""


_REASONS: Final = {
    HTTPStatus.BAD_REQUEST: Refused(ErrorCode.MALFORMED, "This is no HTTP request."),
    HTTPStatus.REQUEST_TIMEOUT: Refused(ErrorCode.TOO_SLOW),
    HTTPStatus.TOO_MANY_REQUESTS: Refused(ErrorCode.RATE_LIMITED, retry_after=1.0),
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: Refused(
        ErrorCode.TOO_LARGE, "Send fewer and shorter headers."
    ),
}


def _refusal(status: HTTPStatus) -> bytes:
    reason = _REASONS[status]
    body = msgspec.json.encode(problem_of(reason, status))
    wait = "" if reason.retry_after is None else f"retry-after: {math.ceil(reason.retry_after)}\r\n"
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
        f"{wait}cache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
