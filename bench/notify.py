"""Notify: things happen to people all the time: how soon does each of their devices know, and does each know everything once?

Everyone is connected with some devices. What happens is real: people comment what others have posted (`one`), or a host whom everyone
follows takes a looproom live, again and again (`all`), which is told by a job in batches. An arrival is timed from the moment
at which its cause was due to each device of whoever it happened to; beside it stands the answer, which means that it is
committed. What is lost or comes twice is seen by the offsets of each person's events, on each device.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal
from uuid import uuid4

import msgspec
from msgspec import Meta

from bench.fanout import START_SECONDS, cautions, cpu_plot, sleep_until, testers_line
from bench.ground import Ground
from bench.idle import seats_of
from bench.meter import Meter, Reading, share_figures, usage
from bench.party import Party, Plan, Tally, shares, tallied
from bench.result import LESS, MORE, Figure, Result, curve, latency_figures, new_result
from bench.roomlog import Unexpected
from bench.team import employed, paced, until_true
from bench.tongue import Seat
from bench.visitor import House, Visitor
from protocol.comments import AddComment, CommentAdded
from protocol.contract import AnyReply
from protocol.envelope import Event, PersonEvent, UserId, VybeId
from protocol.notifications import Notice, NotificationKind
from protocol.relations import FollowCreator
from protocol.rooms import RoomSwitched, SwitchRoom
from protocol.session import Welcome
from protocol.vybes import PostVybe, Privacy, VybeKind

_TELL_SECONDS = 10.0
_AT_ONCE = 64
_UNTIMED = 0
"""When something was due whose answer is of no interest."""

Act = Callable[[int, int], None]
"""Is given which it is, and the moment at which it is due."""


class Question(msgspec.Struct, kw_only=True):
    """What is asked."""

    people: Annotated[int, Meta(description="People to whom things happen.")] = 500
    devices: Annotated[int, Meta(description="Connections of each of them.")] = 2
    to: Annotated[
        Literal["one", "all"], Meta(description="Comments for one person each, or a host who goes live.")
    ] = "one"
    rate: Annotated[
        float, Meta(description="Comments a second; or times a second that the host goes live.")
    ] = 100.0
    seconds: Annotated[float, Meta(description="Length of the measured span.")] = 10.0
    warmup: Annotated[float, Meta(description="Seconds of the same load before it.")] = 2.0
    clients: Annotated[int, Meta(description="Processes of testers; for `all` one.")] = 1


class Causes:
    """What has been caused by a process and is to be told: when it was due, by whom it is seen to be of."""

    def __init__(self) -> None:
        self.vybes: list[VybeId] = []
        """What is commented, each of them once: so no two comments are one notification."""
        self.commented: dict[tuple[UserId, UserId], int] = {}
        """By whose vybe it is and who comments it."""
        self.aired: list[int] = []
        """Each time that the host went live."""
        self.expected: Counter[UserId] = Counter()
        """How many notices each person is to get, as far as was acknowledged."""


class Device(Visitor):
    """One device of somebody: it notes when it is told what, and whether an offset is missing or comes again."""

    __slots__ = ("_causes", "_last", "notices", "person")

    def __init__(self, house: House, seat: Seat, causes: Causes) -> None:
        super().__init__(house, seat)
        self.notices = 0
        self.person: UserId | None = None
        self._causes = causes
        self._last = 0

    def _take_up(self, welcome: Welcome) -> None:
        super()._take_up(welcome)
        self.person = welcome.user.id
        if welcome.person is not None:
            self._last = welcome.person.offset

    def _event(self, message: Event) -> None:
        if not isinstance(message, PersonEvent):
            super()._event(message)
            return
        counts = self._house.counts
        if message.person_offset <= self._last:
            counts["twice"] += 1
            return
        counts["missed"] += message.person_offset - self._last - 1
        self._last = message.person_offset
        if isinstance(message, Notice):
            due = self._due(message)
            self.notices += 1
            if due is not None:
                self._house.timed("arrival", due)

    def _due(self, notice: Notice) -> int | None:
        told = notice.notification
        if told.kind == NotificationKind.ROOM_LIVE:
            aired = self._causes.aired
            return aired[self.notices] if self.notices < len(aired) else None
        assert self.person is not None
        return None if told.actor is None else self._causes.commented.get((self.person, told.actor.id))


class Notified(Party):
    """People with devices, some of whom cause what happens to the others."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.causes = Causes()
        self.guest = partial(Device, causes=self.causes)
        self._host: Visitor | None = None
        self._room = ""

    def _people(self) -> list[tuple[UserId, Visitor]]:
        """Return each person with their first device."""
        found: dict[UserId, Visitor] = {}
        for visitor in self._devices():
            assert visitor.person is not None
            found.setdefault(visitor.person, visitor)
        return list(found.items())

    def _devices(self) -> list[Device]:
        return [visitor for visitor in self.visitors if isinstance(visitor, Device)]

    def _pair(self, people: list[tuple[UserId, Visitor]], number: int) -> tuple[UserId, Visitor, UserId]:
        """Return who comments what of whom: nobody comments the same person twice, nor themselves."""
        turn, place = divmod(number, len(people))
        user, visitor = people[place]
        return user, visitor, people[(place + turn + 1) % len(people)][0]

    async def prepare(self, count: int) -> None:
        """Post what is to be commented. Raises `Unexpected` when there are too few people for so many comments."""
        people = self._people()
        if count > len(people) * (len(people) - 1):
            raise Unexpected(
                f"{len(people)} people can't comment one another's vybes {count:,} times; take more of them"
            )
        firsts = dict(people)
        gate = asyncio.Semaphore(_AT_ONCE)

        async def post(number: int) -> VybeId:
            _, _, other = self._pair(people, number)
            async with gate:
                posted = await firsts[other].call(
                    PostVybe(VybeKind.GRATITUDE, Privacy.PUBLIC, "thank you for this hour", uuid4().hex)
                )
            return posted.vybe.id

        self.causes.vybes = await asyncio.gather(*(post(number) for number in range(count)))

    async def follow(self, host: str, room: str) -> None:
        """Bring the host in, whom everyone follows from here on."""
        self._host, self._room = Visitor(self.house, Seat(host, "")), room
        welcome = await self._host.come()
        await self._host.call(SwitchRoom(room, live=False))
        gate = asyncio.Semaphore(_AT_ONCE)

        async def follow(visitor: Visitor) -> None:
            async with gate:
                await visitor.call(FollowCreator(welcome.user.id))

        await asyncio.gather(*(follow(visitor) for _, visitor in self._people()))

    async def run(self, rate: float, start: int, measure_from: int, until: int) -> int:
        """Cause things from `start` on; return how many."""
        self.house.window = (measure_from, until)
        act = self._comments() if self._host is None else self._airs
        sent = await paced(rate, start, until, act, self.house.times["sent late"])
        await self.answered()
        return sent

    def _comments(self) -> Act:
        people, causes = self._people(), self.causes

        def comment(number: int, due: int) -> None:
            user, visitor, other = self._pair(people, number)
            causes.commented[other, user] = due

            def done(answer: AnyReply | None) -> None:
                causes.expected[other] += isinstance(answer, CommentAdded)

            visitor.send(AddComment(causes.vybes[number], "thank you", uuid4().hex), due, done)

        return comment

    def _airs(self, number: int, due: int) -> None:  # noqa: ARG002 - which time it is does not matter
        """Let the host be off the air, then on it: each time is an occasion of its own."""
        host, causes = self._host, self.causes
        assert host is not None

        def on(answer: AnyReply | None) -> None:
            if isinstance(answer, RoomSwitched):
                causes.expected.update(user for user, _ in self._people())

        def off(_: AnyReply | None) -> None:
            causes.aired.append(due)
            host.send(SwitchRoom(self._room, live=True), due, on)

        host.send(SwitchRoom(self._room, live=False), _UNTIMED, off)

    async def behind(self) -> int:
        """Wait until every device knows what happened; return how many notices are missing on them all."""

        def missing() -> int:
            expected = self.causes.expected
            return sum(max(0, expected[one.person] - one.notices) for one in self._devices() if one.person)

        await until_true(lambda: not missing(), _TELL_SECONDS)
        return missing()


def ask(question: Question, ground: Ground) -> Result:
    """Put the question."""
    if question.to == "all" and question.clients != 1:
        raise Unexpected("when a host goes live is known to one process of testers: take --clients 1")
    people = (
        -(-question.people // question.clients) * question.clients
    )  # all devices of one are in one process
    seats = seats_of(ground, people * question.devices, people, 0)
    plans = shares(ground, seats, question.clients)
    with employed(Notified, plans, ground.tester_cores) as team:
        team.ask("bring")
        each = question.rate / len(plans)
        if question.to == "all":
            host = ground.host()
            (room,) = ground.rooms(1, host, only_own=True)
            team.ask("follow", host, room)
        else:
            team.ask("prepare", int(each * (question.warmup + question.seconds)) + 1)
        team.ask("settle")
        meter = Meter(ground.pids, team.pids)
        start = time.monotonic_ns() + int(START_SECONDS * 1e9)
        measure_from = start + int(question.warmup * 1e9)
        until = measure_from + int(question.seconds * 1e9)
        team.order("run", each, start, measure_from, until)
        sleep_until(measure_from)
        with ground.progress.lasting("notifying", question.seconds) as tick:
            readings = meter.watch(until / 1e9, heed=tick)
        caused = sum(team.reports())
        behind = sum(team.ask("behind"))
        tally = tallied(team)
    return result(question, readings, caused, behind, tally, ground.conditions)


def result(
    question: Question,
    readings: list[Reading],
    caused: int,
    behind: int,
    tally: Tally,
    conditions: dict[str, str],
) -> Result:
    """Return what is kept of a run."""
    found = new_result(
        "notify",
        __doc__,
        f"notify: {question.people:,} people, {question.devices} devices each, to {question.to}, "
        f"{question.rate:,g} /s, {question.seconds:g} s",
        question,
        conditions,
    )
    used = usage(readings[0], readings[-1])
    counts, times = tally.counts, tally.times
    command = "comment.add" if question.to == "one" else "room.live"
    arrivals = times.get("arrival", {})
    delivered = sum(arrivals.values())
    found.figures = [
        Figure("caused", caused),
        Figure("acknowledged", counts.get(f"done {command}", 0) // (2 if question.to == "all" else 1)),
        Figure("notices", round(delivered / used.seconds), "/s", MORE),
        *latency_figures("arrival", arrivals),
        *latency_figures("answer", times.get(command, {})),
        *latency_figures("sent late", times.get("sent late", {})),
        Figure("lost", behind + counts.get("missed", 0)),
        Figure("twice", counts.get("twice", 0)),
        *share_figures(used),
    ]
    if used.cpu and delivered:
        found.figures += [
            Figure(f"CPU per notice, {role}", round(cpu / delivered * 1e6, 2), "us", LESS)
            for role, cpu in used.cpu.items()
        ]
    found.curves = [curve("arrival", arrivals)] if arrivals else []
    found.plots = [cpu_plot(readings)] if len(readings) > 2 else []
    found.notes = [testers_line(used)]
    found.notes += [f"{n:,} {what}" for what, n in counts.items() if what.startswith("refused")]
    found.cautions = cautions(used)
    return found
