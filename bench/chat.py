"""Chat: how much conversation do rooms carry before it feels slow?

Everyone sits in their rooms and the rate of lines rises step by step. At each step a line's answer (it is committed) and its
arrival at everyone are timed from the moment at which it was due; the search ends with the first step at which the 99th
percentile of the arrivals passes the limit, lines are lost, or fewer are carried than are said. The plot of latency over
rate is the answer: where it bends, the server is full.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from bench import fanout
from bench.crowd import Crowd
from bench.fanout import Figures, one_span, plans, settle
from bench.ground import Ground
from bench.histogram import Histogram
from bench.result import LESS, MORE, Figure, Plot, Result, curve, latency_figures, new_result
from bench.team import employed
from bench.tongue import Looprooms

_ENOUGH = 0.95
"""The share of what was offered that must be delivered within the span: what is under way at its ends is some of it."""


class Question(msgspec.Struct, kw_only=True):
    """What is asked. Rates are lines a second in each room."""

    members: Annotated[int, Meta(description="People in each room.")] = 100
    rooms: Annotated[int, Meta(description="Looprooms.")] = 10
    authors: Annotated[int, Meta(description="People who speak in each room.")] = 10
    rates: Annotated[str, Meta(description="The steps: lines a second in each room, by commas.")] = (
        "5,10,20,40,80,160"
    )
    limit: Annotated[float, Meta(description="Milliseconds of the 99th percentile that still feel live.")] = (
        100.0
    )
    seconds: Annotated[float, Meta(description="Length of each step.")] = 5.0
    warmup: Annotated[float, Meta(description="Seconds of the same load before it.")] = 1.0
    size: Annotated[int, Meta(description="Characters of a line.")] = 60
    clients: Annotated[
        int, Meta(description="Processes of listeners; the authors have one of their own.")
    ] = 1
    sample: Annotated[int, Meta(description="One in so many listeners has its latencies taken.")] = 10


class Step(msgspec.Struct):
    """One rate, and what came of it."""

    rate: float
    figures: Figures

    def holds(self, limit: float) -> bool:
        """Whether the conversation is still live."""
        figures = self.figures
        carried = figures.deliveries_per_second >= figures.offered_per_second * _ENOUGH
        return not figures.missing and carried and figures.p(99) <= limit


def ask(question: Question, ground: Ground) -> Result:
    """Put the question."""
    rates = [float(rate) for rate in question.rates.split(",")]
    seats = ground.seats(rooms=question.rooms, members=question.members, authors=question.authors)
    as_fanout = fanout.Question(
        members=question.members,
        rooms=question.rooms,
        size=question.size,
        clients=question.clients,
        sample=question.sample,
    )
    tongue = Looprooms(ground.subprotocol)
    made = plans(as_fanout, tongue, ground.addresses, members=seats.listeners, authors=seats.authors)
    steps: list[Step] = []
    with (
        employed(Crowd, made, ground.tester_cores) as team,
        ground.progress.counting("steps", len(rates)) as ready,
    ):
        settled = settle(team, ground.pids)
        for rate in rates:
            figures = one_span(team, ground.pids, settled, rate, question.warmup, question.seconds)
            steps.append(Step(rate, figures))
            ready(len(steps))
            if not steps[-1].holds(question.limit):
                break
    return result(question, steps, ground.conditions)


def result(question: Question, steps: list[Step], conditions: dict[str, str]) -> Result:
    """Return what is kept of a run."""
    found = new_result(
        "chat",
        __doc__,
        f"chat: {question.rooms:,} x {question.members:,} members, {question.rates} lines/s and room",
        question,
        conditions,
    )
    held = [step for step in steps if step.holds(question.limit)]
    best = held[-1] if held else steps[0]
    figures = best.figures
    lines = best.rate * question.rooms
    found.figures = [
        Figure("lines carried", lines if held else 0.0, "/s", MORE),
        Figure("deliveries", figures.deliveries_per_second if held else 0.0, "/s", MORE),
        *latency_figures("arrival", figures.latencies),
        *latency_figures("answer", figures.answers),
        *latency_figures("sent late", figures.late),
        *(
            Figure(f"CPU per delivery, {role}", round(cost, 3), "us", LESS)
            for role, cost in figures.cpu_per_delivery.items()
        ),
        Figure("missing", sum(step.figures.missing for step in steps)),
        Figure("duplicates", sum(step.figures.duplicates for step in steps)),
        Figure("out of order", sum(step.figures.disorder for step in steps)),
    ]
    found.curves = [
        curve(f"arrival at {step.rate * question.rooms:,g} lines/s", step.figures.latencies) for step in steps
    ]
    found.plots = [
        Plot(
            "Latency over load",
            "lines/s in all rooms",
            "ms",
            {
                "arrival p50": _line(question, steps, 50),
                "arrival p99": _line(question, steps, 99),
                "answer p99": [
                    (
                        step.rate * question.rooms,
                        round(Histogram(step.figures.answers).percentile(99) * 1000, 3),
                    )
                    for step in steps
                ],
            },
            log_x=True,
            log_y=True,
            limit=question.limit,
        ),
        Plot(
            "Cost over load",
            "lines/s in all rooms",
            "us of CPU per delivery",
            {
                role: [
                    (step.rate * question.rooms, round(step.figures.cpu_per_delivery[role], 3))
                    for step in steps
                    if role in step.figures.cpu_per_delivery
                ]
                for role in steps[0].figures.cpu_per_delivery
            },
            log_x=True,
        ),
    ]
    if len(held) == len(steps):
        found.notes.append("every step held: the server carries more than was asked")
    else:
        found.notes.append(f"the step of {steps[-1].rate * question.rooms:,g} lines/s did not hold")
    found.notes += fanout.notes(figures)
    found.cautions = fanout.cautions(figures.usage)
    return found


def _line(question: Question, steps: list[Step], share: float) -> list[tuple[float, float]]:
    return [(step.rate * question.rooms, round(step.figures.p(share), 3)) for step in steps]
