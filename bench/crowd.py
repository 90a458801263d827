"""One process of members: it makes its connections, speaks and listens, and tells what came, to the byte.

The order of its steps: connect, arm, then run and finish as often as one likes.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable

import msgspec

from bench.histogram import Histogram
from bench.roomlog import RoomLog, Unexpected
from bench.swarm import Author, Listener, Newcomer
from bench.team import paced, still_collector, until_true
from bench.tongue import Seat, Tongue

AT_ONCE = 64
"""Connections that a process opens at the same time."""
QUIET_SECONDS = 0.5
JOIN_SECONDS = 60.0
ANSWER_SECONDS = 30.0
"""How long authors wait for what they sent last."""


class Plan(msgspec.Struct, kw_only=True):
    """What one process is to do. A seat's place is one of the `addresses`, pairs of host and port."""

    addresses: list[tuple[str, int]]
    tongue: Tongue
    listeners: list[Seat]
    authors: list[Seat]
    size: int
    sample: int


class Span(msgspec.Struct, kw_only=True):
    """When to speak and what to measure, in monotonic nanoseconds.

    `rate` is events per second and room, said by the authors in turn.
    """

    rate: float
    start: int
    measure_from: int
    measure_until: int


class Said(msgspec.Struct):
    """What the authors of a room did."""

    sent: int = 0
    acknowledged: int = 0


class Outcome(msgspec.Struct, kw_only=True):
    """What one process saw. Histograms are their counts."""

    delivered: int = 0
    """Counted events received within the measured span, over all connections."""
    seconds: float = 0.0
    """The measured span on this process's clock."""
    received: int = 0
    missing: int = 0
    duplicates: int = 0
    disorder: int = 0
    """Lines whose offset did not follow on the one before, in what anyone received."""
    short: int = 0
    """Connections that miss something."""
    pulses: int = 0
    bytes: int = 0
    others: dict[str, int] = {}
    latencies: dict[int, int] = {}
    answers: dict[int, int] = {}
    late: dict[int, int] = {}


class Crowd:
    """The connections of one process."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._newcomers: list[Newcomer] = []
        self._logs: defaultdict[str, RoomLog] = defaultdict(RoomLog)
        self._members: list[tuple[str, Listener]] = []
        self._authors: defaultdict[str, list[Author]] = defaultdict(list)
        self._late = Histogram()
        self._numbers: Counter[str] = Counter()
        self._readings: list[tuple[int, int]] = []
        self._span = Span(rate=1, start=0, measure_from=0, measure_until=0)

    def close(self) -> None:
        """Let go of every connection."""
        for newcomer in self._newcomers:
            newcomer.transport.abort()
        for _, member in self._members:
            member.transport.abort()

    async def connect(self) -> dict[str, int]:
        """Bring everyone into their rooms; return the last offset of each room."""
        gate = asyncio.Semaphore(AT_ONCE)
        loop = asyncio.get_running_loop()
        plan = self._plan

        async def enter(seat: Seat) -> int:
            async with gate:
                host, port = plan.addresses[seat.place]
                _, newcomer = await loop.create_connection(
                    lambda: Newcomer(plan.tongue, seat, host, port), host, port
                )
                self._newcomers.append(newcomer)
                return await asyncio.wait_for(newcomer.joined, JOIN_SECONDS)

        seats = plan.listeners + plan.authors
        try:
            offsets = await asyncio.gather(*(enter(seat) for seat in seats))
        except OSError as error:  # a timeout is one
            raise Unexpected(f"cannot connect: {error}") from error
        last: dict[str, int] = {}
        for seat, offset in zip(seats, offsets, strict=True):
            last[seat.room] = max(offset, last.get(seat.room, 0))
        return last

    async def arm(self) -> int:
        """Wait until nothing comes any more, then begin every room's log; return the number of connections."""
        if not await until_true(self._quiet, JOIN_SECONDS):
            raise Unexpected("the room did not become quiet")
        authors = Counter(self._plan.authors)
        for index, newcomer in enumerate(self._newcomers):
            room = newcomer.seat.room
            if authors[newcomer.seat]:
                authors[newcomer.seat] -= 1
                author = Author(self._plan.tongue, self._logs[room], room, size=self._plan.size)
                self._authors[room].append(author)
                listener: Listener = author
            else:
                listener = Listener(
                    self._plan.tongue, self._logs[room], sampled=index % self._plan.sample == 0
                )
            newcomer.listen(listener)
            self._members.append((room, listener))
        self._newcomers.clear()
        still_collector()
        return len(self._members)

    def _quiet(self) -> bool:
        return max(newcomer.heard_at for newcomer in self._newcomers) < time.monotonic() - QUIET_SECONDS

    async def run(self, span: Span) -> dict[str, Said]:
        """Speak at the rate of the span, count at both its ends; return what the authors said since they came."""
        self._span = span
        self._late = Histogram()
        self._readings.clear()
        loop = asyncio.get_running_loop()
        for moment in (span.measure_from, span.measure_until):
            loop.call_later(max(0.0, (moment - time.monotonic_ns()) / 1e9), self._read)
        numbers = await asyncio.gather(*(self._speak(room) for room in self._authors))
        await asyncio.sleep(max(0.0, (span.measure_until - time.monotonic_ns()) / 1e9))
        said = dict(zip(self._authors, (Said(sent=number) for number in numbers), strict=True))
        await until_true(
            lambda: not any(a.waiting for room in self._authors.values() for a in room), ANSWER_SECONDS
        )
        for room, authors in self._authors.items():
            said[room].acknowledged = sum(author.acknowledged for author in authors)
        return said

    async def _speak(self, room: str) -> int:
        span = self._span
        authors = self._authors[room]
        for author in authors:
            author.answers = Histogram()
            author.window = (span.measure_from, span.measure_until)
        first = self._numbers[room]

        def say(number: int, due: int) -> None:
            authors[number % len(authors)].say(first + number, due)

        said = await paced(span.rate, span.start, span.measure_until, say, self._late)
        self._numbers[room] += said
        return said

    def _read(self) -> None:
        self._readings.append((sum(member.received for _, member in self._members), time.monotonic_ns()))

    def _all_have(self, expected: dict[str, int]) -> Callable[[], bool]:
        return lambda: all(member.received >= expected[room] for room, member in self._members)

    async def finish(
        self, expected: dict[str, int], bases: dict[str, int], patience: float, most: float
    ) -> Outcome:
        """Wait until everyone has everything, nothing has come for `patience` seconds, or for `most` of them; and tell."""
        received = -1
        until = time.monotonic() + most
        while (now := sum(member.received for _, member in self._members)) != received:
            received = now
            if time.monotonic() > until:
                break
            if await until_true(self._all_have(expected), patience):
                break
        outcome = Outcome()
        first, last = self._readings
        outcome.delivered = last[0] - first[0]
        outcome.seconds = (last[1] - first[1]) / 1e9
        others: Counter[str] = Counter()
        latencies, answers = Histogram(), Histogram()
        for room, member in self._members:
            missing = expected[room] - member.received
            outcome.received += member.received
            outcome.missing += missing
            outcome.short += missing > 0
            outcome.duplicates += member.repeated
            outcome.bytes += member.position
            others.update(member.others)
            latencies.update(member.latencies(self._span.measure_from, self._span.measure_until).counts)
            if isinstance(member, Author):
                answers.update(member.answers.counts)
        for room, log in self._logs.items():
            outcome.disorder += log.disorder
            outcome.pulses += log.pulses
            if log.first_offset and log.first_offset != bases[room] + 1:
                others["rooms that began late"] += 1
        outcome.others = dict(others)
        outcome.latencies, outcome.answers = dict(latencies.counts), dict(answers.counts)
        outcome.late = dict(self._late.counts)
        return outcome
