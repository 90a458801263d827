"""What clients send is taken in slices, so that a flood of it is never one long turn of the loop.

A turn of the loop reads every socket that has bytes. When a thousand clients send more than can be served, that alone takes
hundreds of milliseconds, and whatever takes a few turns - a commit, an answer, a heartbeat - takes seconds: measured with
reactions at four times the peak, a twentieth of it was served. So a turn takes what comes for `SLICE_SECONDS`; what comes later is
put aside, and its connection is not read until that was taken: the rest waits on the client's side of the network, and then
comes in one piece, which costs a fraction of many. While busy, gather, here too.

What has been put aside for longer than `LATE_SECONDS` is not served any more: its commands are refused at once, which takes a
fraction of serving them. So however much is asked for, what is served is served soon, and who is not is told.

A plain object: the connection gives it bytes, and is given them back.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

SLICE_SECONDS: Final = 0.008
LATE_SECONDS: Final = 0.5


class Source(Protocol):
    """Whoever bytes come from."""

    def take(self, data: bytes) -> None:
        """Take what was put aside."""

    def hold_reading(self, why: str) -> None:
        """Read no more for now."""

    def release_reading(self, why: str) -> None:
        """Read again."""


class Intake:
    """Says whether there is time, and keeps what there is no time for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[Source, tuple[float, bytes]] = {}
        self._began: float | None = None
        """When this turn began to take what came."""
        self.late = False
        """Whether what is being taken now has waited for too long."""
        self.put_aside = 0

    def __len__(self) -> int:
        """Count those whose bytes wait."""
        return len(self._waiting)

    def admits(self, now: float) -> bool:
        """Say whether what came at `now` may be taken at once; else it is to be put aside."""
        if self._began is None:
            self._began = now
            self._loop.call_soon(self._turn)
        return not self._waiting and now - self._began < SLICE_SECONDS

    def put(self, source: Source, data: bytes, now: float) -> None:
        """Keep what came at `now`, and read no more of that source until it was taken."""
        since, before = self._waiting.get(source, (now, b""))
        self._waiting[source] = since, before + data
        self.put_aside += 1
        source.hold_reading("intake")

    def forget(self, source: Source) -> None:
        """Keep nothing of a source that is gone."""
        self._waiting.pop(source, None)

    def _turn(self) -> None:
        self._began = None
        if not self._waiting:
            return
        began = self._began = self._loop.time()
        try:
            while self._waiting and self._loop.time() - began < SLICE_SECONDS:
                source = next(iter(self._waiting))
                since, data = self._waiting.pop(source)
                self.late = began - since > LATE_SECONDS
                source.take(data)
                source.release_reading("intake")
        finally:  # a bug in what one has sent is not to be the last turn of all
            self.late = False
            self._loop.call_soon(self._turn)
