"""What this node learns of the others' people: read where a change was missed, believed only under a living lease.

Changes come by publication and may be lost, so every few seconds the numbers that nodes have written are compared with the
numbers that are known here, for all rooms in one round trip; what stays behind until the next look is read again.

A node whose lease is gone is dropped after a little patience, unless Redis itself was emptied or away: then this node's own lease is
gone too, and every node gets the time of a whole lease to come back. A node that said farewell keeps its people for as
long as anyone who drops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, Protocol, TypeVar

from protocol.envelope import RoomId
from server.hub.roster import UNREAD, Roster
from storage.presence import forget_node, leased, read_nodes, read_rosters
from storage.redis.pool import Redis, RedisAway

_LOGGER = logging.getLogger("looprooms.presence")

WATCH: Final = 0.1
"""Of the lease, between two looks at the leases of other nodes."""

COMPARE: Final = 0.5
"""Of the lease, between two comparisons of what is written with what is known."""

PATIENCE: Final = 0.15
"""Of the lease: how long it must be gone before its node is dropped. With a lease of 10 s a node that dies is dropped 13 s
later at most."""

AT_ONCE: Final = 200
"""Rosters or rooms in one round trip."""

Doubt = tuple[RoomId, bytes]
ItemT = TypeVar("ItemT")


class Written(Protocol):
    """What this node has written itself (`server.hub.herald.Herald`)."""

    def written(self, room: RoomId) -> int | None:
        """Return the sequence up to which a room is written."""
        ...

    def found(self, room: RoomId, expected: int | None, listed: int | None) -> None:
        """Note what is listed of it."""
        ...


class Lookout:
    """Keeps the rosters of other nodes right. `stirred` is called after a room's roster may have changed.

    `lease` and `grace` are in seconds: how long a silent node is believed, how long its people stay when it says farewell.
    """

    def __init__(
        self,
        node: bytes,
        redis: Redis,
        own: Written,
        stirred: Callable[[RoomId], None],
        *,
        lease: float,
        grace: float,
        clock: Callable[[], float],
    ) -> None:
        self._node = node
        self._redis = redis
        self._own = own
        self._stirred = stirred
        self._lease = lease
        self._grace = grace
        self._clock = clock
        self._rosters: dict[RoomId, Roster] = {}
        self._doubts: dict[Doubt, None] = {}
        self._unbelieved: set[Doubt] = set()
        self._suspects: dict[Doubt, int | None] = {}
        self._gone_since: dict[bytes, float] = {}
        self._leaving: dict[bytes, float] = {}
        self._spared_until = float("-inf")
        self._compare_at = clock() + COMPARE * lease
        self._awake = asyncio.Event()
        self.read = 0
        """Rosters that were read from Redis so far."""

    # What the owner says.

    def watch(self, room: RoomId, roster: Roster) -> None:
        """Keep a room's roster right from now on."""
        self._rosters[room] = roster

    def forget(self, room: RoomId) -> None:
        """Care for a room no longer."""
        del self._rosters[room]

    def doubt(self, room: RoomId, node: bytes) -> None:
        """Read again what a node has written of a room."""
        self._doubts[room, node] = None
        self._awake.set()

    def farewell(self, node: bytes) -> None:
        """Drop a node that stops, when its people have had their time."""
        self._leaving.setdefault(node, self._clock() + self._grace)

    def restored(self) -> None:
        """Compare at once: changes were lost, and leases may be."""
        self._spare()
        self._compare_at = self._clock()
        self._awake.set()

    @property
    def missed(self) -> int:
        """How many nodes have let their lease end and are not dropped yet."""
        return len(self._gone_since)

    async def load(self, room: RoomId) -> None:
        """Read what is written of a room that was opened. Raises `RedisAway`; then it is read later."""
        roster = self._rosters[room]
        try:
            listed = (await read_nodes(self._redis, [room]))[room]
            listed.pop(self._node, None)
            for node in listed:
                roster.expect(node)
            await self._read([(room, node) for node in listed])
        except RedisAway:
            self._compare_at = self._clock()
            raise

    # The rounds.

    async def run(self) -> None:
        """Read, watch and compare, for ever."""
        look_at = self._clock()
        while True:
            try:
                if self._clock() >= look_at:
                    look_at = self._clock() + WATCH * self._lease
                    await self.look()
                await self.read_doubts()
            except RedisAway as away:
                _LOGGER.debug("presence is not read: %s", away)
                await asyncio.sleep(WATCH * self._lease)
            except Exception:
                _LOGGER.exception("presence could not be read")
                await asyncio.sleep(WATCH * self._lease)
            if not self._doubts:
                self._awake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, look_at - self._clock())):
                        await self._awake.wait()

    async def look(self) -> None:
        """Look once at the leases, and compare when it is time. Raises `RedisAway`."""
        await self._watch_leases()
        suspects, self._suspects = self._suspects, {}
        for (room, node), listed in suspects.items():
            roster = self._rosters.get(room)
            if roster is None:
                continue
            if node in roster.nodes if listed is None else roster.sequence(node) < listed:
                self.doubt(room, node)
        if self._clock() >= self._compare_at:
            await self._compare()
            self._compare_at = self._clock() + COMPARE * self._lease

    async def read_doubts(self) -> None:
        """Read again whatever is in doubt. Raises `RedisAway`; then it stays in doubt."""
        while self._doubts:
            wanted = list(islice(self._doubts, AT_ONCE))
            for doubt in wanted:
                del self._doubts[doubt]
            try:
                await self._read(wanted)
            except BaseException:
                self._doubts.update(dict.fromkeys(wanted))
                raise

    async def _read(self, wanted: Sequence[Doubt]) -> None:
        # The lease first: a node takes it after everything is written, so what is read under it is whole.
        alive = await leased(self._redis, sorted({node for _, node in wanted}))
        self.read += len(wanted)
        for (room, node), written in (await read_rosters(self._redis, wanted)).items():
            roster = self._rosters.get(room)
            if roster is None:
                continue
            if node not in alive:
                self._unbelieved.add((room, node))
                continue
            if written is None:
                roster.drop(node)
            elif not roster.replace(node, written.sequence, written.entries):
                self.doubt(room, node)
            self._stirred(room)

    async def _watch_leases(self) -> None:
        nodes = {node for roster in self._rosters.values() for node in roster.nodes}
        self._leaving = {node: at for node, at in self._leaving.items() if node in nodes}
        self._gone_since = {node: at for node, at in self._gone_since.items() if node in nodes}
        if not nodes:
            return
        alive = await leased(self._redis, [self._node, *nodes])
        now = self._clock()
        if self._node not in alive:
            self._spare()
        for doubt in [doubt for doubt in self._unbelieved if doubt[1] in alive or doubt[1] not in nodes]:
            self._unbelieved.discard(doubt)
            if doubt[1] in alive:
                self.doubt(*doubt)
        for node in nodes:
            if node in self._leaving:
                last = self._leaving[node]
            elif node in alive:
                self._gone_since.pop(node, None)
                continue
            else:
                last = max(
                    self._gone_since.setdefault(node, now) + PATIENCE * self._lease, self._spared_until
                )
            if now >= last:
                await self._drop(node)

    async def _drop(self, node: bytes) -> None:
        rooms = [room for room, roster in self._rosters.items() if node in roster.nodes]
        for room in rooms:
            self._rosters[room].drop(node)
            self._stirred(room)
        await forget_node(self._redis, node, rooms)

    async def _compare(self) -> None:
        for rooms in _sliced(list(self._rosters), AT_ONCE):
            expected = {room: self._own.written(room) for room in rooms}
            for room, listed in (await read_nodes(self._redis, rooms)).items():
                self._own.found(room, expected[room], listed.pop(self._node, None))
                roster = self._rosters.get(room)
                if roster is None:
                    continue
                for node, sequence in listed.items():
                    if roster.sequence(node) == UNREAD and (room, node) not in self._unbelieved:
                        roster.expect(node)
                        self.doubt(room, node)
                    elif roster.sequence(node) < sequence:
                        self._suspects[room, node] = sequence
                for node in roster.nodes - listed.keys():
                    self._suspects[room, node] = None

    def _spare(self) -> None:
        self._spared_until = self._clock() + self._lease


def _sliced(items: Sequence[ItemT], size: int) -> Iterator[Sequence[ItemT]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
