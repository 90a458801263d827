"""Capacity: how much of everything do ten thousand, a hundred thousand and a million connected people need?

Measured costs (see `bench.costs`) times what people do, with room to spare: nodes, Redis, Postgres and bandwidth for each
number of people. What people do is assumed, and every assumption is a row of a table and an option of the command. Then the
plan is put to the test: a simulation, step by step and from a seed, in which live rooms have a burst and the busiest node is
lost, says whether the queues stay short and everyone is back in time. A plan that fails gets more nodes and another test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, get_type_hints

import msgspec
from msgspec import Meta

from bench.costs import Costs, as_rows
from bench.machine import machine_line
from bench.result import Figure, Plot, Result, Table, new_result
from bench.simulation import Outcome, Trial, simulate

MOST_NODES = 100_000
"""Past this there is no plan: each further node costs more than it brings."""
_TRIALS = 12


class Question(msgspec.Struct, kw_only=True):
    """What is assumed."""

    people: Annotated[str, Meta(description="Connected people, by commas.")] = "10000,100000,1000000"
    live_share: Annotated[float, Meta(description="Share of people who are in a live room.")] = 0.2
    live_room: Annotated[int, Meta(description="People in a live room.")] = 1000
    small_room: Annotated[int, Meta(description="People in any other room.")] = 30
    lines_live: Annotated[float, Meta(description="Lines a minute and person in a live room.")] = 0.1
    lines_small: Annotated[float, Meta(description="Lines a minute and person in a small room.")] = 0.5
    reactions: Annotated[float, Meta(description="Reactions a minute and person.")] = 2.0
    pulse_bytes: Annotated[int, Meta(description="Bytes of a pulse.")] = 300
    pulses_live: Annotated[float, Meta(description="Pulses a second in a live room.")] = 20.0
    connects: Annotated[float, Meta(description="New sessions an hour and person.")] = 3.0
    resumes: Annotated[float, Meta(description="Times an hour that a person's network breaks.")] = 6.0
    use: Annotated[float, Meta(description="Share of a core that a node may use in calm times.")] = 0.4
    cores: Annotated[int, Meta(description="Cores of a machine; a node has one.")] = 8
    memory: Annotated[float, Meta(description="GiB of memory that a node may use.")] = 2.0
    spread: Annotated[
        int, Meta(description="Nodes over which a small room's people are spread; 0: over all, at random.")
    ] = 2
    live_spread: Annotated[int, Meta(description="The same of a live room.")] = 8
    rows: Annotated[float, Meta(description="Rows a second that one Postgres commits.")] = 50_000.0
    row_bytes: Annotated[int, Meta(description="Bytes that a stored line takes, with its indexes.")] = 400
    burst: Annotated[float, Meta(description="How many times as much live rooms do in a burst.")] = 3.0
    seed: Annotated[int, Meta(description="Of the simulation.")] = 1


class Load(msgspec.Struct, kw_only=True):
    """What so many people do, per second."""

    people: int
    live_people: float
    lines: float
    live_lines: float
    line_deliveries: float
    live_deliveries: float
    pulse_deliveries: float
    reactions: float
    live_reactions: float
    connects: float
    resumes: float
    copies: float
    """Publications that nodes get from Redis."""


class Plan(msgspec.Struct, kw_only=True):
    """What so many people need."""

    load: Load
    nodes: int
    """One of them to spare."""
    machines: int
    node_share: float
    """Share of a core that each node uses in calm times."""
    node_memory: float
    """GiB of each node."""
    redis: int
    redis_share: float
    """Cores that Redis uses in all."""
    postgres: int
    postgres_cores: float
    rows: float
    growth: float
    """GB a day."""
    bandwidth: float
    """Gbit/s, out, in all."""


def load_of(question: Question, people: int, nodes: int) -> Load:
    """Return what so many people do on so many nodes."""
    live = people * question.live_share
    small = people - live
    live_lines = live * question.lines_live / 60
    small_lines = small * question.lines_small / 60
    reactions = people * question.reactions / 60
    live_room = min(question.live_room, max(1.0, live))
    small_nodes = _nodes_of(nodes, question.small_room, question.spread)
    live_nodes = _nodes_of(nodes, live_room, question.live_spread)
    # A pulse is one publication of a room for all reactions of a commit; counted as one per reaction in small rooms.
    small_reactions = small * question.reactions / 60
    live_pulses = live / live_room * question.pulses_live
    return Load(
        people=people,
        live_people=live,
        lines=live_lines + small_lines,
        live_lines=live_lines,
        line_deliveries=live_lines * live_room + small_lines * question.small_room,
        live_deliveries=live_lines * live_room,
        pulse_deliveries=live * question.pulses_live + small_reactions * question.small_room,
        reactions=reactions,
        live_reactions=live * question.reactions / 60,
        connects=people * question.connects / 3600,
        resumes=people * question.resumes / 3600,
        copies=(live_lines + live_pulses) * live_nodes + (small_lines + small_reactions) * small_nodes,
    )


def _nodes_of(nodes: int, members: float, spread: int) -> float:
    """Return on how many nodes the people of a room are: on `spread` of them, or wherever chance has put each."""
    if spread:
        return min(nodes, spread, members)
    return float(nodes * (1 - (1 - 1 / nodes) ** members))


def cpu_of_nodes(costs: Costs, load: Load, nodes: int) -> float:
    """Return the seconds of CPU a second that all nodes need together."""
    passing = max(0.0, load.copies - load.lines)  # the copy of the one who said it is part of the line's cost
    return (
        load.lines * costs.line.node
        + passing * costs.line.node / 2
        + (load.line_deliveries + load.pulse_deliveries) * costs.delivery.node
        + load.reactions * costs.reaction.node
        + load.connects * costs.connect.node
        + load.resumes * costs.resume.node
        + load.people * costs.waiting
        + nodes * 1000  # a node's own housekeeping, 0.1 % of a core
    ) / 1e6


def plan_for(question: Question, costs: Costs, people: int, use: float) -> Plan:
    """Return what so many people need: the fewest nodes that use at most `use` of a core, and one to spare."""
    nodes = 1
    while nodes < MOST_NODES:
        load = load_of(question, people, nodes)
        cpu = cpu_of_nodes(costs, load, nodes)
        memory = people * costs.memory / nodes / 2**30
        if cpu / nodes <= use and memory <= question.memory:
            break
        nodes = max(nodes + 1, math.ceil(nodes * 1.02))
    nodes += 1
    load = load_of(question, people, nodes)
    redis = (
        load.lines * costs.line.redis
        + load.copies * costs.line.redis / 2
        + load.reactions * costs.reaction.redis
    ) / 1e6
    postgres = (load.lines * costs.line.postgres + load.reactions * costs.reaction.postgres) / 1e6
    rows = load.lines + load.reactions
    out = load.line_deliveries * costs.line_bytes + load.pulse_deliveries * question.pulse_bytes
    return Plan(
        load=load,
        nodes=nodes,
        machines=math.ceil(nodes / question.cores),
        node_share=cpu_of_nodes(costs, load, nodes) / nodes,
        node_memory=people * costs.memory / nodes / 2**30,
        redis=max(1, math.ceil(redis / question.use)),
        redis_share=redis,
        postgres=max(1, math.ceil(rows / question.rows)),
        postgres_cores=postgres,
        rows=rows,
        growth=load.lines * question.row_bytes * 86400 / 1e9,
        bandwidth=out * 8 / 1e9,
    )


def ask(question: Question, costs: Costs) -> Result:
    """Make the plans, and put each to the test until it holds."""
    tested = [proved(question, costs, int(people)) for people in question.people.split(",")]
    apart = msgspec.structs.replace(question, spread=0, live_spread=0)
    spread = [plan_for(apart, costs, plan.load.people, question.use) for plan, _ in tested]
    return result(question, costs, tested, spread)


def proved(question: Question, costs: Costs, people: int) -> tuple[Plan, Outcome]:
    """Return a plan that holds, or the last one that was tried."""
    use = question.use
    plan = plan_for(question, costs, people, use)
    outcome = simulate(_trial(question, costs, plan))
    for _ in range(_TRIALS):
        if outcome.holds:
            break
        use *= 0.9
        plan = plan_for(question, costs, people, use)
        outcome = simulate(_trial(question, costs, plan))
    return plan, outcome


def _trial(question: Question, costs: Costs, plan: Plan) -> Trial:
    """Return what the simulation is to know of a plan."""
    load = plan.load
    live = (
        load.live_deliveries * costs.delivery.node
        + load.live_people * question.pulses_live * costs.delivery.node
        + load.live_lines * costs.line.node
        + load.live_reactions * costs.reaction.node
    ) / 1e6
    return Trial(
        nodes=plan.nodes,
        people=load.people,
        calm=max(0.0, plan.node_share * plan.nodes - live),
        live=live,
        live_rooms=max(1, round(load.live_people / question.live_room)),
        live_spread=question.live_spread,
        burst=question.burst,
        resume=costs.resume.node / 1e6,
        seed=question.seed,
    )


def result(
    question: Question, costs: Costs, tested: Sequence[tuple[Plan, Outcome]], spread: Sequence[Plan]
) -> Result:
    """Return what is kept. `spread` are the plans if rooms were not kept together."""
    plans, outcomes = [plan for plan, _ in tested], [outcome for _, outcome in tested]
    shown = ", ".join(f"{plan.load.people:,}" for plan in plans)
    found = new_result(
        "capacity", __doc__, f"capacity: {shown} connected people", question, {"machine": machine_line()}
    )
    for plan, outcome in zip(plans, outcomes, strict=True):
        name = f"{plan.load.people:,} people"
        found.figures += [
            Figure(f"nodes, {name}", plan.nodes),
            Figure(f"worst delay in a burst, {name}", round(outcome.burst_delay * 1000, 1), "ms", "less"),
            Figure(f"worst delay after a loss, {name}", round(outcome.loss_delay * 1000, 1), "ms", "less"),
            Figure(f"everyone back after a loss, {name}", round(outcome.back, 1), "s", "less"),
        ]
        if not outcome.holds:
            found.cautions.append(f"the plan for {name} does not hold: {outcome.why}")
    found.tables = [_plan_table(plans, outcomes), _assumptions(question), _costs_table(costs)]
    found.notes = [
        f"with the people of a room on whatever node: {apart.nodes:,} nodes for {apart.load.people:,} people, not {plan.nodes:,}"
        if apart.nodes < MOST_NODES
        else f"with the people of a room on whatever node no number of nodes carries {apart.load.people:,} people"
        for plan, apart in zip(plans, spread, strict=True)
    ]
    found.plots = [
        Plot(
            "The busiest node, through a burst and a loss",
            "seconds",
            "% of a core",
            {
                f"{plan.load.people:,} people": outcome.busiest
                for plan, outcome in zip(plans, outcomes, strict=True)
            },
            limit=100.0,
        ),
        Plot(
            "How late the slowest node is",
            "seconds",
            "ms",
            {
                f"{plan.load.people:,} people": outcome.delays
                for plan, outcome in zip(plans, outcomes, strict=True)
            },
        ),
    ]
    return found


def _plan_table(plans: Sequence[Plan], outcomes: Sequence[Outcome]) -> Table:
    rows: list[tuple[str, list[str]]] = [
        ("lines said", [f"{plan.load.lines:,.0f} /s" for plan in plans]),
        ("reactions", [f"{plan.load.reactions:,.0f} /s" for plan in plans]),
        ("lines delivered", [f"{plan.load.line_deliveries:,.0f} /s" for plan in plans]),
        ("pulses delivered", [f"{plan.load.pulse_deliveries:,.0f} /s" for plan in plans]),
        ("new sessions", [f"{plan.load.connects:,.0f} /s" for plan in plans]),
        ("sessions that come back", [f"{plan.load.resumes:,.0f} /s" for plan in plans]),
        ("nodes, one to spare", [f"{plan.nodes:,}" for plan in plans]),
        ("machines for them", [f"{plan.machines:,}" for plan in plans]),
        ("CPU of a node", [f"{plan.node_share:.0%}" for plan in plans]),
        ("memory of a node", [f"{plan.node_memory:,.2f} GiB" for plan in plans]),
        ("publications to nodes", [f"{plan.load.copies:,.0f} /s" for plan in plans]),
        ("Redis shards", [f"{plan.redis:,} ({plan.redis_share:,.2f} cores)" for plan in plans]),
        ("rows committed", [f"{plan.rows:,.0f} /s" for plan in plans]),
        ("Postgres primaries", [f"{plan.postgres:,} ({plan.postgres_cores:,.2f} cores)" for plan in plans]),
        ("chat history grows by", [f"{plan.growth:,.1f} GB/day" for plan in plans]),
        ("bandwidth out", [f"{plan.bandwidth:,.2f} Gbit/s" for plan in plans]),
        ("delay in a burst", [f"{outcome.burst_delay * 1000:,.0f} ms" for outcome in outcomes]),
        ("delay after a loss", [f"{outcome.loss_delay * 1000:,.0f} ms" for outcome in outcomes]),
        ("everyone back", [f"{outcome.back:,.1f} s" for outcome in outcomes]),
        ("the plan", ["holds" if outcome.holds else "does not hold" for outcome in outcomes]),
    ]
    return Table(
        "The plan",
        ["", *(f"{plan.load.people:,} people" for plan in plans)],
        [[name, *cells] for name, cells in rows],
    )


def _assumptions(question: Question) -> Table:
    hints = get_type_hints(Question, include_extras=True)
    rows = [
        [
            name,
            f"{getattr(question, name):,}"
            if not isinstance(getattr(question, name), str)
            else getattr(question, name),
            hint.__metadata__[0].description,
        ]
        for name, hint in hints.items()
    ]
    return Table("What is assumed", ["option", "value", "meaning"], rows)


def _costs_table(costs: Costs) -> Table:
    return Table(
        "What was measured, in microseconds of CPU",
        ["", "node", "Postgres", "Redis", "from"],
        [list(row) for row in as_rows(costs)],
        f"A connection weighs {costs.memory / 1024:,.1f} KiB, a line {costs.line_bytes:,.0f} bytes on the wire.",
    )
