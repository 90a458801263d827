"""How far behind the room its members' screens are: from the offsets that clients report with their heartbeat."""

from __future__ import annotations

import heapq
from typing import Final

from protocol.envelope import RoomId

REMEMBERED_SECONDS: Final = 60.0


class Lags:
    """The worst report of each room lately: the number of events that a client had still to show. A plain object."""

    def __init__(self) -> None:
        self._worst: dict[RoomId, tuple[int, float]] = {}

    def report(self, room: RoomId, behind: int, now: float) -> None:
        """Note that a client was `behind` events behind the newest of `room`."""
        known = self._worst.get(room)
        if known is None or behind >= known[0] or now - known[1] > REMEMBERED_SECONDS:
            self._worst[room] = max(0, behind), now

    def worst(self, now: float, most: int) -> list[tuple[RoomId, int]]:
        """Return the `most` rooms that lag most, the worst first, and forget what is old."""
        self._worst = {
            room: (behind, at) for room, (behind, at) in self._worst.items() if now - at <= REMEMBERED_SECONDS
        }
        return heapq.nlargest(
            most, ((room, behind) for room, (behind, _) in self._worst.items()), key=lambda entry: entry[1]
        )
