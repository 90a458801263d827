"""One client's connection: the only file of the hub that knows a transport.

Handshake, framing, masking, size limits, pings and closing are the `websockets` library's (its sans-I/O `ServerProtocol`,
RFC 6455); what goes out to many is framed by the hub itself and written straight to the transport. A connection has one
entry in the hub's wheel for all its deadlines, no task and no timer of its own.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State

from protocol.closing import CloseCode, fitting
from protocol.codec import JSON
from protocol.envelope import Command, Message, RoomId
from protocol.frames import deflated_frame, server_frame
from protocol.session import Shed, TokenExpiring
from server.hub import handshake
from server.hub.backlog import Backlog
from server.hub.fanout import frames
from server.hub.identity import Session
from server.hub.limits import Bucket
from server.hub.members import Dialect, Room
from server.hub.outbox import Outbox
from server.hub.veil import Sight, Veil
from storage.redis.publications import Kind, Packet

if TYPE_CHECKING:
    from server.hub.hub import Hub

HELLO_BYTES: Final = 4096
MOST_FRAGMENTS: Final = 64
PIECE: Final = 4096
"""Bytes given to the parser at once: the most tiny frames (680) whose objects exist before the limits are looked at."""
EXPIRING_SECONDS: Final = 60.0
"""How long before its end a token is announced as expiring."""
EXPIRED_GRACE_SECONDS: Final = 30.0
CLOSE_SECONDS: Final = 3.0
"""How long a peer has to answer a close before the transport is dropped."""
DEAF_BYTES: Final = 1 << 20
"""Bytes that are still read, and thrown away, of a peer who goes on sending after the end began: so that it can read why."""
JITTER: Final = (0.8, 0.95)
"""Parts of the heartbeat after which silence is asked about, so that heartbeats don't line up. With the usual times a peer that
vanished, and its presence, are gone after 40 s: 24 of silence, 10 for an answer, 5 of grace."""
CONTROL_RATE: Final = 20.0
CONTROL_BURST: Final = 200.0


class Connection(asyncio.Protocol):
    """A websocket from its handshake to its end."""

    __slots__ = (
        "_closing_at",
        "_control",
        "_deaf",
        "_fragments",
        "_fragments_opcode",
        "_heard_at",
        "_hub",
        "_lagging_since",
        "_opened_at",
        "_pinged_at",
        "_protocol",
        "_read_holds",
        "_silence",
        "alone",
        "backlog",
        "bucket",
        "clean",
        "codec",
        "dialect",
        "outbox",
        "queue",
        "rooms",
        "running",
        "session",
        "slot",
        "transport",
        "veils",
        "write",
    )

    def __init__(self, hub: Hub, **_uvicorn: Any) -> None:
        self._hub = hub
        self.slot = 0
        self.session: Session | None = None
        self.rooms: dict[RoomId, Room] = {}
        self.codec = JSON
        self.dialect = Dialect.JSON
        self.outbox: Outbox | None = None
        """Only while the transport takes no more, and from the beginning of the end on."""
        self.backlog: Backlog | None = None
        """Only while something of the past of its rooms is still to be sent."""
        self.veils: dict[RoomId, Veil] | None = None
        """Only where its person does not see everyone."""
        self.clean = False
        """Whether the client said goodbye (close code 1000)."""
        self.queue: deque[Command[Any]] = deque()
        """Commands that have not begun."""
        self.running = 0
        """Commands under way."""
        self.alone = False
        """Whether a command is under way that nothing may overlap."""
        self._deaf = 0
        """Bytes that were thrown away."""
        self._fragments: list[bytes] = []
        self._fragments_opcode = Opcode.TEXT
        self._read_holds: set[str] = set()
        self._lagging_since: float | None = None
        self._closing_at: float | None = None
        self._pinged_at: float | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the request of the handshake comes next, as data or by `request`."""
        hub = self._hub
        self.transport = cast("asyncio.Transport", transport)
        self.write = self.transport.write
        self.transport.set_write_buffer_limits(high=hub.limits.write_high)
        now = hub.clock()
        self._opened_at = self._heard_at = now
        self._silence = hub.limits.heartbeat * random.uniform(*JITTER)
        self.bucket = Bucket(hub.limits.commands_rate, hub.limits.commands_burst, now)
        self._control = Bucket(CONTROL_RATE, CONTROL_BURST, now)
        self._protocol = handshake.new_protocol(hub.limits)
        hub.members.connections.add(self)
        if hub.server_state is not None:
            hub.server_state.connections.add(self)
        hub.wheel.watch(self, now + hub.limits.hello_timeout)

    def request(self, request: Request) -> None:
        """Take the request of the handshake from whoever has read it already: what comes next, as data, are frames."""
        self._handshake(request)
        handshake.begun(self._protocol)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take what came, or put it aside when this turn has taken enough."""
        hub = self._hub
        self._heard_at = now = hub.clock()
        self._pinged_at = None
        if hub.intake.admits(now):
            self.take(data)
        else:
            hub.intake.put(self, data, now)

    def take(self, data: bytes) -> None:
        """Parse what came, in pieces, until the connection is closing."""
        if self._deaf:
            self._deaf += len(data)
            if self._deaf > DEAF_BYTES:
                self.transport.abort()
            return
        if len(data) <= PIECE:
            self._feed(data)
            return
        for start in range(0, len(data), PIECE):
            self._feed(data[start : start + PIECE])
            if self._closing_at is not None and start + PIECE < len(data):
                # What comes now is read and thrown away, so that the close frame can be read there.
                self._deaf = len(data)
                return

    def eof_received(self) -> bool:
        """Take the end of the peer's bytes as the end of the connection."""
        self._hub.intake.forget(
            self
        )  # it is closing, or it would not have been read: nobody hears that any more
        self._protocol.receive_eof()
        self._end()  # the transport closes now, but only when what waits in it is written
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Leave every room and forget the connection."""
        hub = self._hub
        hub.wheel.forget(self)
        hub.intake.forget(self)
        if hub.server_state is not None:
            hub.server_state.connections.discard(self)
        hub.members.gone(self)
        self.queue.clear()
        self.outbox = None
        for room in list(self.rooms.values()):
            hub.leave(self, room, at_once=self.clean)
        # The library's parser is a generator of the object that holds it: undone here, a closed connection is freed at once,
        # not by the garbage collector, whose pauses grow with the number of connections (300 ms at 10,000).
        self._protocol.parser.close()
        self._protocol.parser_exc = None

    def pause_writing(self) -> None:
        """Stop writing and reading: whoever does not read is not listened to either."""
        if self._closing_at is not None:
            return
        now = self._hub.clock()
        self._lagging_since = now
        self.outbox = Outbox(self._hub.limits.outbox_bytes)
        for room in self.rooms.values():
            room.changed()
        self.hold_reading("writing")
        self._hub.wheel.watch(self, now + self._hub.limits.slow_close)

    def resume_writing(self) -> None:
        """Deliver what waited, tell what was left out, and rejoin the fast lane."""
        outbox = self.outbox
        if outbox is None or self._closing_at is not None:
            return
        self.outbox = None
        self._lagging_since = None
        for room in self.rooms.values():
            room.changed()
        if data := outbox.take():
            self.write(data)
        self._catch_up()
        self._tell_of_shed(outbox)
        if self.outbox is None:
            self.release_reading("writing")

    def _tell_of_shed(self, before: Outbox) -> None:
        if self.outbox is not None:  # what waited was too much for the transport
            self.outbox.inherit(before)
        elif before.passing or before.stale:
            self._hub.shed_passing += before.passing
            self._hub.shed_latest += len(before.stale)
            self.send(Shed(passing=before.passing, latest=len(before.stale)))
            for room_id in before.stale & self.rooms.keys():
                self._hub.refresh(self, room_id)

    # What the wheel calls.

    def on_deadline(self, now: float) -> float | None:
        """Do what is due; return when something may be due next."""
        limits = self._hub.limits
        if self._closing_at is not None:
            if now < self._closing_at:
                return self._closing_at
            self._drop()
            return None
        if self._lagging_since is not None and now >= self._lagging_since + limits.slow_close:
            self.close(CloseCode.SLOW)
            return self._closing_at
        session = self.session
        if session is None:
            if now < self._opened_at + limits.hello_timeout:
                return self._opened_at + limits.hello_timeout
            if self.running:  # hello came in time; what it waits for is bounded by itself
                return now + 1.0
            if self._protocol.state is State.OPEN:
                self.close(CloseCode.HELLO_TIMEOUT)
                return self._closing_at
            self.transport.abort()
            return None
        # Closing watches its own, earlier deadline.
        times = [self._heartbeat(now), self._expiry(session, now)]
        if self._lagging_since is not None:
            times.append(self._lagging_since + limits.slow_close)
        return min(times)

    def _heartbeat(self, now: float) -> float:
        if self.held:  # it is we who do not listen: silence says nothing about the peer
            self._heard_at, self._pinged_at = now, None
        if self._pinged_at is not None:
            if now >= self._pinged_at + self._hub.limits.heartbeat_timeout:
                self.close(CloseCode.SILENT)
                self._drop()  # nobody is there to answer
            return self._pinged_at + self._hub.limits.heartbeat_timeout
        if now >= self._heard_at + self._silence:
            self._protocol.send_ping(b"")
            self._flush()
            self._pinged_at = now
            return now + self._hub.limits.heartbeat_timeout
        return self._heard_at + self._silence

    def _expiry(self, session: Session, now: float) -> float:
        left = session.expires_at - now
        if left <= -EXPIRED_GRACE_SECONDS:
            self.close(CloseCode.TOKEN_EXPIRED)
        elif left <= EXPIRING_SECONDS and not session.warned:
            session.warned = True
            self.send(TokenExpiring(expires_in=max(0.0, round(left, 3))))
        if session.warned:
            return session.expires_at + EXPIRED_GRACE_SECONDS
        return session.expires_at - EXPIRING_SECONDS

    # What the rest of the hub calls.

    @property
    def open(self) -> bool:
        """Whether messages can still be sent."""
        return (
            self._closing_at is None
            and self._protocol.state is State.OPEN
            and not self.transport.is_closing()
        )

    @property
    def waiting(self) -> int:
        """Bytes that wait here for the client to read."""
        held = self.transport.get_write_buffer_size()
        return held if self.outbox is None else held + self.outbox.size

    def send(self, message: Message) -> None:
        """Send one message to this client; it is never dropped while the connection lives."""
        deflated = self.dialect in (Dialect.JSON_DEFLATED, Dialect.MSGPACK_DEFLATED)
        frame = deflated_frame if deflated else server_frame
        self._must(frame(self.codec.opcode, self.codec.encode(message)))

    def replay(self, packets: Sequence[Packet]) -> None:
        """Send events that were missed."""
        if packets:
            self._must(frames(packets, self.dialect))

    def catch_up(self, room: Room, offset: int) -> None:
        """Send what `room` says after `offset`: from its memory, no faster than it is read, until that is the present."""
        backlog = self.backlog = self.backlog or Backlog()
        backlog.begin(room, offset)
        self._catch_up()

    def _catch_up(self) -> None:
        while self.backlog and self.outbox is None and self.open:
            taken = self.backlog.take()
            if taken is None:
                self.close(CloseCode.SLOW)
            else:
                self.replay(self._seen(*taken))
        if not self.backlog:
            self.backlog = None

    def veil(self, room: Room) -> Veil | None:
        """Return through what this connection sees a room. None: it sees everything."""
        return self.veils.get(room.id) if self.veils else None

    def _seen(self, room: Room, packets: Sequence[Packet]) -> Sequence[Packet]:
        veil = self.veil(room)
        return packets if veil is None else Sight(packets).through(veil)

    def hold(self, room: Room, packets: Sequence[Packet]) -> None:
        """Take what a room says while not all of it is written: keep, count, conflate or leave it to the backlog by class."""
        if self.backlog and room in self.backlog:
            packets = [packet for packet in packets if not packet.offset]  # what has one is in the memory
        packets = self._seen(room, packets)
        if (outbox := self.outbox) is None:  # caught up since the audience was made
            self.replay(packets)
            return
        must = [packet for packet in packets if packet.kind in (Kind.LINE, Kind.DURABLE)]
        for packet in packets:
            if packet.kind is Kind.PASSING:
                outbox.drop()
            elif packet.kind is Kind.PULSE:
                outbox.conflate(room.id)
        if must:
            self._must(frames(must, self.dialect))

    def close(self, code: CloseCode, reason: str | None = None) -> None:
        """Close with `code`; the peer has `CLOSE_SECONDS` to answer."""
        if self._closing_at is not None:
            return
        self._hub.closes[code] += 1
        self._end()
        if self._protocol.state is not State.OPEN:
            self.transport.abort()
            return
        self._protocol.send_close(code, fitting(reason or code.meaning))
        self._flush()

    def shutdown(self) -> None:
        """Close because the node stops (the name that uvicorn calls)."""
        self.close(CloseCode.DRAINING)

    def hold_reading(self, why: str) -> None:
        """Read no more until `release_reading` was called for every reason that there is, or the end has begun."""
        if self._closing_at is not None:
            return
        if not self.held and not self.transport.is_closing():
            self.transport.pause_reading()
        self._read_holds.add(why)

    @property
    def held(self) -> bool:
        """Whether this client is not read, for whatever reason."""
        return bool(self._read_holds)

    def release_reading(self, why: str) -> None:
        """Take one reason for not reading away."""
        if why not in self._read_holds:
            return
        self._read_holds.discard(why)
        if not self.held and not self.transport.is_closing():
            self.transport.resume_reading()

    # Bytes in and out.

    def _end(self) -> None:
        """Begin the end: a close frame is the last that the peer gets, and its answer is all that is waited for."""
        self._closing_at = self._hub.clock() + CLOSE_SECONDS
        self.outbox = Outbox(0)  # takes this connection out of the loop of the fan-out
        for room in self.rooms.values():
            room.changed()
        self.queue.clear()
        for why in list(self._read_holds):
            self.release_reading(why)
        self._hub.wheel.watch(self, self._closing_at)

    def _drop(self) -> None:
        """End the transport; politely when nothing waits to be written, so that the peer can read the close frame."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            self.transport.close()

    def _must(self, data: bytes) -> None:
        if self._closing_at is not None or self.transport.is_closing():
            return
        if self.outbox is None:
            self.write(data)
        elif not self.outbox.must(data, self.transport.get_write_buffer_size()):
            self.close(CloseCode.SLOW)

    def _feed(self, data: bytes) -> None:
        protocol = self._protocol
        protocol.receive_data(data)
        if protocol.state is State.OPEN:
            self._flush()  # pongs go out before the answers to what came after the pings
        for event in protocol.events_received():
            if isinstance(event, Frame):
                self._frame(event)
            else:  # there is one request, and it comes first
                self._handshake(cast("Request", event))
        self._flush()
        if protocol.close_expected() and self._closing_at is None:
            self._end()

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                if not self.transport.is_closing():
                    self.write(data)
            else:
                self.transport.close()

    def _handshake(self, request: Request) -> None:
        protocol = self._protocol
        peer = self.transport.get_extra_info("peername")
        address = str(peer[0]) if isinstance(peer, tuple) else ""
        protocol.send_response(handshake.answer(self._hub, protocol, request, address))
        if protocol.state is State.OPEN:
            self.codec, self.dialect = handshake.agreed(protocol)
        else:
            self._hub.handshakes_refused += 1

    def _fail(self, code: int, reason: str) -> None:
        """Close because of what the peer sent; what else it has sent is not heard."""
        self._protocol.fail(code, reason)
        self._end()

    def _frame(self, frame: Frame) -> None:
        if self._closing_at is not None:
            return
        opcode = frame.opcode
        if opcode in (Opcode.TEXT, Opcode.BINARY) and frame.fin:
            self._message(opcode, bytes(frame.data))
        elif opcode is Opcode.CLOSE:
            self.clean = self._protocol.close_rcvd is not None and self._protocol.close_rcvd.code == 1000
        else:
            self._control.take(self._heard_at)
            if self._control.exhausted:
                self.close(CloseCode.FLOODING)
            elif opcode not in (Opcode.PING, Opcode.PONG):
                self._fragment(frame)

    def _fragment(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self._fragments_opcode = frame.opcode
        self._fragments.append(bytes(frame.data))
        if len(self._fragments) > MOST_FRAGMENTS:
            self._fragments.clear()
            self._fail(1009, f"a message may have at most {MOST_FRAGMENTS} fragments")
        elif frame.fin:
            whole = b"".join(self._fragments)
            self._fragments.clear()
            self._message(self._fragments_opcode, whole)

    def _message(self, opcode: Opcode, data: bytes) -> None:
        if opcode is Opcode.TEXT:
            try:
                data.decode()
            except UnicodeDecodeError:
                self._fail(1007, "a text message must be UTF-8")  # RFC 6455, section 8.1
                return
        if self.session is None and len(data) > HELLO_BYTES:
            self.close(CloseCode.BAD_HELLO, f"hello is at most {HELLO_BYTES} bytes")
        else:
            self._hub.receive(self, opcode, data)
