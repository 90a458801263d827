"""What things cost, taken from kept results: the numbers that a plan reckons with.

A line and a delivery are told apart by two runs of `fanout` with rooms of different size: in a small room the line itself is
most of the cost, in a large one the deliveries are. Where a run is missing, the command that makes it is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from bench.result import Result
from bench.roomlog import Unexpected

RUNS: Mapping[str, str] = {
    "small room": "fanout --pin --members 10 --rooms 20 --rate 20 --authors 2",
    "large room": "fanout --pin --members 1000 --rate 100",
    "idle": "idle --pin",
    "connects": "connects --pin",
    "storm": "storm --pin",
    "reactions": "reactions --pin --rate 5000",
}
"""The runs that a plan is made from, and how each is made."""


class Spent(msgspec.Struct):
    """CPU of a node, of Postgres and of Redis, in microseconds for one thing."""

    node: float = 0.0
    postgres: float = 0.0
    redis: float = 0.0


class Costs(msgspec.Struct, kw_only=True):
    """What one of each costs. Memory in bytes, waiting in microseconds of CPU per connection and second."""

    line: Spent
    delivery: Spent
    reaction: Spent
    connect: Spent
    resume: Spent
    waiting: float
    memory: float
    line_bytes: float
    """Of a line as one receives it."""
    source: dict[str, str] = {}
    """Which run each comes from."""


def costs_from(results: Mapping[str, Result]) -> Costs:
    """Return the costs that results (by their names) tell. Raises `Unexpected` when one is missing."""
    rooms = sorted(
        (
            (_members(result), name)
            for name, result in results.items()
            if result.scenario == "fanout" and result.question.get("event") == "chat" and _has_cost(result)
        )
    )
    found = (
        {"small room": rooms[0][1], "large room": rooms[-1][1]}
        if len({members for members, _ in rooms}) > 1
        else {}
    )
    for name, result in results.items():
        if result.scenario in RUNS:
            found[result.scenario] = name
    missing = [run for run in RUNS if run not in found]
    if missing:
        commands = "; ".join(f"python -m bench {RUNS[run]} --json FILE" for run in missing)
        raise Unexpected(f"a plan needs more results ({', '.join(missing)}): {commands}")
    runs = {run: results[name] for run, name in found.items()}
    line, delivery = apart(runs["small room"], runs["large room"])
    reactions, idle = runs["reactions"], runs["idle"]
    return Costs(
        line=line,
        delivery=delivery,
        reaction=Spent(
            reactions.value("CPU per reaction, server"),
            _or_nothing(reactions, "CPU per reaction, postgres"),
            _or_nothing(reactions, "CPU per reaction, valkey"),
        ),
        connect=Spent(node=runs["connects"].value("CPU per connect, server")),
        resume=Spent(node=runs["storm"].value("CPU per return, server")),
        waiting=idle.value("CPU per connection and hour") * 1000 / 3600,
        memory=idle.value("memory per connection") * 1024,
        line_bytes=runs["large room"].value("bytes per delivery"),
        source=found,
    )


def apart(small: Result, large: Result) -> tuple[Spent, Spent]:
    """Return what a line and what a delivery costs: two equations with two unknowns for each role."""
    lines, deliveries = Spent(), Spent()
    for field, role in (("node", "server"), ("postgres", "postgres"), ("redis", "valkey")):
        few, many = _members(small), _members(large)
        # In each run: what one line costs with all its deliveries.
        cost_small = small.value(f"CPU per delivery, {role}") * few
        cost_large = large.value(f"CPU per delivery, {role}") * many
        each = max(0.0, (cost_large - cost_small) / (many - few))
        setattr(deliveries, field, each)
        setattr(lines, field, max(0.0, cost_small - each * few))
    return lines, deliveries


def _members(result: Result) -> int:
    return int(result.question.get("members", 0))


def _has_cost(result: Result) -> bool:
    return any(figure.name == "CPU per delivery, server" for figure in result.figures)


def _or_nothing(result: Result, name: str) -> float:
    return next((figure.value for figure in result.figures if figure.name == name), 0.0)


def as_rows(costs: Costs) -> Sequence[Sequence[str]]:
    """Return the costs as rows of a table: what, of which role, and the run it comes from."""
    rows = []
    for name, spent, run in (
        ("a line, committed and published", costs.line, "small room"),
        ("a delivery", costs.delivery, "large room"),
        ("a reaction", costs.reaction, "reactions"),
        ("a new session", costs.connect, "connects"),
        ("a session that comes back", costs.resume, "storm"),
    ):
        cells = [f"{spent.node:,.2f}", f"{spent.postgres:,.2f}", f"{spent.redis:,.2f}"]
        rows.append([name, *cells, costs.source.get(run, "")])
    idle = costs.source.get("idle", "")
    rows.append(["a connection, waiting, per second", f"{costs.waiting:,.2f}", "0.00", "0.00", idle])
    return rows
