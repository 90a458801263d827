"""Reactions: one of a kind per person and target whatever is sent, committed in batches, exact in every answer and total."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import pytest

from protocol.envelope import Command, Person, RoomId, UserId
from protocol.presence import RoomPulse
from protocol.reactions import AddReaction, Reaction, Reactor, RemoveReaction, Tally, Target, TargetKind
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import JoinRoom
from server.node import Node
from server.reactions import Outcome, ReactionWriter, Wanted
from storage import reactions
from storage.postgres.pool import PersonGone, Pool
from storage.reactions import Total, Wish, settle, totals
from tests.hosting import hosting, make_room
from tests.neighbours import Neighbour
from tests.redis.valkeys import Valkey
from tests.stores import database_url, pool, postgres, valkey
from tests.waiting import until

__all__ = ["database_url", "pool", "postgres", "valkey"]  # fixtures

HEART, CLAP = Reaction.HEART, Reaction.CLAP


async def people(pool: Pool, count: int) -> list[Person]:
    """Make accounts."""
    made = [Person(id=UserId(uuid4()), name=f"person {number}") for number in range(count)]
    await pool.execute(
        "insert into users (id, name) select * from unnest($1::uuid[], $2::text[])",
        [person.id for person in made],
        [person.name for person in made],
    )
    return made


def room() -> Target:
    """Return a looproom to react to."""
    return Target(kind=TargetKind.LOOPROOM, id=uuid4())


async def stored(pool: Pool) -> dict[tuple[UUID, str], int]:
    """Count the reactions that are stored."""
    rows = await pool.fetch("select target_id, kind::text, count(*) as n from reactions group by 1, 2")
    return {(row["target_id"], row["kind"]): row["n"] for row in rows}


async def test_one_of_a_kind(pool: Pool) -> None:
    """The same reaction given again changes nothing and says so; another kind, person or target is another one."""
    one, other = await people(pool, 2)
    here, there = room(), room()
    wishes = [
        Wish(here, one.id, HEART, present=True),
        Wish(here, one.id, HEART, present=True),
        Wish(here, one.id, CLAP, present=True),
        Wish(here, other.id, HEART, present=True),
        Wish(there, one.id, HEART, present=True),
    ]
    settled = await settle(pool, wishes)
    assert settled.changed == [True, False, True, True, True]
    assert settled.totals == {
        here.id: {HEART: Total(2, 1), CLAP: Total(1, 1)},
        there.id: {HEART: Total(1, 1)},
    }
    assert settled.added == {(here.id, HEART): 2, (here.id, CLAP): 1, (there.id, HEART): 1}
    again = await settle(pool, wishes)
    assert again.changed == [False] * 5
    assert again.totals == settled.totals
    assert not again.added


async def test_taken_back(pool: Pool) -> None:
    """A reaction is taken back once; the total knows, and stays known as zero."""
    (one,) = await people(pool, 1)
    here = room()
    await settle(pool, [Wish(here, one.id, HEART, present=True)])
    settled = await settle(pool, [Wish(here, one.id, HEART, present=False)] * 2)
    assert settled.changed == [True, False]
    assert settled.totals == {here.id: {HEART: Total(0, 2)}}
    assert settled.withdrawn == [Wish(here, one.id, HEART, present=False)]
    assert await stored(pool) == {}


async def test_opposites_in_one_batch(pool: Pool) -> None:
    """Given, taken back and given again in one batch, each gets the answer that it would get alone, in order."""
    one, other = await people(pool, 2)
    here = room()

    def wishes(*present: bool) -> list[Wish]:
        return [Wish(here, one.id, HEART, present=now) for now in present]

    assert (await settle(pool, wishes(True, False, True, True))).changed == [True, True, True, False]
    settled = await settle(pool, [*wishes(False, True, False), Wish(here, other.id, HEART, present=True)])
    assert settled.changed == [True, True, True, True]
    assert settled.totals == {here.id: {HEART: Total(1, 1)}}
    assert (await settle(pool, wishes(True, False))).changed == [True, True]
    assert await stored(pool) == {(here.id, "HEART"): 1}


async def test_random_batches_against_a_model(pool: Pool) -> None:
    """Whatever is wished in whatever batches, answers and totals are those of a set of reactions."""
    rng = random.Random(7)
    crowd = await people(pool, 4)
    targets = [room(), room()]
    there: set[tuple[UUID, UserId, Reaction]] = set()
    counts: Counter[tuple[UUID, Reaction]] = Counter()
    for _ in range(60):
        batch = [
            Wish(rng.choice(targets), rng.choice(crowd).id, rng.choice([HEART, CLAP]), rng.random() < 0.6)
            for _ in range(rng.randint(1, 12))
        ]
        expected = []
        for wish in batch:
            key = wish.target.id, wish.user, wish.reaction
            expected.append((key in there) != wish.present)
            (there.add if wish.present else there.discard)(key)
        settled = await settle(pool, batch)
        assert settled.changed == expected
        counts = Counter((target, kind) for target, _, kind in there)
        for target, by_kind in settled.totals.items():
            assert {kind: total.total for kind, total in by_kind.items()} == {
                kind: counts[target, kind] for kind in by_kind
            }
    read = await totals(pool, [target.id for target in targets])
    assert {
        (t, k): total.total for t, by_kind in read.items() for k, total in by_kind.items() if total.total
    } == counts


async def test_nodes_that_react_at_once(pool: Pool) -> None:
    """Batches of several nodes on the same people and rooms are all committed, without a deadlock, and the totals are exact."""
    crowd = await people(pool, 8)
    targets = [room(), room()]
    added: Counter[tuple[UUID, Reaction]] = Counter()

    async def node(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(40):
            batch = [
                Wish(
                    rng.choice(targets), rng.choice(crowd).id, rng.choice(list(Reaction)), rng.random() < 0.5
                )
                for _ in range(rng.randint(1, 50))
            ]
            added.update((await settle(pool, batch)).added)

    deadlocks = "select deadlocks from pg_stat_database where datname = current_database()"
    before = await pool.fetchval(deadlocks)
    await asyncio.gather(*[node(seed) for seed in range(4)])
    truth = await stored(pool)
    assert {(target, kind.value): count for (target, kind), count in added.items() if count} == truth
    rows = await pool.fetch("select target_id, kind::text, total from reaction_totals where total > 0")
    assert {(row["target_id"], row["kind"]): row["total"] for row in rows} == truth
    assert await pool.fetchval(deadlocks) == before


async def test_totals_have_no_negative(pool: Pool) -> None:
    """A total below zero is a bug that the database refuses to keep."""
    with pytest.raises(asyncpg.CheckViolationError):
        await pool.execute(
            "insert into reaction_totals (target_id, kind, target_kind, total, revision) "
            "values (gen_random_uuid(), 'HEART', 'looproom', -1, 1)"
        )


class Subject(Neighbour):
    """A node with its writer of reactions."""

    def __init__(self, redis_url: str, pool: Pool) -> None:
        super().__init__(redis_url, pool)
        node = SimpleNamespace(
            stores=SimpleNamespace(pool=pool),
            presence=self.presence,
            feed=None,
            person_events=SimpleNamespace(publish=list),
        )
        self.reactions = ReactionWriter(cast("Node", node))

    async def add(self, person: Person, target: Target, reaction: Reaction = HEART) -> Outcome:
        """React."""
        return await self.reactions.settle(Wanted(person, target, reaction, present=True))

    async def remove(self, person: Person, target: Target, reaction: Reaction = HEART) -> Outcome:
        """Take it back."""
        return await self.reactions.settle(Wanted(person, target, reaction, present=False))


async def test_room_is_told(valkey: Valkey, pool: Pool) -> None:
    """A batch reaches its room on every node as what was added, the totals, and a few of who it was."""
    crowd = await people(pool, 200)
    target = room()
    here = RoomId(target.id)
    async with Subject(valkey.url, pool) as north, Subject(valkey.url, pool) as south:
        await north.open(here)
        await south.open(here)
        answers = await asyncio.gather(*[north.add(one, target) for one in crowd])
        assert all(answer.changed for answer in answers)
        assert max(answer.counts[HEART] for answer in answers) == 200
        assert north.reactions.gather.batches <= 10
        for node in (north, south):
            await until(lambda node=node: node.listeners[here].totals == {HEART: 200})  # type: ignore[misc] # bound now
            told = [pulse for pulse in node.listeners[here].pulses if pulse.reactions]
            assert sum(pulse.reactions[HEART].added for pulse in told) == 200
            assert all(0 < len(pulse.reactors) <= 5 for pulse in told)
            assert told[-1].reactors[-1] == Reactor(person=crowd[-1], reaction=HEART)
        assert south.publications <= north.reactions.gather.batches
        assert (await south.remove(crowd[0], target)).counts == {HEART: 199}
        assert (await north.add(crowd[1], target)).counts == {HEART: 199}
        await until(lambda: north.listeners[here].totals == {HEART: 199})


async def test_snapshot_has_the_totals(valkey: Valkey, pool: Pool) -> None:
    """A room that opens knows the totals, and nobody is told them as if they were new."""
    one, other = await people(pool, 2)
    target = room()
    here = RoomId(target.id)
    async with Subject(valkey.url, pool) as north:
        assert (await north.add(one, target)).counts == {HEART: 1}
        await north.open(here)
        assert north.presence.state(here).reactions == {HEART: 1}
        await north.add(other, target)
        await until(lambda: north.listeners[here].totals == {HEART: 2})
        assert [pulse.reactions[HEART].added for pulse in north.listeners[here].pulses] == [1]


async def test_poisoned_row_fails_alone(valkey: Valkey, pool: Pool) -> None:
    """One person whose account is gone does not keep the others of the batch from reacting."""
    crowd = await people(pool, 5)
    stranger = Person(id=UserId(uuid4()), name="nobody")
    target = room()
    async with Subject(valkey.url, pool) as north:
        answers = await asyncio.gather(
            *[north.add(one, target) for one in [*crowd[:2], stranger, *crowd[2:]]], return_exceptions=True
        )
        assert isinstance(answers[2], PersonGone)
        assert sum(isinstance(answer, Outcome) and answer.changed for answer in answers) == 5
        assert (await north.add(crowd[0], target)).counts == {HEART: 5}


async def test_answer_that_is_lost(valkey: Valkey, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nobody knows whether it was committed, it is refused, the room learns the truth, and trying again tells."""
    (one,) = await people(pool, 1)
    target = room()
    here = RoomId(target.id)
    commit = reactions.settle

    async def torn(pool: Pool, wishes: Sequence[Wish]) -> reactions.Settled:
        await commit(pool, wishes)
        raise Refused(ErrorCode.UNAVAILABLE, retry_after=1.0)

    async with Subject(valkey.url, pool) as north:
        await north.open(here)
        monkeypatch.setattr(reactions, "settle", torn)
        with pytest.raises(Refused, match=ErrorCode.UNAVAILABLE.advice[:20]):
            await north.add(one, target)
        monkeypatch.setattr(reactions, "settle", commit)
        await until(lambda: north.listeners[here].totals == {HEART: 1})
        again = await north.add(one, target)
        assert (again.changed, again.counts) == (False, {HEART: 1})


async def test_redis_is_away(valkey: Valkey, pool: Pool) -> None:
    """Without Redis reactions are committed and told on their own node; other nodes have the totals afterwards."""
    one, other = await people(pool, 2)
    target = room()
    here = RoomId(target.id)
    async with Subject(valkey.url, pool) as north, Subject(valkey.url, pool) as south:
        await north.open(here)
        await south.open(here)
        valkey.kill()
        assert (await north.add(one, target)).counts == {HEART: 1}
        assert (await south.add(other, target)).counts == {HEART: 2}
        await until(lambda: south.listeners[here].totals == {HEART: 2})
        valkey.start()
        await until(lambda: north.listeners[here].totals == {HEART: 2})


async def test_commands(valkey: Valkey, pool: Pool, database_url: str) -> None:
    """Over a socket: given once, taken back once, seen by the other; nothing outside of a room that one is in."""
    here = await make_room(pool, "calm")
    draft = await make_room(pool, "draft", status="DRAFT")
    calm = Target(kind=TargetKind.LOOPROOM, id=here)
    async with hosting(database_url, valkey.url, pool) as host:
        one, other = await host.client("One"), await host.client("Other")
        for target, code in (
            (calm, ErrorCode.NOT_IN_ROOM),
            (Target(kind=TargetKind.LOOPROOM, id=draft), ErrorCode.NOT_FOUND),
            (room(), ErrorCode.NOT_FOUND),
            (Target(kind=TargetKind.VYBE, id=here), ErrorCode.NOT_FOUND),
            (Target(kind=TargetKind.COMMENT, id=uuid4()), ErrorCode.NOT_FOUND),
        ):
            refusing: list[Command[Any]] = [
                AddReaction(target=target, reaction=HEART),
                RemoveReaction(target=target, reaction=HEART),
            ]
            for command in refusing:
                with pytest.raises(Refused) as refused:
                    await one.call(command)
                assert refused.value.code == code
        await one.call(JoinRoom(room="calm"))
        await other.call(JoinRoom(room="calm"))
        first = await one.call(AddReaction(target=calm, reaction=HEART))
        assert (first.added, first.counts) == (True, {HEART: 1})
        again = await one.call(AddReaction(target=calm, reaction=HEART))
        assert (again.added, again.counts) == (False, {HEART: 1})
        async with asyncio.timeout(5):
            while not (isinstance(event := await anext(other), RoomPulse) and event.reactions):
                pass
        assert event.reactions == {HEART: Tally(added=1, total=1)}
        assert event.reactors == [Reactor(person=one.user, reaction=HEART)]
        gone = await one.call(RemoveReaction(target=calm, reaction=HEART))
        assert (gone.removed, gone.counts) == (True, {HEART: 0})
        assert not (await one.call(RemoveReaction(target=calm, reaction=HEART))).removed
        assert await stored(pool) == {}
