"""Thousands of random schedules against the rooms of a node: nothing is missed, whatever is lost, late, doubled or away.

Each seed is one schedule (`tests.hub.schedules`). A seed that fails is told, and fails again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest

from protocol.envelope import RoomId
from server.hub.members import Room
from server.hub.replay import Replay
from server.hub.subscriptions import Subscriptions, channel_of
from storage.redis.publications import Packet
from tests.clocks import in_no_time
from tests.hub.schedules import Faults, World


async def wrong(
    seeds: range, faults: Faults, kind: type[Subscriptions] = Subscriptions
) -> tuple[int, str] | None:
    """Run a schedule for each seed until something is wrong in one; return the seed, and what it was."""
    for seed in seeds:
        if complaints := await World(seed, faults, kind).run():
            return seed, complaints[0]
    return None


@pytest.mark.parametrize("outages", [False, True])
@pytest.mark.parametrize("first", [0, 600])
def test_whatever_happens(first: int, outages: bool) -> None:
    """Every event reaches everyone once and in order, holes heal in time, and nobody who comes back misses or repeats one."""
    assert in_no_time(wrong(range(first, first + 600), Faults(outages=outages))) is None


CALM = Faults(lost=0.0, late=0.0, outages=False, window=1000)


class Unhealed(Subscriptions):
    """Trusts that nothing is lost."""

    def _heal(self, room: Room, patience: float, until: int = 0) -> None:
        pass


class HistoryFirst(Unhealed):
    """Reads the history, and subscribes only afterwards."""

    async def _open(self, room: RoomId) -> Room:
        replay = Replay(self._window, renew=partial(self._history.renewed, room))
        replay.begin(*await self._history.begin(room))
        await self._broker.subscribe(channel_of(room))
        active = self._hub.members.rooms[room] = Room(room, replay)
        return active


class Unmerged(Unhealed):
    """Forgets what came while the history was read."""

    def _deliver(self, room: RoomId, packets: Sequence[Packet]) -> None:
        if room in self._hub.members.rooms:
            super()._deliver(room, packets)


class Unchecked(Subscriptions):
    """Never compares its positions with Postgres."""

    async def check(self) -> None:
        pass


class TakingBack(Subscriptions):
    """Does not read what somebody who comes back has seen elsewhere."""

    async def _catch_up(self, room: Room) -> None:
        pass


def test_the_right_order_needs_no_healing() -> None:
    """Where nothing is lost, subscribing before reading misses nothing, although nothing is ever read again."""
    assert in_no_time(wrong(range(400), CALM, Unhealed)) is None


@pytest.mark.parametrize(
    ("kind", "faults"),
    [
        (HistoryFirst, CALM),
        (Unmerged, CALM),
        (Unhealed, Faults(outages=False)),
        (Unchecked, Faults(outages=False)),
        (TakingBack, Faults(outages=False)),
    ],
)
def test_planted_bugs_are_found(kind: type[Subscriptions], faults: Faults) -> None:
    """The simulation finds each bug that is planted, so it would find them in the real thing."""
    assert in_no_time(wrong(range(400), faults, kind)) is not None
