"""The comparison: rounds in which all take their turn, and the table of ratios that comes of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from bench import fanout
from bench import peers as this_package
from bench.crowd import Crowd
from bench.fanout import Figures, Settled, one_span, plans, settle
from bench.ground import CORES, Ground, Site, opened
from bench.histogram import Histogram
from bench.machine import machine_line
from bench.meter import Meter, usage
from bench.peers.catalogue import PEERS, Peer, peer_running
from bench.peers.install import Missing, Workshop
from bench.result import Figure, Plot, Result, Table, as_markdown, new_result
from bench.roomlog import Unexpected
from bench.team import Team, employed
from bench.tongue import Looprooms, Seat, Tongue
from bench.turns import Turns

_IDLE_SECONDS = 1.0
OURS = "LOOPROOMS, cues"
OURS_DURABLE = "LOOPROOMS, durable chat"
_FULL = 0.7
"""A peer that delivers less than this share of what is offered is full: more is not asked of it."""
_DRAIN_SECONDS = 3.0
"""How long what a full peer still holds is waited for."""


class Question(msgspec.Struct, kw_only=True):
    """What is asked."""

    members: Annotated[int, Meta(description="People in each room, authors included.")] = 1000
    rooms: Annotated[
        int, Meta(description="Rooms; with more than one only those are asked that know rooms.")
    ] = 1
    rates: Annotated[str, Meta(description="Events a second in each room, by commas, rising.")] = (
        "50,400,2000"
    )
    seconds: Annotated[float, Meta(description="Length of each measured span.")] = 3.0
    warmup: Annotated[float, Meta(description="Seconds of the same load before it.")] = 1.0
    authors: Annotated[int, Meta(description="Connections that speak in each room.")] = 16
    rounds: Annotated[int, Meta(description="Rounds; each figure is the median of them.")] = 3
    size: Annotated[int, Meta(description="Characters of a text.")] = 60
    ours: Annotated[bool, Meta(description="Whether ours are among them.")] = True
    only: Annotated[
        str, Meta(description="Names of peers, by commas; a part of each is enough. Empty: all.")
    ] = ""


class Span(msgspec.Struct, frozen=True):
    """What one peer did at one rate in one round. CPU in microseconds per delivery, latency in milliseconds."""

    deliveries: float
    cpu: float
    p50: float
    p99: float
    full: bool
    busy: bool
    """Whether a tester was the bottleneck."""


class Record(msgspec.Struct):
    """All spans of one peer, by rate."""

    spans: dict[float, list[Span]] = {}
    idle: list[float] = []
    """Shares of a core, one a round, that it used while all were there and nothing was said."""
    missing: str = ""
    """Why it was not measured."""

    def median(self, rate: float, field: str) -> float | None:
        """Return the median over the rounds; None where it was not measured."""
        found = [getattr(span, field) for span in self.spans.get(rate, [])]
        return statistics.median(found) if found else None

    def most(self) -> float:
        """Return the most deliveries a second that it made, at whatever rate."""
        return max((self.median(rate, "deliveries") or 0.0 for rate in self.spans), default=0.0)


def ask(question: Question, site: Site, turns: Turns) -> Result:
    """Put the question to all. Each turn is one of `turns`, so that others can wait for it."""
    rates = [float(rate) for rate in question.rates.split(",")]
    workshop = Workshop(site.data / "peers")
    chosen = [
        peer
        for peer in PEERS
        if _wanted(peer.name, question.only) and (peer.knows_rooms or question.rooms == 1)
    ]
    by_name = {peer.name: peer for peer in chosen}
    records = {name: Record() for name in [*([OURS, OURS_DURABLE] if question.ours else []), *by_name]}
    for one in chosen:
        try:
            one.command(workshop)
        except Missing as reason:
            records[one.name].missing = str(reason)
    with opened(site) as ground, ground.progress.counting("turns", question.rounds * len(records)) as ready:
        if question.ours:
            ground.people(question.members)
        done = 0
        for _ in range(question.rounds):
            for name, record in records.items():
                peer = by_name.get(name)
                if not record.missing:
                    try:
                        with turns.taken():
                            _turn(question, rates, ground, workshop, name, peer, record)
                    except (Missing, Unexpected) as reason:
                        record.missing = str(reason)
                done += 1
                ready(done)
        conditions = {**ground.conditions, "machine": machine_line()}
    return result(question, rates, records, conditions)


def _wanted(name: str, only: str) -> bool:
    return not only or any(part.strip().lower() in name.lower() for part in only.split(","))


def _turn(
    question: Question,
    rates: Sequence[float],
    ground: Ground,
    workshop: Workshop,
    name: str,
    peer: Peer | None,
    record: Record,
) -> None:
    """Have one of them measured at all rates, until it is full."""
    if peer is None:
        seats = ground.seats(
            rooms=question.rooms, members=question.members, authors=question.authors, by_host=name == OURS
        )
        tongue: Tongue = Looprooms(ground.subprotocol, cue=name == OURS)
        addresses, nodes = ground.addresses, ground.pids
        _rates(question, rates, tongue, addresses, seats.listeners, seats.authors, nodes, ground, record)
        return
    with peer_running(peer, workshop, CORES["server"] if ground.tester_cores else None) as (port, pid):
        seats_in = [Seat("", f"room-{number}") for number in range(question.rooms)]
        listeners = [[seat] * (question.members - question.authors) for seat in seats_in]
        authors = [[seat] * question.authors for seat in seats_in]
        _rates(question, rates, peer.tongue, [("127.0.0.1", port)], listeners, authors, [pid], ground, record)


def _rates(
    question: Question,
    rates: Sequence[float],
    tongue: Tongue,
    addresses: Sequence[tuple[str, int]],
    listeners: Sequence[Sequence[Seat]],
    authors: Sequence[Sequence[Seat]],
    nodes: Sequence[int],
    ground: Ground,
    record: Record,
) -> None:
    as_fanout = fanout.Question(members=question.members, size=question.size, clients=1)
    made = plans(as_fanout, tongue, addresses, members=listeners, authors=authors)
    with employed(Crowd, made, ground.tester_cores) as team:
        settled = settle(team, nodes)
        quiet = Meter(nodes, team.pids).watch(time.monotonic() + _IDLE_SECONDS)
        record.idle.append(usage(quiet[0], quiet[-1]).server / _IDLE_SECONDS)
        for rate in rates:
            span = _span(question, team, nodes, settled, rate)
            record.spans.setdefault(rate, []).append(span)
            if span.full:
                return


def _span(question: Question, team: Team, nodes: Sequence[int], settled: Settled, rate: float) -> Span:
    figures: Figures = one_span(
        team, nodes, settled, rate, question.warmup, question.seconds, drain=_DRAIN_SECONDS
    )
    latency = Histogram(figures.latencies)
    return Span(
        deliveries=figures.deliveries_per_second,
        cpu=figures.cpu_per_delivery.get("server", 0.0),
        p50=latency.percentile(50) * 1000,
        p99=latency.percentile(99) * 1000,
        full=figures.deliveries_per_second < figures.offered_per_second * _FULL or figures.missing > 0,
        busy=figures.usage.tester_was_busy,
    )


def result(
    question: Question, rates: Sequence[float], records: dict[str, Record], conditions: dict[str, str]
) -> Result:
    """Return what is kept of the comparison."""
    found = new_result(
        "peers",
        this_package.__doc__,
        f"peers: {question.rooms:,} x {question.members:,} people, {question.rates} events/s, {question.rounds} rounds",
        question,
        conditions,
    )
    measured = {name: record for name, record in records.items() if record.spans}
    found.tables = [table(rates, records), ratios(rates, measured)]
    for name, record in measured.items():
        found.figures.append(Figure(f"most deliveries, {name}", round(record.most()), "/s"))
        for rate in rates:
            cpu, p99 = record.median(rate, "cpu"), record.median(rate, "p99")
            if cpu is not None and p99 is not None:
                found.figures.append(Figure(f"CPU per delivery at {rate:g} /s, {name}", round(cpu, 3), "us"))
                found.figures.append(Figure(f"p99 at {rate:g} /s, {name}", round(p99, 3), "ms"))
    most = dict(sorted(((name, record.most()) for name, record in measured.items()), key=lambda one: -one[1]))
    found.plots.append(
        Plot(
            "Most deliveries a second on one core",
            "",
            "/s",
            {name: [(0, value)] for name, value in most.items()},
            bars=True,
        )
    )
    for rate in rates:
        costs = {name: record.median(rate, "cpu") for name, record in measured.items()}
        lines = {
            name: [(0.0, round(cost, 3))]
            for name, cost in sorted(costs.items(), key=lambda one: one[1] or 0.0)
            if cost is not None
        }
        found.plots.append(Plot(f"CPU per delivery at {rate:g} events/s", "", "us", lines, bars=True))
    found.notes = [
        f"{name} was not measured: {record.missing}" for name, record in records.items() if record.missing
    ]
    if any(span.busy for record in measured.values() for spans in record.spans.values() for span in spans):
        busy = [
            f"{name} at {rate:g} /s"
            for name, record in measured.items()
            for rate, spans in record.spans.items()
            if any(span.busy for span in spans)
        ]
        found.cautions = [
            "a tester used a whole core, so the peer may do better than shown: " + ", ".join(busy)
        ]
    return found


def table(rates: Sequence[float], records: dict[str, Record]) -> Table:
    """Return the figures, a row for each of them."""
    columns = ["", "most deliveries/s", "idle"]
    for rate in rates:
        columns += [f"CPU at {rate:g}/s", f"p99 at {rate:g}/s"]
    rows = []
    for name, record in records.items():
        if not record.spans:
            rows.append([name, "not measured", *[""] * (len(columns) - 2)])
            continue
        row = [name, f"{record.most():,.0f}", f"{statistics.median(record.idle):.1%}"]
        for rate in rates:
            cpu, p99 = record.median(rate, "cpu"), record.median(rate, "p99")
            row += (
                ["full", "full"]
                if cpu is None or p99 is None
                else [f"{cpu:.2f} us", f"{p99:,.1f} ms" if p99 else "nothing"]
            )
        rows.append(row)
    note = (
        "CPU is of the server's process, per event received by one connection; idle is its share of a core when all are there "
        "and nothing is said, which is part of the CPU of slow rates; all figures are medians of the rounds."
    )
    return Table("On one core", columns, rows, note)


def ratios(rates: Sequence[float], measured: dict[str, Record]) -> Table:
    """Return how many times as much ours delivers, and costs, as each of the others."""
    ours = measured.get(OURS)
    columns = ["compared with", "deliveries/s", *(f"CPU at {rate:g}/s" for rate in rates)]
    rows = []
    for name, record in measured.items() if ours is not None else ():
        if name == OURS or ours is None:
            continue
        row = [name, f"{ours.most() / record.most():.2f} x" if record.most() else "-"]
        for rate in rates:
            mine, theirs = ours.median(rate, "cpu"), record.median(rate, "cpu")
            row.append(f"{mine / theirs:.2f} x" if mine is not None and theirs else "-")
        rows.append(row)
    return Table(f"{OURS}, as a multiple", columns, rows, "Of deliveries more is better, of CPU less.")


def markdown(found: Result) -> str:
    """Return the tables as they stand in the README, with the command and the date."""
    parts = [f"`{found.command}`, {found.at[:10]}, {found.conditions['machine']}.", ""]
    parts += [as_markdown(one) for one in found.tables]
    parts += [f"- {note}" for note in found.notes]
    return "\n".join(parts).rstrip() + "\n"
