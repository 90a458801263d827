"""Presence: who is in the rooms of this node, by person; who is writing; how confident a room feels.

A person is here as long as one of their connections is, on whatever node. One who drops stays for a few seconds of grace, so
that coming back, here or elsewhere, is seen by nobody; one who leaves is gone at once. What this node sees of a room is one
`Roster`, what its members are told of it is one `Pulse`; the `Herald` tells other nodes of our people, and the
`Lookout` reads theirs. With Redis away everybody still sees the people of their own node.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from protocol.envelope import Person, RoomId, UserId
from protocol.presence import (
    Confidence,
    ConfidenceNoted,
    ListPresence,
    PresenceListed,
    RoomPulse,
    RoomState,
    SetConfidence,
    SetTyping,
    TypingNoted,
)
from protocol.reactions import Reaction, Reactor
from server.hub.dispatch import Call, handles
from server.hub.herald import Herald
from server.hub.lookout import Lookout
from server.hub.pulse import Pulse
from server.hub.recount import Recount
from server.hub.roster import Page, Roster
from server.hub.subscriptions import channel_of
from server.settings import Settings
from storage import Stores
from storage.presence import Change, Count, Entry, Reacted, Shift, Writing, packet, read_change
from storage.reactions import Totals
from storage.redis.pool import RedisAway

_LOGGER = logging.getLogger("looprooms.presence")

TICK: Final = 0.25
"""Seconds between two looks at what has expired: how much longer a grace may last."""

WRITING_SECONDS: Final = 6.0
"""How long a person is writing who said so: clients say it again every 3 s."""

LISTENING_SECONDS: Final = 1.0
"""How long after a standstill those who drop are gone at once."""


class _Room:
    """What this node knows of one room, and of its own people there."""

    __slots__ = (
        "armed",
        "connections",
        "graces",
        "id",
        "pulse",
        "roster",
        "started",
        "stopped",
        "told",
    )

    def __init__(self, room: RoomId, *, small_room: int, interval: float) -> None:
        self.id = room
        self.roster = Roster(self._touch)
        self.pulse = Pulse(room, self.roster, small_room=small_room, interval=interval)
        self.connections: dict[UserId, set[object]] = {}
        self.graces: dict[UserId, float] = {}
        self.started: dict[UserId, None] = {}
        self.stopped: dict[UserId, None] = {}
        self.armed: asyncio.TimerHandle | None = None
        self.told = False
        """Whether anyone may have been told anything: not while it opens."""

    def _touch(self, user: UserId, before: Person | None) -> None:
        self.pulse.touch(user, before)


class PresenceTracker:
    """The presence of one node. `emit` is called with what the members of a room on this node are to be told.

    A room is opened before anyone enters it and closed when it is `idle`; in between no call waits for a store.
    """

    def __init__(
        self,
        node_id: bytes,
        stores: Stores,
        settings: Settings,
        *,
        emit: Callable[[RoomId, RoomPulse], None],
        clock: Callable[[], float] | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._stores = stores
        self._emit = emit
        self._clock = self._loop.time if clock is None else clock
        self._wall = wall
        self._small_room = settings.small_room
        self._interval = settings.pulse_seconds
        self._grace = settings.presence_grace_seconds
        self._rooms: dict[RoomId, _Room] = {}
        lease = settings.presence_lease_seconds
        self.herald = Herald(node_id, stores.redis, self._publish, lease=lease, clock=self._clock, wall=wall)
        self.lookout = Lookout(
            node_id,
            stores.redis,
            self.herald,
            self._stir,
            lease=lease,
            grace=self._grace,
            clock=self._clock,
        )
        self.recount = Recount(stores.pool, self._counted, clock=self._clock)
        self._lease = lease
        self._graces: deque[tuple[float, RoomId, UserId]] = deque()
        self._writing: set[RoomId] = set()
        self._ticked_at = self._clock()
        self._listening_until = float("-inf")

    # Rooms.

    async def open(self, room: RoomId) -> None:
        """Begin with a room, whose channel is subscribed already: read who is there elsewhere, and the totals.

        Where a store is away the room begins without, and learns it as soon as it can.
        """
        if room in self._rooms:
            return
        opened = _Room(room, small_room=self._small_room, interval=self._interval)
        self._rooms[room] = opened
        self.lookout.watch(room, opened.roster)
        self.herald.open(room, opened.roster.own)
        try:
            await asyncio.gather(self._load_people(room), self.recount.load(room))
        except BaseException:
            self.close(room)
            raise
        opened.pulse.settle()
        opened.told = True

    def close(self, room: RoomId) -> None:
        """Forget a room. Nothing happens when it is not open."""
        closed = self._rooms.pop(room, None)
        if closed is not None:
            if closed.armed is not None:
                closed.armed.cancel()
            self._writing.discard(room)
            self.recount.forget(room)
            self.lookout.forget(room)
            self.herald.close(room)

    def idle(self, room: RoomId) -> bool:
        """Say whether nobody of this node is in a room any more, those in their grace included."""
        known = self._rooms.get(room)
        return known is None or not known.roster.own

    # Who is here.

    def enter(self, room: RoomId, person: Person, connection: object, behind: bytes = b"") -> None:
        """Note that a connection of a person is in a room, which is open. `behind`: see `storage.presence.Entry`."""
        known = self._rooms[room]
        known.connections.setdefault(person.id, set()).add(connection)
        known.graces.pop(person.id, None)
        own = known.roster.own.get(person.id)
        if own is None or own.person != person:
            elsewhere = known.roster.entry(person.id)  # a level that was set there goes with the person
            level, level_at = (0, 0) if elsewhere is None else (elsewhere.level, elsewhere.level_at)
            known.roster.put(Entry(person, level, level_at, behind))
            self._own_changed(known, person.id)

    def leave(self, room: RoomId, user: UserId, connection: object, *, at_once: bool) -> None:
        """Note that a connection is in a room no longer. Nothing happens when it was not.

        With the last one the person leaves: `at_once`, or after the grace that one who dropped is given.
        """
        known = self._rooms.get(room)
        if known is None or (connections := known.connections.get(user)) is None:
            return
        connections.discard(connection)
        if connections:
            return
        del known.connections[user]
        now = self._clock()
        if at_once or self._stood_still(now):
            self._gone(known, user)
        else:
            known.graces[user] = now + self._grace
            self._graces.append((now + self._grace, room, user))

    def is_present(self, room: RoomId, user: UserId) -> bool:
        """Say whether a person is in a room, on whatever node, as far as this node knows."""
        known = self._rooms.get(room)
        return known is not None and user in known.roster.people

    def behind(self, room: RoomId, user: UserId) -> bytes:
        """Return who is behind a pseudonym that is in a room, sealed; nothing where that is not known."""
        known = self._rooms.get(room)
        entry = None if known is None else known.roster.entry(user)
        return b"" if entry is None else entry.behind

    def state(self, room: RoomId) -> RoomState:
        """Return what a newcomer is to know. Whoever gets it must get every later pulse of the room."""
        known = self._rooms.get(room)
        if known is None:
            return RoomState(online=0, members=[], confidence=Confidence(mean=0.0, count=0))
        return known.pulse.state()

    def page(self, room: RoomId, after: UserId | None, limit: int) -> Page:
        """Return up to `limit` of those who are here, by id, after `after`. A large room may lag by a second."""
        return self._rooms[room].roster.page(after, limit, self._clock())

    # What people do.

    def typing(self, room: RoomId, user: UserId, *, on: bool) -> None:
        """Note that a person of this node begins to write, goes on, or stops."""
        known = self._rooms[room]
        self._note_writing(known, user, on=on)
        known.started.pop(user, None)
        known.stopped.pop(user, None)
        (known.started if on else known.stopped)[user] = None
        self._stir(room)

    def level(self, room: RoomId, user: UserId, level: int) -> Confidence:
        """Set the level of a person of this node, and return the room's confidence with it."""
        known = self._rooms[room]
        own = known.roster.own.get(user)
        if own is not None:
            known.roster.put(Entry(own.person, level, int(self._wall() * 1000), own.behind))
            self._own_changed(known, user)
        return known.roster.confidence

    def reacted(
        self, room: RoomId, counts: Sequence[Count], given: Sequence[Reactor], withdrawn: Sequence[Reactor]
    ) -> None:
        """Tell everyone of a commit of reactions, here and on other nodes. `counts` may have kinds that did not change."""
        if (known := self._rooms.get(room)) is not None:
            self._react(known, counts, given, withdrawn)
        if changed := [count for count in counts if count.added]:
            self._publish(room, Reacted(changed, list(given), list(withdrawn)))

    def totals(self, room: RoomId) -> dict[Reaction, int] | None:
        """Return the newest totals of reactions that are known; None for a room that is not open."""
        known = self._rooms.get(room)
        return None if known is None else known.pulse.totals()

    # What other nodes say.

    def receive(self, room: RoomId, payload: bytes) -> None:
        """Take a change by another node."""
        known = self._rooms.get(room)
        if known is None:
            return
        try:
            change = read_change(payload)
        except msgspec.MsgspecError:
            _LOGGER.warning("a change of presence in %s cannot be read", room)
            return
        if isinstance(change, Shift):
            self._shift(known, change)
        elif isinstance(change, Writing):
            for user in change.started:
                self._note_writing(known, user, on=True)
            for user in change.stopped:
                self._note_writing(known, user, on=False)
        elif isinstance(change, Reacted):
            self._react(known, change.counts, change.reactors, change.withdrawn)
        else:
            self.lookout.farewell(change.node)
        self._stir(room)

    def restored(self) -> None:
        """Write, read and count everything again: publications were lost, and Redis may be empty."""
        self.herald.restored()
        self.lookout.restored()
        self.recount.soon(self._rooms)

    # Running.

    async def run(self) -> None:
        """Keep everything right, for ever."""
        await asyncio.gather(
            self._tick_for_ever(), self.herald.run(), self.lookout.run(), self.recount.run(self._rooms)
        )

    async def aclose(self) -> None:
        """Say goodbye: other nodes give our people the time that anyone who drops is given."""
        try:
            await self.herald.farewell()
        except RedisAway as away:
            _LOGGER.info("no farewell was said; the lease ends by itself: %s", away)
        for room in list(self._rooms.values()):
            if room.armed is not None:
                room.armed.cancel()
        self._rooms.clear()

    def tick(self) -> None:
        """End the graces and the writing whose time is over."""
        now = self._clock()
        self._stood_still(now)
        self._ticked_at = now
        while self._graces and self._graces[0][0] <= now:
            until, room, user = self._graces.popleft()
            known = self._rooms.get(room)
            if known is not None and known.graces.get(user) == until:
                self._gone(known, user)
        for room in list(self._writing):
            roster = self._rooms[room].roster
            if roster.forget_writing(now):
                self._stir(room)
            if not roster.writes:
                self._writing.discard(room)

    async def _tick_for_ever(self) -> None:
        while True:
            try:
                self.tick()
            except Exception:
                _LOGGER.exception("presence could not expire")
            await asyncio.sleep(TICK)

    def _stood_still(self, now: float) -> bool:
        """Say whether this node stood still just now, for longer than its lease: all its people were seen leaving."""
        if now - self._ticked_at >= self._lease:
            self._listening_until = now + LISTENING_SECONDS
        return now < self._listening_until

    # Inside.

    def _gone(self, room: _Room, user: UserId) -> None:
        room.graces.pop(user, None)
        room.started.pop(user, None)
        room.roster.remove(user)
        self._own_changed(room, user)

    def _own_changed(self, room: _Room, user: UserId) -> None:
        self.herald.mark(room.id, user)
        self._stir(room.id)

    def _shift(self, room: _Room, shift: Shift) -> None:
        if shift.closed:
            if shift.sequence > room.roster.sequence(shift.node):
                room.roster.drop(shift.node)
        elif not room.roster.apply(shift):
            self.lookout.doubt(room.id, shift.node)

    def _note_writing(self, room: _Room, user: UserId, *, on: bool) -> None:
        if on:
            room.roster.start_writing(user, self._clock() + WRITING_SECONDS)
            self._writing.add(room.id)
        else:
            room.roster.stop_writing(user)

    def _react(
        self, room: _Room, counts: Sequence[Count], given: Sequence[Reactor], withdrawn: Sequence[Reactor]
    ) -> None:
        for count in counts:
            room.pulse.reacted(count.kind, added=count.added, total=count.total, revision=count.revision)
        for reactor in given:
            room.pulse.reactor(reactor)
        for reactor in withdrawn:
            room.pulse.unreactor(reactor)
        self._stir(room.id)

    def _stir(self, room: RoomId) -> None:
        """Have the room pulse as soon as it may."""
        known = self._rooms.get(room)
        if known is not None and known.told and known.armed is None:
            now = self._clock()
            known.armed = self._loop.call_later(known.pulse.earliest(now) - now, self._beat, known)

    def _beat(self, room: _Room) -> None:
        room.armed = None
        if room.started or room.stopped:
            if self._stores.broker.healthy:  # nobody wants to learn later who was writing now
                self._publish(room.id, Writing(list(room.started), list(room.stopped)))
            room.started.clear()
            room.stopped.clear()
        pulse = room.pulse.take(self._clock())
        if pulse is not None:
            self._emit(room.id, pulse)

    def _publish(self, room: RoomId, change: Change) -> None:
        self._stores.broker.publish(channel_of(room), packet(change))

    # Reading.

    async def _load_people(self, room: RoomId) -> None:
        try:
            await self.lookout.load(room)
        except RedisAway as away:
            _LOGGER.warning("room %s begins without the people of other nodes: %s", room, away)

    def _counted(self, room: RoomId, totals: Totals) -> None:
        if (known := self._rooms.get(room)) is not None:
            known.pulse.counted({kind: (total.total, total.revision) for kind, total in totals.items()})
            self._stir(room)


@handles(ListPresence)
def list_presence(call: Call, command: ListPresence) -> PresenceListed:
    """Page through those who are in a room that one is in."""
    room = call.room(command.room)
    page = call.node.presence.page(room.id, command.after, command.limit)
    members = page.members
    if (veil := call.connection.veil(room)) is not None:
        members = veil.people(members)
        while page.more and not members:  # who is left out is not named as the place to go on from either
            page = call.node.presence.page(room.id, page.members[-1].id, command.limit)
            members = veil.people(page.members)
    following = members[-1].id if page.more and members else None
    return PresenceListed(id=command.id, online=page.online, members=members, next=following)


@handles(SetTyping)
def set_typing(call: Call, command: SetTyping) -> TypingNoted:
    """Write, or stop writing, in a room that one is in."""
    room = call.member_of(command.room)
    call.node.presence.typing(room, call.node.faces.act(call.connection, room).id, on=command.typing)
    return TypingNoted(id=command.id)


@handles(SetConfidence)
def set_confidence(call: Call, command: SetConfidence) -> ConfidenceNoted:
    """Move one's level on the confidence meter of a room that one is in."""
    room = call.member_of(command.room)
    face = call.node.faces.act(call.connection, room)
    confidence = call.node.presence.level(room, face.id, command.level)
    return ConfidenceNoted(id=command.id, confidence=confidence)
