"""Connections that cost the tester far less than the server: raw sockets, no task and no object per message.

A `Newcomer` opens the websocket and goes into its room. Once everyone is in and the room is quiet, each becomes a `Listener`,
which compares what it receives with the room's log and notes how far it has come. An `Author` is a listener that speaks.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from array import array
from collections import Counter
from typing import cast

from bench.histogram import Histogram
from bench.roomlog import Heard, RoomLog, Unexpected, marked
from bench.tongue import Answered, Other, Seat, Tongue
from bench.wire import CLOSE, PING, PONG, client_frame, frames, opening_request
from protocol.frames import server_frame

_OPENED = b"HTTP/1.1 101 "


def _messages(tongue: Tongue, payload: bytes) -> list[bytes]:
    """Return the messages in a payload: the log of a room has each in a frame of its own."""
    return [line for line in payload.split(b"\n") if line] if tongue.joins else [payload]


class Newcomer(asyncio.Protocol):
    """A connection on its way into a room; `joined` has the room's last offset, or why there is none."""

    def __init__(self, tongue: Tongue, seat: Seat, host: str, port: int) -> None:
        self.seat = seat
        self.joined: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.heard_at = 0.0
        """When a message came last; pings don't count, of which thousands of connections have some at any time."""
        self._tongue = tongue
        self._steps = tongue.enter(seat)
        self._request = opening_request(host, port, tongue.subprotocol, tongue.path)
        self._opened = False
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a websocket."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take the next step."""
        data = self._held + data
        if not self._opened:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._held = head
                return
            if not head.startswith(_OPENED):
                self._fail(f"the handshake was refused: {head.splitlines()[0].decode(errors='replace')}")
                return
            self._opened = True
            self.heard_at = time.monotonic()
            self._step(None)
        end_of_last = 0
        for opcode, _, payload, end_of_last in frames(data):
            self._frame(opcode, data[payload:end_of_last])
        self._held = data[end_of_last:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._fail(f"the connection ended before it was in: {exc or 'closed by the server'}")

    def listen(self, listener: Listener) -> None:
        """Hand the connection over. Raises `Unexpected` in the middle of a frame: then the room was not quiet."""
        if self._held:
            raise Unexpected("the room was not quiet before the measurement")
        listener.transport = self.transport
        self.transport.set_protocol(listener)

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.transport.write(client_frame(PONG, payload))
        elif opcode == CLOSE:
            self._fail(
                f"closed with {int.from_bytes(payload[:2], 'big')} {payload[2:].decode(errors='replace')}"
            )
        else:
            self.heard_at = time.monotonic()
            for message in _messages(self._tongue, payload):
                if self.joined.done():
                    self._keep_alive(message)
                else:
                    self._step(message)

    def _step(self, payload: bytes | None) -> None:
        try:
            answer = next(self._steps) if payload is None else self._steps.send(payload)
        except StopIteration as entered:
            self.joined.set_result(entered.value)
        except Unexpected as unexpected:
            self._fail(str(unexpected))
        else:
            if answer is not None:
                self.transport.write(client_frame(self._tongue.opcode, answer))

    def _keep_alive(self, payload: bytes) -> None:
        told = self._tongue.read(payload)
        if isinstance(told, Other) and told.reply is not None:
            self.transport.write(client_frame(self._tongue.opcode, told.reply))

    def _fail(self, why: str) -> None:
        if not self.joined.done():
            self.joined.set_exception(Unexpected(why))


class Listener(asyncio.Protocol):
    """A member that receives: its position in the room's log says what it has."""

    __slots__ = (
        "_held",
        "_log",
        "_said",
        "_tongue",
        "lost",
        "moments",
        "others",
        "position",
        "positions",
        "repeated",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, tongue: Tongue, log: RoomLog, *, sampled: bool) -> None:
        self._tongue = tongue
        self._log = log
        self._said = log.said
        self._held = b""
        self.position = 0
        self.lost = 0
        """Counted events that others were sent between two that this one was sent."""
        self.repeated = 0
        self.others: Counter[str] = Counter()
        """What came for this connection alone, by kind; how it ended."""
        self.moments = array("q") if sampled else None
        """When something came (monotonic nanoseconds), and how far that was."""
        self.positions = array("Q")

    def data_received(self, data: bytes) -> None:
        """Compare with what others received; only what is new or different is looked into."""
        if not self._held and self._said.startswith(data, self.position):
            self.position += len(data)
        else:
            self._compare(data)
        if self.moments is not None:
            self.moments.append(time.monotonic_ns())
            self.positions.append(self.position)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        self.others["lost" if exc else "ended"] += 1

    def _compare(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
        known = len(self._said) - self.position
        if self._said.startswith(data[:known], self.position):
            self.position += len(data[:known])
            data = data[known:]  # the log ends where a frame ends
        else:
            start = self._log.boundary(self.position)
            data = bytes(self._said[start : self.position]) + data
            self.position = start
        end = 0
        for opcode, start, payload, end in frames(data):
            frame = data[start:end]
            if opcode < CLOSE and self._said.startswith(frame, self.position):
                self.position += end - start
            else:
                self._differs(opcode, frame, data[payload:end])
        rest = data[end:]
        if self._said.startswith(rest, self.position):
            self.position += len(rest)
        else:
            self._held = rest

    def _differs(self, opcode: int, frame: bytes, payload: bytes) -> None:
        if opcode == PING:
            self.transport.write(client_frame(PONG, payload))
        elif opcode == CLOSE:
            self.others[f"close {int.from_bytes(payload[:2], 'big')}"] += 1
        elif opcode != PONG:
            for message in _messages(self._tongue, payload):
                alone = server_frame(opcode, message) if self._tongue.joins else frame
                self._take(alone, message)

    def _take(self, frame: bytes, message: bytes) -> None:
        if self._tongue.joins and self._said.startswith(frame, self.position):
            self.position += len(frame)
            return
        told = self._tongue.read(message)
        if isinstance(told, Heard):
            self._catch_up(frame, told)
        else:
            self.told(told)

    def _catch_up(self, frame: bytes, heard: Heard) -> None:
        found = self._said.find(frame, self.position)
        if found < 0:
            if self._log.has(heard):
                self.repeated += 1
                return
            found = len(self._said)
            self._log.append(frame, heard)
        self.lost += self._log.counted(found) - self._log.counted(self.position)
        self.position = found + len(frame)

    def told(self, told: Answered | Other) -> None:
        """Take what came for this connection alone."""
        if isinstance(told, Answered):
            self.others["answer" if told.error is None else f"error {told.error}"] += 1
        elif told.reply is not None:
            self.transport.write(client_frame(self._tongue.opcode, told.reply))
        else:
            self.others[told.kind] += 1

    @property
    def received(self) -> int:
        """How many counted events came, each once."""
        return self._log.counted(self.position) - self.lost

    def latencies(self, first_due: int, last_due: int) -> Histogram:
        """Return how long events with a moment in that span took to get here (of a sampled listener)."""
        histogram = Histogram()
        event = 0
        for moment, position in zip(self.moments or (), self.positions, strict=True):
            reached = self._log.counted(position)
            for index in range(event, reached):
                due = self._log.due(index)
                if first_due <= due < last_due:
                    histogram.add(moment - due)
            event = reached
        return histogram


class Author(Listener):
    """A member that speaks; it is answered for each event, and hears the room like the others."""

    __slots__ = ("_keys", "_room", "_size", "_waiting", "acknowledged", "answers", "window")

    def __init__(self, tongue: Tongue, log: RoomLog, room: str, *, size: int) -> None:
        super().__init__(tongue, log, sampled=False)
        self._room = room
        self._size = size
        self._keys = secrets.token_hex(8)
        self._waiting: dict[int, int] = {}
        self.acknowledged = 0
        self.answers = Histogram()
        """From an event's moment to its answer, of those in `window`."""
        self.window = (0, 0)

    @property
    def waiting(self) -> int:
        """How many events were sent and not answered."""
        return len(self._waiting)

    def say(self, number: int, due: int) -> None:
        """Send one event; its latency counts from `due`. Nothing is sent when the connection has ended."""
        if self.transport.is_closing():
            self.others["not said"] += 1
            return
        text = marked(number, due, self._size)
        payload = self._tongue.say(self._room, number, text, f"{self._keys}-{number}")
        if self._tongue.answers:
            self._waiting[number] = due
        else:
            self.acknowledged += 1
        self.transport.write(client_frame(self._tongue.opcode, payload))

    def told(self, told: Answered | Other) -> None:
        """Take an answer."""
        if isinstance(told, Answered):
            due = self._waiting.pop(told.id)
            if told.error is None:
                self.acknowledged += 1
                if self.window[0] <= due < self.window[1]:
                    self.answers.add(time.monotonic_ns() - due)
                return
        super().told(told)
