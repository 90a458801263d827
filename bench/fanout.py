"""Fan-out: how many deliveries a second does one core carry, how late are they, what does each cost, and is any lost?

N members sit in each of M rooms, every one a person of their own, signed in, with presence on; R events a second are said
in each room, and every member must get every one. A `chat` event is durable: committed in Postgres with its offset,
published through Redis, then written to all. A `cue` is passing: published and written, one frame per event.
With several nodes the members of each room sit on all of them in turn, and the authors on the first: what the others spend
is the price of passing on what was said elsewhere. (With `apart` each room has a node of its own: the price of saying it there.)

A delivery is one event received by one connection. Its latency counts from the moment at which the event was due, not
from when it was sent. Deliveries and CPU are taken over the same span, after a warm-up; loss is counted over everything that
was said, for every member, after the last event has had time to arrive.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bench.crowd import Crowd, Outcome, Plan, Said, Span
from bench.ground import Ground
from bench.histogram import Histogram
from bench.meter import Meter, Reading, Usage, is_node, memory_of_nodes, share_figures, usage
from bench.result import LESS, MORE, Curve, Figure, Plot, Result, curve, latency_figures, new_result
from bench.team import Team, employed
from bench.tongue import Looprooms, Seat, Tongue

START_SECONDS = 0.5
"""Between the order to speak and the first event, so that every process has heard it."""
PATIENCE_SECONDS = 2.0
"""How long after the last delivery what has not come counts as lost."""

DRAIN_SECONDS = 60.0
"""How long at most one waits for a server that has fallen behind."""


class Question(msgspec.Struct, kw_only=True):
    """What is asked. `members` are per room and include its authors; `rate` is events per second and room."""

    event: Annotated[Literal["chat", "cue"], Meta(description="Durable or passing.")] = "chat"
    members: Annotated[int, Meta(description="People in each room, authors included.")] = 1000
    rooms: Annotated[int, Meta(description="Looprooms.")] = 1
    rate: Annotated[float, Meta(description="Events a second in each room.")] = 400.0
    seconds: Annotated[float, Meta(description="Length of the measured span.")] = 10.0
    warmup: Annotated[float, Meta(description="Seconds of the same load before it.")] = 2.0
    authors: Annotated[
        int, Meta(description="Connections that speak in each room; each may have 64 commands under way.")
    ] = 32
    apart: Annotated[bool, Meta(description="Each room on one node, instead of all rooms on all nodes.")] = (
        False
    )
    size: Annotated[int, Meta(description="Characters of a text.")] = 60
    clients: Annotated[
        int, Meta(description="Processes of listeners; the authors have one of their own.")
    ] = 1
    sample: Annotated[int, Meta(description="One in so many listeners has its latencies taken.")] = 20


class Figures(msgspec.Struct, kw_only=True):
    """The answer, in numbers that others reckon with. CPU per delivery is in microseconds, memory in bytes."""

    deliveries: int
    seconds: float
    deliveries_per_second: float
    offered_per_second: float
    said: int
    acknowledged: int
    expected: int
    received: int
    missing: int
    short_connections: int
    duplicates: int
    disorder: int
    pulses: int
    bytes: int
    others: dict[str, int]
    cpu_per_delivery: dict[str, float]
    usage: Usage
    latencies: dict[int, int]
    answers: dict[int, int]
    late: dict[int, int]
    memory_per_connection: float | None = None
    readings: list[Reading] = []

    def p(self, share: float) -> float:
        """Return a percentile of the latency in milliseconds."""
        return Histogram(self.latencies).percentile(share) * 1000


def ask(question: Question, ground: Ground) -> Result:
    """Put the question."""
    seats = ground.seats(
        rooms=question.rooms,
        members=question.members,
        authors=question.authors,
        by_host=question.event == "cue",
        apart=question.apart,
    )
    tongue = Looprooms(ground.subprotocol, cue=question.event == "cue")
    made = plans(question, tongue, ground.addresses, members=seats.listeners, authors=seats.authors)
    with employed(Crowd, made, ground.tester_cores) as team:
        figures = measure(question, team, ground.pids)
    return result(question, figures, ground.conditions)


def plans(
    question: Question,
    tongue: Tongue,
    addresses: Sequence[tuple[str, int]],
    *,
    members: Sequence[Sequence[Seat]],
    authors: Sequence[Sequence[Seat]],
) -> list[Plan]:
    """Divide the seats of each room among processes: the authors into one, the listeners evenly into the others."""

    def plan(listeners: list[Seat], speakers: list[Seat]) -> Plan:
        return Plan(
            addresses=list(addresses),
            tongue=tongue,
            listeners=listeners,
            authors=speakers,
            size=question.size,
            sample=question.sample,
        )

    made = [plan([], [seat for room in authors for seat in room])]
    for index in range(question.clients):
        share = [seat for room in members for seat in room[index :: question.clients]]
        if share:
            made.append(plan(share, []))
    return made


class Settled(msgspec.Struct):
    """Everyone is in their rooms, and it is quiet."""

    bases: dict[str, int]
    """The last offset of each room."""
    connections: int
    memory_per_connection: float | None


def settle(team: Team, nodes: Sequence[int]) -> Settled:
    """Bring everyone into their rooms."""
    meter = Meter(nodes, team.pids)
    before = meter.read()
    bases: dict[str, int] = {}
    for offsets in team.ask("connect"):
        for room, offset in offsets.items():
            bases[room] = max(offset, bases.get(room, 0))
    connections = sum(team.ask("arm"))
    memory = None
    if nodes:
        memory = round((memory_of_nodes(meter.read()) - memory_of_nodes(before)) / connections)
    return Settled(bases, connections, memory)


def measure(question: Question, team: Team, nodes: Sequence[int]) -> Figures:
    """Put the question to a server; `nodes` are its processes, none when its cost is not to be known."""
    settled = settle(team, nodes)
    figures = one_span(team, nodes, settled, question.rate, question.warmup, question.seconds)
    figures.memory_per_connection = settled.memory_per_connection
    return figures


def one_span(
    team: Team,
    nodes: Sequence[int],
    settled: Settled,
    rate: float,
    warmup: float,
    seconds: float,
    *,
    drain: float = DRAIN_SECONDS,
) -> Figures:
    """Have `rate` events a second said in each room for a while, and count what came of it.

    What is still on its way at the end is waited for at most `drain` seconds.
    """
    meter = Meter(nodes, team.pids)
    start = time.monotonic_ns() + int(START_SECONDS * 1e9)
    span = Span(
        rate=rate,
        start=start,
        measure_from=start + int(warmup * 1e9),
        measure_until=start + int((warmup + seconds) * 1e9),
    )
    team.order("run", span)
    sleep_until(span.measure_from)
    readings = meter.watch(span.measure_until / 1e9)
    said: dict[str, Said] = {}
    for report in team.reports():
        said.update(report)
    expected = {room: one.acknowledged for room, one in said.items()}
    outcomes: list[Outcome] = team.ask("finish", expected, settled.bases, min(PATIENCE_SECONDS, drain), drain)

    used = usage(readings[0], readings[-1])
    deliveries = sum(outcome.delivered for outcome in outcomes)
    latencies, answers, late = Histogram(), Histogram(), Histogram()
    others: Counter[str] = Counter()
    for outcome in outcomes:
        latencies.update(outcome.latencies)
        answers.update(outcome.answers)
        late.update(outcome.late)
        others.update(outcome.others)
    return Figures(
        deliveries=deliveries,
        seconds=round(sum(outcome.seconds for outcome in outcomes) / len(outcomes), 3),
        deliveries_per_second=round(sum(o.delivered / o.seconds for o in outcomes)),
        offered_per_second=round(rate * settled.connections),
        said=sum(one.sent for one in said.values()),
        acknowledged=sum(expected.values()),
        expected=sum(outcome.received + outcome.missing for outcome in outcomes),
        received=sum(outcome.received for outcome in outcomes),
        missing=sum(outcome.missing for outcome in outcomes),
        short_connections=sum(outcome.short for outcome in outcomes),
        duplicates=sum(outcome.duplicates for outcome in outcomes),
        disorder=sum(outcome.disorder for outcome in outcomes),
        pulses=sum(outcome.pulses for outcome in outcomes),
        bytes=sum(outcome.bytes for outcome in outcomes),
        others=dict(others),
        cpu_per_delivery=_cpu_per_delivery(used, deliveries),
        usage=used,
        latencies=dict(latencies.counts),
        answers=dict(answers.counts),
        late=dict(late.counts),
        readings=readings,
    )


def _cpu_per_delivery(used: Usage, deliveries: int) -> dict[str, float]:
    """Return microseconds by role; of several nodes each has made its share of the deliveries."""
    if not deliveries:
        return {}
    nodes = sum(map(is_node, used.cpu))
    return {role: cpu / deliveries * 1e6 * (nodes if is_node(role) else 1) for role, cpu in used.cpu.items()}


def result(question: Question, figures: Figures, conditions: Mapping[str, str]) -> Result:
    """Return what is kept of a run."""
    found = new_result(
        "fanout",
        __doc__,
        f"{question.event}: {question.rooms:,} x {question.members:,} members, {question.rate:,g} events/s and room, "
        f"{question.seconds:g} s",
        question,
        conditions,
    )
    found.figures = [
        Figure("deliveries", figures.deliveries_per_second, "/s", MORE),
        Figure("offered", figures.offered_per_second, "/s"),
        *(
            Figure(f"CPU per delivery, {role}", round(cost, 3), "us", LESS)
            for role, cost in figures.cpu_per_delivery.items()
        ),
        *share_figures(figures.usage),
        *latency_figures("latency", figures.latencies),
        *latency_figures("answer", figures.answers),
        *latency_figures("sent late", figures.late),
        Figure("missing", figures.missing),
        Figure("duplicates", figures.duplicates),
        Figure("out of order", figures.disorder),
        Figure("said", figures.said),
        Figure("acknowledged", figures.acknowledged),
        Figure("bytes per delivery", round(figures.bytes / max(1, figures.received), 1), "B", LESS),
        Figure("bytes received", round(figures.bytes / 1e6, 1), "MB"),
        Figure("pulses", figures.pulses),
    ]
    if figures.memory_per_connection is not None:
        memory = round(figures.memory_per_connection / 1024, 1)
        found.figures.append(Figure("memory per connection", memory, "KiB", LESS))
    found.curves = curves(figures)
    found.plots = [cpu_plot(figures.readings)] if len(figures.readings) > 2 else []
    found.notes = notes(figures)
    found.cautions = cautions(figures.usage)
    return found


def curves(figures: Figures) -> list[Curve]:
    """Return the distributions that were measured."""
    named = {"latency": figures.latencies, "answer": figures.answers}
    return [curve(name, counts) for name, counts in named.items() if counts]


def notes(figures: Figures) -> list[str]:
    """Return what else came, and what the testers used."""
    found = [testers_line(figures.usage)]
    if figures.missing:
        found.append(
            f"{figures.missing:,} missing of {figures.expected:,} at {figures.short_connections:,} connections"
        )
    if figures.others:
        found.append("also " + ", ".join(f"{name}: {count:,}" for name, count in figures.others.items()))
    return found


def testers_line(used: Usage) -> str:
    """Say what the testers used."""
    return "testers used " + ", ".join(f"{share:.0%}" for share in used.testers) + " of a core"


def cautions(used: Usage) -> list[str]:
    """Say so when a tester was the bottleneck."""
    if used.tester_was_busy:
        return ["a tester used a whole core: the figure is the tester's, not the server's"]
    return []


def cpu_plot(readings: Sequence[Reading]) -> Plot:
    """Return how much of a core each role used over time."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for before, after in pairwise(readings):
        used = usage(before, after)
        for role in used.cpu:
            moment = round(after.at - readings[0].at, 2)
            lines.setdefault(role, []).append((moment, round(used.share(role) * 100, 1)))
    return Plot("CPU over time", "seconds", "% of a core", lines)


def sleep_until(moment: int) -> None:
    """Sleep until a moment in monotonic nanoseconds."""
    time.sleep(max(0.0, (moment - time.monotonic_ns()) / 1e9))
