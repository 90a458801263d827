"""Totals of reactions, read from Postgres: when a room opens, when one may have been missed, and now and then for all.

A commit tells its totals to every node. It may be that nobody is told (a node dies in between, Redis is away) or that nobody
knows whether it was a commit (Postgres does not answer); then the totals are read. Old readings do no harm: each total has
a revision, and the highest counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from protocol.envelope import RoomId
from protocol.refusals import Refused
from storage import reactions
from storage.postgres.gather import Gather
from storage.postgres.pool import Pool
from storage.reactions import Totals

_LOGGER = logging.getLogger("looprooms.presence")

ALL_SECONDS: Final = 30.0
"""Between two readings of the totals of every room."""

RETRY_SECONDS: Final = 0.5
"""Between two readings of what is in doubt: a store that is away is not asked all the time."""


class Recount:
    """Reads totals and hands them to `counted`. `clock` is in seconds and monotonic."""

    def __init__(
        self, pool: Pool, counted: Callable[[RoomId, Totals], None], *, clock: Callable[[], float]
    ) -> None:
        self._pool = pool
        self._counted = counted
        self._clock = clock
        self._gather: Gather[RoomId, Totals] = Gather(self._read)
        self._doubtful: set[RoomId] = set()
        self._awake = asyncio.Event()

    async def load(self, room: RoomId) -> None:
        """Read the totals of a room, together with all who ask at the same time; later if Postgres is away."""
        try:
            self._counted(room, await self._gather.ask(room))
        except Refused:
            self.soon([room])

    def soon(self, rooms: Iterable[RoomId]) -> None:
        """Read the totals of `rooms` as soon as it can be done."""
        self._doubtful.update(rooms)
        self._awake.set()

    def forget(self, room: RoomId) -> None:
        """Read a room no more."""
        self._doubtful.discard(room)

    async def run(self, rooms: Collection[RoomId]) -> None:
        """Read what is in doubt, and now and then all of `rooms`, for ever."""
        all_at = self._clock() + ALL_SECONDS
        while True:
            try:
                async with asyncio.timeout(max(0.0, all_at - self._clock())):
                    await self._awake.wait()
            except TimeoutError:
                all_at = self._clock() + ALL_SECONDS
                self.soon(rooms)
            try:
                await self.round()
            except Refused:
                _LOGGER.debug("reactions are not counted: Postgres is out of reach")
            except Exception:
                _LOGGER.exception("reactions could not be counted")
            await asyncio.sleep(RETRY_SECONDS)

    async def round(self) -> None:
        """Read what is in doubt once. Raises `Refused` (unavailable); then it stays in doubt."""
        wanted = list(self._doubtful)
        self._doubtful.clear()
        self._awake.clear()
        if not wanted:
            return
        try:
            totals = await self._read(wanted)
        except Refused:
            self.soon(wanted)
            raise
        for room, total in zip(wanted, totals, strict=True):
            self._counted(room, total)

    async def _read(self, rooms: Sequence[RoomId]) -> Sequence[Totals]:
        totals = await reactions.totals(self._pool, rooms)
        return [totals.get(room, {}) for room in rooms]
