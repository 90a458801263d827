"""Presence: people come and go, write, and move their confidence all the time: what does everyone else have to receive?

Most people of a room only watch. Movers among them leave it and come back, begin to write, and set their level, at a fixed
rate each. What a watcher gets are pulses, at most twenty a second however much happens; at the end everybody's picture - how
many are here - must be that of one who asks for it anew.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import msgspec
from msgspec import Meta

from bench.fanout import START_SECONDS, cautions, cpu_plot, sleep_until, testers_line
from bench.ground import Ground
from bench.idle import seats_of
from bench.meter import Meter, Reading, share_figures, usage
from bench.party import Party, Tally, merged, shares
from bench.result import LESS, MORE, Figure, Result, curve, latency_figures, new_result
from bench.roomlog import Unexpected
from bench.team import employed, paced, until_true
from bench.visitor import Visitor
from protocol.presence import SetConfidence, SetTyping

_TELL_SECONDS = 15.0


class Question(msgspec.Struct, kw_only=True):
    """What is asked. Rates are of all rooms together."""

    members: Annotated[int, Meta(description="People.")] = 1000
    rooms: Annotated[int, Meta(description="Looprooms; people sit in one each, in turn.")] = 1
    movers: Annotated[int, Meta(description="People among them who leave and come back.")] = 100
    moves: Annotated[float, Meta(description="Leaves and returns a second.")] = 50.0
    typing: Annotated[float, Meta(description="People who begin to write, a second.")] = 20.0
    levels: Annotated[float, Meta(description="Moves of the confidence meter a second.")] = 20.0
    seconds: Annotated[float, Meta(description="Length of the span.")] = 10.0
    clients: Annotated[int, Meta(description="Processes of watchers; movers have one of their own.")] = 1


class Moving(Party):
    """Visitors who do not sit still."""

    async def run(self, start: int, until: int, moves: float, typing: float, levels: float) -> None:
        """Leave and return, write and feel, at these rates."""
        self.house.window = (start, until)
        busy: set[Visitor] = set()
        tasks: set[asyncio.Task[None]] = set()

        async def move(visitor: Visitor, due: int) -> None:
            try:
                if visitor.inside:
                    await visitor.leave(visitor.seat.room, due)
                else:
                    await visitor.join(visitor.seat.room)
            except Unexpected as unexpected:
                self.house.counts[str(unexpected)] += 1
            finally:
                busy.discard(visitor)

        def begin(number: int, due: int) -> None:
            visitor = self.visitors[number % len(self.visitors)]
            if visitor in busy:
                self.house.counts["moves left out, because the one before had not ended"] += 1
                return
            busy.add(visitor)
            task = asyncio.ensure_future(move(visitor, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        def write(number: int, due: int) -> None:
            visitor = self.visitors[-1 - number % len(self.visitors)]
            if visitor.inside and visitor not in busy:
                visitor.send(SetTyping(visitor.seat.room, typing=True), due)

        def feel(number: int, due: int) -> None:
            visitor = self.visitors[number * 7 % len(self.visitors)]
            if visitor.inside and visitor not in busy:
                visitor.send(SetConfidence(visitor.seat.room, number % 10 + 1), due)

        late = self.house.times["sent late"]
        await asyncio.gather(
            *(
                paced(rate, start, until, act, late)
                for rate, act in ((moves, begin), (typing, write), (levels, feel))
                if rate > 0
            )
        )
        if tasks:
            await asyncio.wait(list(tasks))
        await self.answered()

    async def outside(self) -> dict[str, int]:
        """Return how many of each room are not in it now."""
        left: dict[str, int] = {}
        for visitor in self.visitors:
            if not visitor.inside:
                left[visitor.seat.room] = left.get(visitor.seat.room, 0) + 1
        return left

    async def wrong(self, online: dict[str, int]) -> int:
        """Wait until everyone in a room was told how many are there; return how many believe otherwise."""

        def mistaken() -> int:
            return sum(
                visitor.online != online[visitor.seat.room] for visitor in self.visitors if visitor.inside
            )

        await until_true(lambda: not mistaken(), _TELL_SECONDS)
        return mistaken()


def ask(question: Question, ground: Ground) -> Result:
    """Put the question."""
    if question.movers >= question.members:
        raise Unexpected("somebody must watch: ask for fewer movers than members")
    seats = seats_of(ground, question.members, 0, question.rooms)
    movers, watchers = seats[: question.movers], seats[question.movers :]
    with (
        employed(Moving, shares(ground, movers, 1), ground.tester_cores) as moving,
        employed(Moving, shares(ground, watchers, question.clients), ground.tester_cores) as team,
    ):
        for one in (moving, team):
            one.ask("bring")
        for one in (moving, team):
            one.ask("settle")
        meter = Meter(ground.pids, team.pids + moving.pids)
        start = time.monotonic_ns() + int(START_SECONDS * 1e9)
        until = start + int(question.seconds * 1e9)
        moving.order("run", start, until, question.moves, question.typing, question.levels)
        sleep_until(start)
        with ground.progress.lasting("moving", question.seconds) as tick:
            readings = meter.watch(until / 1e9, heed=tick)
        moving.reports()
        tally = merged(team.ask("tally"))
        moved = merged(moving.ask("tally"))
        online = dict.fromkeys({seat.room for seat in seats}, 0)
        for seat in seats:
            online[seat.room] += 1
        for room, count in moving.ask("outside")[0].items():
            online[room] -= count
        wrong = sum(team.ask("wrong", online)) + sum(moving.ask("wrong", online))
    return result(question, readings, wrong, tally, moved, ground.conditions)


def result(
    question: Question,
    readings: list[Reading],
    wrong: int,
    tally: Tally,
    moved: Tally,
    conditions: dict[str, str],
) -> Result:
    """Return what is kept of a run."""
    found = new_result(
        "presence",
        __doc__,
        f"presence: {question.members:,} people, {question.moves:,g} leaves and returns a second",
        question,
        conditions,
    )
    used = usage(readings[0], readings[-1])
    counts = moved.counts
    changes = sum(count for what, count in counts.items() if what.startswith("done"))
    most = max(tally.pulses, default=0)
    mean = sum(pulses * people for pulses, people in tally.pulses.items()) / max(1, tally.people)
    found.figures = [
        Figure("changes", round(changes / question.seconds, 1), "/s", MORE),
        Figure("frames per person", round(mean / question.seconds, 2), "/s", LESS),
        Figure("frames per person at most", round(most / question.seconds, 2), "/s", LESS),
        Figure("bytes per person", round(tally.bytes / max(1, tally.people) / question.seconds), "B/s", LESS),
        Figure("people with a wrong count", wrong),
        *latency_figures("leave", moved.times.get("room.leave", {})),
        *latency_figures("join", moved.times.get("room.join", {})),
        *latency_figures("typing", moved.times.get("typing.set", {})),
        *latency_figures("confidence", moved.times.get("confidence.set", {})),
        *latency_figures("sent late", moved.times.get("sent late", {})),
        *share_figures(used),
    ]
    if used.cpu and changes:
        found.figures.append(
            Figure("CPU per change, server", round(used.server / changes * 1e6, 1), "us", LESS)
        )
    found.curves = [
        curve(name, moved.times[tag])
        for name, tag in (("join", "room.join"), ("leave", "room.leave"))
        if tag in moved.times
    ]
    found.plots = [cpu_plot(readings)] if len(readings) > 2 else []
    found.notes = [testers_line(used)]
    found.notes += [f"{n:,} {what}" for what, n in counts.items() if not what.startswith(("done", "lines"))]
    found.cautions = cautions(used)
    return found
