"""The bars that the server is measured by, and whether it meets them: reckoned from kept results alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from bench.peers.compare import OURS, OURS_DURABLE
from bench.result import Result, Table
from bench.roomlog import Unexpected

FLOOR: Final = "C, only sends (the floor)"
UWS: Final = "uWebSockets (C++), socketify"
SOCKET_IO: Final = "Socket.IO on Node"

Results = Mapping[str, Result]


class Verdict(msgspec.Struct, frozen=True):
    """One bar: what was measured, and whether it holds; None when it was not measured."""

    question: str
    bar: str
    measured: str
    holds: bool | None


class Bar(msgspec.Struct, frozen=True):
    """What is promised of one value. `value` takes it from results, or raises `Unexpected` when they lack it."""

    question: str
    bar: str
    value: Callable[[Results], float]
    unit: str
    most: float | None = None
    least: float | None = None

    def judge(self, results: Results) -> Verdict:
        """Say whether it holds."""
        try:
            value = self.value(results)
        except (KeyError, Unexpected):
            return Verdict(self.question, self.bar, "not measured", None)
        digits = ",.0f" if abs(value) >= 100 else ",.2f"
        holds = (self.most is None or value <= self.most) and (self.least is None or value >= self.least)
        return Verdict(self.question, self.bar, f"{value:{digits}} {self.unit}".strip(), holds)


def _figure(run: str, name: str) -> Callable[[Results], float]:
    return lambda results: results[run].value(name)


def _ratio(run: str, name: str, other_run: str, other: str) -> Callable[[Results], float]:
    def value(results: Results) -> float:
        divisor = results[other_run].value(other)
        if not divisor:
            raise Unexpected(f"{other} is zero")
        return results[run].value(name) / divisor

    return value


def _none_of(run: str, *names: str) -> Callable[[Results], float]:
    return lambda results: sum(results[run].value(name) for name in names)


def _unanswered(results: Results) -> float:
    return results["reactions"].value("sent") - results["reactions"].value("acknowledged")


_EPHEMERAL = "passing events, 1,000 in a room"
_CHAT = "durable chat, 1,000 in a room"
_NINE = "one line to 9,000, 5 a second"
_ROOMS = "100 rooms of 100, 20 lines/s each"
_REACT = "reactions, 1,000 people, 20,000/s"
_IDLE = "10,000 idle connections, signed in, in a room"
_CONNECT = "new signed-in connections"
_STORM = "5,000 come back at once, two workers"
_HTTP = "HTTP, 1,000 requests/s mixed, two workers"
_NODES = "across two nodes, 1,000 on each, 400 lines/s"

BARS: Final = (
    Bar(
        _EPHEMERAL, "deliveries/s at least uWebSockets'",
        _ratio("peers", f"most deliveries, {OURS}", "peers", f"most deliveries, {UWS}"), "x", least=0.995,
    ),
    Bar(
        _EPHEMERAL, "at 400/s at most 1.25 x its CPU",
        _ratio("peers", f"CPU per delivery at 400 /s, {OURS}", "peers", f"CPU per delivery at 400 /s, {UWS}"),
        "x", most=1.25,
    ),
    Bar(
        _EPHEMERAL, "at 2,000/s at most 1.25 x its CPU",
        _ratio("peers", f"CPU per delivery at 2000 /s, {OURS}", "peers", f"CPU per delivery at 2000 /s, {UWS}"),
        "x", most=1.25,
    ),
    Bar(_CHAT, "at 400 lines/s p99 below 100 ms", _figure("chat-400", "latency p99"), "ms", most=100),
    Bar(
        _CHAT, "at saturation 10 x the deliveries of Socket.IO",
        _ratio("peers", f"most deliveries, {OURS_DURABLE}", "peers", f"most deliveries, {SOCKET_IO}"),
        "x", least=10,
    ),
    Bar(
        _NINE, "at most 1.25 x the C floor's CPU",
        _ratio("line-to-9000", "CPU per delivery, server", "peers-9000", f"CPU per delivery at 5 /s, {FLOOR}"),
        "x", most=1.25,
    ),
    Bar(_NINE, "p99 below 150 ms on one core", _figure("line-to-9000", "latency p99"), "ms", most=150),
    Bar(_NINE, "p99 below 100 ms on two workers", _figure("line-to-9000-workers", "latency p99"), "ms", most=100),
    Bar(
        _ROOMS, "5 x the deliveries of Socket.IO",
        _ratio("peers-rooms", f"most deliveries, {OURS_DURABLE}", "peers-rooms", f"most deliveries, {SOCKET_IO}"),
        "x", least=5,
    ),
    Bar(_ROOMS, "p99 below 50 ms", _figure("rooms", "latency p99"), "ms", most=50),
    Bar(_REACT, "all acknowledged", _unanswered, "unanswered", most=0),
    Bar(_REACT, "p99 below 100 ms", _figure("reactions", "answer p99"), "ms", most=100),
    Bar(_REACT, "at most 20 frames/s per person", _figure("reactions", "frames per person at most"), "/s", most=20.5),
    Bar(_REACT, "totals exact", _figure("reactions", "people with wrong totals"), "people wrong", most=0),
    Bar(_IDLE, "at most 10 KiB each", _figure("idle", "memory per connection"), "KiB", most=10),
    Bar(_IDLE, "under 3 % of a core", _figure("idle", "share of a core, server"), "%", most=3),
    Bar(_CONNECT, "2,500 a second on one core", _figure("connects", "welcomed per second"), "/s", least=2500),
    Bar(_STORM, "all in within 5 s", _figure("storm", "everyone back after"), "s", most=5),
    Bar(_STORM, "nothing missed", _none_of("storm", "missed", "twice", "behind at the end"), "missed", most=0),
    Bar(_NODES, "p99 below 60 ms", _figure("nodes", "latency p99"), "ms", most=60),
    Bar(
        _NODES, "the passing node within 10 % of its fan-out alone",
        # The same two nodes, as busy in both runs, each with 1,000 people: there what is said elsewhere, here what is said there.
        _ratio("nodes", "CPU per delivery, node 2", "nodes-apart", "CPU per delivery, node 2"), "x", most=1.1,
    ),
    Bar(_HTTP, "p95 below 200 ms", _figure("http", "all p95"), "ms", most=200),
    Bar(_HTTP, "none refused", _figure("http", "refused"), "refused", most=0),
    Bar(_HTTP, "statements in Postgres: p95 at most 50 ms", _figure("http", "statements p95 at most"), "ms", most=50),
    Bar("start", "second time to first welcome below 3 s", _figure("start", "first welcome after"), "s", most=3),
)  # fmt: skip


def verdicts(results: Results) -> list[Verdict]:
    """Judge all bars."""
    return [bar.judge(results) for bar in BARS]


def table(results: Results) -> Table:
    """Return the verdicts as a table."""
    words = {True: "yes", False: "no", None: ""}
    rows = [[one.question, one.bar, one.measured, words[one.holds]] for one in verdicts(results)]
    return Table("Measured by our own bars", ["question", "bar", "measured", "met"], rows)
