"""One process of visitors: brings them in, and tells what they heard. Scenarios add what the visitors do."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from bench.ground import Ground
from bench.histogram import Histogram
from bench.roomlog import Unexpected
from bench.team import Team, still_collector, until_true
from bench.tongue import Seat
from bench.visitor import House, Visitor

QUIET_SECONDS = 0.5
SETTLE_SECONDS = 30.0
ANSWER_SECONDS = 30.0
"""How long visitors wait for the last answers."""
_SOURCE_PORTS = 25_000
"""Connections that one source address can have to one server, with some left for others."""


class Plan(msgspec.Struct, kw_only=True):
    """What one process is to do. A seat without a room stays outside of rooms."""

    addresses: list[tuple[str, int]]
    subprotocol: str
    seats: list[Seat]
    at_once: int = 64
    """Connections that are opened at the same time."""
    source: str | None = None
    seed: int = 0


class Tally(msgspec.Struct, kw_only=True):
    """What the visitors of one process, or of all, had come to. Histograms are their counts."""

    people: int = 0
    here: int = 0
    bytes: int = 0
    counts: dict[str, int] = {}
    times: dict[str, dict[int, int]] = {}
    pulses: dict[int, int] = {}
    """How many visitors were sent how many pulses."""
    told: dict[str, int] = {}
    """How many visitors believe what: ``online 12``, ``HEART 31``."""


class Party:
    """The visitors of one process."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.house = House(plan.addresses, plan.subprotocol, plan.source)
        self.guest: Callable[[House, Seat], Visitor] = Visitor
        """What makes a visitor."""
        self.visitors: list[Visitor] = []
        self._pulses_before: dict[int, int] = {}

    def close(self) -> None:
        """Let go of every connection."""
        for visitor in self.visitors:
            visitor.drop()

    async def bring(self, count: int | None = None) -> int:
        """Bring in the next `count` (all, if None); return how many are here."""
        first = len(self.visitors)
        seats = self.plan.seats[first:] if count is None else self.plan.seats[first : first + count]
        newcomers = [self.guest(self.house, seat) for seat in seats]
        self.visitors += newcomers
        gate = asyncio.Semaphore(self.plan.at_once)

        async def enter(visitor: Visitor) -> None:
            async with gate:
                await visitor.come()
                if visitor.seat.room:
                    await visitor.join(visitor.seat.room)

        await asyncio.gather(*map(enter, newcomers))
        return sum(visitor.here for visitor in self.visitors)

    async def settle(self) -> None:
        """Wait until it is quiet, and forget what was counted until then."""
        heard = -1
        until = time.monotonic() + SETTLE_SECONDS
        while heard != self.house.messages and time.monotonic() < until:
            heard = self.house.messages
            await asyncio.sleep(QUIET_SECONDS)
        self.house.counts.clear()
        self.house.times.clear()
        self.house.bytes = 0
        self._pulses_before = {id(visitor): visitor.pulses for visitor in self.visitors}
        still_collector()

    async def answered(self) -> bool:
        """Wait until nothing is unanswered."""
        return await until_true(lambda: not any(visitor.waiting for visitor in self.visitors), ANSWER_SECONDS)

    async def tally(self) -> Tally:
        """Tell what there is to tell."""
        told: Counter[str] = Counter()
        for visitor in self.visitors:
            told[f"online {visitor.online}"] += 1
            for kind, total in visitor.told.items():
                told[f"{kind} {total}"] += 1
        pulses = Counter(
            visitor.pulses - self._pulses_before.get(id(visitor), 0) for visitor in self.visitors
        )
        return Tally(
            people=len(self.visitors),
            here=sum(visitor.here for visitor in self.visitors),
            bytes=self.house.bytes,
            counts=dict(self.house.counts),
            times={name: dict(histogram.counts) for name, histogram in self.house.times.items()},
            pulses=dict(pulses),
            told=dict(told),
        )


def merged(tallies: Sequence[Tally]) -> Tally:
    """Add what several processes tell."""
    counts: Counter[str] = Counter()
    pulses: Counter[int] = Counter()
    told: Counter[str] = Counter()
    times: dict[str, Histogram] = {}
    for tally in tallies:
        counts.update(tally.counts)
        pulses.update(tally.pulses)
        told.update(tally.told)
        for name, histogram in tally.times.items():
            times.setdefault(name, Histogram()).update(histogram)
    return Tally(
        people=sum(tally.people for tally in tallies),
        here=sum(tally.here for tally in tallies),
        bytes=sum(tally.bytes for tally in tallies),
        counts=dict(counts),
        times={name: dict(histogram.counts) for name, histogram in times.items()},
        pulses=dict(pulses),
        told=dict(told),
    )


def shares(ground: Ground, seats: Sequence[Seat], processes: int, *, at_once: int = 64) -> list[Plan]:
    """Divide seats evenly among processes. Past what one source address can hold each process gets its own."""
    if len(seats) > _SOURCE_PORTS and not all(
        host.startswith("127.") or host == "localhost" for host, _ in ground.addresses
    ):
        raise Unexpected(f"one address cannot hold {len(seats):,} connections; run testers on more machines")
    many = len(seats) > _SOURCE_PORTS
    processes = min(max(processes, -(-len(seats) // _SOURCE_PORTS)), max(1, len(seats)))
    return [
        Plan(
            addresses=ground.addresses,
            subprotocol=ground.subprotocol,
            seats=list(seats[index::processes]),
            at_once=at_once,
            source=f"127.0.0.{2 + index}" if many else None,
            seed=index,
        )
        for index in range(processes)
    ]


def tallied(team: Team) -> Tally:
    """Ask all processes what there is to tell."""
    return merged(team.ask("tally"))
