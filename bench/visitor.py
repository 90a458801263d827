"""People who come and go: each knows its positions, comes back with them, and notices whatever it missed or got twice.

Where a `bench.swarm.Listener` only compares bytes, a visitor reads: offsets of durable events, pulses, answers. What everyone
in a room is sent is read once for all visitors of a process, so one costs some microseconds a frame.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, TypeVar, cast

from bench.histogram import Histogram
from bench.roomlog import Unexpected
from bench.tongue import Seat
from bench.wire import CLOSE, PING, PONG, client_frame, frames, opening_request
from protocol.chat import ChatLine, ChatRemoval, ChatRevision
from protocol.codec import CODECS
from protocol.contract import AnyReply
from protocol.envelope import Answer, Command, Error, Event, RoomId
from protocol.feed import FeedOpened, FeedPulse, FeedRemoval, FeedVybe
from protocol.presence import RoomPulse
from protocol.reactions import Reaction
from protocol.rooms import JoinRoom, LeaveRoom, RoomJoined, RoomLeft
from protocol.session import Hello, Position, Welcome

ENTER_SECONDS = 60.0
_OPENED = b"HTTP/1.1 101 "
_REMEMBERED = 512
"""Frames that a process has read and may be sent again, to another visitor."""

AnswerT = TypeVar("AnswerT", bound=Answer)
Then = Callable[[AnyReply | None], None]
"""Is given an answer or a refusal; None when the connection ended before it."""


class House:
    """What the visitors of one process share: where to go, what was read already, and what is counted of all of them."""

    def __init__(self, addresses: list[tuple[str, int]], subprotocol: str, source: str | None = None) -> None:
        self.codec = CODECS[subprotocol]
        self.addresses = addresses
        self.requests = [opening_request(host, port, subprotocol) for host, port in addresses]
        self.source = None if source is None else (source, 0)
        self.counts: Counter[str] = Counter()
        self.bytes = 0
        self.messages = 0
        self.window = (0, 0)
        """Only what was due in this span (monotonic nanoseconds) is timed."""
        self.times: defaultdict[str, Histogram] = defaultdict(Histogram)
        self._read: dict[bytes, AnyReply] = {}

    def read(self, payload: bytes) -> AnyReply:
        """Return the message of a payload."""
        self.messages += 1
        known = self._read.get(payload)
        if known is not None:
            return known
        message = self.codec.decode_reply(payload)
        if isinstance(message, Event):
            if len(self._read) >= _REMEMBERED:
                self._read.clear()
            self._read[payload] = message
        return message

    def timed(self, what: str, due: int) -> None:
        """Note that something whose moment was `due` is done now."""
        if self.window[0] <= due < self.window[1]:
            self.times[what].add(time.monotonic_ns() - due)


class Visitor(asyncio.Protocol):
    """One person on one connection at a time."""

    __slots__ = (
        "_asked",
        "_came_at",
        "_epochs",
        "_gone",
        "_held",
        "_house",
        "_number",
        "_opened",
        "_positions",
        "_transport",
        "_welcome",
        "feed",
        "inside",
        "keys",
        "online",
        "opened_at",
        "pulses",
        "seat",
        "told",
        "welcome",
    )

    def __init__(self, house: House, seat: Seat) -> None:
        self.seat = seat
        self.keys = secrets.token_hex(8)
        self.inside: dict[RoomId, str] = {}
        """The rooms that one is in, with their slugs."""
        self.feed: int | None = None
        """The offset up to which one has everything of the feed, told or counted; None while it is not open."""
        self.opened_at = 0
        """The offset at which one has opened it."""
        self.pulses = 0
        self.online = 0
        self.told: dict[Reaction, int] = {}
        """Totals of reactions, as far as one was told."""
        self.welcome: Welcome | None = None
        self._house = house
        self._positions: dict[RoomId, int] = {}
        self._epochs: dict[RoomId, str] = {}
        self._asked: dict[int, tuple[str, int, Then | None]] = {}
        self._number = 0
        self._transport: asyncio.Transport | None = None
        self._gone: asyncio.Future[None] | None = None
        self._welcome: asyncio.Future[Welcome] | None = None
        self._opened = False
        self._held = b""
        self._came_at = 0

    # What a scenario calls.

    @property
    def here(self) -> bool:
        """Whether there is a connection with a session."""
        return self._transport is not None and self.welcome is not None

    @property
    def waiting(self) -> int:
        """How many commands were sent and not answered."""
        return len(self._asked)

    def position(self, room: RoomId) -> int:
        """Return the offset up to which one has everything of a room."""
        return self._positions.get(room, 0)

    async def come(self) -> Welcome:
        """Connect and say hello, with positions if there are any. Raises `Unexpected`, also when turned away."""
        loop = asyncio.get_running_loop()
        house = self._house
        if (gone := self.drop()) is not None:  # one connection at a time, or everything would come twice
            await gone
        self._opened, self._held = False, b""
        welcome: asyncio.Future[Welcome] = loop.create_future()
        self._welcome = welcome
        host, port = house.addresses[self.seat.place]
        try:
            await loop.create_connection(lambda: self, host, port, local_addr=house.source)
            welcomed = await asyncio.wait_for(welcome, ENTER_SECONDS)
        except OSError as error:  # a timeout is one
            self.drop()
            raise Unexpected(f"cannot connect: {str(error) or 'no welcome in time'}") from error
        except asyncio.CancelledError:
            self.drop()
            raise
        self.welcome = welcomed
        return welcomed

    async def join(self, room: str) -> RoomJoined:
        """Enter a room. Raises `Unexpected`."""
        return await self.call(JoinRoom(room))

    async def leave(self, room: str, due: int | None = None) -> RoomLeft:
        """Leave a room. Raises `Unexpected`."""
        return await self.call(LeaveRoom(room), due)

    async def call(self, command: Command[AnswerT], due: int | None = None) -> AnswerT:
        """Send a command and wait for its answer. Raises `Unexpected` when it is refused or the connection ends."""
        future: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        tag = str(command.__struct_config__.tag)

        def then(answer: AnyReply | None) -> None:
            if future.done():
                return
            if answer is None:
                future.set_exception(Unexpected("the connection ended before the answer"))
            elif isinstance(answer, Error):
                future.set_exception(Unexpected(f"{tag} was refused, {answer.code}: {answer.message}"))
            else:
                future.set_result(cast("AnswerT", answer))

        self.send(command, time.monotonic_ns() if due is None else due, then)
        return await future

    def send(self, command: Command[Any], due: int, then: Then | None = None) -> None:
        """Send a command; its answer is timed from `due`, counted, and given to `then`."""
        self._number += 1
        command.id = self._number
        self._asked[self._number] = (str(command.__struct_config__.tag), due, then)
        self._write(command)

    def drop(self) -> asyncio.Future[None] | None:
        """Break the connection, as a bad network would; return what is done when it is gone."""
        if self._transport is not None:
            self._transport.abort()
        return self._gone

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for a websocket."""
        self._transport = cast("asyncio.Transport", transport)
        self._gone = asyncio.get_running_loop().create_future()
        self._transport.write(self._house.requests[self.seat.place])

    def data_received(self, data: bytes) -> None:
        """Read whole frames."""
        self._house.bytes += len(data)
        if self._held:
            data = self._held + data
        if not self._opened:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._held = head
                return
            if not head.startswith(_OPENED):
                self._turned_away(head.splitlines()[0].decode(errors="replace"))
                return
            self._opened = True
            resume = [
                Position(room=str(room), epoch=self._epochs[room], offset=self._positions[room])
                for room in self.inside
            ]
            self._write(Hello(self.seat.token, resume=resume, id=0))
        end_of_last = 0
        for opcode, _, payload, end_of_last in frames(data):
            if opcode < CLOSE:
                self._message(data[payload:end_of_last])
            elif opcode == PING:
                self._pong(data[payload:end_of_last])
            elif opcode == CLOSE:
                self._turned_away(f"closed with {int.from_bytes(data[payload : payload + 2], 'big')}")
        self._held = data[end_of_last:]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._transport = None
        self.welcome = None
        self._turned_away(f"the connection ended: {exc or 'closed by the server'}")
        lost, self._asked = self._asked, {}
        self._house.counts["answers lost with the connection"] += len(lost)
        for _, _, then in lost.values():
            if then is not None:
                then(None)
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    # Inside.

    def _write(self, command: Command[Any]) -> None:
        if self._transport is not None:
            codec = self._house.codec
            self._transport.write(client_frame(codec.opcode, codec.encode(command)))

    def _pong(self, payload: bytes) -> None:
        if self._transport is not None:
            self._transport.write(client_frame(PONG, payload))

    def _message(self, payload: bytes) -> None:
        message = self._house.read(payload)
        if isinstance(message, Event):
            self._event(message)
        elif isinstance(message, Welcome):
            if self._welcome is not None and not self._welcome.done():
                self._came_at = time.monotonic_ns()
                self._take_up(message)  # now, because what was missed may follow in the same read
                self._welcome.set_result(message)
        elif isinstance(message, Error) and not message.id:
            self._turned_away(f"{message.code}: {message.message}")
        else:
            self._answered(message)

    def _event(self, message: Event) -> None:
        if isinstance(message, RoomPulse):
            self.pulses += 1
            self._told(message)
        elif isinstance(message, (FeedVybe, FeedRemoval, FeedPulse)):
            self._fed(message)
        elif isinstance(message, (ChatLine, ChatRevision, ChatRemoval)):
            self._next(message.room, message.offset)
            if isinstance(message, ChatLine):
                self._house.counts["lines"] += 1
                _, _, due = message.line.text.partition(" due ")
                if due and self.seat.timed:
                    said_at = int(due.split(" ", 1)[0])
                    self._house.timed("arrival" if said_at >= self._came_at else "caught up", said_at)
        else:
            self._house.counts[type(message).__name__] += 1

    def _fed(self, message: FeedVybe | FeedRemoval | FeedPulse) -> None:
        house, last = self._house, self.feed
        if isinstance(message, FeedPulse):
            house.counts["feed pulses"] += 1
            house.counts["changes counted"] += message.new
            if not message.new:
                return
            begins = message.offset - message.new
        else:
            if isinstance(message, FeedRemoval) and last is not None and message.offset <= last:
                return  # it was counted
            house.counts["changes told"] += 1
            begins = message.offset - 1
            if isinstance(message, FeedVybe):
                _, _, due = message.vybe.text.partition(" due ")
                if due:
                    house.timed("sight", int(due.split(" ", 1)[0]))
        if last is None:
            house.counts["of a feed that is not open"] += 1
        elif begins > last:
            house.counts["missed"] += begins - last
        elif begins < last:
            house.counts["twice"] += last - begins
        self.feed = message.offset

    def _next(self, room: RoomId, offset: int) -> None:
        last = self._positions.get(room)
        if last is None:
            self._house.counts["of rooms that one is not in"] += 1
        elif offset == last + 1:
            self._positions[room] = offset
        elif offset <= last:
            self._house.counts["twice"] += 1
        else:
            self._house.counts["missed"] += offset - last - 1
            self._positions[room] = offset

    def _told(self, pulse: RoomPulse) -> None:
        state = pulse.state
        if state is not None:
            self.online = state.online
            self.told = dict(state.reactions)
        if pulse.online is not None:
            self.online = pulse.online
        for kind, tally in pulse.reactions.items():
            self.told[kind] = tally.total

    def _answered(self, message: AnyReply) -> None:
        number = message.id if isinstance(message, (Answer, Error)) else None
        what, due, then = self._asked.pop(number or 0, ("", 0, None))
        if not what:
            return
        house = self._house
        if isinstance(message, Error):
            house.counts[f"refused {message.code}"] += 1
            if then is not None:
                then(message)
            return
        if isinstance(message, RoomJoined):  # now, because the next line may follow in the same read
            self._enter(message)
        elif isinstance(message, FeedOpened):
            self.feed = self.opened_at = message.offset
        elif isinstance(message, RoomLeft):
            self.inside.pop(message.room, None)
            self._positions.pop(message.room, None)
        house.counts[f"done {what}"] += 1
        house.timed(what, due)
        if then is not None:
            then(message)

    def _enter(self, joined: RoomJoined) -> None:
        room = joined.room.id
        self.inside[room] = joined.room.slug
        self._positions[room] = joined.offset
        self._epochs[room] = joined.epoch
        self.online = joined.online
        self.told = dict(joined.reactions)

    def _take_up(self, welcome: Welcome) -> None:
        for resumed in welcome.resumed:
            room = resumed.id
            if resumed.recovered:
                self._house.counts["rooms resumed"] += 1
            elif room is not None and resumed.error is None:
                self._house.counts["rooms begun anew"] += 1
                self._positions[room] = resumed.offset
                self._epochs[room] = str(resumed.epoch)
            else:
                self._house.counts["rooms lost"] += 1
                self.inside = {one: slug for one, slug in self.inside.items() if str(one) != resumed.room}
                self._positions = {one: self._positions[one] for one in self.inside}
            if resumed.state is not None:
                self.online = resumed.state.online
                self.told = dict(resumed.state.reactions)

    def _turned_away(self, why: str) -> None:
        if self._welcome is not None and not self._welcome.done():
            self._welcome.set_exception(Unexpected(why))
        elif self._transport is not None:
            self._house.counts[why] += 1
