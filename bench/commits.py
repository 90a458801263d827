"""Commits: what does it cost to store a reaction or a line, one statement each and by group commit?

A number of people each wait for their last one to be committed before they send the next. `group commit` is what the server
does: one statement at a time carries everything that came while the one before was under way. `one each` keeps the same
promise - a reaction with its exact total, a line with its offset - by the same statement for one thing at a time, on as many
connections to Postgres as are given. `bare INSERT each` keeps less: no total, so nobody waits for a row of another's.
The ways take turns within one run, on one Postgres with fsync and synchronous_commit on, so that what else the machine does
falls on all of them alike.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated
from uuid import UUID, uuid4

import msgspec
from msgspec import Meta

from bench.histogram import Histogram
from bench.kernel import Cost, costs
from bench.machine import machine_line
from bench.result import LESS, MORE, Figure, Result, curve, latency_figures, new_result
from bench.roomlog import Unexpected
from protocol.envelope import LineId, Person, RoomId, UserId
from protocol.reactions import Reaction, Target, TargetKind
from protocol.refusals import Refused
from storage import chat, reactions
from storage.chat import NewLine, Said
from storage.embedded import DataFolder, StartError
from storage.postgres.embedded import EmbeddedPostgres
from storage.postgres.gather import Gather
from storage.postgres.migrations import MigrationError, migrate
from storage.postgres.pool import Pool, open_pool
from storage.reactions import Wish

BARE = "reactions, bare INSERT each"
ONE_BY_ONE = "reactions, one each"
GATHERED = "reactions, group commit"
LINES_ONE_BY_ONE = "lines, one each"
LINES_GATHERED = "lines, group commit"

BARE_INSERT = """
insert into reactions (target_id, user_id, kind, target_kind) values ($1, $2, $3::text::reaction_kind, 'looproom')
on conflict do nothing
"""
_KINDS = list(Reaction)

Commit = Callable[[int, int], Awaitable[object]]
"""Commits the n-th thing of a person, both by number."""


class Question(msgspec.Struct, kw_only=True):
    """What is asked. Each of `rounds` gives every way `seconds`; `connections` are for one statement each."""

    people: Annotated[int, Meta(description="People who react or write at the same time.")] = 500
    connections: Annotated[int, Meta(description="Connections to Postgres for one statement each.")] = 50
    seconds: Annotated[float, Meta(description="Length of each round of each way.")] = 2.0
    rounds: Annotated[int, Meta(description="Rounds; the figure is their median.")] = 3


class Way(msgspec.Struct):
    """What came of one way, over all rounds. `seconds` and `done` are per round."""

    seconds: list[float] = []
    done: list[int] = []
    latencies: Histogram = msgspec.field(default_factory=Histogram)
    refused: int = 0
    """How many were told to try again, because no connection to Postgres was free in time."""
    cpu: dict[str, float] = {}

    @property
    def rate(self) -> float:
        """Commits a second: the median of the rounds."""
        return statistics.median(
            done / seconds for done, seconds in zip(self.done, self.seconds, strict=True)
        )


@asynccontextmanager
async def database(data: Path, url: str | None) -> AsyncIterator[str]:
    """Give an address of a Postgres with our schema: the one at `url`, or an embedded one in `data`."""
    if url is not None:
        await migrate(url)
        yield url
        return
    folder = DataFolder.claim(data)
    server = EmbeddedPostgres(folder)
    try:
        await server.start()
        await server.create_database("commits")
        await migrate(server.dsn("commits"))
        yield server.dsn("commits")
    finally:
        await server.stop()
        folder.release()


async def ask(question: Question, data: Path, url: str | None) -> dict[str, Way]:
    """Put the question to the Postgres at `url`, or to an embedded one in `data`. Raises `Unexpected`."""
    try:
        async with database(data, url) as found:
            return await measure(question, found)
    except (StartError, MigrationError, Refused) as error:
        raise Unexpected(str(error).rstrip(".")) from error


async def measure(question: Question, url: str) -> dict[str, Way]:
    """Let the ways take turns."""
    pool = await open_pool(url, size=question.connections)
    try:
        people = await _people(pool, question.people)
        room = await _room(pool)
        ways: dict[str, Callable[[], Commit]] = {
            BARE: lambda: _reaction_bare(pool, people),
            ONE_BY_ONE: lambda: _reaction_each(pool, people),
            GATHERED: lambda: _reaction_gathered(pool, people),
            LINES_ONE_BY_ONE: lambda: _line_each(pool, people, room),
            LINES_GATHERED: lambda: _line_gathered(pool, people, room),
        }
        found = {name: Way() for name in ways}
        for _ in range(question.rounds):
            for name, way in ways.items():
                await _round(found[name], way(), question)
        return found
    finally:
        await pool.close()


async def _round(way: Way, commit: Commit, question: Question) -> None:
    """Have everyone commit one thing after the other for a while."""
    before = costs(os.getpid())
    start = time.monotonic_ns()
    end = start + int(question.seconds * 1e9)

    async def person(number: int) -> int:
        done = 0
        while (sent := time.monotonic_ns()) < end:
            try:
                await commit(number, done)
            except Refused:
                way.refused += 1
                continue
            way.latencies.add(time.monotonic_ns() - sent)
            done += 1
        return done

    done = await asyncio.gather(*(person(number) for number in range(question.people)))
    way.done.append(sum(done))
    way.seconds.append((time.monotonic_ns() - start) / 1e9)
    for role, cost in costs(os.getpid()).items():
        name = "python" if role == "server" else role
        way.cpu[name] = way.cpu.get(name, 0.0) + (cost - before.get(role, Cost())).cpu


def _reaction_bare(pool: Pool, people: Sequence[Person]) -> Commit:
    targets = _Targets()

    async def commit(person: int, number: int) -> object:
        target, kind = targets.of(number)
        return await pool.execute(BARE_INSERT, target, people[person].id, kind)

    return commit


def _reaction_each(pool: Pool, people: Sequence[Person]) -> Commit:
    targets = _Targets()

    async def commit(person: int, number: int) -> object:
        return (await reactions.settle(pool, [_wish(people[person], *targets.of(number))])).changed[0]

    return commit


def _reaction_gathered(pool: Pool, people: Sequence[Person]) -> Commit:
    targets = _Targets()

    async def settle(batch: Sequence[Wish]) -> Sequence[bool | Exception]:
        return (await reactions.settle(pool, batch)).changed

    gather: Gather[Wish, bool] = Gather(settle)

    def commit(person: int, number: int) -> Awaitable[object]:
        return gather.submit(_wish(people[person], *targets.of(number)))

    return commit


def _line_each(pool: Pool, people: Sequence[Person], room: RoomId) -> Commit:
    async def commit(person: int, number: int) -> object:
        return (await chat.append(pool, [_line(people[person], room, number)]))[0]

    return commit


def _line_gathered(pool: Pool, people: Sequence[Person], room: RoomId) -> Commit:
    async def append(batch: Sequence[NewLine]) -> Sequence[Said | Exception]:
        return await chat.append(pool, batch)

    gather: Gather[NewLine, Said] = Gather(append)

    def commit(person: int, number: int) -> Awaitable[object]:
        return gather.submit(_line(people[person], room, number))

    return commit


def _wish(person: Person, target: UUID, kind: Reaction) -> Wish:
    return Wish(Target(kind=TargetKind.LOOPROOM, id=target), person.id, kind, present=True)


def _line(author: Person, room: RoomId, number: int) -> NewLine:
    line = uuid4()
    return NewLine(id=LineId(line), room=room, author=author, text=f"line {number} of a tester", key=line.hex)


class _Targets:
    """What a person's n-th reaction is on: each kind once per target, so that every one is new."""

    def __init__(self) -> None:
        self._targets: list[UUID] = []

    def of(self, number: int) -> tuple[UUID, Reaction]:
        index, kind = divmod(number, len(_KINDS))
        while len(self._targets) <= index:
            self._targets.append(uuid4())
        return self._targets[index], _KINDS[kind]


async def _people(pool: Pool, count: int) -> list[Person]:
    rows = await pool.fetch(
        "insert into users (id, name) select gen_random_uuid(), 'Tester ' || i from generate_series(1, $1) i "
        "returning id, name",
        count,
    )
    return [Person(id=UserId(row["id"]), name=row["name"]) for row in rows]


async def _room(pool: Pool) -> RoomId:
    await pool.execute(
        "insert into categories (slug, name, description, colour, icon, position) "
        "values ('bench', 'Bench', '', '#000000', 'gauge', 99) on conflict do nothing"
    )
    room: UUID = await pool.fetchval(
        "insert into rooms (id, slug, title, description, category, host_id, content) "
        "select $1, 'bench-' || $1::uuid, 'Bench', '', 'bench', (select id from users limit 1), 'TEXT' returning id",
        uuid4(),
    )
    return RoomId(room)


def ratios(ways: dict[str, Way]) -> dict[str, float]:
    """Return how many times as fast group commit is."""
    pairs = {
        "group commit to one each, reactions": (GATHERED, ONE_BY_ONE),
        "group commit to bare INSERTs, reactions": (GATHERED, BARE),
        "group commit to one each, lines": (LINES_GATHERED, LINES_ONE_BY_ONE),
    }
    return {name: ways[fast].rate / max(1.0, ways[slow].rate) for name, (fast, slow) in pairs.items()}


def result(question: Question, ways: dict[str, Way]) -> Result:
    """Return what is kept of a run."""
    title = f"commits: {question.people} people, {question.rounds} rounds of {question.seconds:g} s each way"
    found = new_result("commits", __doc__, title, question, {"machine": machine_line()})
    for name, way in ways.items():
        total = max(1, sum(way.done))
        found.figures += [
            Figure(name, round(way.rate), "/s", MORE),
            *latency_figures(f"{name}, until committed", way.latencies.counts),
            *(
                Figure(f"{name}, CPU each, {role}", round(cpu / total * 1e6), "us", LESS)
                for role, cpu in sorted(way.cpu.items())
            ),
        ]
        if way.refused:
            found.notes.append(f"{name}: {way.refused:,} were told to try again")
        found.curves.append(curve(name, way.latencies.counts))
    found.figures += [Figure(name, round(ratio, 1), "x", MORE) for name, ratio in ratios(ways).items()]
    return found
