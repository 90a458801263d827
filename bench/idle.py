"""Idle: what does it cost to hold connections on which nothing happens?

People sign in, sit down in a room each, and stay silent; the server pings them now and then. They come in ten portions, and
after each one the memory of the server is read: the slope over connections is the memory of one, without what the server
needs anyhow. Then nothing happens for a while, and the CPU of that while is the price of waiting.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from bench.fanout import cautions, testers_line
from bench.ground import Ground
from bench.meter import Meter, Usage, memory_of_nodes, share_figures, usage
from bench.party import Party, shares
from bench.result import LESS, Figure, Plot, Result, new_result
from bench.team import employed
from bench.tongue import Seat

PORTIONS = 10
_REST_SECONDS = 1.0
"""After a portion, before the memory is read: what was only needed for entering is given back."""


class Question(msgspec.Struct, kw_only=True):
    """What is asked."""

    connections: Annotated[int, Meta(description="Connections.")] = 10_000
    people: Annotated[
        int, Meta(description="Accounts that they belong to, in turn; 0 for one of its own each.")
    ] = 0
    rooms: Annotated[int, Meta(description="Looprooms, one for each connection in turn; 0 for none.")] = 100
    seconds: Annotated[float, Meta(description="How long nothing happens.")] = 30.0
    clients: Annotated[int, Meta(description="Processes of testers.")] = 2


class Portion(msgspec.Struct):
    """So many connections were held with so many bytes of the server's memory."""

    connections: int
    memory: int


def ask(question: Question, ground: Ground) -> Result:
    """Put the question."""
    seats = seats_of(ground, question.connections, question.people, question.rooms)
    portions: list[Portion] = []
    with (
        employed(Party, shares(ground, seats, question.clients), ground.tester_cores) as team,
        ground.progress.counting("connections", len(seats)) as ready,
    ):
        meter = Meter(ground.pids, team.pids)
        portions.append(Portion(0, memory_of_nodes(meter.read())))
        for number in range(1, PORTIONS + 1):
            share = -(-len(seats) // (PORTIONS * len(team.pids)))
            here = sum(team.ask("bring", share if number < PORTIONS else None))
            time.sleep(_REST_SECONDS if len(seats) > PORTIONS * 10 else 0.0)
            portions.append(Portion(here, memory_of_nodes(meter.read())))
            ready(here)
        team.ask("settle")
        with ground.progress.lasting("idle", question.seconds) as tick:
            readings = meter.watch(time.monotonic() + question.seconds, every=question.seconds / 5, heed=tick)
        still_here = sum(tally.here for tally in team.ask("tally"))
    return result(question, portions, usage(readings[0], readings[-1]), still_here, ground.conditions)


def seats_of(ground: Ground, connections: int, people: int, rooms: int) -> list[Seat]:
    """Return seats for so many connections of so many people (0: as many), spread over so many rooms (0: outside)."""
    tokens = ground.people(people or connections)
    slugs = ground.rooms(rooms, tokens[0]) if rooms else [""]
    return [
        Seat(
            tokens[number % len(tokens)],
            slugs[number % len(slugs)],
            (number // len(slugs)) % len(ground.addresses),
        )
        for number in range(connections)
    ]


def slope(portions: Sequence[Portion]) -> float:
    """Return the bytes of one more connection: the line of least squares through all portions but the empty one."""
    held = [portion for portion in portions if portion.connections]
    if len(held) < 2 or held[0].connections == held[-1].connections:
        return 0.0
    mean_x = sum(portion.connections for portion in held) / len(held)
    mean_y = sum(portion.memory for portion in held) / len(held)
    above = sum((portion.connections - mean_x) * (portion.memory - mean_y) for portion in held)
    return above / sum((portion.connections - mean_x) ** 2 for portion in held)


def result(
    question: Question,
    portions: Sequence[Portion],
    used: Usage,
    still_here: int,
    conditions: dict[str, str],
) -> Result:
    """Return what is kept of a run."""
    found = new_result(
        "idle",
        __doc__,
        f"idle: {question.connections:,} connections, {question.seconds:g} s",
        question,
        conditions,
    )
    last = portions[-1]
    found.figures = [
        Figure("connections", last.connections),
        Figure("still there at the end", still_here),
    ]
    if used.cpu:
        found.figures += [
            Figure("memory per connection", round(slope(portions) / 1024, 2), "KiB", LESS),
            Figure("memory of all nodes", round(last.memory / 2**20, 1), "MiB", LESS),
            *share_figures(used),
            Figure(
                "CPU per connection and hour",
                round(used.server / used.seconds / last.connections * 3600e3, 2),
                "ms",
                LESS,
            ),
        ]
        found.plots = [
            Plot(
                "Memory over connections",
                "connections",
                "MiB of all nodes",
                {"resident": [(one.connections, round(one.memory / 2**20, 2)) for one in portions]},
            )
        ]
    found.notes = [testers_line(used)]
    found.cautions = cautions(used)
    if still_here < last.connections:
        found.cautions.append(f"{last.connections - still_here:,} connections did not last")
    return found
