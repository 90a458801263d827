"""The lookout, against a real Valkey and a clock of our own: what is missed is read, and believed only under a lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from protocol.envelope import Person, RoomId, UserId
from server.hub.lookout import Lookout
from server.hub.roster import Roster
from storage.presence import (
    Entry,
    Shift,
    Write,
    end_lease,
    leased,
    read_nodes,
    take_lease,
    write_rosters,
)
from storage.redis.pool import RedisAway, open_redis
from tests.redis.valkeys import Valkey
from tests.waiting import until

ROOM, OTHER = RoomId(UUID(int=1)), RoomId(UUID(int=2))
ME, NORTH, SOUTH = b"lookout-", b"north---", b"south---"
LEASE, GRACE = 10.0, 4.0


def entries(*numbers: int) -> list[Entry]:
    """Return entries of people."""
    return [Entry(Person(id=UserId(UUID(int=number)), name="somebody")) for number in numbers]


class Subject:
    """A lookout with one room, the clock, and a way to play other nodes."""

    def __init__(self, url: str) -> None:
        self.redis = open_redis(url, timeout=0.3)
        self.now = 100.0
        self.roster = Roster(lambda _user, _before: None)
        self.stirred = 0
        self.own: dict[RoomId, int] = {}
        self.findings: list[tuple[RoomId, int | None, int | None]] = []
        self.lookout = Lookout(
            ME, self.redis, self, self._stirred, lease=LEASE, grace=GRACE, clock=lambda: self.now
        )
        self.lookout.watch(ROOM, self.roster)

    def _stirred(self, room: RoomId) -> None:
        assert room == ROOM
        self.stirred += 1

    def written(self, room: RoomId) -> int | None:
        """Play the herald."""
        return self.own.get(room)

    def found(self, room: RoomId, expected: int | None, listed: int | None) -> None:
        """Play the herald."""
        self.findings.append((room, expected, listed))

    async def write(self, node: bytes, sequence: int, *numbers: int, lease: bool = True) -> None:
        """Write as another node would."""
        await write_rosters(self.redis, node, [Write(ROOM, sequence, entries(*numbers), anew=True)])
        if lease:
            await take_lease(self.redis, node, LEASE)

    async def looks(self, seconds: float) -> None:
        """Let time pass, with a look each second."""
        for _ in range(int(seconds)):
            self.now += 1
            await self.lookout.look()
            await self.lookout.read_doubts()

    def sees(self, *numbers: int) -> bool:
        """Say whether exactly these people are in the room."""
        return self.roster.people.keys() == {UserId(UUID(int=number)) for number in numbers}


@pytest.fixture
async def subject(valkey: Valkey) -> AsyncIterator[Subject]:
    """Give a lookout whose own node is believed."""
    subject = Subject(valkey.url)
    await take_lease(subject.redis, ME, 60)
    yield subject
    await subject.redis.aclose()


async def test_load(subject: Subject) -> None:
    """A room that opens has everyone whom other nodes have there; what this node left in Redis is not another's."""
    await subject.write(NORTH, 5, 1, 2)
    await subject.write(SOUTH, 9, 2, 3)
    await subject.write(ME, 7, 4)
    await subject.lookout.load(ROOM)
    assert subject.sees(1, 2, 3)
    assert (subject.roster.sequence(NORTH), subject.roster.sequence(SOUTH)) == (5, 9)


async def test_load_without_redis(subject: Subject, valkey: Valkey) -> None:
    """What could not be read when the room opened is read as soon as Redis is there."""
    await subject.write(NORTH, 5, 1)
    valkey.freeze()
    with pytest.raises(RedisAway):
        await subject.lookout.load(ROOM)
    valkey.thaw()
    await subject.looks(1)
    assert subject.sees(1)


async def test_not_believed_without_a_lease(subject: Subject) -> None:
    """Of a node without a lease nothing is believed; once it has one, it is read."""
    await subject.write(NORTH, 5, 1, lease=False)
    await subject.lookout.load(ROOM)
    assert subject.sees()
    assert subject.roster.nodes == {NORTH}
    await subject.write(NORTH, 6, 1, 2)
    await subject.looks(1)
    assert subject.sees(1, 2)


async def test_dead_leftovers_are_removed(subject: Subject) -> None:
    """What a node left that never comes back is removed from Redis."""
    await subject.write(NORTH, 5, 1, lease=False)
    await subject.write(SOUTH, 5, 2)
    await subject.lookout.load(ROOM)
    await subject.looks(4)
    assert subject.roster.nodes == {SOUTH}
    assert (await read_nodes(subject.redis, [ROOM]))[ROOM] == {SOUTH: 5}
    await take_lease(subject.redis, NORTH, LEASE)
    await subject.looks(1)
    assert subject.sees(2)


async def test_doubt_is_read(subject: Subject) -> None:
    """After a gap all that the node has written is read, once for however many doubts."""
    await subject.write(NORTH, 5, 1)
    await subject.lookout.load(ROOM)
    await subject.write(NORTH, 8, 1, 2, 3)
    for sequence in (7, 8):
        assert not subject.roster.apply(Shift(NORTH, sequence, entries(3)))
        subject.lookout.doubt(ROOM, NORTH)
    read = subject.lookout.read
    await subject.lookout.read_doubts()
    assert subject.sees(1, 2, 3)
    assert subject.lookout.read == read + 1
    assert subject.stirred


async def test_reading_that_is_overtaken(subject: Subject) -> None:
    """When changes came with a gap while it was read, it is read again until nothing is missing."""
    await subject.write(NORTH, 5, 1)
    await subject.lookout.load(ROOM)
    assert not subject.roster.apply(Shift(NORTH, 9, entries(2)))
    subject.lookout.doubt(ROOM, NORTH)
    reading = asyncio.create_task(subject.lookout.read_doubts())
    await until(lambda: subject.lookout.read > 2)
    await subject.write(NORTH, 9, 1, 2, 3)
    await reading
    assert subject.sees(1, 2, 3)


async def test_node_that_has_closed_the_room(subject: Subject) -> None:
    """A believed node that has nothing written of a room has nobody there."""
    await subject.write(NORTH, 5, 1)
    await subject.lookout.load(ROOM)
    await write_rosters(subject.redis, NORTH, [Write(ROOM, 6, closed=True)])
    subject.lookout.doubt(ROOM, NORTH)
    await subject.lookout.read_doubts()
    assert subject.sees()
    assert subject.roster.nodes == set()


async def test_room_that_is_forgotten(subject: Subject) -> None:
    """A doubt about a room that was closed meanwhile is nothing."""
    await subject.write(NORTH, 5, 1)
    subject.lookout.doubt(ROOM, NORTH)
    subject.lookout.doubt(OTHER, NORTH)
    reading = asyncio.create_task(subject.lookout.read_doubts())
    await asyncio.sleep(0)
    subject.lookout.forget(ROOM)
    await reading
    assert subject.sees()


async def test_node_dies(subject: Subject) -> None:
    """A node whose lease is gone is dropped with its people a little later, and its leftovers are removed."""
    await subject.write(NORTH, 5, 1)
    await subject.write(SOUTH, 5, 2)
    await subject.lookout.load(ROOM)
    await end_lease(subject.redis, NORTH)
    await subject.looks(1)
    assert subject.sees(1, 2)
    assert subject.lookout.missed == 1
    await subject.looks(2)
    assert subject.sees(2)
    assert subject.lookout.missed == 1  # until the next look
    await subject.looks(1)
    assert subject.lookout.missed == 0
    assert (await read_nodes(subject.redis, [ROOM]))[ROOM] == {SOUTH: 5}


async def test_lease_that_was_late(subject: Subject) -> None:
    """A lease that was gone for a moment is forgiven."""
    await subject.write(NORTH, 5, 1)
    await subject.lookout.load(ROOM)
    for _ in range(4):
        await end_lease(subject.redis, NORTH)
        await subject.looks(1)
        await take_lease(subject.redis, NORTH, LEASE)
        await subject.looks(1)
    assert subject.sees(1)


async def test_redis_was_emptied(subject: Subject) -> None:
    """When this node's own lease is gone too, every node has the time of a lease to come back, and no longer."""
    await subject.write(NORTH, 5, 1)
    await subject.write(SOUTH, 5, 2)
    await subject.lookout.load(ROOM)
    for node in (ME, NORTH, SOUTH):
        await end_lease(subject.redis, node)
    await subject.looks(1)
    await take_lease(subject.redis, ME, 60)
    await subject.looks(8)
    assert subject.sees(1, 2)
    await subject.write(SOUTH, 1005, 2, 3)
    await subject.looks(1)
    assert subject.sees(1, 2)
    await subject.looks(2)
    assert not subject.roster.people.keys() & {UserId(UUID(int=1))}


async def test_restored(subject: Subject) -> None:
    """After publications were lost it compares at once and spares everyone for the time of a lease."""
    await subject.write(NORTH, 5, 1)
    await subject.lookout.load(ROOM)
    await subject.write(NORTH, 1005, 1, 2)
    await end_lease(subject.redis, NORTH)
    subject.lookout.restored()
    await subject.looks(8)
    assert subject.sees(1)
    await take_lease(subject.redis, NORTH, LEASE)
    await subject.looks(2)
    assert subject.sees(1, 2)


async def test_farewell(subject: Subject) -> None:
    """A node that said farewell keeps its people for the grace, with a lease or without, however often it says it."""
    await subject.write(NORTH, 5, 1)
    await subject.lookout.load(ROOM)
    subject.lookout.farewell(NORTH)
    await end_lease(subject.redis, NORTH)
    await subject.looks(3)
    subject.lookout.farewell(NORTH)
    assert subject.sees(1)
    await subject.looks(1)
    assert subject.sees()
    subject.lookout.farewell(SOUTH)
    await subject.looks(1)
    assert subject.sees()


async def test_comparing(subject: Subject) -> None:
    """What was lost at the tail is found by comparing, but not before it had a moment to arrive by itself."""
    await subject.write(NORTH, 5, 1)
    await subject.lookout.load(ROOM)
    await subject.looks(4)
    await subject.write(NORTH, 6, 1, 2)
    read = subject.lookout.read
    await subject.looks(1)
    assert subject.lookout.read == read
    await subject.looks(1)
    assert subject.sees(1, 2)


async def test_comparing_finds_what_arrived_meanwhile(subject: Subject) -> None:
    """What arrives by itself after the comparison is not read."""
    await subject.write(NORTH, 5, 1)
    await subject.lookout.load(ROOM)
    await subject.looks(4)
    await subject.write(NORTH, 6, 1, 2)
    await subject.looks(1)
    subject.roster.apply(Shift(NORTH, 6, entries(2)))
    read = subject.lookout.read
    await subject.looks(6)
    assert subject.lookout.read == read


async def test_comparing_finds_nodes(subject: Subject) -> None:
    """A node that came or went without being heard is found, and a room that was closed meanwhile is none."""
    await subject.write(NORTH, 5, 1)
    await subject.looks(5)
    assert subject.sees(1)
    await write_rosters(subject.redis, NORTH, [Write(ROOM, 6, closed=True)])
    await subject.looks(6)
    assert subject.sees()


async def test_room_that_is_closed_while_comparing(subject: Subject) -> None:
    """What is found about a room that was closed meanwhile is nothing."""
    await subject.write(NORTH, 5, 1)
    await subject.lookout.load(ROOM)
    await subject.write(NORTH, 6, 1, 2)
    subject.lookout.restored()
    await subject.lookout.look()
    subject.lookout.forget(ROOM)
    await subject.looks(1)
    subject.lookout.watch(ROOM, Roster(lambda _user, _before: None))
    subject.lookout.restored()
    looking = asyncio.create_task(subject.lookout.look())
    await asyncio.sleep(0)
    subject.lookout.forget(ROOM)
    await looking
    assert subject.lookout.read == 1


async def test_comparing_tells_of_our_own(subject: Subject) -> None:
    """What this node has written itself is compared too, with what was known before it was read."""
    subject.own[ROOM] = 7
    await subject.looks(5)
    assert subject.findings == [(ROOM, 7, None)]
    await subject.write(ME, 7, 1)
    await subject.looks(5)
    assert subject.findings[-1] == (ROOM, 7, 7)
    assert subject.roster.nodes == set()


async def test_doubts_stay_while_redis_is_away(subject: Subject, valkey: Valkey) -> None:
    """What could not be read is still in doubt."""
    await subject.write(NORTH, 5, 1)
    subject.lookout.doubt(ROOM, NORTH)
    valkey.freeze()
    with pytest.raises(RedisAway):
        await subject.lookout.read_doubts()
    valkey.thaw()
    await subject.lookout.read_doubts()
    assert subject.sees(1)


async def test_runs_by_itself(valkey: Valkey) -> None:
    """It reads what is in doubt at once, looks regularly, and goes on after Redis was away or a bug."""
    subject = Subject(valkey.url)
    loop = asyncio.get_running_loop()
    subject.lookout = Lookout(
        ME, subject.redis, subject, subject._stirred, lease=1.0, grace=0.2, clock=loop.time
    )
    subject.lookout.watch(ROOM, subject.roster)
    running = asyncio.create_task(subject.lookout.run())
    try:
        await subject.write(NORTH, 5, 1)
        subject.lookout.doubt(ROOM, NORTH)
        assert await until(lambda: subject.sees(1)) < 0.5
        assert NORTH in await leased(subject.redis, [NORTH])
        valkey.kill()
        subject.lookout.doubt(ROOM, NORTH)
        await asyncio.sleep(0.05)
        valkey.start()
        await subject.write(NORTH, 6, 1, 2)
        await until(lambda: subject.sees(1, 2))
        subject.stirred = "a bug"  # type: ignore[assignment] # a failure inside
        subject.lookout.doubt(ROOM, NORTH)
        await asyncio.sleep(0.05)
        subject.stirred = 0
        await subject.write(NORTH, 7, 3)
        await until(lambda: subject.sees(3))
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await subject.redis.aclose()
