"""Overload: what becomes of a server that is asked for twice as much as it can carry?

First the rate of lines rises step by step until less is carried than is said: the most that was carried is the peak. Then twice as
much is said for a while, by people who don't wait for answers. A good server goes on carrying most of its peak, tells
everyone else in words to come again later, loses nothing that it acknowledged, and is itself again soon afterwards.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from bench import fanout
from bench.crowd import Crowd
from bench.fanout import Figures, one_span, plans, settle
from bench.ground import Ground
from bench.result import LESS, MORE, Figure, Result, curve, latency_figures, new_result
from bench.team import employed
from bench.tongue import Looprooms

_CARRIED = 0.95
"""The share of what was offered that must be delivered for a step to be carried."""


class Question(msgspec.Struct, kw_only=True):
    """What is asked. Rates are lines a second in the room."""

    members: Annotated[int, Meta(description="People in the room.")] = 200
    authors: Annotated[int, Meta(description="People who speak; each may have 64 commands under way.")] = 16
    rates: Annotated[str, Meta(description="The steps of the search, by commas.")] = (
        "400,1600,6400,12800,25600"
    )
    seconds: Annotated[float, Meta(description="Length of each step, and of the overload.")] = 4.0
    warmup: Annotated[float, Meta(description="Seconds of the same load before it.")] = 1.0
    size: Annotated[int, Meta(description="Characters of a line.")] = 60
    clients: Annotated[
        int, Meta(description="Processes of listeners; the authors have one of their own.")
    ] = 1
    sample: Annotated[int, Meta(description="One in so many listeners has its latencies taken.")] = 10


def ask(question: Question, ground: Ground) -> Result:
    """Put the question."""
    rates = [float(rate) for rate in question.rates.split(",")]
    seats = ground.seats(rooms=1, members=question.members, authors=question.authors)
    as_fanout = fanout.Question(
        members=question.members, size=question.size, clients=question.clients, sample=question.sample
    )
    made = plans(
        as_fanout,
        Looprooms(ground.subprotocol),
        ground.addresses,
        members=seats.listeners,
        authors=seats.authors,
    )
    with (
        employed(Crowd, made, ground.tester_cores) as team,
        ground.progress.counting("spans", len(rates) + 2) as ready,
    ):
        settled = settle(team, ground.pids)

        def span(rate: float) -> Figures:
            return one_span(team, ground.pids, settled, rate, question.warmup, question.seconds)

        steps: list[tuple[float, Figures]] = []
        for rate in rates:
            steps.append((rate, span(rate)))
            ready(len(steps))
            if steps[-1][1].deliveries_per_second < steps[-1][1].offered_per_second * _CARRIED:
                break
        peak = max(figures.deliveries_per_second for _, figures in steps)
        most = peak / settled.connections
        over = span(2 * most)
        ready(len(rates) + 1)
        after = span(most / 2)
        ready(len(rates) + 2)
    return result(question, steps, over, after, ground.conditions)


def result(
    question: Question,
    steps: list[tuple[float, Figures]],
    over: Figures,
    after: Figures,
    conditions: dict[str, str],
) -> Result:
    """Return what is kept of a run."""
    found = new_result(
        "overload", __doc__, f"overload: {question.members:,} members in a room", question, conditions
    )
    peak = max(figures.deliveries_per_second for _, figures in steps)
    spans = [*(figures for _, figures in steps), over, after]
    acknowledged = over.acknowledged - steps[-1][1].acknowledged  # authors count from their beginning
    refused = {name: count for name, count in over.others.items() if name.startswith("error ")}
    closed = sum(
        count for figures in spans for name, count in figures.others.items() if name.startswith("close ")
    )
    found.figures = [
        Figure("peak", peak, "deliveries/s", MORE),
        Figure("offered in the overload", over.offered_per_second, "deliveries/s"),
        Figure("carried in the overload", over.deliveries_per_second, "deliveries/s", MORE),
        Figure("share of the peak", round(over.deliveries_per_second / peak * 100, 1), "%", MORE),
        Figure("said", over.said),
        Figure("acknowledged", acknowledged),
        Figure("refused in words", sum(refused.values())),
        Figure("no answer", over.said - acknowledged - sum(refused.values()), "", LESS),
        Figure("connections closed", closed, "", LESS),
        *latency_figures("answer in the overload", over.answers),
        *latency_figures("arrival before", steps[0][1].latencies),
        *latency_figures("arrival afterwards", after.latencies),
        # What was refused may have been committed nevertheless, and is then delivered, too.
        Figure("missing", sum(max(0, figures.missing) for figures in spans)),
        Figure("duplicates", sum(figures.duplicates for figures in spans)),
    ]
    found.curves = [
        curve("before", steps[0][1].latencies),
        curve("in the overload", over.latencies),
        curve("afterwards", after.latencies),
    ]
    if refused:
        found.notes.append(
            "refused: " + ", ".join(f"{name[6:]} {count:,}" for name, count in refused.items())
        )
    found.notes += fanout.notes(over)
    found.cautions = fanout.cautions(over.usage)
    return found
