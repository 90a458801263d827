"""How long statements take, as their callers see it: from being sent until the last row is here."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from asyncpg.connection import LoggedQuery

BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds. The promise is about 0.05: 95 of 100 statements take no longer."""


class StatementTimes:
    """Counts the statements of a pool by how long they took, those that failed included. What that costs is lost in the noise of a
    round trip, which is some 13 us of CPU.
    """

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """Statements within each of `BOUNDS` and above the one before; in the last place those that took longer than all."""
        self.seconds = 0.0

    def take(self, statement: LoggedQuery) -> None:
        """Count a statement. Of what is logged nothing is kept but its time."""
        self.counts[bisect_left(BOUNDS, statement.elapsed)] += 1
        self.seconds += statement.elapsed
