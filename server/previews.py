"""Premium rooms: who is in one by what right, and for how many seconds more.

A free member may be in a premium room for its `preview_seconds`. Of these the ones count that they are there, on however many
connections and nodes: a meter runs for a person in a room while one of their connections to this node is in it, and is
reported to Postgres when they leave and every `REPORT_SECONDS`, all in one statement. A node that dies takes no more than
that with it.

Who pays is in without a meter; an exclusive room has no preview, only passes. When what a person may do changes, the rooms that they are in open in place, or are left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from protocol.envelope import RoomId, UserId
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import Departure, Room, RoomUnlocked
from protocol.subscriptions import Tier
from server.hub.connection import Connection
from server.hub.hub import Hub
from server.hub.identity import Session
from storage import previews
from storage.postgres.gather import Gather
from storage.postgres.pool import Pool
from storage.previews import Stretch

_LOGGER = logging.getLogger("looprooms.previews")

REPORT_SECONDS: Final = 5.0
LEAST_SECONDS: Final = 0.1
"""A preview with less than this is over: nobody is let in to be put out at once."""
PREMIUM: Final = (Tier.PREMIUM_MONTHLY, Tier.PREMIUM_YEARLY)
"""Tiers whose price is shared among creators."""
MOST_OWED: Final = 10_000


def without_limit(room: Room, session: Session) -> bool:
    """Say whether a person may stay in a room as long as they like. An exclusive one is open to who has a pass, however they pay."""
    if session.is_one(room.host, room.id):
        return True
    if room.exclusive:
        return session.moderates or room.id in session.passes
    return not room.premium or session.premium


class Meter:
    """A free member in a premium room, by all their connections to this node. Times are the loop's, in seconds."""

    __slots__ = ("connections", "ends_at", "limit", "since", "timer")

    def __init__(self, limit: float, ends_at: float, now: float) -> None:
        self.limit = limit
        self.ends_at = ends_at
        self.since = now
        """Up to when it is reported."""
        self.connections: set[Connection] = set()
        self.timer: asyncio.TimerHandle | None = None


class Previews:
    """The premium rooms that somebody on this node is in. `pay` is where one subscribes."""

    def __init__(self, hub: Hub, pool: Pool, pay: str) -> None:
        self._hub = hub
        self._pool = pool
        self._pay = pay
        self._rooms: dict[Connection, dict[RoomId, Room]] = {}
        self._meters: dict[tuple[RoomId, UserId], Meter] = {}
        self._owed: list[Stretch] = []
        self.gather: Gather[Stretch, float] = Gather(self._count)

    def __len__(self) -> int:
        """Count the meters that run."""
        return len(self._meters)

    async def left(self, room: Room, user: UserId) -> float:
        """Return the seconds that are left of somebody's preview. Raises `Refused`: premium_required, pass_required, unavailable."""
        if room.exclusive:
            raise Refused(ErrorCode.PASS_REQUIRED)
        meter = self._meters.get((room.id, user))
        most = room.preview_seconds - LEAST_SECONDS
        if meter is not None:
            left = meter.ends_at - self._hub.clock()
        elif most > 0:
            left = room.preview_seconds - await previews.enter(self._pool, room.id, user, most)
        else:
            left = 0.0
        if left <= LEAST_SECONDS:
            raise Refused(ErrorCode.PREMIUM_REQUIRED)
        return left

    def enter(self, connection: Connection, room: Room, left: float | None) -> float | None:
        """Note that a connection is in a room, by a preview with `left` seconds or without a limit.

        Return the seconds that count, since what they may do may have changed while the room was opened.
        """
        session = connection.session
        assert session is not None
        if not (room.premium or room.exclusive):
            return None
        self._rooms.setdefault(connection, {})[room.id] = room
        if without_limit(room, session):
            return None
        if left is None:
            self._hub.loop.call_soon(self.reconsider, connection)
            return None
        now = self._hub.clock()
        meter = self._meters.get((room.id, session.user_id))
        if meter is None:
            meter = Meter(room.preview_seconds, now + left, now)
            self._meters[room.id, session.user_id] = meter
            self._set_timer(room.id, session.user_id, meter)
        meter.connections.add(connection)
        return meter.ends_at - now

    def leave(self, connection: Connection, room: RoomId) -> None:
        """Note that a connection is no longer in a room."""
        known = self._rooms.get(connection)
        if known is None or known.pop(room, None) is None:
            return
        if not known:
            del self._rooms[connection]
        session = connection.session
        assert session is not None
        self._stop(connection, room, session.user_id)

    def reconsider(self, connection: Connection, ended: ErrorCode = ErrorCode.PASS_ENDED) -> None:
        """Open the rooms that a connection is in, or take it out of them, as its session now says.

        `ended` is what those are told who have no pass.
        """
        session = connection.session
        assert session is not None
        for room in list(self._rooms.get(connection, {}).values()):
            meter = self._meters.get((room.id, session.user_id))
            metered = meter is not None and connection in meter.connections
            if without_limit(room, session):
                if metered:
                    self._stop(connection, room.id, session.user_id)
                    connection.send(RoomUnlocked(room=room.id))
            elif room.exclusive:
                self._depart(connection, room.id, ended)
            elif not metered:
                self._depart(connection, room.id, ErrorCode.SUBSCRIPTION_ENDED)

    def look(self, room: Room, connections: Iterable[Connection]) -> None:
        """Take a room for what it costs now: whoever may stay in it does, the others are taken out."""
        for connection in list(connections):
            self._rooms.setdefault(connection, {})[room.id] = room
            self.reconsider(connection, ErrorCode.PASS_REQUIRED)
            known = self._rooms.get(connection, {})
            if not (room.premium or room.exclusive) and known.pop(room.id, None) is not None and not known:
                del self._rooms[connection]

    async def run(self) -> None:
        """Report what runs every `REPORT_SECONDS`, and what could not be reported, for ever."""
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            owed, self._owed = self._owed, []
            for stretch in owed:
                self._submit(stretch)
            now = self._hub.clock()
            for (room, user), meter in self._meters.items():
                self._submit(Stretch(room, user, now - meter.since, stays=True))
                meter.since = now

    def connections(self) -> list[Connection]:
        """Return the connections that are in premium or exclusive rooms."""
        return list(self._rooms)

    def engaged(self, connection: Connection) -> Iterator[tuple[RoomId, UserId]]:
        """Yield the premium rooms that a connection of somebody with premium is in, each with the person."""
        session = connection.session
        if session is not None and session.tier in PREMIUM:
            for room in self._rooms.get(connection, {}).values():
                if room.premium and not room.exclusive:
                    yield room.id, session.user_id

    def _set_timer(self, room: RoomId, user: UserId, meter: Meter) -> None:
        if meter.timer is not None:
            meter.timer.cancel()
        meter.timer = self._hub.loop.call_at(meter.ends_at, self._end, room, user)

    def _end(self, room: RoomId, user: UserId) -> None:
        for connection in list(self._meters[room, user].connections):
            self._depart(connection, room, ErrorCode.PREMIUM_REQUIRED)

    def _depart(self, connection: Connection, room: RoomId, code: ErrorCode) -> None:
        known = self._rooms[connection][room]
        pay = f"{self._pay}?room={known.slug}" if known.exclusive else self._pay
        self._hub.leave(connection, connection.rooms[room], at_once=True)
        connection.send(Departure(room=room, code=code, message=code.advice, pay=pay))

    def _stop(self, connection: Connection, room: RoomId, user: UserId) -> None:
        meter = self._meters.get((room, user))
        if meter is None or connection not in meter.connections:
            return
        meter.connections.discard(connection)
        if not meter.connections:
            del self._meters[room, user]
            assert meter.timer is not None
            meter.timer.cancel()
            self._submit(Stretch(room, user, self._hub.clock() - meter.since, stays=False))

    # Reports.

    def _submit(self, stretch: Stretch) -> None:
        try:
            counted = self.gather.submit(stretch)
        except Refused:
            self._owe(stretch)
        else:
            counted.add_done_callback(lambda done: self._counted(stretch, done))

    def _counted(self, stretch: Stretch, counted: asyncio.Future[float]) -> None:
        if counted.cancelled():
            return
        if counted.exception() is not None:
            self._owe(stretch)
        elif (meter := self._meters.get((stretch.room, stretch.user))) is not None:
            # Other nodes may have counted more; it is never less than what this one has seen.
            ends_at = self._hub.clock() + meter.limit - counted.result()
            if ends_at < meter.ends_at - LEAST_SECONDS:
                meter.ends_at = ends_at
                self._set_timer(stretch.room, stretch.user, meter)

    def _owe(self, stretch: Stretch) -> None:
        """Keep what could not be counted for the next time. Where too much is kept, it is given to the members."""
        if len(self._owed) < MOST_OWED:
            self._owed.append(stretch)
        else:
            _LOGGER.warning("seconds of previews are not counted: Postgres is out of reach for too long")

    async def _count(self, stretches: Sequence[Stretch]) -> Sequence[float | Exception]:
        return await previews.count(self._pool, stretches)
