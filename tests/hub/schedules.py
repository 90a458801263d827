"""Random schedules of one room, each from its seed: what Postgres, Redis, other nodes and people may do to a node, in any order.

Nothing waits: time is virtual. Everything that a real run would leave to chance is drawn from the seed, so that a schedule
that fails fails again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any, cast
from uuid import UUID

from msgspec import Struct

from protocol.envelope import RoomId
from protocol.refusals import ErrorCode, Refused
from server.hub.hub import Hub, Limits
from server.hub.members import Dialect, Room
from server.hub.subscriptions import Subscriptions, channel_of
from storage.redis.publications import NODE_ID_BYTES, Kind, Packet, pack, unpack
from tests.hub.scene import LIMITS

ROOM = RoomId(UUID(int=1))
NODE = b"n" * NODE_ID_BYTES
WINDOW = 12
"""Small, so that it is often reached."""

MIDDLE_SECONDS = 1.0
"""How soon after a later event has come a hole before it is filled."""
TAIL_SECONDS = 5.0
"""How soon after its commit an event is heard, whatever was lost."""


class Faults(Struct, kw_only=True):
    """How badly things go. Chances are from 0 to 1."""

    lost: float = 0.15
    late: float = 0.1
    doubled: float = 0.1
    outages: bool = True
    """Whether Postgres and Redis are away for a while now and then."""
    window: int = WINDOW


def event(offset: int) -> Packet:
    """Return the event at `offset`."""
    return Packet(Kind.LINE, offset, b"%d" % offset, b"%d" % offset)


class Ear:
    """A connection, as much of it as the fan-out and a room need: it hears offsets."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.rooms: dict[RoomId, Room] = {}
        self.outbox = self.backlog = self.veils = None
        self.dialect = Dialect.JSON
        self.open = True
        self.position: int | None = None
        """Up to where it has seen everything; None before it is in."""
        self.heard_at: dict[int, float] = {}
        self.entered_at = 0.0

    def write(self, data: bytes) -> None:
        """Take frames whose payload is an offset (none has more than 125 bytes)."""
        while data:
            end = 2 + data[1]
            self.hear(int(data[2:end]))
            data = data[end:]

    def hear(self, offset: int) -> None:
        """Take one event: it must be the next."""
        self._world.say(
            self.position is not None and offset == self.position + 1, f"{offset} after {self.position}"
        )
        self.position = offset
        self.heard_at[offset] = self._world.now


class World:
    """One room, its history and its channel, and the node under test."""

    def __init__(self, seed: int, faults: Faults, kind: type[Subscriptions] = Subscriptions) -> None:
        self.chance = random.Random(seed)
        self.faults = faults
        self.loop = asyncio.get_running_loop()
        self.last = 0
        self.committed_at: dict[int, float] = {}
        self.wrong: list[str] = []
        self.away = False
        self.subscribed = False
        self.deaf = False
        self.reads = 0
        self.closed = 0
        self.ears: list[Ear] = []
        self.came: dict[int, float] = {}
        """When a publication, or a commit of the node's own, first brought each event to it."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self.hub = Hub(Limits(**LIMITS), self.loop)  # type: ignore[arg-type] # as in a scene
        self.hub.left = lambda *_, **__: None
        self.subscriptions = kind(
            self.hub,
            cast("Any", self),
            self,
            window=faults.window,
            opened=self._opened,
            closed=self._closed,
            changed=lambda *_: None,
            idle=lambda _: True,
        )

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self.loop.time()

    def say(self, right: bool, what: str) -> None:
        """Note what must not be."""
        if not right:
            self.wrong.append(what)

    # Postgres.

    async def begin(self, room: RoomId) -> tuple[int, list[Packet]]:
        """Read the newest events, as of some moment of the reading."""
        await self._travel()
        last = self.last
        await self._travel()
        first = max(1, last - self.chance.choice((0, 3, self.faults.window)) + 1)
        return last, [event(offset) for offset in range(first, last + 1)]

    async def between(self, room: RoomId, first: int, last: int) -> list[Packet]:
        """Read some events, as of some moment of the reading."""
        await self._travel()
        found = [event(offset) for offset in range(max(first, 1), min(last, self.last) + 1)]
        await self._travel()
        return found

    async def positions(self, rooms: Sequence[RoomId]) -> dict[RoomId, int]:
        """Read the position, as of some moment of the reading."""
        await self._travel()
        last = self.last
        await self._travel()
        return dict.fromkeys(rooms, last)

    def renewed(self, room: RoomId, old: Packet, change: Packet) -> Packet:
        """Nothing is changed here."""
        raise AssertionError(old, change)

    async def _travel(self) -> None:
        self.reads += 1
        await asyncio.sleep(self.chance.uniform(0.0, 0.03))
        if self.away:
            await asyncio.sleep(0.5)
            raise Refused(ErrorCode.UNAVAILABLE)

    # Redis. (This is the broker of the node under test.)

    async def subscribe(self, channel: str) -> bool:
        """Subscribe: from some moment before the confirmation on, publications are heard."""
        assert channel == channel_of(ROOM)
        await asyncio.sleep(self.chance.uniform(0.0, 0.03))
        self.subscribed = True
        await asyncio.sleep(self.chance.uniform(0.0, 0.03))
        return True

    def unsubscribe(self, channel: str) -> None:
        """Hear no more."""
        assert channel == channel_of(ROOM)
        self.subscribed = False

    def publish(self, channel: str, packet: Packet) -> None:
        """Nobody listens: the other nodes are not under test."""

    def _published(self, packets: Sequence[Packet]) -> None:
        """Carry a publication of another node, or lose it."""
        faults, chance = self.faults, self.chance
        if not self.subscribed or self.deaf or chance.random() < faults.lost:
            return
        for _ in range(1 + (chance.random() < faults.doubled)):
            way = chance.uniform(0.2, 1.5) if chance.random() < faults.late else chance.uniform(0.0, 0.02)
            self.loop.call_later(way, self._arrives, pack(NODE, packets))

    def _arrives(self, publication: bytes) -> None:
        if self.subscribed:
            for packet in unpack(publication):
                self.came.setdefault(packet.offset, self.now)
            self.subscriptions.received(channel_of(ROOM), publication)

    # What happens.

    async def run(self, steps: int = 30) -> list[str]:
        """Let things happen for some seconds, then be quiet, and return what was wrong."""
        checking = self.loop.create_task(self.subscriptions.run())
        for _ in range(steps):
            await asyncio.sleep(self.chance.choice((0.0, 0.001, 0.01, 0.05, 0.2, 1.0)))
            self._start(self.chance.choice(self._happenings))
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        await asyncio.sleep(TAIL_SECONDS + 3.0)
        for ear in self.ears:
            if ear.position is not None and ear.open:
                self.say(ear.position == self.last, f"one is at {ear.position} of {self.last}")
                if not self.faults.outages:
                    self._in_time(ear)
        checking.cancel()
        await self.subscriptions.aclose()
        return self.wrong

    @property
    def _happenings(self) -> list[Callable[[], Any]]:
        often = [self._commit_elsewhere] * 5 + [self._commit_here] * 2
        people = [self._enter, self._enter, self._resume, self._resume, self._ahead, self._leave]
        return often + people + ([self._outage, self._deafness] if self.faults.outages else [])

    def _start(self, happening: Callable[[], Any]) -> None:
        task = self.loop.create_task(happening())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _commit(self) -> list[Packet]:
        count = self.chance.choice((1, 1, 1, 2, 5))
        packets = []
        for _ in range(count):
            self.last += 1
            self.committed_at[self.last] = self.now
            packets.append(event(self.last))
        return packets

    async def _commit_elsewhere(self) -> None:
        packets = self._commit()
        await asyncio.sleep(self.chance.uniform(0.0, 0.01))
        self._published(packets)

    async def _commit_here(self) -> None:
        packets = self._commit()
        await asyncio.sleep(self.chance.uniform(0.0, 0.01))
        for packet in packets:
            self.came.setdefault(packet.offset, self.now)
        self.subscriptions.publish(ROOM, packets)

    async def _enter(self) -> None:
        try:
            room = await self.subscriptions.open(ROOM)
        except Refused:
            return
        ear = Ear(self)
        self.hub.enter(cast("Any", ear), room)
        self._in(ear, room.replay.last)

    async def _resume(self, seen: int | None = None) -> None:
        """Come back with what one has seen, here or elsewhere: nobody has seen what is not committed."""
        offset = (
            self.chance.randint(max(0, self.last - self.faults.window - 4), self.last)
            if seen is None
            else seen
        )
        try:
            room = await self.subscriptions.open(ROOM)
            covered = await self.subscriptions.covering(room, offset)
        except Refused:
            return
        ear = Ear(self)
        self.hub.enter(cast("Any", ear), room)
        missed = room.replay.since(offset) if covered else None
        if missed is None:
            self.say(room.replay.last >= offset, f"taken back from {offset} to {room.replay.last}")
            self.say(
                room.replay.last - offset > self.faults.window,
                f"no replay from {offset} to {room.replay.last}",
            )
        else:
            expected = list(range(offset + 1, room.replay.last + 1))
            self.say([packet.offset for packet in missed] == expected, f"wrong replay from {offset}")
        self._in(ear, room.replay.last)

    async def _ahead(self) -> None:
        """Come back from a node that has heard the newest event of all."""
        await self._resume(self.last)

    async def _leave(self) -> None:
        for ear in self.ears:
            if ear.open and ear.rooms and self.chance.random() < 0.7:
                ear.open = False
                for room in list(ear.rooms.values()):
                    self.hub.leave(cast("Any", ear), room, at_once=True)
        if self.chance.random() < 0.3:
            await asyncio.sleep(self.chance.choice((1.0, 14.0)))  # long enough for the room to be closed

    async def _outage(self) -> None:
        self.away = True
        await asyncio.sleep(self.chance.uniform(0.0, 2.0))
        self.away = False

    async def _deafness(self) -> None:
        self.deaf = True
        await asyncio.sleep(self.chance.uniform(0.0, 2.0))
        self.deaf = False
        self.subscriptions.restored()

    def _in(self, ear: Ear, position: int) -> None:
        ear.position = position
        ear.entered_at = self.now
        self.ears.append(ear)

    async def _opened(self, room: RoomId) -> None:
        await asyncio.sleep(self.chance.choice((0.0, 0.01)))

    def _closed(self, room: RoomId) -> None:
        self.closed += 1

    def _in_time(self, ear: Ear) -> None:
        """Compare when each event was heard with the promise."""
        for offset, heard in ear.heard_at.items():
            since = max(self.committed_at[offset], ear.entered_at)
            self.say(heard - since <= TAIL_SECONDS, f"{offset} came after {heard - since:.2f} s")
            later = [at for other, at in self.came.items() if other > offset]
            if later:
                shown = max(min(later), since)
                self.say(
                    heard - shown <= MIDDLE_SECONDS, f"{offset} came {heard - shown:.2f} s after a later one"
                )
