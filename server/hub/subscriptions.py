"""The rooms that are active on this node: opened with their first member, kept whole, closed after their last.

Opening is: subscribe first, then read history, then merge what came meanwhile; in any other order an event between the two
is lost. Afterwards events come from three sides (this node's own commits, other nodes through Redis, Postgres when
something is missing) and `Replay` makes one order of them. Redis may lose anything at any time, so:

- a hole in the middle is read from Postgres when it has not filled itself within `PATIENCE`;
- a loss at the tail is found by comparing positions with Postgres every `CHECK_SECONDS`, for all rooms in one statement;
- after the broker has lost and found Redis, positions are compared at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol
from uuid import UUID

from protocol.envelope import RoomId
from protocol.refusals import Refused
from server.hub.hub import Hub
from server.hub.members import Room
from server.hub.replay import Replay
from storage.postgres.gather import Gather
from storage.redis.broker import Broker
from storage.redis.publications import Kind, Packet, unpack

_LOGGER = logging.getLogger("looprooms.subscriptions")

PATIENCE: Final = 0.1
"""Seconds that a hole may fill itself: another node's publication takes some milliseconds more than ours."""
CHECK_SECONDS: Final = 3.0
LINGER_SECONDS: Final = 10.0
"""How long a room without members stays open: people come back, and opening costs a read."""


class History(Protocol):
    """Where durable events are read from. Every method may raise `Refused` (unavailable)."""

    async def begin(self, room: RoomId) -> tuple[int, list[Packet]]:
        """Return the last offset of a room and its newest events, in order, without gaps."""
        ...

    async def between(self, room: RoomId, first: int, last: int) -> list[Packet]:
        """Return the events of a room from `first` to `last`, both included."""
        ...

    async def positions(self, rooms: Sequence[RoomId]) -> dict[RoomId, int]:
        """Return the last offset of each room."""
        ...

    def renewed(self, room: RoomId, old: Packet, change: Packet) -> Packet:
        """Return what an older change in a room is replayed as, now that `change` has changed the same event again."""
        ...


def channel_of(room: RoomId) -> str:
    """Return the name of a room's channel; the braces keep all keys of a room on one shard of a cluster."""
    return f"lr:{{{room}}}:events"


def room_of(channel: str) -> RoomId:
    """Return the room of a channel. Raises `ValueError` for the name of another kind of channel."""
    return RoomId(UUID(channel[4:40]))


class Subscriptions:
    """Opens, feeds, heals and closes this node's rooms."""

    def __init__(
        self,
        hub: Hub,
        broker: Broker,
        history: History,
        *,
        window: int,
        opened: Callable[[RoomId], Awaitable[None]],
        closed: Callable[[RoomId], None],
        changed: Callable[[RoomId, bytes], None],
        idle: Callable[[RoomId], bool],
    ) -> None:
        self._hub = hub
        self._broker = broker
        self._history = history
        self._window = window
        self._opened = opened
        self._closed = closed
        self._changed = changed
        self._idle = idle
        self._opening: dict[RoomId, asyncio.Task[Room]] = {}
        self._early: dict[RoomId, list[Packet]] = {}
        self._healing: dict[RoomId, asyncio.Task[None]] = {}
        self._newer: Gather[Room, None] = Gather(self._read_newer)
        self._older: Gather[tuple[Room, int], None] = Gather(self._read_older)
        self._left_at: dict[RoomId, float] = {}
        self._looking: set[asyncio.Task[None]] = set()
        self.healed = 0
        """Events that were read from Postgres because no publication brought them."""

    async def open(self, room: RoomId) -> Room:
        """Return the active room, opening it if need be; all who wait share one opening. Raises `Refused`."""
        if (active := self._hub.members.rooms.get(room)) is not None:
            self._left_at.pop(room, None)
            return active
        task = self._opening.get(room)
        if task is None:
            task = self._hub.loop.create_task(self._open(room))
            self._opening[room] = task
            task.add_done_callback(lambda done: self._opened_or_not(room, done))
        return await asyncio.shield(task)

    async def _open(self, room: RoomId) -> Room:
        self._early[room] = []
        try:
            await self._broker.subscribe(channel_of(room))
            replay = Replay(self._window, renew=partial(self._history.renewed, room))
            replay.begin(*await self._history.begin(room))
            await self._opened(room)
        except BaseException:
            self._early.pop(room, None)
            self._broker.unsubscribe(channel_of(room))
            raise
        active = Room(room, replay)
        self._hub.members.rooms[room] = active
        self._left_at[room] = self._hub.clock()
        for packet in self._early.pop(room):
            self._take(active, packet)
        return active

    def _opened_or_not(self, room: RoomId, task: asyncio.Task[Room]) -> None:
        self._opening.pop(room, None)
        if not task.cancelled():
            task.exception()  # those who wait have it; nobody waiting is no reason for a warning

    async def covering(self, room: Room, offset: int) -> bool:
        """Make sure that `room` keeps every event after `offset`; False when it is not to be had within the window.

        Whoever was on another node may have seen what this one has not heard of yet: it is read from Postgres first, or
        they would be taken back.
        """
        replay = room.replay
        if offset > replay.last:
            await self._newer.ask(room)
        if replay.since(offset) is not None:
            return True
        if offset > replay.last or replay.last - offset > self._window:
            return False
        await self._older.ask((room, offset))
        return replay.since(offset) is not None

    # While one reading is under way, those who come wait for the next one and share it: a storm costs two statements a room.

    async def _read_newer(self, rooms: Sequence[Room]) -> Sequence[None]:
        await asyncio.gather(*(self._catch_up(room) for room in dict.fromkeys(rooms)))
        return [None] * len(rooms)

    async def _catch_up(self, room: Room) -> None:
        while True:
            first = room.replay.last + 1
            found = await self._history.between(room.id, first, first + self._window - 1)
            for packet in found:
                self._mend(room, packet)
            if len(found) < self._window:
                return

    async def _read_older(self, wanted: Sequence[tuple[Room, int]]) -> Sequence[None]:
        oldest: dict[Room, int] = {}
        for room, offset in wanted:
            oldest[room] = min(offset, oldest.get(room, offset))
        await asyncio.gather(*(self._reach_back(room, offset) for room, offset in oldest.items()))
        return [None] * len(wanted)

    async def _reach_back(self, room: Room, offset: int) -> None:
        if room.replay.since(offset) is None:  # else the reading before has brought it
            room.replay.prepend(await self._history.between(room.id, offset + 1, room.replay.first - 1))

    def publish(self, room: RoomId, packets: Sequence[Packet]) -> None:
        """Deliver committed events here, and through Redis everywhere else.

        This node does not wait for its own publication to come back: with Redis away the room goes on here.
        """
        channel = channel_of(room)
        for packet in packets:
            self._broker.publish(channel, packet)
        self._deliver(room, packets)

    def publish_passing(self, room: Room, packet: Packet) -> None:
        """Send on what is not kept; it was delivered here already."""
        self._broker.publish(channel_of(room.id), packet)

    def received(self, channel: str, publication: bytes) -> None:
        """Take a publication of another node."""
        try:
            room = room_of(channel)
            packets = list(unpack(publication))
        except ValueError:
            _LOGGER.warning("a publication on %s cannot be read", channel)
            return
        self._deliver(room, packets)

    def _deliver(self, room: RoomId, packets: Sequence[Packet]) -> None:
        active = self._hub.members.rooms.get(room)
        if active is not None:
            for packet in packets:
                self._take(active, packet)
        elif (early := self._early.get(room)) is not None:
            early.extend(packets)

    def _take(self, room: Room, packet: Packet) -> None:
        if packet.offset:
            if ready := room.replay.offer(packet):
                self._hub.fanout.add(room, ready)
            if room.replay.missing is not None:
                self._heal(room, PATIENCE)
        elif packet.kind is Kind.CHANGE:
            self._changed(room.id, packet.json)
        else:
            self._hub.fanout.add(room, (packet,))

    # Healing.

    def _heal(self, room: Room, patience: float, until: int = 0) -> None:
        if room.id not in self._healing:
            task = self._hub.loop.create_task(self._fill(room, patience, until))
            self._healing[room.id] = task
            task.add_done_callback(lambda done: self._healed_or_not(room.id, done))

    def _healed_or_not(self, room: RoomId, task: asyncio.Task[None]) -> None:
        self._healing.pop(room, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOGGER.error("a room could not be healed: that is tried again", exc_info=error)

    async def _fill(self, room: Room, patience: float, until: int) -> None:
        await asyncio.sleep(patience)
        while self._hub.members.rooms.get(room.id) is room:
            gap = room.replay.missing
            if gap is None:
                if until <= room.replay.last:
                    return
                gap = room.replay.last + 1, until
            try:
                found = await self._history.between(room.id, gap[0], min(gap[1], gap[0] + self._window - 1))
            except Refused:
                await asyncio.sleep(0.5)
                continue
            if not found:  # the position was ahead of what can be read: somebody's commit is about to be seen
                await asyncio.sleep(PATIENCE)
            for packet in found:
                self._mend(room, packet)

    def _mend(self, room: Room, packet: Packet) -> None:
        """Deliver an event that was read, with those that have waited for it."""
        if ready := room.replay.offer(packet):
            self.healed += 1
            self._hub.fanout.add(room, ready)

    async def check(self) -> None:
        """Compare every active room's position with Postgres, in one statement, and heal those that are behind."""
        rooms = self._hub.members.rooms
        if not rooms:
            return
        for room, last in (await self._history.positions(list(rooms))).items():
            active = rooms.get(room)
            if active is not None and last > active.replay.last:
                self._heal(active, PATIENCE, last)

    def restored(self) -> None:
        """Look for losses now: the broker was away."""
        task = self._hub.loop.create_task(self._check_quietly())
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def run(self) -> None:
        """Check and close, for ever."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                self._close_idle()
            except Exception:
                _LOGGER.exception("a room could not be closed")
            await self._check_quietly()

    async def _check_quietly(self) -> None:
        try:
            await self.check()
        except Refused:
            _LOGGER.warning("positions could not be compared: Postgres is out of reach")
        except Exception:
            _LOGGER.exception("positions could not be compared")

    def _close_idle(self) -> None:
        now = self._hub.clock()
        for room in list(self._hub.members.rooms.values()):
            if room.connections or not self._idle(room.id):
                self._left_at.pop(room.id, None)
            elif now - self._left_at.setdefault(room.id, now) >= LINGER_SECONDS:
                del self._left_at[room.id]
                del self._hub.members.rooms[room.id]
                self._broker.unsubscribe(channel_of(room.id))
                self._closed(room.id)

    async def aclose(self) -> None:
        """Stop opening, healing and looking."""
        tasks = [*self._opening.values(), *self._healing.values(), *self._looking]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._newer.drain()
        await self._older.drain()
