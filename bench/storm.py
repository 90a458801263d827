"""Storm: everyone's connection breaks at the same moment, and everyone comes back at once: how long, and is anything missed?

People sit in rooms in which others speak all the time. All of them are cut off together; after a moment they all come back,
say hello with their positions, and are sent what they missed. Whoever is turned away because the server is busy tries again
as our client does, with a random and growing pause. Each one must end up with every line of their room, in order, once.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Annotated

import msgspec
from msgspec import Meta

from bench.fanout import START_SECONDS, cautions, testers_line
from bench.ground import Ground
from bench.idle import seats_of
from bench.meter import Meter, Reading, usage
from bench.party import Party, Plan, Tally, merged, shares
from bench.result import LESS, Figure, Result, curve, latency_figures, new_result
from bench.roomlog import Unexpected
from bench.team import Team, employed, paced, until_true
from bench.visitor import Visitor
from protocol.chat import SendChat
from protocol.client.backoff import Backoff

_CATCH_UP_SECONDS = 20.0


class Question(msgspec.Struct, kw_only=True):
    """What is asked."""

    members: Annotated[int, Meta(description="People who are cut off.")] = 5000
    rooms: Annotated[int, Meta(description="Looprooms, one for each of them in turn.")] = 50
    rate: Annotated[float, Meta(description="Lines a second, in all rooms together.")] = 50.0
    away: Annotated[float, Meta(description="Seconds until they come back.")] = 2.0
    at_once: Annotated[int, Meta(description="Connections on their way at the same time; 0 for all.")] = 0
    rounds: Annotated[int, Meta(description="How often it happens.")] = 3
    clients: Annotated[
        int, Meta(description="Processes of testers; those who speak have one of their own.")
    ] = 2


class Returning(Party):
    """Visitors who are cut off, and come back."""

    async def cut(self) -> None:
        """Break every connection."""
        gone = [future for visitor in self.visitors if (future := visitor.drop()) is not None]
        if gone:
            await asyncio.wait(gone)

    async def come_back(self, start: int, at_once: int) -> float:
        """Come back, all of them from `start`, `at_once` (0: all) at a time; return the moment of the last welcome."""
        await asyncio.sleep(max(0.0, (start - time.monotonic_ns()) / 1e9))
        self.house.window = (0, 2**63)
        backoff = Backoff(random=random.Random(self.plan.seed).random)
        gate = asyncio.Semaphore(at_once or len(self.visitors))

        async def again(visitor: Visitor) -> None:
            attempt = 0
            while True:
                try:
                    async with gate:
                        await visitor.come()
                except Unexpected as unexpected:
                    self.house.counts[f"turned away: {unexpected}"] += 1
                    attempt += 1
                    await asyncio.sleep(backoff.wait(attempt))
                else:
                    self.house.timed("back", start)
                    return

        await asyncio.gather(*map(again, self.visitors))
        return time.monotonic()

    async def caught_up(self, last: dict[str, int]) -> int:
        """Wait until everyone has their room up to its last offset; return how many have not."""

        def behind() -> int:
            return sum(
                visitor.position(room) < last.get(slug, 0)
                for visitor in self.visitors
                for room, slug in visitor.inside.items()
            ) + sum(not visitor.inside for visitor in self.visitors)

        await until_true(lambda: not behind(), _CATCH_UP_SECONDS)
        return behind()


class Speaking(Party):
    """Visitors who speak all the time, one in each room."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._quiet = False
        self._talk: asyncio.Future[int] | None = None

    async def speak(self, rate: float) -> None:
        """Begin to speak, until told to be quiet."""
        self._quiet = False

        def say(number: int, due: int) -> None:
            visitor = self.visitors[number % len(self.visitors)]
            if not self._quiet:
                text = f"line {number} due {due} of a tester in a storm"
                visitor.send(SendChat(visitor.seat.room, text, f"{visitor.keys}-{due}"), due)

        start = time.monotonic_ns()
        self._talk = asyncio.ensure_future(paced(rate, start, start + int(3600e9), say))

    async def be_quiet(self) -> dict[str, int]:
        """Say nothing more; return the last offset of each room."""
        self._quiet = True
        if self._talk is not None:
            self._talk.cancel()
        await self.answered()
        await asyncio.sleep(0.2)
        return {
            slug: visitor.position(room) for visitor in self.visitors for room, slug in visitor.inside.items()
        }


class Round(msgspec.Struct):
    """One time that everyone was cut off. Seconds."""

    back: float
    """From the first who could come back to the last who was."""
    behind: int


def ask(question: Question, ground: Ground) -> Result:
    """Put the question."""
    seats = seats_of(ground, question.members + question.rooms, 0, question.rooms)
    speakers, members = seats[: question.rooms], seats[question.rooms :]
    rounds: list[Round] = []
    plans = shares(ground, members, question.clients)
    back_at_once = question.at_once // len(plans)
    with (
        employed(Returning, plans, ground.tester_cores) as team,
        employed(Speaking, shares(ground, speakers, 1), ground.tester_cores) as talkers,
        ground.progress.counting("storms", question.rounds) as ready,
    ):
        talkers.ask("bring")
        team.ask("bring")
        team.ask("settle")
        meter = Meter(ground.pids, team.pids)
        readings: list[Reading] = []
        for number in range(question.rounds):
            one, spent = _round(question, team, talkers, meter, back_at_once)
            rounds.append(one)
            readings += spent
            ready(number + 1)
        tally = merged(team.ask("tally"))
        said = merged(talkers.ask("tally"))
    return result(question, rounds, readings, tally, said, ground.conditions)


def _round(
    question: Question, team: Team, talkers: Team, meter: Meter, at_once: int
) -> tuple[Round, list[Reading]]:
    talkers.ask("speak", question.rate)
    time.sleep(1.0)
    team.ask("cut")
    time.sleep(question.away)
    start = time.monotonic_ns() + int(START_SECONDS * 1e9)
    team.order("come_back", start, at_once)
    readings = meter.watch(start / 1e9, every=START_SECONDS)[-1:]
    back: list[float] = team.reports()
    readings.append(meter.read())
    time.sleep(1.0)
    (last,) = talkers.ask("be_quiet")
    behind = sum(team.ask("caught_up", last))
    return Round(max(back) - start / 1e9, behind), readings


def result(
    question: Question,
    rounds: list[Round],
    readings: list[Reading],
    tally: Tally,
    said: Tally,
    conditions: dict[str, str],
) -> Result:
    """Return what is kept of a run."""
    found = new_result(
        "storm",
        __doc__,
        f"storm: {question.members:,} come back at once, {question.rounds} times",
        question,
        conditions,
    )
    counts = tally.counts
    spent = [usage(*readings[index : index + 2]) for index in range(0, len(readings), 2)]
    found.figures = [
        Figure("everyone back after", round(max(one.back for one in rounds), 2), "s", LESS),
        *latency_figures("back", tally.times.get("back", {})),
        Figure("missed", counts.get("missed", 0)),
        Figure("twice", counts.get("twice", 0)),
        Figure("behind at the end", sum(one.behind for one in rounds)),
        Figure("rooms resumed", counts.get("rooms resumed", 0)),
        Figure("rooms begun anew", counts.get("rooms begun anew", 0)),
        Figure("rooms lost", counts.get("rooms lost", 0)),
        Figure("lines said", said.counts.get("done chat.send", 0)),
        Figure("lines heard by those who came back", counts.get("lines", 0)),
        Figure("turned away", sum(n for why, n in counts.items() if why.startswith("turned away"))),
    ]
    returns = question.members * question.rounds
    if spent[0].cpu:
        server = sum(used.server for used in spent)
        found.figures.append(Figure("CPU per return, server", round(server / returns * 1e6, 1), "us", LESS))
    found.curves = [curve("back", tally.times.get("back", {}))]
    found.notes = [
        "everyone was back after " + ", ".join(f"{one.back:.2f} s" for one in rounds),
        *(testers_line(used) for used in spent[:1]),
        *(f"{n:,} {why}" for why, n in counts.items() if why.startswith(("turned away", "refused"))),
    ]
    found.cautions = [] if not any(cautions(used) for used in spent) else cautions(spent[0])
    return found
