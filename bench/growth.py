"""Growth: does a delivery cost the same, and a connection weigh the same, however many there are?

Four axes, one at a time, the rest held still: connections (in rooms of 100, the same deliveries a second), rooms (of 10, the
same lines a second), nodes (one room on all of them), and messages (one room of 100, durable and passing). Each point is a
server of its own, so that none inherits the memory of another. Where a line bends, its note says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bench import fanout
from bench.crowd import Crowd
from bench.fanout import Figures, measure, plans
from bench.ground import Ground, Site, opened
from bench.machine import machine_line
from bench.progress import Progress
from bench.result import LESS, Figure, Plot, Result, new_result
from bench.team import employed
from bench.tongue import Looprooms
from bench.turns import Turns

_ROOM, _SMALL_ROOM = 100, 10


class Question(msgspec.Struct, kw_only=True):
    """What is asked. Each axis has its points, by commas; an empty one is left out."""

    connections: Annotated[str, Meta(description="Points: connections, in rooms of 100.")] = (
        "1000,2000,5000,10000"
    )
    rooms: Annotated[str, Meta(description="Points: rooms of 10 people.")] = "1,10,100,1000"
    on_nodes: Annotated[str, Meta(description="Points: nodes.")] = "1,2,4"
    messages: Annotated[str, Meta(description="Points: events a second in one room.")] = "10,100,1000,10000"
    lines: Annotated[float, Meta(description="Lines a second in all rooms, along the first two axes.")] = (
        400.0
    )
    members: Annotated[int, Meta(description="People in the room that is on all nodes.")] = 400
    seconds: Annotated[float, Meta(description="Length of each measured span.")] = 5.0
    warmup: Annotated[float, Meta(description="Seconds of the same load before it.")] = 2.0
    clients: Annotated[int, Meta(description="Processes of listeners.")] = 1


class Point(msgspec.Struct):
    """One place on an axis, and what was measured there."""

    at: float
    figures: Figures

    @property
    def cost(self) -> float:
        """CPU of all nodes per delivery, in microseconds."""
        return self.figures.usage.server / max(1, self.figures.deliveries) * 1e6


def ask(question: Question, site: Site, turns: Turns) -> Result:
    """Put the question along all axes."""
    axes: dict[str, list[Point]] = {}
    wanted = [
        ("connections", _points(question.connections), _by_connections),
        ("rooms", _points(question.rooms), _by_rooms),
        ("nodes", _points(question.on_nodes), _by_nodes),
        ("messages", _points(question.messages), _by_messages("chat")),
        ("passing messages", _points(question.messages), _by_messages("cue")),
    ]
    with Progress().counting("points", sum(len(points) for _, points, _ in wanted)) as ready:
        done = 0
        for name, points, shape in wanted:
            for point in points:
                axes.setdefault(name, []).append(_point(question, site, turns, point, shape))
                done += 1
                ready(done)
    return result(question, axes)


Shape = Callable[[Question, float], tuple[fanout.Question, int]]
"""From a point to what is asked there, and of how many nodes."""


def _by_connections(question: Question, point: float) -> tuple[fanout.Question, int]:
    rooms = max(1, int(point) // _ROOM)
    return _fanout(question, members=min(_ROOM, int(point)), rooms=rooms, rate=question.lines / rooms), 1


def _by_rooms(question: Question, point: float) -> tuple[fanout.Question, int]:
    return _fanout(question, members=_SMALL_ROOM, rooms=int(point), rate=question.lines / point), 1


def _by_nodes(question: Question, point: float) -> tuple[fanout.Question, int]:
    return _fanout(question, members=question.members, rooms=1, rate=100.0), int(point)


def _by_messages(event: Literal["chat", "cue"]) -> Shape:
    def shape(question: Question, point: float) -> tuple[fanout.Question, int]:
        asked = _fanout(question, members=_ROOM, rooms=1, rate=point)
        asked.event = event
        asked.authors = _ROOM // 2
        return asked, 1

    return shape


def _fanout(question: Question, *, members: int, rooms: int, rate: float) -> fanout.Question:
    return fanout.Question(
        members=members,
        rooms=rooms,
        rate=rate,
        authors=max(1, min(16, 400 // rooms, members // 2)),
        seconds=question.seconds,
        warmup=question.warmup,
        clients=question.clients,
    )


def _points(text: str) -> list[float]:
    return [float(point) for point in text.split(",") if point]


def _point(question: Question, site: Site, turns: Turns, at: float, shape: Shape) -> Point:
    asked, nodes = shape(question, at)
    with opened(msgspec.structs.replace(site, nodes=nodes)) as ground:
        return Point(at, _measured(asked, ground, turns))


def _measured(asked: fanout.Question, ground: Ground, turns: Turns) -> Figures:
    by_host = asked.event == "cue"
    seats = ground.seats(rooms=asked.rooms, members=asked.members, authors=asked.authors, by_host=by_host)
    tongue = Looprooms(ground.subprotocol, cue=by_host)
    made = plans(asked, tongue, ground.addresses, members=seats.listeners, authors=seats.authors)
    with turns.taken(), employed(Crowd, made, ground.tester_cores) as team:
        return measure(asked, team, ground.pids)


def result(question: Question, axes: dict[str, list[Point]]) -> Result:
    """Return what is kept of a run."""
    found = new_result("growth", __doc__, "growth: " + ", ".join(axes), question, {"machine": machine_line()})
    for name, points in axes.items():
        costs = [(point.at, round(point.cost, 3)) for point in points]
        found.plots += [
            Plot(f"CPU over {name}", name, "us of CPU per delivery", {"all nodes": costs}, log_x=True),
            Plot(
                f"Latency over {name}",
                name,
                "ms",
                {
                    share: [(point.at, round(point.figures.p(percent), 2)) for point in points]
                    for share, percent in (("p50", 50.0), ("p99", 99.0))
                },
                log_x=True,
                log_y=True,
            ),
        ]
        found.figures += [Figure(f"CPU per delivery, {name} {at:g}", cost, "us", LESS) for at, cost in costs]
        found.figures.append(Figure(f"missing, {name}", sum(point.figures.missing for point in points)))
        found.notes += notes(name, points)
    if "nodes" in axes:
        found.notes.append(
            "nodes are processes that share the network of this machine, without namespaces of their own"
        )
    if weights := _weights(axes.get("connections", [])):
        found.plots.insert(
            0,
            Plot(
                "Memory over connections",
                "connections",
                "KiB per connection",
                {"all nodes": weights},
                log_x=True,
            ),
        )
        found.figures += [
            Figure(f"memory per connection, connections {at:g}", weight, "KiB", LESS)
            for at, weight in weights
        ]
    busy = [
        f"{name} {point.at:g}"
        for name, points in axes.items()
        for point in points
        if point.figures.usage.tester_was_busy
    ]
    if busy:
        found.cautions = ["a tester used a whole core at " + ", ".join(busy)]
    return found


def _weights(points: Sequence[Point]) -> list[tuple[float, float]]:
    return [
        (point.at, round(point.figures.memory_per_connection / 1024, 2))
        for point in points
        if point.figures.memory_per_connection is not None
    ]


def notes(name: str, points: Sequence[Point]) -> list[str]:
    """Say where an axis is flat, where it is not, and what that comes from."""
    if len(points) < 2:
        return []
    first, last = points[0], points[-1]
    change = last.cost / first.cost - 1 if first.cost else 0.0
    said = [
        f"{name}: a delivery costs {first.cost:.2f} us at {first.at:g} and {last.cost:.2f} us at {last.at:g} ({change:+.0%})"
    ]
    if name.endswith("messages") and change < 0:
        said[0] += "; the more there is to say, the more of it one write carries"
    elif name == "nodes" and change > 0.1:
        said[0] += "; each node takes every line from Redis for a smaller share of the room"
    elif name in ("connections", "rooms") and change > 0.1:
        said[0] += "; the same lines are spread over more rooms, so one write carries fewer of them"
    for point in points:
        figures = point.figures
        if figures.deliveries_per_second < figures.offered_per_second * 0.95:
            said.append(
                f"{name} {point.at:g}: full, {figures.deliveries_per_second:,.0f} of "
                f"{figures.offered_per_second:,.0f} deliveries/s"
            )
    return said
