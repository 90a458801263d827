"""Connects: how many people a second can come in, from the first TCP packet to the welcome of a signed-in session?

New sessions are begun at a fixed rate, each on a connection of its own: TCP, the websocket's handshake, hello with an access
token, welcome. Time counts from the moment at which the connection was due. With rate 0 a fixed number of connections is
always on its way instead, so that the rate is what the server can do. Everyone stays until the end of the run.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import msgspec
from msgspec import Meta

from bench.fanout import START_SECONDS, cautions, cpu_plot, sleep_until, testers_line
from bench.ground import Ground
from bench.histogram import Histogram
from bench.idle import seats_of
from bench.meter import Meter, Reading, share_figures, usage
from bench.party import Party, Tally, shares, tallied
from bench.result import LESS, MORE, Figure, Result, curve, latency_figures, new_result
from bench.roomlog import Unexpected
from bench.team import employed, paced, still_collector
from bench.visitor import Visitor


class Question(msgspec.Struct, kw_only=True):
    """What is asked."""

    rate: Annotated[float, Meta(description="New sessions a second; 0 for as many as go.")] = 2500.0
    connections: Annotated[int, Meta(description="Connections in all.")] = 7500
    people: Annotated[
        int, Meta(description="Accounts that they belong to, in turn; 0 for one of its own each.")
    ] = 1000
    at_once: Annotated[int, Meta(description="With rate 0: connections on their way at any moment.")] = 200
    clients: Annotated[int, Meta(description="Processes of testers.")] = 2


class Connector(Party):
    """Visitors who come in one after the other."""

    async def run(self, start: int, rate: float) -> int:
        """Begin a session for every seat; return how many came in within the time that the rate gives."""
        still_collector()
        house = self.house
        house.window = (0, 2**63)
        late = house.times["sent late"]
        coming: set[asyncio.Task[None]] = set()
        await asyncio.sleep(max(0.0, (start - time.monotonic_ns()) / 1e9))

        async def come(number: int, due: int) -> None:
            visitor = Visitor(house, self.plan.seats[number])
            self.visitors.append(visitor)
            try:
                await visitor.come()
            except Unexpected as unexpected:
                house.counts[f"turned away: {unexpected}"] += 1
            else:
                house.timed("welcome", due)
                house.counts["welcomed"] += 1

        if rate:
            until = start + int(len(self.plan.seats) / rate * 1e9)

            def begin(number: int, due: int) -> None:
                task = asyncio.ensure_future(come(number, due))
                coming.add(task)
                task.add_done_callback(coming.discard)

            await paced(rate, start, until, begin, late)
            within = house.counts["welcomed"]
            while coming:
                await asyncio.wait(list(coming))
            return within
        numbers = iter(range(len(self.plan.seats)))

        async def one_after_the_other() -> None:
            for number in numbers:
                await come(number, time.monotonic_ns())

        await asyncio.gather(*(one_after_the_other() for _ in range(self.plan.at_once)))
        return house.counts["welcomed"]


def ask(question: Question, ground: Ground) -> Result:
    """Put the question."""
    seats = seats_of(ground, question.connections, question.people, 0)
    plans = shares(ground, seats, question.clients, at_once=max(1, question.at_once // question.clients))
    with employed(Connector, plans, ground.tester_cores) as team:
        team.ask("bring", 0)  # every process is there
        meter = Meter(ground.pids, team.pids)
        start = time.monotonic_ns() + int(START_SECONDS * 1e9)
        team.order("run", start, question.rate / len(plans))
        sleep_until(start)
        readings = [meter.read()]
        if question.rate:
            seconds = question.connections / question.rate
            readings = meter.watch(start / 1e9 + seconds)
            within = sum(team.reports(seconds))
        else:
            within = sum(team.reports())
            readings.append(meter.read())
        tally = tallied(team)
    return result(question, readings, within, tally, ground.conditions)


def result(
    question: Question, readings: list[Reading], within: int, tally: Tally, conditions: dict[str, str]
) -> Result:
    """Return what is kept of a run."""
    asked = f"{question.rate:,g} /s" if question.rate else f"{question.at_once} at once"
    found = new_result(
        "connects", __doc__, f"connects: {question.connections:,} new sessions, {asked}", question, conditions
    )
    used = usage(readings[0], readings[-1])
    came = tally.counts.get("welcomed", 0)
    found.figures = [
        Figure("welcomed per second", round(within / used.seconds), "/s", MORE),
        Figure("welcomed", came),
        Figure("turned away", question.connections - came),
        *latency_figures("welcome", tally.times.get("welcome", {})),
        *latency_figures("sent late", tally.times.get("sent late", {})),
        *share_figures(used),
    ]
    if used.cpu and within:
        found.figures.append(
            Figure("CPU per connect, server", round(used.server / within * 1e6, 1), "us", LESS)
        )
    found.curves = [curve("welcome", tally.times.get("welcome", {}))]
    if len(readings) > 2:
        found.plots = [cpu_plot(readings)]
    found.notes = [testers_line(used)]
    found.notes += [
        f"{count:,} {why}" for why, count in tally.counts.items() if why.startswith("turned away")
    ]
    found.cautions = cautions(used)
    if Histogram(tally.times.get("sent late", {})).percentile(99) > 0.05:
        found.cautions.append(
            "testers were late with more than 1 % of the connections: they could not do more"
        )
    return found
