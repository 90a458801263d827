"""One process of testers: it makes its connections, waits for the word, and tells what they saw.

Several such processes run beside each other, so that the tester is never the smaller side. The one that started them speaks
to each through a pipe, in steps: connect, arm, run, finish.
"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from typing import Any

import msgspec
import uvloop

from bench.report import Histogram
from bench.roomlog import RoomLog, Unexpected
from bench.swarm import Author, Listener, Newcomer, Seat
from protocol.codec import CODECS

AT_ONCE = 64
"""Connections that a process opens at the same time."""
QUIET_SECONDS = 0.5
JOIN_SECONDS = 60.0
ANSWER_SECONDS = 30.0
"""How long authors wait for what they sent last."""


class Plan(msgspec.Struct, kw_only=True):
    """What one process is to do. `rate` is events per second and room, said by the authors in turn."""

    host: str
    port: int
    subprotocol: str
    listeners: list[Seat]
    authors: list[Seat]
    cue: bool
    rate: float
    size: int
    sample: int
    cores: set[int] | None


class Span(msgspec.Struct, kw_only=True):
    """When to speak and what to measure, in monotonic nanoseconds."""

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
    cpu: float = 0.0
    """CPU seconds of this process within it."""
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


def work(pipe: Pipe, plan: Plan) -> None:
    """Be a process of testers; returns when the pipe is closed."""
    if plan.cores is not None:
        os.sched_setaffinity(0, plan.cores)
    try:
        uvloop.run(_work(pipe, plan))
    except (EOFError, KeyboardInterrupt):
        return


async def _work(pipe: Pipe, plan: Plan) -> None:
    loop = asyncio.get_running_loop()
    crowd = Crowd(plan)
    steps: dict[str, Callable[..., Any]] = {
        "connect": crowd.connect,
        "arm": crowd.arm,
        "run": crowd.run,
        "finish": crowd.finish,
    }
    orders: asyncio.Queue[tuple[str, tuple[Any, ...]] | None] = asyncio.Queue()

    def take_order() -> None:
        try:
            orders.put_nowait(pipe.recv())
        except (EOFError, OSError):
            loop.remove_reader(pipe.fileno())
            orders.put_nowait(None)

    loop.add_reader(pipe.fileno(), take_order)
    while (order := await orders.get()) is not None:
        step, arguments = order
        try:
            pipe.send(await steps[step](*arguments))
        except Unexpected as unexpected:
            pipe.send(unexpected)


class Crowd:
    """The connections of one process."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._codec = CODECS[plan.subprotocol]
        self._newcomers: list[Newcomer] = []
        self._logs: defaultdict[str, RoomLog] = defaultdict(RoomLog)
        self._members: list[tuple[str, Listener]] = []
        self._authors: defaultdict[str, list[Author]] = defaultdict(list)
        self._late = Histogram()
        self._readings: list[tuple[int, int, float]] = []
        self._span = Span(start=0, measure_from=0, measure_until=0)

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
                _, newcomer = await loop.create_connection(
                    lambda: Newcomer(self._codec, seat, plan.host, plan.port), plan.host, plan.port
                )
                self._newcomers.append(newcomer)
                return (await asyncio.wait_for(newcomer.joined, JOIN_SECONDS)).offset

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
        if not await _until(self._quiet, JOIN_SECONDS):
            raise Unexpected("the room did not become quiet")
        authors = Counter(self._plan.authors)
        for index, newcomer in enumerate(self._newcomers):
            room = newcomer.seat.room
            if authors[newcomer.seat]:
                authors[newcomer.seat] -= 1
                author = Author(self._codec, self._logs[room], room, cue=self._plan.cue, size=self._plan.size)
                self._authors[room].append(author)
                listener: Listener = author
            else:
                listener = Listener(self._codec, self._logs[room], sampled=index % self._plan.sample == 0)
            newcomer.listen(listener)
            self._members.append((room, listener))
        self._newcomers.clear()
        gc.collect()
        gc.freeze()
        gc.disable()  # a tester's pause is not the server's
        return len(self._members)

    def _quiet(self) -> bool:
        return max(newcomer.heard_at for newcomer in self._newcomers) < time.monotonic() - QUIET_SECONDS

    async def run(self, span: Span) -> dict[str, Said]:
        """Speak at the planned rate, read the meters at both ends of the span; return what the authors said."""
        self._span = span
        loop = asyncio.get_running_loop()
        for moment in (span.measure_from, span.measure_until):
            loop.call_later(max(0.0, (moment - time.monotonic_ns()) / 1e9), self._read)
        numbers = await asyncio.gather(*(self._speak(room) for room in self._authors))
        await asyncio.sleep(max(0.0, (span.measure_until - time.monotonic_ns()) / 1e9))
        said = dict(zip(self._authors, (Said(sent=number) for number in numbers), strict=True))
        await _until(
            lambda: not any(a.waiting for room in self._authors.values() for a in room), ANSWER_SECONDS
        )
        for room, authors in self._authors.items():
            said[room].acknowledged = sum(author.acknowledged for author in authors)
        return said

    async def _speak(self, room: str) -> int:
        authors = self._authors[room]
        span = self._span
        for author in authors:
            author.window = (span.measure_from, span.measure_until)
        gap = 1e9 / self._plan.rate
        number = 0
        while (due := span.start + int(number * gap)) < span.measure_until:
            ahead = due - time.monotonic_ns()
            if ahead > 0:
                await asyncio.sleep(ahead / 1e9)
                continue
            self._late.add(-ahead)
            authors[number % len(authors)].say(number, due)
            number += 1
            if number % 64 == 0:
                await asyncio.sleep(0)  # far behind: answers must still be read
        return number

    def _read(self) -> None:
        self._readings.append(
            (
                sum(member.received for _, member in self._members),
                time.monotonic_ns(),
                time.process_time(),
            )
        )

    async def finish(self, expected: dict[str, int], bases: dict[str, int], patience: float) -> Outcome:
        """Wait until everyone has everything, or nothing has come for `patience` seconds, and tell."""
        received = -1
        while (now := sum(member.received for _, member in self._members)) != received:
            received = now
            if await _until(lambda: all(m.received >= expected[room] for room, m in self._members), patience):
                break
        outcome = Outcome()
        first, last = self._readings
        outcome.delivered = last[0] - first[0]
        outcome.seconds = (last[1] - first[1]) / 1e9
        outcome.cpu = last[2] - first[2]
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


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until `condition` is true, at most `seconds`; return whether it is."""
    end = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < end:  # noqa: ASYNC110 - it has no event of its own
        await asyncio.sleep(0.02)
    return true
