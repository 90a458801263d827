"""Feed: people post all the time while everyone has the feed open: how soon is a vybe seen, and what does each person receive?

Writers post vybes for everyone at a fixed rate, readers page through the feed at another. All have the feed open. Of a quiet feed
each vybe is timed from the moment at which it was due to its arrival at everyone; a busy one counts, so what matters there is that
a person's connection carries a few frames a second however much is posted, that every change is told or counted exactly
once (checked by offset), and that a page stays fast while the table grows.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import msgspec
from msgspec import Meta

from bench.fanout import START_SECONDS, cautions, cpu_plot, sleep_until, testers_line
from bench.ground import Ground
from bench.histogram import Histogram
from bench.idle import seats_of
from bench.meter import Meter, Reading, share_figures, usage
from bench.party import Party, Tally, shares, tallied
from bench.result import LESS, MORE, Figure, Result, curve, latency_figures, new_result
from bench.team import employed, paced, until_true
from protocol.feed import ListFeed, OpenFeed
from protocol.vybes import PostVybe, Privacy, VybeKind

_TELL_SECONDS = 10.0
_WORDS = "what this evening gave me, in a few words "


class Question(msgspec.Struct, kw_only=True):
    """What is asked. Rates are of all people together."""

    people: Annotated[int, Meta(description="People who have the feed open.")] = 1000
    rate: Annotated[float, Meta(description="Vybes posted a second.")] = 20.0
    pages: Annotated[float, Meta(description="Pages of the feed read a second.")] = 50.0
    seconds: Annotated[float, Meta(description="Length of the measured span.")] = 10.0
    warmup: Annotated[float, Meta(description="Seconds of the same load before it.")] = 2.0
    clients: Annotated[int, Meta(description="Processes of testers.")] = 1


class Following(Party):
    """Visitors who have the feed open, post, and read."""

    async def prepare(self) -> None:
        """Open the feed."""
        await asyncio.gather(*(visitor.call(OpenFeed()) for visitor in self.visitors))

    async def run(self, rate: float, pages: float, start: int, measure_from: int, until: int) -> int:
        """Post and read from `start` on; return how many vybes were sent."""
        self.house.window = (measure_from, until)
        visitors, late = self.visitors, self.house.times["sent late"]

        def post(number: int, due: int) -> None:
            visitor = visitors[number % len(visitors)]
            command = PostVybe(
                kind=VybeKind.REFLECTION,
                privacy=Privacy.PUBLIC,
                text=f"{_WORDS} due {due} ",
                key=f"{visitor.keys}-{number}",
            )
            visitor.send(command, due)

        def read(number: int, due: int) -> None:
            visitors[-1 - number % len(visitors)].send(ListFeed(), due)

        sent, _ = await asyncio.gather(
            paced(rate, start, until, post, late), paced(pages, start, until, read, late)
        )
        await self.answered()
        return sent

    async def behind(self, posted: int) -> int:
        """Wait until everyone knows of `posted` changes since they opened the feed; return how many don't."""

        def lagging() -> int:
            return sum((visitor.feed or 0) - visitor.opened_at < posted for visitor in self.visitors)

        await until_true(lambda: not lagging(), _TELL_SECONDS)
        return lagging()


def ask(question: Question, ground: Ground) -> Result:
    """Put the question."""
    seats = seats_of(ground, question.people, 0, 0)
    plans = shares(ground, seats, question.clients)
    with employed(Following, plans, ground.tester_cores) as team:
        team.ask("bring")
        team.ask("prepare")
        team.ask("settle")
        meter = Meter(ground.pids, team.pids)
        start = time.monotonic_ns() + int(START_SECONDS * 1e9)
        measure_from = start + int(question.warmup * 1e9)
        until = measure_from + int(question.seconds * 1e9)
        each = question.rate / len(plans), question.pages / len(plans)
        team.order("run", *each, start, measure_from, until)
        sleep_until(measure_from)
        with ground.progress.lasting("posting", question.seconds) as tick:
            readings = meter.watch(until / 1e9, heed=tick)
        sent = sum(team.reports())
        posted = tallied(team).counts.get("done vybe.post", 0)
        behind = sum(team.ask("behind", posted))
        tally = tallied(team)
    return result(question, readings, sent, behind, tally, ground.conditions)


def result(
    question: Question,
    readings: list[Reading],
    sent: int,
    behind: int,
    tally: Tally,
    conditions: dict[str, str],
) -> Result:
    """Return what is kept of a run."""
    found = new_result(
        "feed",
        __doc__,
        f"feed: {question.people:,} people, {question.rate:,g} vybes/s, {question.pages:,g} pages/s, {question.seconds:g} s",
        question,
        conditions,
    )
    used = usage(readings[0], readings[-1])
    counts, times = tally.counts, tally.times
    span = question.seconds + question.warmup
    told, counted = counts.get("changes told", 0), counts.get("changes counted", 0)
    frames = told + counts.get("feed pulses", 0)
    sights = times.get("sight", {})
    found.figures = [
        Figure("sent", sent),
        Figure("acknowledged", counts.get("done vybe.post", 0)),
        Figure("told as they are", told),
        Figure("counted", counted),
        *latency_figures("sight", sights),
        *latency_figures("answer", times.get("vybe.post", {})),
        *latency_figures("page", times.get("feed.list", {})),
        *latency_figures("sent late", times.get("sent late", {})),
        Figure("page p95", round(_percentile(times.get("feed.list", {}), 95), 3), "ms", LESS),
        Figure("pages", counts.get("done feed.list", 0)),
        Figure("missed", counts.get("missed", 0)),
        Figure("twice", counts.get("twice", 0)),
        Figure("behind at the end", behind),
        Figure("frames per person", round(frames / max(1, tally.people) / span, 2), "/s", LESS),
        Figure("bytes per person", round(tally.bytes / max(1, tally.people) / span), "B/s", LESS),
        Figure("deliveries", round(sum(sights.values()) / used.seconds), "/s", MORE),
        *share_figures(used),
    ]
    if used.cpu and sights:
        found.figures += [
            Figure(f"CPU per delivery, {role}", round(cpu / sum(sights.values()) * 1e6, 2), "us", LESS)
            for role, cpu in used.cpu.items()
        ]
    found.curves = [curve("sight", sights)] if sights else []
    found.curves.append(curve("page", times.get("feed.list", {})))
    found.plots = [cpu_plot(readings)] if len(readings) > 2 else []
    found.notes = [testers_line(used)]
    found.notes += [f"{n:,} {what}" for what, n in counts.items() if what.startswith("refused")]
    found.cautions = cautions(used)
    return found


def _percentile(counts: dict[int, int], share: float) -> float:
    return Histogram(counts).percentile(share) * 1000 if counts else 0.0
