"""Fan-out: how many deliveries a second does one core carry, how late are they, what does each cost, and is any lost?

N members sit in each of M rooms, every one a person of their own, signed in, with presence on; R events a second are said
in each room, and every member must get every one. A `chat` event is durable: committed in Postgres with its offset,
published through Redis, then written to all. A `cue` is passing: published and written, one frame per event.

A delivery is one event received by one connection. Its latency counts from the moment at which the event was due, not
from when it was sent. Deliveries and CPU are taken over the same span, after a warm-up; loss is counted over everything that
was said, for every member, after the last event has had time to arrive.
"""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from typing import Any

import msgspec

from bench.crowd import Outcome, Plan, Said, Span, work
from bench.kernel import Cost, costs
from bench.report import Histogram, latency_row, machine, table
from bench.roomlog import Unexpected
from bench.swarm import Seat

START_SECONDS = 1.0
"""Between the order to speak and the first event, so that every process has heard it."""
PATIENCE_SECONDS = 2.0
"""How long after the last delivery what has not come counts as lost."""
BUSY = 0.9
"""The share of a core from which a tester's process counts as the bottleneck."""
_STEP_SECONDS = 180.0


class Question(msgspec.Struct, kw_only=True):
    """What is asked. `members` are per room and include its authors; `rate` is events per second and room."""

    event: str = "chat"
    members: int = 1000
    rooms: int = 1
    rate: float = 400.0
    seconds: float = 10.0
    warmup: float = 2.0
    authors: int = 32
    """Connections that speak, per room: a connection may have 64 commands under way, so slow answers need more."""
    size: int = 60
    """Characters of a text."""
    subprotocol: str = "looprooms.v1+json"
    clients: int = 1
    """Processes of listeners; the authors have one of their own."""
    sample: int = 20
    """One in so many listeners has its latencies taken."""


class Figures(msgspec.Struct, kw_only=True):
    """The answer. Times of latency are in milliseconds, costs in microseconds and bytes."""

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
    cpu_share: dict[str, float]
    memory_per_connection: float | None
    resident: dict[str, int]
    tester_cpu_share: list[float]
    tester_was_busy: bool
    latency: dict[str, float]
    answer: dict[str, float]
    late: dict[str, float]


class Team:
    """The processes of testers, and the pipe to each."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        context = multiprocessing.get_context("spawn")
        self._members: list[tuple[BaseProcess, Pipe]] = []
        for plan in plans:
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, plan), daemon=True)
            process.start()
            theirs.close()
            self._members.append((process, ours))

    def order(self, step: str, *arguments: Any) -> None:
        """Tell everyone what to do next."""
        for _, pipe in self._members:
            pipe.send((step, arguments))

    def reports(self) -> list[Any]:
        """Wait for everyone's answer to the last order. Raises `Unexpected` when one failed."""
        found = []
        until = time.monotonic() + _STEP_SECONDS
        for process, pipe in self._members:
            while not pipe.poll(0.1):
                if not process.is_alive():
                    raise Unexpected("a process of testers has died")
                if time.monotonic() > until:
                    raise Unexpected("a process of testers does not answer")
            report = pipe.recv()
            if isinstance(report, Unexpected):
                raise report
            found.append(report)
        return found

    def dismiss(self) -> None:
        """End every process."""
        for process, pipe in self._members:
            pipe.close()
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join()


def plans(
    question: Question,
    *,
    host: str,
    port: int,
    members: Sequence[Sequence[Seat]],
    authors: Sequence[Sequence[Seat]],
    cores: set[int] | None,
) -> list[Plan]:
    """Divide the seats of each room among processes: the authors into one, the listeners evenly into the others."""

    def plan(listeners: list[Seat], speakers: list[Seat]) -> Plan:
        return Plan(
            host=host,
            port=port,
            subprotocol=question.subprotocol,
            listeners=listeners,
            authors=speakers,
            cue=question.event == "cue",
            rate=question.rate,
            size=question.size,
            sample=question.sample,
            cores=cores,
        )

    made = [plan([], [seat for room in authors for seat in room])]
    for index in range(question.clients):
        share = [seat for room in members for seat in room[index :: question.clients]]
        if share:
            made.append(plan(share, []))
    return made


def measure(question: Question, team: Team, server: int | None) -> Figures:
    """Put the question to a server; `server` is its process, None when its cost is not to be known."""
    before = costs(server) if server is not None else {}
    team.order("connect")
    bases: dict[str, int] = {}
    for offsets in team.reports():
        for room, offset in offsets.items():
            bases[room] = max(offset, bases.get(room, 0))
    team.order("arm")
    connections = sum(team.reports())
    settled = costs(server) if server is not None else {}

    start = time.monotonic_ns() + int(START_SECONDS * 1e9)
    span = Span(
        start=start,
        measure_from=start + int(question.warmup * 1e9),
        measure_until=start + int((question.warmup + question.seconds) * 1e9),
    )
    team.order("run", span)
    _sleep_until(span.measure_from)
    first = costs(server) if server is not None else {}
    _sleep_until(span.measure_until)
    last = costs(server) if server is not None else {}
    said: dict[str, Said] = {}
    for report in team.reports():
        said.update(report)
    expected = {room: one.acknowledged for room, one in said.items()}
    team.order("finish", expected, bases, PATIENCE_SECONDS)
    outcomes: list[Outcome] = team.reports()

    deliveries = sum(outcome.delivered for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes) / len(outcomes)
    used: dict[str, Cost] = {role: last[role] - first[role] for role in last if role in first}
    wall = question.seconds
    latencies, answers, late = Histogram(), Histogram(), Histogram()
    others: Counter[str] = Counter()
    for outcome in outcomes:
        latencies.update(outcome.latencies)
        answers.update(outcome.answers)
        late.update(outcome.late)
        others.update(outcome.others)
    shares = [round(outcome.cpu / outcome.seconds, 3) for outcome in outcomes]
    memory = None
    if "server" in before:
        memory = round((settled["server"] - before["server"]).resident / connections)
    return Figures(
        deliveries=deliveries,
        seconds=round(seconds, 3),
        deliveries_per_second=round(sum(o.delivered / o.seconds for o in outcomes)),
        offered_per_second=round(question.rate * connections),
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
        cpu_per_delivery={
            role: round(cost.cpu / deliveries * 1e6, 3) for role, cost in used.items() if deliveries
        },
        cpu_share={role: round(cost.cpu / wall, 3) for role, cost in used.items()},
        memory_per_connection=memory,
        resident={role: cost.resident for role, cost in last.items()},
        tester_cpu_share=shares,
        tester_was_busy=max(shares) > BUSY,
        latency=latencies.summary(),
        answer=answers.summary(),
        late=late.summary(),
    )


def described(question: Question, figures: Figures, conditions: dict[str, str]) -> str:
    """Return the figures as a table for people."""
    each = figures.cpu_per_delivery
    share = figures.cpu_share
    rows = [
        ("deliveries", f"{figures.deliveries_per_second:,} /s of {figures.offered_per_second:,} /s offered"),
        ("CPU per delivery", "  ".join(f"{role} {each[role]:.2f} us" for role in each) or "not known"),
        ("share of a core", "  ".join(f"{role} {share[role]:.0%}" for role in share) or "not known"),
        latency_row("latency", figures.latency),
        latency_row("answer", figures.answer),
        latency_row("sent late", figures.late),
        (
            "loss",
            (
                f"{figures.missing:,} missing of {figures.expected:,} at {figures.short_connections:,} connections, "
                f"{figures.duplicates:,} duplicates, {figures.disorder:,} out of order"
            ),
        ),
        ("said", f"{figures.said:,}, acknowledged {figures.acknowledged:,}; pulses {figures.pulses:,}"),
        ("bytes received", f"{figures.bytes / 1e6:,.1f} MB"),
        ("testers", "  ".join(f"{one:.0%}" for one in figures.tester_cpu_share) + " of a core"),
    ]
    if figures.memory_per_connection is not None:
        rows.append(
            ("memory", f"{figures.memory_per_connection / 1024:,.1f} KiB of the server per connection")
        )
    if figures.others:
        rows.append(("also", "  ".join(f"{name}: {count:,}" for name, count in figures.others.items())))
    rows += list(conditions.items())
    if figures.tester_was_busy:
        rows.append(("CAUTION", "a tester used a whole core: the figure is the tester's, not the server's"))
    title = (
        f"{question.event}: {question.rooms} x {question.members:,} members, {question.rate:,g} events/s and room, "
        f"{question.seconds:g} s, {question.subprotocol}"
    )
    return table(title, rows)


def result(question: Question, figures: Figures, conditions: dict[str, str]) -> dict[str, Any]:
    """Return what is kept of a run."""
    return {
        "scenario": "fanout",
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "question": question,
        "figures": figures,
        "conditions": conditions,
        "machine": machine(),
    }


def _sleep_until(moment: int) -> None:
    time.sleep(max(0.0, (moment - time.monotonic_ns()) / 1e9))
