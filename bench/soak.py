"""Soak: the people of `mix` for as long as you like: does anything grow that should not?

At regular times the server's memory, its open files, its CPU and the latencies of that period are read. Growth is the slope
of a line through them, the first fifth left out, for that is when caches fill. A server that is sound ends as it began.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from bench import mix
from bench.ground import Ground
from bench.histogram import Histogram
from bench.idle import seats_of
from bench.kernel import descriptors
from bench.meter import Reading, memory_of_nodes, usage
from bench.mix import Behaving, arrive, behind_others, tell
from bench.party import Tally, merged, shares
from bench.result import LESS, Figure, Plot, Result, new_result
from bench.team import employed

_SETTLING = 0.2
"""The share of the time in which caches fill."""


class Question(mix.Question, kw_only=True):
    """What is asked."""

    seconds: Annotated[float, Meta(description="Length of the whole.")] = 3600.0
    every: Annotated[float, Meta(description="Seconds between two readings.")] = 10.0


class Period(msgspec.Struct):
    """What was read at the end of one period. Times in milliseconds."""

    at: float
    memory: float
    """MiB of all nodes."""
    files: int
    share: float
    """Of a core, all nodes together."""
    arrival: float
    answer: float


def ask(question: Question, ground: Ground) -> Result:
    """Put the question."""
    seats = seats_of(ground, question.people, 0, question.rooms)
    with employed(Behaving, shares(ground, seats, question.clients), ground.tester_cores) as team:
        meter = arrive(team, ground, question)
        begun = time.monotonic()
        readings, tallies, periods = [meter.read()], list[Tally](), list[Period]()
        with ground.progress.lasting("soaking", question.seconds) as tick:
            while time.monotonic() < begun + question.seconds:
                time.sleep(min(question.every, max(0.0, begun + question.seconds - time.monotonic())))
                tally = merged(team.ask("period"))
                reading = meter.read()
                periods.append(_period(begun, ground, readings[-1], reading, tally))
                readings.append(reading)
                tallies.append(tally)
                tick(None)
        tallies.append(merged(team.ask("finish")))
        behind = behind_others(team)
    found = new_result(
        "soak",
        __doc__,
        f"soak: {question.people:,} people in {question.rooms:,} rooms, {question.seconds:,g} s",
        question,
        ground.conditions,
    )
    tell(found, readings, _whole(tallies), behind)
    _tell_growth(found, periods)
    return found


def _whole(tallies: Sequence[Tally]) -> Tally:
    """Put periods together: times are of each period, all else had been counted from the beginning."""
    whole = tallies[-1]
    times = merged(tallies).times
    return msgspec.structs.replace(whole, times=times)


def _period(begun: float, ground: Ground, before: Reading, reading: Reading, tally: Tally) -> Period:
    used = usage(before, reading)
    return Period(
        at=round(reading.at - begun, 1),
        memory=round(memory_of_nodes(reading) / 2**20, 2),
        files=sum(map(descriptors, ground.pids)),
        share=round(used.server / used.seconds, 4) if used.seconds else 0.0,
        arrival=Histogram(tally.times.get("arrival", {})).percentile(99) * 1000,
        answer=Histogram(tally.times.get("chat.send", {})).percentile(99) * 1000,
    )


def growth(points: Sequence[tuple[float, float]]) -> float:
    """Return by how much a value grows in an hour: the line of least squares through pairs of seconds and value."""
    settled = [point for point in points if point[0] >= points[-1][0] * _SETTLING] if points else []
    if len(settled) < 2:
        return 0.0
    mean_x = sum(x for x, _ in settled) / len(settled)
    mean_y = sum(y for _, y in settled) / len(settled)
    spread = sum((x - mean_x) ** 2 for x, _ in settled)
    return sum((x - mean_x) * (y - mean_y) for x, y in settled) / spread * 3600 if spread else 0.0


def _tell_growth(found: Result, periods: Sequence[Period]) -> None:
    memory = [(one.at, one.memory) for one in periods]
    files = [(one.at, float(one.files)) for one in periods]
    found.figures += [
        Figure("memory grows by", round(growth(memory), 1), "MiB/h", LESS),
        Figure("open files grow by", round(growth(files), 1), "/h", LESS),
    ]
    found.plots = [
        Plot("Memory over time", "seconds", "MiB of all nodes", {"resident": memory}),
        Plot("Open files over time", "seconds", "files of all nodes", {"open": files}),
        Plot(
            "Latency over time",
            "seconds",
            "ms, 99th percentile",
            {
                "arrival": [(one.at, round(one.arrival, 2)) for one in periods],
                "line answered": [(one.at, round(one.answer, 2)) for one in periods],
            },
            log_y=True,
        ),
        Plot(
            "CPU over time",
            "seconds",
            "% of a core",
            {"all nodes": [(one.at, round(one.share * 100, 2)) for one in periods]},
        ),
    ]
