"""What this node tells all others of its own people: written to Redis first, then published, under a lease.

While busy, gather: changes are marked, and one round writes and publishes all that were marked while the round before was
under way. A storm of joins is a few rounds. What could not be written for certain is written anew as a whole, under a
number that makes everyone read it again; so Redis may lose everything, be away or come back as it was a minute ago.

As long as the lease lives, what a node wrote is believed. A node that finds its lease gone (it stood still, or Redis was
emptied) writes everything anew before it takes a new lease. One that stood still waits a moment first, so that the sockets
that closed meanwhile are heard, and nobody is announced who has long been elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final

from protocol.envelope import RoomId, UserId
from storage.presence import (
    KEPT,
    Change,
    Entry,
    Farewell,
    Shift,
    Write,
    end_lease,
    keep_rosters,
    renew_lease,
    take_lease,
    write_rosters,
)
from storage.redis.pool import Redis, RedisAway

_LOGGER = logging.getLogger("looprooms.presence")

RENEW: Final = 0.3
"""Of the lease, between renewals: two may fail."""

LISTEN: Final = 0.1
"""Of the lease: how long a node that stood still listens to its sockets before it announces anyone."""

RETRY: Final = 0.1
"""Of the lease, after which what failed is tried again."""

AT_ONCE: Final = 1000
"""Changes of one room in one round: about 150 KB to publish."""

ROOMS_AT_ONCE: Final = 200
"""Rooms in one round."""


class _Book:
    """What is written of one room, and what is not yet."""

    __slots__ = ("anew", "closed", "marked", "own", "sequence", "tried", "written")

    def __init__(self, own: Mapping[UserId, Entry], sequence: int) -> None:
        self.own = own
        self.sequence = sequence
        self.written: int | None = None
        """Up to where all is in Redis for certain."""
        self.tried = False
        """Whether anything may be in Redis."""
        self.anew = True
        self.closed = False
        self.marked: dict[UserId, None] = {}


class Herald:
    """Writes and publishes the rosters of one node.

    `lease` is in seconds: how long the node is believed after it was last heard. `clock` is monotonic, `wall` is the time
    of day, both in seconds.

    The owner calls `open` with the mapping of a room's own people, changes it, and says so with `mark`.
    """

    def __init__(
        self,
        node: bytes,
        redis: Redis,
        publish: Callable[[RoomId, Change], None],
        *,
        lease: float,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._node = node
        self._redis = redis
        self._publish = publish
        self._lease = lease
        self._clock = clock
        self._wall = wall
        self._books: dict[RoomId, _Book] = {}
        self._due: dict[RoomId, None] = {}
        self._awake = asyncio.Event()
        self._leased_until: float | None = None
        self._before_lease: set[RoomId] = set()
        self._renew_at = clock()
        self._keep_at = clock() + KEPT / 4
        self.rounds = 0
        """Writes to Redis so far."""
        self.published = 0
        """Changes of rosters published so far."""

    # What the owner says.

    def open(self, room: RoomId, own: Mapping[UserId, Entry]) -> None:
        """Begin with a room. Nothing is written before somebody is there."""
        before = self._books.get(room)
        self._books[room] = book = _Book(own, 0 if before is None else before.sequence)
        if before is not None and before.tried:  # it was closed just now, and that was not written yet
            book.tried = True
            self._wake(room)

    def mark(self, room: RoomId, user: UserId) -> None:
        """Note that a person of this node came, changed or went."""
        book = self._books[room]
        if not book.anew:  # else all are written anyway
            book.marked[user] = None
        self._wake(room)

    def close(self, room: RoomId) -> None:
        """Take back what was written of a room."""
        book = self._books[room]
        if book.tried:
            book.closed = True
            self._wake(room)
        else:
            del self._books[room]
            self._due.pop(room, None)

    def restored(self) -> None:
        """Write everything anew: Redis may have lost it."""
        for room in self._books:
            self._write_anew(room)
        self._renew_at = min(self._renew_at, self._clock())
        self._awake.set()

    @property
    def leased(self) -> bool:
        """Whether this node is believed, as far as it knows."""
        return self._leased_until is not None

    @property
    def due(self) -> int:
        """How many rooms have something that is not written yet."""
        return len(self._due)

    def written(self, room: RoomId) -> int | None:
        """Return the sequence up to which a room is written; None when nothing is."""
        book = self._books.get(room)
        return None if book is None else book.written

    def found(self, room: RoomId, expected: int | None, listed: int | None) -> None:
        """Note what was found in Redis of what was written: `listed`, where at least `expected` should be."""
        if expected is not None and self.written(room) is not None and (listed is None or listed < expected):
            self._write_anew(room)

    # The rounds.

    async def run(self) -> None:
        """Write, publish and renew, for ever."""
        while True:
            try:
                await self.round()
            except RedisAway as away:
                _LOGGER.debug("presence is not written: %s", away)
                await asyncio.sleep(RETRY * self._lease)
                continue
            except Exception:
                _LOGGER.exception("presence could not be written")
                await asyncio.sleep(RETRY * self._lease)
                continue
            if not self._due:
                self._awake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, self._renew_at - self._clock())):
                        await self._awake.wait()

    async def round(self) -> None:
        """Do what is due once. Raises `RedisAway`; then it stays due."""
        now = self._clock()
        if self._leased_until is not None:
            if now >= self._leased_until:
                self._lost_lease()
                await asyncio.sleep(LISTEN * self._lease)
            elif now >= self._renew_at:
                if await renew_lease(self._redis, self._node, self._lease):
                    self._leased(now)
                else:
                    self._lost_lease()
        await self._write()
        if self._leased_until is None and not self._before_lease:
            now = self._clock()
            await take_lease(self._redis, self._node, self._lease)
            self._leased(now)
        if now >= self._keep_at:
            await keep_rosters(self._redis, self._node, list(self._books))
            self._keep_at = now + KEPT / 4

    async def farewell(self) -> None:
        """Stop being believed, tell everyone, and remove what was written. Raises `RedisAway`."""
        rooms = [room for room, book in self._books.items() if book.written is not None]
        self._books.clear()
        self._due.clear()
        self._before_lease.clear()
        try:
            await end_lease(self._redis, self._node)
        finally:
            for room in rooms:
                self._publish(room, Farewell(self._node))
        await write_rosters(self._redis, self._node, [Write(room, 0, closed=True) for room in rooms])

    async def _write(self) -> None:
        writes = []
        shifts = []
        for room in list(islice(self._due, ROOMS_AT_ONCE)):
            del self._due[room]
            write, shift = self._take(room, self._books[room])
            writes.append(write)
            shifts.append(shift)
        if not writes:
            return
        self.rounds += 1
        try:
            await write_rosters(self._redis, self._node, writes)
        except BaseException:
            for write in writes:
                self._failed(write.room)
            raise
        for write, shift in zip(writes, shifts, strict=True):
            self._done(write)
            self._publish(write.room, shift)
            self.published += 1

    def _take(self, room: RoomId, book: _Book) -> tuple[Write, Shift]:
        """Return what is to be written of a room now, and what is to be published afterwards."""
        book.tried = True
        book.sequence += 1
        if book.closed:
            return Write(room, book.sequence, closed=True), Shift(self._node, book.sequence, closed=True)
        if book.anew:
            book.anew = False
            book.marked.clear()
            book.sequence = max(book.sequence + 1, int(self._wall()) << 24)  # a gap: everyone reads it
            write = Write(room, book.sequence, list(book.own.values()), anew=True)
            return write, Shift(self._node, book.sequence)
        users = list(islice(book.marked, AT_ONCE))
        for user in users:
            del book.marked[user]
        if book.marked:
            self._due[room] = None
        entries = [book.own[user] for user in users if user in book.own]
        gone = [user for user in users if user not in book.own]
        return Write(room, book.sequence, entries, gone), Shift(self._node, book.sequence, entries, gone)

    def _done(self, write: Write) -> None:
        self._before_lease.discard(write.room)
        book = self._books[write.room]
        if not write.closed:
            book.written = write.sequence
        elif book.closed:
            del self._books[write.room]

    def _failed(self, room: RoomId) -> None:
        """Whether it was written is not known."""
        if self._books[room].closed:
            self._due[room] = None
        else:
            self._write_anew(room)

    def _lost_lease(self) -> None:
        self._leased_until = None
        for room, book in self._books.items():
            if book.tried:
                self._before_lease.add(room)
                self._write_anew(room)

    def _write_anew(self, room: RoomId) -> None:
        book = self._books[room]
        if book.tried and not book.closed:
            book.anew = True
            book.marked.clear()
            self._wake(room)

    def _leased(self, now: float) -> None:
        self._leased_until = now + self._lease
        self._renew_at = now + RENEW * self._lease

    def _wake(self, room: RoomId) -> None:
        self._due[room] = None
        self._awake.set()
