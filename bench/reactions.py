"""Reactions: everyone in a room reacts all the time: are all acknowledged, how fast, and what does each person have to receive?

Each reaction is given and taken back in turn, so that every command changes something and is committed. At the end the totals
that everyone was told must be those that the acknowledgements add up to, exactly; and however many react, a person's
connection carries one pulse for all that changed, not a frame for each.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial
from typing import Annotated

import msgspec
from msgspec import Meta

from bench.fanout import START_SECONDS, cautions, cpu_plot, sleep_until, testers_line
from bench.ground import Ground
from bench.idle import seats_of
from bench.meter import Meter, Reading, share_figures, usage
from bench.party import Party, Plan, Tally, merged, shares
from bench.result import LESS, MORE, Figure, Result, curve, latency_figures, new_result
from bench.team import employed, paced, until_true
from protocol.contract import AnyReply
from protocol.reactions import (
    AddReaction,
    Reaction,
    ReactionAdded,
    ReactionRemoved,
    RemoveReaction,
    Target,
    TargetKind,
)

_KINDS = list(Reaction)
_TELL_SECONDS = 10.0


class Question(msgspec.Struct, kw_only=True):
    """What is asked."""

    members: Annotated[int, Meta(description="People in the room, all of whom react.")] = 1000
    rooms: Annotated[int, Meta(description="Looprooms; people sit in one each, in turn.")] = 1
    rate: Annotated[float, Meta(description="Reactions a second, in all rooms together.")] = 20_000.0
    seconds: Annotated[float, Meta(description="Length of the measured span.")] = 10.0
    warmup: Annotated[float, Meta(description="Seconds of the same load before it.")] = 2.0
    clients: Annotated[int, Meta(description="Processes of testers.")] = 1


class Reacting(Party):
    """Visitors who react, each with all kinds in turn."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._given: dict[tuple[int, Reaction], bool] = {}
        self._net: Counter[tuple[str, Reaction]] = Counter()
        """What the acknowledgements add up to, by room and kind."""
        self._targets: list[Target] = []

    async def prepare(self) -> None:
        """Take back what an earlier run has left, one kind after the other: everything at once would be more than a room can do."""
        self._targets = [
            Target(kind=TargetKind.LOOPROOM, id=next(iter(visitor.inside))) for visitor in self.visitors
        ]
        for kind in _KINDS:
            await asyncio.gather(
                *(
                    visitor.call(RemoveReaction(target, kind))
                    for visitor, target in zip(self.visitors, self._targets, strict=True)
                )
            )

    async def bases(self) -> dict[str, dict[str, int]]:
        """Return the totals of each room as one who sits there was told: what others have given."""
        return {
            str(room): {str(kind): total for kind, total in visitor.told.items()}
            for visitor in self.visitors
            for room in visitor.inside
        }

    async def run(self, rate: float, start: int, measure_from: int, until: int) -> int:
        """React from `start` on; return how many reactions are given at the end, by those who were answered."""
        self.house.window = (measure_from, until)
        visitors, targets, given = self.visitors, self._targets, self._given

        def react(number: int, due: int) -> None:
            place = number % len(visitors)
            kind = _KINDS[(number // len(visitors)) % len(_KINDS)]
            on = not given.get((place, kind), False)
            given[place, kind] = on
            target = targets[place]
            command = AddReaction(target, kind) if on else RemoveReaction(target, kind)
            visitors[place].send(command, due, partial(self._settled, place, str(target.id), kind, on))

        sent = await paced(rate, start, until, react, self.house.times["sent late"])
        await self.answered()
        return sent

    def _settled(self, place: int, room: str, kind: Reaction, on: bool, answer: AnyReply | None) -> None:  # noqa: FBT001 - an argument of `partial`
        if isinstance(answer, ReactionAdded):
            self._net[room, kind] += answer.added
        elif isinstance(answer, ReactionRemoved):
            self._net[room, kind] -= answer.removed
        else:
            self._given[place, kind] = not on  # refused: the next one shall change something

    async def standing(self) -> dict[str, dict[str, int]]:
        """Return what the acknowledgements of this process's visitors add up to, by room and kind."""
        totals: dict[str, dict[str, int]] = {}
        for (room, kind), net in self._net.items():
            totals.setdefault(room, {})[kind] = net
        return totals

    async def wrong(self, totals: dict[str, dict[str, int]]) -> int:
        """Wait until everyone was told these totals; return how many believe otherwise."""

        def mistaken() -> int:
            return sum(
                any(
                    visitor.told.get(Reaction(kind), 0) != total
                    for room in visitor.inside
                    for kind, total in totals.get(str(room), {}).items()
                )
                for visitor in self.visitors
            )

        await until_true(lambda: not mistaken(), _TELL_SECONDS)
        return mistaken()


def ask(question: Question, ground: Ground) -> Result:
    """Put the question."""
    seats = seats_of(ground, question.members, 0, question.rooms)
    plans = shares(ground, seats, question.clients)
    with employed(Reacting, plans, ground.tester_cores) as team:
        team.ask("bring")
        team.ask("prepare")
        team.ask("settle")
        bases = {room: kinds for found in team.ask("bases") for room, kinds in found.items()}
        meter = Meter(ground.pids, team.pids)
        start = time.monotonic_ns() + int(START_SECONDS * 1e9)
        measure_from = start + int(question.warmup * 1e9)
        until = measure_from + int(question.seconds * 1e9)
        team.order("run", question.rate / len(plans), start, measure_from, until)
        sleep_until(measure_from)
        with ground.progress.lasting("reacting", question.seconds) as tick:
            readings = meter.watch(until / 1e9, heed=tick)
        sent = sum(team.reports())
        tally = merged(team.ask("tally"))
        totals = added([bases, *team.ask("standing")])
        wrong = sum(team.ask("wrong", totals))
    return result(question, readings, sent, wrong, tally, ground.conditions)


def added(standings: list[dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Add what the visitors of several processes have given."""
    totals: dict[str, dict[str, int]] = {}
    for standing in standings:
        for room, kinds in standing.items():
            for kind, count in kinds.items():
                one = totals.setdefault(room, {})
                one[kind] = one.get(kind, 0) + count
    return totals


def result(
    question: Question,
    readings: list[Reading],
    sent: int,
    wrong: int,
    tally: Tally,
    conditions: dict[str, str],
) -> Result:
    """Return what is kept of a run."""
    found = new_result(
        "reactions",
        __doc__,
        f"reactions: {question.members:,} people, {question.rate:,g} /s, {question.seconds:g} s",
        question,
        conditions,
    )
    used = usage(readings[0], readings[-1])
    span = question.seconds + question.warmup
    answers = dict(tally.times.get("reaction.add", {}))
    for key, count in tally.times.get("reaction.remove", {}).items():
        answers[key] = answers.get(key, 0) + count
    acknowledged = tally.counts.get("done reaction.add", 0) + tally.counts.get("done reaction.remove", 0)
    within = sum(answers.values())
    most = max(tally.pulses, default=0)
    mean = sum(pulses * people for pulses, people in tally.pulses.items()) / max(1, tally.people)
    found.figures = [
        Figure("reactions", round(within / used.seconds), "/s", MORE),
        Figure("sent", sent),
        Figure("acknowledged", acknowledged),
        *latency_figures("answer", answers),
        *latency_figures("sent late", tally.times.get("sent late", {})),
        Figure("frames per person", round(mean / span, 2), "/s", LESS),
        Figure("frames per person at most", round(most / span, 2), "/s", LESS),
        Figure("people with wrong totals", wrong),
        Figure("bytes per person", round(tally.bytes / max(1, tally.people) / span), "B/s", LESS),
        *share_figures(used),
    ]
    if used.cpu and within:
        found.figures += [
            Figure(f"CPU per reaction, {role}", round(cpu / within * 1e6, 2), "us", LESS)
            for role, cpu in used.cpu.items()
        ]
    found.curves = [curve("answer", answers)]
    found.plots = [cpu_plot(readings)] if len(readings) > 2 else []
    found.notes = [testers_line(used)]
    found.notes += [f"{n:,} {what}" for what, n in tally.counts.items() if not what.startswith("done")]
    found.cautions = cautions(used)
    if unknown := tally.counts.get("refused unavailable", 0):
        found.cautions.append(
            f"nobody knows what became of {unknown:,} reactions, so totals may differ by them"
        )
    return found
