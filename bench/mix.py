"""Mix: people who behave like people: does everything work for everyone at once, and how does it feel?

They join a looproom and listen; now and then they write a line, having been seen writing; they react in bursts, move their
level, go to another room; and their network breaks, so that they come back with their positions and send again whatever was
not answered, under the same key. Each of them must have every line of their rooms in order, once, whatever happened.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from bench.fanout import cautions, cpu_plot, testers_line
from bench.ground import Ground
from bench.idle import seats_of
from bench.meter import Meter, Reading, share_figures, usage
from bench.party import Party, Plan, Tally, merged, shares
from bench.result import LESS, MORE, Figure, Result, curve, latency_figures, new_result
from bench.roomlog import Unexpected
from bench.team import Team, employed
from bench.visitor import Visitor
from protocol.chat import SendChat
from protocol.client.backoff import Backoff
from protocol.presence import SetConfidence, SetTyping
from protocol.reactions import AddReaction, Reaction, Target, TargetKind

_KINDS = list(Reaction)
_MOST_TRIES = 8


Act = Callable[[Visitor, int], Awaitable[None]]


class Habits(msgspec.Struct, kw_only=True):
    """How often a person does something: mean seconds between two times, 0 for never."""

    line_every: Annotated[float, Meta(description="Mean seconds between two lines of a person.")] = 60.0
    burst_every: Annotated[float, Meta(description="Between two bursts of 3 to 8 reactions.")] = 45.0
    feel_every: Annotated[float, Meta(description="Between two moves of the confidence meter.")] = 120.0
    move_every: Annotated[float, Meta(description="Until they go to another room.")] = 300.0
    drop_every: Annotated[float, Meta(description="Until their network breaks for up to 3 s.")] = 120.0


class Question(Habits, kw_only=True):
    """What is asked."""

    people: Annotated[int, Meta(description="People.")] = 1000
    rooms: Annotated[int, Meta(description="Looprooms that they go to.")] = 20
    seconds: Annotated[float, Meta(description="Length of the span.")] = 30.0
    hurry: Annotated[float, Meta(description="How many times as busy as the habits say.")] = 1.0
    clients: Annotated[int, Meta(description="Processes of testers.")] = 1
    seed: Annotated[int, Meta(description="Of all that is random.")] = 1


class Behaving(Party):
    """Visitors with habits."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._living: list[asyncio.Task[None]] = []
        self._random = random.Random(0)
        self._slugs: list[str] = []

    async def begin(self, habits: Habits, hurry: float, seed: int) -> None:
        """Have everyone live, until `finish`."""
        self.house.window = (0, 2**63)
        self._random = random.Random(f"{seed} {self.plan.seed}")
        self._slugs = sorted({seat.room for seat in self.plan.seats})
        every: dict[Act, float] = {
            self._line: habits.line_every,
            self._burst: habits.burst_every,
            self._feel: habits.feel_every,
            self._move: habits.move_every,
            self._drop: habits.drop_every,
        }
        for visitor in self.visitors:
            rates = {act: hurry / seconds for act, seconds in every.items() if seconds > 0}
            self._living.append(asyncio.ensure_future(self._live(visitor, rates)))

    async def period(self) -> Tally:
        """Tell what came since the last time."""
        tally = await self.tally()
        self.house.times.clear()
        return tally

    async def finish(self) -> Tally:
        """Have everyone do nothing more, bring back who is away, and tell the rest."""
        for task in self._living:
            task.cancel()
        await asyncio.gather(*self._living, return_exceptions=True)
        await asyncio.gather(*(self._again(visitor) for visitor in self.visitors if not visitor.here))
        await self.answered()
        await asyncio.sleep(0.3)
        return await self.period()

    async def positions(self) -> list[tuple[str, int]]:
        """Return each room and position that anyone has."""
        return [
            (slug, visitor.position(room))
            for visitor in self.visitors
            for room, slug in visitor.inside.items()
        ]

    # What a person does.

    async def _live(self, visitor: Visitor, rates: dict[Act, float]) -> None:
        now = time.monotonic()
        due = {act: now + self._random.expovariate(rate) for act, rate in rates.items()}
        while due:
            act = min(due, key=due.__getitem__)
            await asyncio.sleep(max(0.0, due[act] - time.monotonic()))
            try:
                if not visitor.here:
                    await self._again(visitor)
                await act(visitor, time.monotonic_ns())  # a person does one thing after the other
            except Unexpected as unexpected:
                self.house.counts[f"failed: {unexpected}"] += 1
            due[act] += self._random.expovariate(rates[act])

    async def _line(self, visitor: Visitor, due: int) -> None:
        room = next(iter(visitor.inside.values()), "")
        if not room:
            return
        visitor.send(SetTyping(room, typing=True), due)
        await asyncio.sleep(self._random.uniform(0.5, 2.0))
        due = time.monotonic_ns()
        command = SendChat(room, f"a line due {due} of somebody who means it", f"{visitor.keys}-{due}")
        self.house.counts["lines begun"] += 1
        for _ in range(_MOST_TRIES):
            try:
                await visitor.call(command, due)
            except Unexpected as unexpected:
                if visitor.here:
                    raise
                self.house.counts[f"lines sent again: {unexpected}"] += 1
                await self._again(visitor)
                if room not in visitor.inside.values():
                    raise
            else:
                return

    async def _burst(self, visitor: Visitor, due: int) -> None:
        for _ in range(self._random.randint(3, 8)):
            room = next(iter(visitor.inside), None)
            if room is None or not visitor.here:
                return
            target = Target(kind=TargetKind.LOOPROOM, id=room)
            visitor.send(AddReaction(target, self._random.choice(_KINDS)), due)
            await asyncio.sleep(self._random.uniform(0.05, 0.4))
            due = time.monotonic_ns()

    async def _feel(self, visitor: Visitor, due: int) -> None:
        for room in visitor.inside.values():
            visitor.send(SetConfidence(room, self._random.randint(1, 10)), due)

    async def _move(self, visitor: Visitor, due: int) -> None:
        for slug in list(visitor.inside.values()):
            await visitor.leave(slug, due)
        await visitor.join(self._random.choice(self._slugs))

    async def _drop(self, visitor: Visitor, due: int) -> None:  # noqa: ARG002 - one form for all they do
        gone = visitor.drop()
        if gone is not None:
            await gone
        self.house.counts["broken"] += 1
        await asyncio.sleep(self._random.uniform(0.1, 3.0))
        await self._again(visitor)

    async def _again(self, visitor: Visitor) -> None:
        """Come back, as our client does: at once, then after a random and growing pause."""
        backoff = Backoff(random=self._random.random)
        for attempt in range(1, _MOST_TRIES):
            due = time.monotonic_ns()
            try:
                await visitor.come()
            except Unexpected as unexpected:
                self.house.counts[f"turned away: {unexpected}"] += 1
                await asyncio.sleep(backoff.wait(attempt))
            else:
                self.house.timed("back", due)
                if not visitor.inside:
                    await visitor.join(visitor.seat.room)
                return
        raise Unexpected("one who came back was turned away too often")


def ask(question: Question, ground: Ground) -> Result:
    """Put the question."""
    seats = seats_of(ground, question.people, 0, question.rooms)
    with employed(Behaving, shares(ground, seats, question.clients), ground.tester_cores) as team:
        meter = arrive(team, ground, question)
        with ground.progress.lasting("living", question.seconds) as tick:
            readings = meter.watch(time.monotonic() + question.seconds, heed=tick)
        tally = merged(team.ask("finish"))
        behind = behind_others(team)
    found = new_result(
        "mix",
        __doc__,
        f"mix: {question.people:,} people in {question.rooms:,} rooms, {question.seconds:g} s",
        question,
        ground.conditions,
    )
    found.plots = [cpu_plot(readings)] if len(readings) > 2 else []
    tell(found, readings, tally, behind)
    return found


def arrive(team: Team, ground: Ground, question: Question) -> Meter:
    """Bring everyone in, and have them begin."""
    team.ask("bring")
    team.ask("settle")
    habits = Habits(**{field: getattr(question, field) for field in Habits.__struct_fields__})
    team.ask("begin", habits, question.hurry, question.seed)
    return Meter(ground.pids, team.pids)


def behind_others(team: Team) -> int:
    """Return how many people have less of their room than another has."""
    places = [place for found in team.ask("positions") for place in found]
    last: dict[str, int] = {}
    for slug, offset in places:
        last[slug] = max(offset, last.get(slug, 0))
    return sum(offset < last[slug] for slug, offset in places)


def tell(found: Result, readings: list[Reading], tally: Tally, behind: int) -> None:
    """Add the figures that people who behave have."""
    used = usage(readings[0], readings[-1])
    counts = tally.counts
    done = sum(count for what, count in counts.items() if what.startswith("done"))
    failed = sum(count for what, count in counts.items() if what.startswith("failed"))
    refused = sum(count for what, count in counts.items() if what.startswith("refused"))
    found.figures = [
        Figure("commands", round(done / used.seconds, 1), "/s", MORE),
        Figure("lines heard", round(counts.get("lines", 0) / used.seconds, 1), "/s", MORE),
        *latency_figures("arrival", tally.times.get("arrival", {})),
        *latency_figures("caught up", tally.times.get("caught up", {})),
        *latency_figures("line answered", tally.times.get("chat.send", {})),
        *latency_figures("reaction answered", tally.times.get("reaction.add", {})),
        *latency_figures("back", tally.times.get("back", {})),
        Figure("missed", counts.get("missed", 0)),
        Figure("twice", counts.get("twice", 0)),
        Figure("behind at the end", behind),
        Figure("connections broken", counts.get("broken", 0)),
        Figure("rooms resumed", counts.get("rooms resumed", 0)),
        Figure("rooms begun anew", counts.get("rooms begun anew", 0)),
        Figure("rooms lost", counts.get("rooms lost", 0)),
        Figure("lines begun", counts.get("lines begun", 0)),
        Figure("lines acknowledged", counts.get("done chat.send", 0)),
        Figure("refused", refused),
        Figure("failed", failed),
        *share_figures(used),
    ]
    if used.cpu and tally.people:
        cost = used.server / used.seconds / tally.people * 1e6
        found.figures.append(Figure("CPU per person and second, server", round(cost, 1), "us", LESS))
    found.curves = [
        curve(name, tally.times[tag])
        for name, tag in (("arrival", "arrival"), ("line answered", "chat.send"), ("back", "back"))
        if tag in tally.times
    ]
    found.notes = [testers_line(used)]
    found.notes += [
        f"{n:,} {what}"
        for what, n in sorted(counts.items())
        if what.startswith(("failed", "refused", "turned away", "lines sent again"))
    ]
    found.cautions = cautions(used)
