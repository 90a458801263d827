"""The herald, against a real Valkey and a clock of our own: written first, published then, anew where it may be lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from protocol.envelope import Person, RoomId, UserId
from server.hub import herald as module
from server.hub.herald import AT_ONCE, Herald
from storage.presence import (
    KEPT,
    Change,
    Entry,
    Farewell,
    Roster,
    Shift,
    end_lease,
    leased,
    read_nodes,
    read_rosters,
)
from storage.redis.pool import Command, Redis, RedisAway, open_redis
from tests.redis.valkeys import Valkey
from tests.waiting import until

ROOM, OTHER = RoomId(UUID(int=1)), RoomId(UUID(int=2))
NODE = b"the node"
LEASE = 10.0
MORNING = 1_800_000_000.0


def user(number: int) -> UserId:
    """Return an id."""
    return UserId(UUID(int=number))


class Subject:
    """A herald with its people, its clock, and all that it has published."""

    def __init__(self, url: str) -> None:
        self.redis: Redis = open_redis(url, timeout=0.3)
        self.now = 100.0
        self.published: list[tuple[RoomId, Change]] = []
        self.own: dict[RoomId, dict[UserId, Entry]] = {}
        self.herald = Herald(
            NODE,
            self.redis,
            lambda room, change: self.published.append((room, change)),
            lease=LEASE,
            clock=lambda: self.now,
            wall=lambda: MORNING,
        )

    def open(self, room: RoomId = ROOM) -> None:
        """Begin with a room in which nobody is."""
        self.own[room] = {}
        self.herald.open(room, self.own[room])

    def come(self, *numbers: int, room: RoomId = ROOM) -> None:
        """Let people come."""
        for number in numbers:
            self.own[room][user(number)] = Entry(Person(id=user(number), name="somebody"))
            self.herald.mark(room, user(number))

    def go(self, *numbers: int, room: RoomId = ROOM) -> None:
        """Let people go."""
        for number in numbers:
            del self.own[room][user(number)]
            self.herald.mark(room, user(number))

    async def written(self, room: RoomId = ROOM) -> Roster | None:
        """Return what others would read."""
        return (await read_rosters(self.redis, [(room, NODE)]))[room, NODE]

    async def is_right(self, room: RoomId = ROOM) -> bool:
        """Say whether all is written as it is, under the number that is published and listed."""
        roster = await self.written(room)
        listed = (await read_nodes(self.redis, [room]))[room]
        shifts = [change for at, change in self.published if at == room and isinstance(change, Shift)]
        return (
            roster is not None
            and {entry.person.id: entry for entry in roster.entries} == self.own[room]
            and roster.sequence == listed[NODE] == shifts[-1].sequence == self.herald.written(room)
        )

    async def believed(self) -> bool:
        """Say whether the lease is there."""
        return NODE in await leased(self.redis, [NODE])

    async def ttl(self, key: str) -> int:
        """Return how long a key lives, in milliseconds."""
        return await self.redis.run(Command(("PTTL", key), int))


@pytest.fixture
async def subject(valkey: Valkey) -> AsyncIterator[Subject]:
    """Give a herald with one room."""
    subject = Subject(valkey.url)
    subject.open()
    yield subject
    await subject.redis.aclose()


async def test_nothing_to_say(subject: Subject) -> None:
    """A room in which nobody ever was is not written; the lease is taken all the same."""
    await subject.herald.round()
    assert subject.herald.rounds == 0
    assert await subject.believed()
    assert subject.herald.leased
    subject.herald.close(ROOM)
    await subject.herald.round()
    assert subject.published == []


async def test_changes_of_a_turn_are_one_round(subject: Subject) -> None:
    """Whatever was marked since the last round is one write and one publication, under the next number."""
    subject.come(1, 2)
    await subject.herald.round()
    first = subject.herald.written(ROOM)
    assert first is not None
    assert await subject.is_right()
    subject.come(*range(3, 100))
    subject.go(1, 99)
    await subject.herald.round()
    assert await subject.is_right()
    assert subject.herald.rounds == 2
    shift = subject.published[-1][1]
    assert isinstance(shift, Shift)
    assert shift.sequence == first + 1
    assert [entry.person.id for entry in shift.entries] == [user(number) for number in range(3, 99)]
    assert sorted(shift.gone) == [user(1), user(99)]
    await subject.herald.round()
    assert subject.herald.rounds == 2


async def test_very_many_changes(subject: Subject) -> None:
    """More changes than one publication should carry go in several, without a gap between them."""
    subject.come(0)
    await subject.herald.round()
    subject.come(*range(1, 2 * AT_ONCE + 2))
    while subject.herald.due:
        await subject.herald.round()
    shifts = [change for _, change in subject.published if isinstance(change, Shift)]
    assert [len(shift.entries) for shift in shifts] == [0, AT_ONCE, AT_ONCE, 1]
    assert [shift.sequence - shifts[0].sequence for shift in shifts] == [0, 1, 2, 3]
    assert await subject.is_right()


async def test_failed_write(subject: Subject, valkey: Valkey) -> None:
    """What may not have been written is written anew as a whole, under a number that everyone notices."""
    subject.come(1)
    await subject.herald.round()
    before = subject.herald.written(ROOM)
    assert before is not None
    valkey.kill()
    subject.come(2)
    with pytest.raises(RedisAway):
        await subject.herald.round()
    subject.go(1)
    with pytest.raises(RedisAway):
        await subject.herald.round()
    assert len(subject.published) == 1
    valkey.start()
    await subject.herald.round()
    assert await subject.is_right()
    written = subject.herald.written(ROOM)
    assert written is not None
    assert written > before + 1


async def test_restored(subject: Subject) -> None:
    """After Redis was lost every room that was ever written is written again, and the lease is looked after at once."""
    subject.open(OTHER)
    subject.come(1)
    await subject.herald.round()
    await subject.redis.run(Command(("FLUSHALL",), bool))
    subject.herald.restored()
    await subject.herald.round()
    assert await subject.is_right()
    assert await subject.believed()
    assert subject.herald.written(OTHER) is None


async def test_lease_is_renewed_in_time(subject: Subject) -> None:
    """The lease is renewed after a third of its life, and not at every round."""
    await subject.herald.round()
    await subject.redis.run(Command(("PEXPIRE", f"lr:node:{NODE.hex()}", 5000), int))
    subject.now += 2.9
    await subject.herald.round()
    assert await subject.ttl(f"lr:node:{NODE.hex()}") <= 5000
    subject.now += 0.2
    await subject.herald.round()
    assert await subject.ttl(f"lr:node:{NODE.hex()}") > 9000


async def test_lease_is_gone(subject: Subject) -> None:
    """A node that finds its lease gone writes everything anew before it takes another."""
    subject.come(1)
    await subject.herald.round()
    before = subject.herald.written(ROOM)
    await subject.redis.run(Command(("FLUSHALL",), bool))
    subject.now += 4
    await subject.herald.round()
    assert await subject.is_right()
    assert subject.herald.written(ROOM) != before
    assert await subject.believed()


async def test_stood_still(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that stood still for longer than its lease listens first, and then announces who is still there."""
    subject.come(1, 2)
    await subject.herald.round()
    await end_lease(subject.redis, NODE)
    subject.now += LEASE + 1
    slept: list[float] = []
    others, ours = asyncio.sleep, asyncio.current_task()

    async def sleep(seconds: float) -> None:
        if asyncio.current_task() is not ours:  # a node that stands beside goes on
            await others(seconds)
            return
        slept.append(seconds)
        assert not subject.herald.leased
        assert not await subject.believed()
        subject.go(1)

    monkeypatch.setattr("server.hub.herald.asyncio.sleep", sleep)
    await subject.herald.round()
    assert slept == [LEASE * 0.1]
    assert await subject.is_right()
    assert [change.entries for _, change in subject.published if isinstance(change, Shift)] == [[], []]
    assert await subject.believed()


async def test_no_lease_before_all_is_written(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more rooms than one round writes, the lease waits for the last of them, and not for those that come after."""
    monkeypatch.setattr(module, "ROOMS_AT_ONCE", 1)
    await subject.herald.round()
    subject.open(OTHER)
    subject.come(1)
    subject.come(2, room=OTHER)
    await subject.herald.round()
    await subject.herald.round()
    await end_lease(subject.redis, NODE)
    subject.now += 4
    await subject.herald.round()
    assert not await subject.believed()
    third = RoomId(UUID(int=3))
    subject.open(third)
    subject.come(3, room=third)
    await subject.herald.round()
    assert await subject.believed()
    assert subject.herald.due == 1


async def test_found(subject: Subject) -> None:
    """What is missing in Redis, or older there than it was, is written anew; what is as it was, or newer, is not."""
    subject.herald.found(ROOM, None, None)
    assert subject.herald.due == 0
    subject.come(1)
    await subject.herald.round()
    written = subject.herald.written(ROOM)
    assert written is not None
    subject.herald.found(ROOM, written, written)
    subject.herald.found(ROOM, written, written + 1)
    subject.herald.found(OTHER, 1, None)
    assert subject.herald.due == 0
    subject.herald.found(ROOM, written, written - 1)
    assert subject.herald.due == 1
    await subject.herald.round()
    subject.herald.found(ROOM, subject.herald.written(ROOM), None)
    await subject.herald.round()
    assert await subject.is_right()
    assert subject.herald.rounds == 3


async def test_closed(subject: Subject, valkey: Valkey) -> None:
    """A closed room leaves nothing in Redis, even if it takes several attempts, and others are told."""
    subject.come(1)
    await subject.herald.round()
    subject.go(1)
    subject.herald.close(ROOM)
    valkey.freeze()
    with pytest.raises(RedisAway):
        await subject.herald.round()
    valkey.thaw()
    await subject.herald.round()
    assert await subject.written() is None
    assert (await read_nodes(subject.redis, [ROOM]))[ROOM] == {}
    shift = subject.published[-1][1]
    assert isinstance(shift, Shift)
    assert shift.closed
    await subject.herald.round()
    assert subject.herald.written(ROOM) is None


async def test_opened_again(subject: Subject) -> None:
    """A room that is opened again goes on with higher numbers, whether its end was written or not."""
    numbers: list[int] = []
    for written in (True, False, True):
        subject.come(1)
        await subject.herald.round()
        numbers.append(subject.herald.written(ROOM) or 0)
        subject.go(1)
        subject.herald.close(ROOM)
        if written:
            await subject.herald.round()
        subject.open()
        await subject.herald.round()
        assert not (roster := await subject.written()) or roster.entries == []
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 1


async def test_closed_while_it_is_written(subject: Subject) -> None:
    """What is closed while its last write is under way is removed afterwards."""
    subject.come(1)
    writing = asyncio.create_task(subject.herald.round())
    await asyncio.sleep(0)
    subject.herald.close(ROOM)
    await writing
    await subject.herald.round()
    assert await subject.written() is None


async def test_opened_while_its_end_is_written(subject: Subject) -> None:
    """A room that is opened again while its end is being written is kept, and written anew afterwards."""
    subject.come(1)
    await subject.herald.round()
    subject.herald.close(ROOM)
    writing = asyncio.create_task(subject.herald.round())
    await asyncio.sleep(0)
    subject.open()
    await writing
    assert await subject.written() is None
    subject.come(2)
    await subject.herald.round()
    assert await subject.is_right()


async def test_farewell(subject: Subject) -> None:
    """A node that stops takes its lease and all that it wrote away, and says so in every room that has its people."""
    subject.open(OTHER)
    subject.come(1)
    await subject.herald.round()
    await subject.herald.farewell()
    assert subject.published[-1] == (ROOM, Farewell(NODE))
    assert await subject.redis.run(Command(("DBSIZE",), int)) == 0


async def test_farewell_without_redis(subject: Subject, valkey: Valkey) -> None:
    """Those who can be told are told, even if Redis does not answer."""
    subject.come(1)
    await subject.herald.round()
    valkey.kill()
    with pytest.raises(RedisAway):
        await subject.herald.farewell()
    assert subject.published[-1] == (ROOM, Farewell(NODE))


async def test_what_is_written_lives_on(subject: Subject) -> None:
    """What a quiet room has in Redis does not expire while its node lives."""
    subject.come(1)
    await subject.herald.round()
    key = f"lr:{{{ROOM}}}:here:{NODE.hex()}"
    assert 0 < await subject.ttl(key) <= KEPT * 1000
    await subject.redis.run(Command(("PEXPIRE", key, 60_000), int))
    for _ in range(int(KEPT / 4 / 2.9) + 1):
        subject.now += 2.9
        await subject.herald.round()
    assert subject.herald.rounds == 1
    assert await subject.ttl(key) > KEPT * 900


async def test_runs_by_itself(subject: Subject, valkey: Valkey) -> None:
    """It writes as soon as something is marked, sleeps otherwise, and goes on after Redis was away."""
    running = asyncio.create_task(subject.herald.run())
    try:
        await until(lambda: subject.herald.leased)
        subject.come(1)
        assert await until(lambda: subject.published) < 0.5
        valkey.kill()
        subject.come(2)
        await asyncio.sleep(0.05)
        valkey.start()
        await until(lambda: len(subject.published) == 2)
        assert await subject.is_right()
        await subject.redis.run(Command(("SET", f"lr:{{{ROOM}}}:nodes", "a bug"), bool))
        subject.come(3)
        await asyncio.sleep(0.05)
        await subject.redis.run(Command(("DEL", f"lr:{{{ROOM}}}:nodes"), int))
        await until(lambda: len(subject.published) == 3)
        assert await subject.is_right()
        subject.come(*range(4, 2 * AT_ONCE))
        await until(lambda: len(subject.published) == 5)
        assert await subject.is_right()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
