"""Presence on several nodes that meet in a real Valkey: people, not connections; whatever dies, the truth comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from protocol.client import Client
from protocol.envelope import Command, RoomId
from protocol.presence import Confidence, ListPresence, RoomPulse, RoomState, SetConfidence, SetTyping
from protocol.reactions import Reaction, Reactor, Tally
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import JoinRoom, LeaveRoom, RoomJoined
from server.presence import WRITING_SECONDS
from storage.postgres.pool import Pool
from storage.presence import Count, Entry, Shift, end_lease, packet
from storage.redis.pool import Command as RedisCommand
from storage.redis.pool import delete
from tests.audience import Listener
from tests.hosting import hosting, make_room
from tests.neighbours import GRACE, LEASE, Neighbour, person
from tests.redis.valkeys import Valkey
from tests.stores import database_url, pool, postgres, valkey
from tests.waiting import until

__all__ = ["database_url", "pool", "postgres", "valkey"]  # fixtures

SOON = 2.0
"""Seconds in which what is not lost arrives, on a machine that has much else to do."""


@pytest.fixture
def room() -> RoomId:
    """Give a room of one's own."""
    return RoomId(uuid4())


class Clock:
    """The loop's time, and what was added to it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead


async def keys(neighbour: Neighbour) -> list[bytes]:
    """Return all that is in Redis."""
    return await neighbour.redis.run(RedisCommand(("KEYS", "*"), sorted))


def joined_state(joined: RoomJoined) -> RoomState:
    """Return the ephemeral part of a snapshot."""
    return RoomState(
        online=joined.online,
        members=joined.members,
        complete=joined.complete,
        reactions=joined.reactions,
        confidence=joined.confidence,
        typing=joined.typing,
    )


async def keys_become(neighbour: Neighbour, expected: list[bytes], within: float) -> None:
    """Wait until exactly these keys are in Redis."""
    async with asyncio.timeout(within):
        found = await keys(neighbour)
        while found != expected:
            await asyncio.sleep(0.01)
            found = await keys(neighbour)


async def test_two_nodes_see_each_other(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """Whoever enters on one node is seen on the other, also by one that opens the room later; leaving is at once."""
    async with Neighbour(valkey.url, pool) as north, Neighbour(valkey.url, pool) as south:
        await north.open(room)
        north.enter(room, 1)
        await until(lambda: north.herald_wrote(room))
        await south.open(room)
        assert south.sees(room, 1)
        south.enter(room, 2)
        await until(lambda: north.sees(room, 1, 2) and south.sees(room, 1, 2), SOON)
        assert north.presence.is_present(room, person(2).id)
        south.leave(room, 2)
        await until(lambda: north.sees(room, 1) and south.sees(room, 1), GRACE)
        assert not north.presence.is_present(room, person(2).id)


async def test_nobody_is_told_while_a_room_opens(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """What is read while a room opens is in its first snapshot, and in no pulse."""
    async with Neighbour(valkey.url, pool) as north, Neighbour(valkey.url, pool) as south:
        await north.open(room)
        north.enter(room, 1, 2)
        await until(lambda: north.herald_wrote(room))
        await south.open(room)
        await asyncio.sleep(0.05)
        assert south.sees(room, 1, 2)
        assert south.listeners[room].pulses == []


async def test_many_connections_are_one_person(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """A person with tabs on two nodes comes once and goes once, with the last of them."""
    async with Neighbour(valkey.url, pool) as north, Neighbour(valkey.url, pool) as south:
        await north.open(room)
        await south.open(room)
        north.enter(room, 9)
        for tab in range(20):
            (north, south)[tab % 2].presence.enter(room, person(1), f"tab {tab}")
        await until(lambda: north.sees(room, 1, 9) and south.sees(room, 1, 9), SOON)
        for tab in range(20):
            assert south.presence.is_present(room, person(1).id)
            (north, south)[tab % 2].presence.leave(room, person(1).id, f"tab {tab}", at_once=True)
        north.presence.leave(room, person(1).id, "never entered", at_once=True)
        await until(lambda: north.sees(room, 9) and south.sees(room, 9), SOON)
        for node in (north, south):
            assert node.listeners[room].came.count(person(1).id) == 1
            assert node.listeners[room].went == [person(1).id]


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_coming_back_is_seen_by_nobody(
    valkey: Valkey, pool: Pool, room: RoomId, elsewhere: bool
) -> None:
    """Someone whose connection breaks, and who returns within the grace on whatever node, was never away."""
    clock = Clock()
    async with (
        Neighbour(valkey.url, pool, clock=clock) as north,
        Neighbour(valkey.url, pool, clock=clock) as south,
    ):
        await north.open(room)
        await south.open(room)
        north.enter(room, 1, 2)
        south.enter(room, 3)
        north.presence.level(room, person(1).id, 8)
        await until(lambda: north.sees(room, 1, 2, 3) and south.sees(room, 1, 2, 3), SOON)
        await until(lambda: south.listeners[room].confidence.count == 1, SOON)
        north.drop(room, 1)
        back = south if elsewhere else north
        back.presence.enter(room, person(1), "again")
        south.enter(room, 4)
        await until(lambda: north.sees(room, 1, 2, 3, 4) and south.sees(room, 1, 2, 3, 4), SOON)
        clock.ahead += 2 * GRACE
        north.presence.tick()
        assert north.presence.idle(room) is False
        south.enter(room, 5)
        await until(lambda: north.sees(room, 1, 2, 3, 4, 5) and south.sees(room, 1, 2, 3, 4, 5), SOON)
        for node in (north, south):
            assert node.listeners[room].went == []
            assert node.listeners[room].came.count(person(1).id) == 1
            assert node.listeners[room].confidence == Confidence(mean=8.0, count=1)


async def test_grace_ends(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """Someone who does not return leaves after the grace, not before, and the room is idle then."""
    clock = Clock()
    async with Neighbour(valkey.url, pool, clock=clock, grace=60) as north:
        await north.open(room)
        north.enter(room, 1)
        await until(lambda: north.sees(room, 1))
        north.drop(room, 1)
        await north.freeze()  # only this test turns the clock
        for _ in range(590):
            clock.ahead += 0.1
            north.presence.tick()
        assert north.presence.is_present(room, person(1).id)
        assert not north.presence.idle(room)
        clock.ahead += 1
        north.presence.tick()
        assert not north.presence.is_present(room, person(1).id)
        assert north.presence.idle(room)


async def test_leaving_ends_a_grace(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """Who said that they leave is not kept because another of their tabs broke before."""
    async with Neighbour(valkey.url, pool, grace=60) as north:
        await north.open(room)
        north.presence.enter(room, person(1), "one")
        north.presence.enter(room, person(1), "two")
        north.presence.leave(room, person(1).id, "one", at_once=False)
        north.presence.leave(room, person(1).id, "two", at_once=True)
        assert not north.presence.is_present(room, person(1).id)


async def test_node_dies(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """The people of a node that died are gone soon after its lease, those who came back elsewhere stay unmoved."""
    async with Neighbour(valkey.url, pool) as south, Neighbour(valkey.url, pool) as north:
        await north.open(room)
        await south.open(room)
        north.enter(room, 1, 2, 3)
        await until(lambda: south.sees(room, 1, 2, 3), SOON)
        await north.die()
        south.enter(room, 3)
        await until(lambda: south.sees(room, 3), 1.5 * LEASE + SOON)
        assert south.listeners[room].came.count(person(3).id) == 1
        await until(south.lookout_is_quiet)
        assert not [key for key in await keys(south) if north.id.hex().encode() in key]


async def test_farewell(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """When a node stops, its people are given the time to come back elsewhere, and then they leave."""
    async with Neighbour(valkey.url, pool, grace=0.8) as south:
        async with Neighbour(valkey.url, pool) as north:
            await north.open(room)
            await south.open(room)
            north.enter(room, 1, 2)
            await until(lambda: south.sees(room, 1, 2), SOON)
        south.enter(room, 2)
        assert south.sees(room, 1, 2)
        assert await until(lambda: south.sees(room, 2), SOON) > 0.3
        assert south.listeners[room].came == [person(1).id, person(2).id]
        assert south.listeners[room].went == [person(1).id]


async def test_redis_is_emptied(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """When Redis is killed and comes back empty, all is there again soon, and nobody was seen leaving."""
    async with Neighbour(valkey.url, pool) as north, Neighbour(valkey.url, pool) as south:
        await north.open(room)
        await south.open(room)
        north.enter(room, 1)
        south.enter(room, 2)
        await until(lambda: north.sees(room, 1, 2) and south.sees(room, 1, 2), SOON)
        valkey.kill()
        await until(lambda: not north.broker.healthy)
        north.enter(room, 3)
        north.leave(room, 1)
        north.presence.typing(room, person(3).id, on=True)
        await until(lambda: north.sees(room, 2, 3) and north.listeners[room].typing, SOON)
        assert south.sees(room, 1, 2)
        valkey.start()
        await until(lambda: south.sees(room, 2, 3), 1.5 * LEASE + SOON)
        async with Neighbour(valkey.url, pool) as east:
            await east.open(room)
            await until(lambda: east.sees(room, 2, 3), 1.5 * LEASE + SOON)
        assert north.listeners[room].went == south.listeners[room].went == [person(1).id]
        assert south.listeners[room].typing == []


async def test_redis_is_flushed(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """When Redis loses everything and no connection breaks, leases bring it back, and nobody was seen leaving."""
    async with Neighbour(valkey.url, pool) as north, Neighbour(valkey.url, pool) as south:
        await north.open(room)
        await south.open(room)
        north.enter(room, 1)
        south.enter(room, 2)
        await until(lambda: north.sees(room, 1, 2) and south.sees(room, 1, 2), SOON)
        await north.redis.run(RedisCommand(("FLUSHALL",), bool))
        for number in range(3, 9):
            north.enter(room, number)
            await asyncio.sleep(0.01)
        async with Neighbour(valkey.url, pool) as east:
            await east.open(room)
            for node in (north, south, east):
                await until(lambda node=node: node.sees(room, *range(1, 9)), 1.5 * LEASE + SOON)  # type: ignore[misc] # bound now
        assert north.listeners[room].went == south.listeners[room].went == []


async def test_redis_hangs(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """While Redis hangs everybody sees the people of their own node; afterwards all are there, and nobody had left."""
    async with Neighbour(valkey.url, pool) as north, Neighbour(valkey.url, pool) as south:
        await north.open(room)
        await south.open(room)
        north.enter(room, 1)
        south.enter(room, 2)
        await until(lambda: north.sees(room, 1, 2) and south.sees(room, 1, 2), SOON)
        valkey.freeze()
        try:
            north.enter(room, 3)
            await until(lambda: north.sees(room, 1, 2, 3))
            began = asyncio.get_running_loop().time()
            other = RoomId(uuid4())
            await north.open(other)
            north.enter(other, 3)
            assert asyncio.get_running_loop().time() - began < 2
            await asyncio.sleep(1.5 * LEASE)
            assert north.sees(room, 1, 2, 3)
        finally:
            valkey.thaw()
        await until(lambda: south.sees(room, 1, 2, 3), 1.5 * LEASE + SOON)
        assert north.listeners[room].went == south.listeners[room].went == []
        await south.open(other)
        await until(lambda: south.sees(other, 3), 1.5 * LEASE + SOON)


async def test_opened_without_redis(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """A room opens without Redis, and has everyone when Redis is there."""
    async with Neighbour(valkey.url, pool) as north, Neighbour(valkey.url, pool) as south:
        await north.open(room)
        north.enter(room, 1)
        valkey.kill()
        await south.open(room)
        south.enter(room, 2)
        await until(lambda: south.sees(room, 2))
        valkey.start()
        await until(lambda: north.sees(room, 1, 2) and south.sees(room, 1, 2), 1.5 * LEASE + SOON)


async def test_node_stands_still(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """A node that stood still longer than its lease comes back with those who are there, and with nobody else."""
    async with Neighbour(valkey.url, pool) as south, Neighbour(valkey.url, pool) as north:
        await north.open(room)
        await south.open(room)
        north.enter(room, 1, 2, 3)
        await until(lambda: south.sees(room, 1, 2, 3), SOON)
        await north.freeze()
        south.enter(room, 3)
        await until(lambda: south.sees(room, 3), 1.5 * LEASE + SOON)
        south.leave(room, 3)
        north.drop(room, 1, 3)  # they had gone elsewhere: their sockets are closed when the node wakes
        north.thaw()
        await until(lambda: south.sees(room, 2) and north.sees(room, 2), 1.5 * LEASE + SOON)
        assert south.listeners[room].came.count(person(1).id) == 1
        assert south.listeners[room].came[-1] == person(2).id


async def test_believed_only_under_a_lease(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """What a node wrote and published without a lease is not believed until it has one."""
    async with Neighbour(valkey.url, pool) as south, Neighbour(valkey.url, pool) as north:
        await south.open(room)
        south.enter(room, 9)
        await north.open(room)
        await north.freeze()
        await end_lease(north.redis, north.id)
        north.enter(room, 1)
        await north.presence.herald._write()
        await until(lambda: south.publications > 0)
        await asyncio.sleep(0.3 * LEASE)
        assert south.sees(room, 9)
        north.thaw()
        await until(lambda: south.sees(room, 1, 9), 1.5 * LEASE + SOON)


async def test_lost_publications(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """A change that was lost is made good by the next one at once, and without a next one by comparing."""
    async with Neighbour(valkey.url, pool) as north, Neighbour(valkey.url, pool) as south:
        await north.open(room)
        await south.open(room)
        north.enter(room, 1)
        await until(lambda: south.sees(room, 1), SOON)
        south.deaf = True
        north.enter(room, 2)
        north.leave(room, 1)
        await until(lambda: north.herald_wrote(room))
        south.deaf = False
        north.enter(room, 3)
        await until(lambda: south.sees(room, 2, 3), 0.4 * LEASE)
        south.deaf = True
        north.enter(room, 4)
        north.leave(room, 2)
        await until(lambda: south.sees(room, 3, 4), LEASE + SOON)


async def test_lost_keys(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """What Redis has thrown away of what a node wrote is written again."""
    async with Neighbour(valkey.url, pool) as north:
        await north.open(room)
        north.enter(room, 1)
        await until(lambda: north.herald_wrote(room))
        before = await keys(north)
        await north.redis.run_all([delete(key.decode()) for key in before if b"{" in key])
        await keys_become(north, before, LEASE + SOON)


async def test_storm_of_joins(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """2,000 people who come at once are a few writes, a few publications and a few pulses, and all are counted."""
    async with Neighbour(valkey.url, pool) as north, Neighbour(valkey.url, pool) as south:
        await north.open(room)
        await south.open(room)
        for number in range(2000):
            north.enter(room, number)
            if number % 50 == 0:
                await asyncio.sleep(0)
        await until(lambda: len(south.presence.page(room, None, 3000).members) == 2000, 10)
        await until(lambda: north.listeners[room].online == south.listeners[room].online == 2000)
        assert north.presence.herald.rounds <= 20
        assert south.publications <= 20
        assert not south.listeners[room].complete
        assert len(south.listeners[room].members) == 50
        for node in (north, south):
            assert sum(len(pulse.joins) for pulse in node.listeners[room].pulses) <= 50
            assert len(node.listeners[room].pulses) <= 200
        north.leave(room, *range(10, 2000))
        await until(lambda: north.sees(room, *range(10)) and south.sees(room, *range(10)), 10)
        assert south.listeners[room].complete


async def test_typing(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """Who writes is named to all, on every node, until they stop, leave, or say nothing for six seconds."""
    clock = Clock()
    async with (
        Neighbour(valkey.url, pool, clock=clock) as north,
        Neighbour(valkey.url, pool, clock=clock) as south,
    ):
        await north.open(room)
        await south.open(room)
        north.enter(room, 1, 2)
        south.enter(room, 3)
        await until(lambda: north.sees(room, 1, 2, 3) and south.sees(room, 1, 2, 3), SOON)
        north.presence.typing(room, person(1).id, on=True)
        south.presence.typing(room, person(3).id, on=True)
        listeners = [node.listeners[room] for node in (north, south)]
        await until(lambda: all(len(one.typing) == 2 for one in listeners), SOON)
        south.presence.typing(room, person(3).id, on=False)
        await until(lambda: all(one.typing == [person(1)] for one in listeners), SOON)
        clock.ahead += WRITING_SECONDS - 1
        north.presence.typing(room, person(1).id, on=True)
        await until(lambda: south.publications > 0)
        clock.ahead += 2
        north.presence.typing(room, person(2).id, on=True)
        await until(lambda: all(one.typing == [person(1), person(2)] for one in listeners), SOON)
        north.leave(room, 2)
        await until(lambda: all(one.typing == [person(1)] for one in listeners), SOON)
        clock.ahead += WRITING_SECONDS
        await until(lambda: all(one.typing == [] for one in listeners), SOON)


async def test_confidence(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """The mean is of people: of one who is on two nodes the newest level counts, of one who leaves none."""
    async with Neighbour(valkey.url, pool) as north, Neighbour(valkey.url, pool) as south:
        await north.open(room)
        await south.open(room)
        north.enter(room, 1, 2)
        south.enter(room, 1)
        assert north.presence.level(room, person(1).id, 2) == Confidence(mean=2.0, count=1)
        assert north.presence.level(room, person(2).id, 5) == Confidence(mean=3.5, count=2)
        await until(lambda: south.listeners[room].confidence == Confidence(mean=3.5, count=2), SOON)
        await asyncio.sleep(0.002)  # the time of a level is kept in milliseconds
        assert south.presence.level(room, person(1).id, 10) == Confidence(mean=7.5, count=2)
        await until(lambda: north.listeners[room].confidence == Confidence(mean=7.5, count=2), SOON)
        north.leave(room, 2)
        await until(lambda: south.listeners[room].confidence == Confidence(mean=10.0, count=1), SOON)
        south.leave(room, 1)
        await until(lambda: south.listeners[room].confidence == Confidence(mean=2.0, count=1), SOON)
        assert south.presence.level(room, person(7).id, 3) == Confidence(mean=2.0, count=1)


async def test_reactions_are_told_everywhere(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """What a node has committed is added up in the pulses of all nodes, in whatever order it comes."""
    async with Neighbour(valkey.url, pool) as north, Neighbour(valkey.url, pool) as south:
        await north.open(room)
        await south.open(room)
        north.enter(room, 1)
        south.enter(room, 2)
        reactor = Reactor(person=person(1), reaction=Reaction.HEART)
        north.presence.reacted(room, [Count(Reaction.HEART, 2, 5, 3)], [reactor], [])
        south.presence.reacted(room, [Count(Reaction.HEART, 3, 3, 2)], [], [])
        for node in (north, south):
            await until(lambda node=node: node.listeners[room].totals == {Reaction.HEART: 5}, SOON)  # type: ignore[misc] # bound now
            tallies = [
                pulse.reactions[Reaction.HEART] for pulse in node.listeners[room].pulses if pulse.reactions
            ]
            assert sum(tally.added for tally in tallies) == 5
            assert tallies[-1] == Tally(added=tallies[-1].added, total=5)
            assert [one for pulse in node.listeners[room].pulses for one in pulse.reactors] == [reactor]
        assert north.presence.totals(room) == {Reaction.HEART: 5}
        assert north.presence.totals(RoomId(uuid4())) is None


async def test_pulses_are_spaced(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """A quiet room is told at once, a busy one no more often than the interval, and with one timer."""
    async with Neighbour(valkey.url, pool, small_room=10_000) as north:
        await north.open(room)
        north.enter(room, 1)
        assert await until(lambda: north.sees(room, 1)) < 0.02
        await asyncio.sleep(0.03)
        loop = asyncio.get_running_loop()
        began = loop.time()
        number = 1
        while loop.time() - began < 0.5:
            number += 1
            north.enter(room, number)
            await asyncio.sleep(0.001)
        await until(lambda: north.sees(room, *range(1, number + 1)))
        assert len(north.listeners[room].pulses) <= 1 + (loop.time() - began) / 0.019 + 1


async def test_nothing_stays(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """After many people came and went and rooms were closed, Redis and the nodes are as before."""
    async with Neighbour(valkey.url, pool) as north, Neighbour(valkey.url, pool) as south:
        await until(lambda: north.leased() and south.leased())
        before = await keys(north)
        for _ in range(20):
            await north.open(room)
            await south.open(room)
            north.enter(room, 1, 2)
            south.enter(room, 2, 3)
            await until(lambda: north.sees(room, 1, 2, 3) and south.sees(room, 1, 2, 3), SOON)
            north.leave(room, 1, 2)
            south.leave(room, 2, 3)
            await until(lambda: north.sees(room) and south.sees(room), SOON)
            assert north.presence.idle(room)
            north.close(room)
            south.close(room)
        await keys_become(north, before, SOON)
        for node in (north, south):
            assert node.presence._rooms == {}
            assert node.presence.herald._books == {}
            assert node.presence.lookout._rosters == {}


async def test_closed_and_opened_again(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """A room that is opened again before its end was written has exactly its new people, everywhere."""
    async with Neighbour(valkey.url, pool) as north, Neighbour(valkey.url, pool) as south:
        await north.open(room)
        await south.open(room)
        south.enter(room, 9)
        north.enter(room, 1)
        await until(lambda: south.sees(room, 1, 9), SOON)
        north.leave(room, 1)
        north.close(room)
        await north.open(room)
        north.enter(room, 2)
        await until(lambda: south.sees(room, 2, 9) and north.sees(room, 2, 9), SOON)


async def test_nonsense_changes_nothing(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """A change that cannot be read, or of a room that is not open, is set aside."""
    async with Neighbour(valkey.url, pool) as north:
        await north.open(room)
        for payload in (b"", b"\xff", b"\x91\xa5other"):
            north.presence.receive(room, payload)
            north.presence.receive(RoomId(uuid4()), payload)
        assert north.sees(room)
        north.presence.close(RoomId(uuid4()))
        north.presence.leave(RoomId(uuid4()), person(1).id, 1, at_once=True)
        assert north.presence.idle(RoomId(uuid4()))
        assert north.presence.state(RoomId(uuid4())).online == 0


async def test_open_again_and_given_up(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """Opening an open room changes nothing; an opening that is given up leaves nothing behind."""
    async with Neighbour(valkey.url, pool) as north:
        await north.open(room)
        north.enter(room, 1)
        await north.presence.open(room)
        assert north.presence.is_present(room, person(1).id)
        other = RoomId(uuid4())
        opening = asyncio.create_task(north.presence.open(other))
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert north.presence.totals(other) is None
        assert north.presence.herald.written(other) is None


async def test_farewell_without_redis(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """A node stops without Redis, too; its lease ends by itself."""
    async with Neighbour(valkey.url, pool) as north:
        await north.open(room)
        north.enter(room, 1)
        await until(lambda: north.herald_wrote(room))
        valkey.kill()
    assert north.presence.totals(room) is None


async def test_late_end_of_a_room(valkey: Valkey, pool: Pool, room: RoomId) -> None:
    """That a node had closed a room, heard again after it has opened it again, changes nothing."""
    async with Neighbour(valkey.url, pool) as north:
        await north.open(room)
        other = b"the node"
        north.presence._rooms[room].roster.replace(other, 9, [Entry(person(1))])
        for sequence, here in ((8, True), (9, True), (10, False)):
            north.presence.receive(room, packet(Shift(other, sequence, closed=True)).json)
            assert north.presence.is_present(room, person(1).id) is here


async def test_expiry_survives_a_bug(
    valkey: Valkey, pool: Pool, room: RoomId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure while graces end does not keep later ones from ending."""
    async with Neighbour(valkey.url, pool) as north:
        await north.open(room)
        north.enter(room, 1)
        tick = north.presence.tick
        ticks = 0

        def fail_once() -> None:
            nonlocal ticks
            ticks += 1
            if ticks == 1:
                raise ValueError("a bug")
            tick()

        monkeypatch.setattr(north.presence, "tick", fail_once)
        north.drop(room, 1)
        await until(lambda: north.presence.idle(room), GRACE + SOON)


async def told(client: Client, listener: Listener, condition: Callable[[Listener], bool]) -> None:
    """Read pulses until what they tell is as expected."""
    async with asyncio.timeout(SOON):
        while not condition(listener):
            event = await anext(client)
            if isinstance(event, RoomPulse):
                listener.hear(event)


async def test_commands(valkey: Valkey, pool: Pool, database_url: str) -> None:
    """Over a socket: who is here, page by page; typing and confidence reach the others; none of it outside of the room."""
    await make_room(pool, "calm")
    async with hosting(database_url, valkey.url, pool) as host:
        one, other = await host.client("One"), await host.client("Other")
        refusing: list[Command[Any]] = [
            ListPresence(room="calm"),
            SetTyping(room="calm", typing=True),
            SetConfidence(room="calm", level=5),
            ListPresence(room="no-such-room"),
        ]
        for command in refusing:
            with pytest.raises(Refused) as refused:
                await one.call(command)
            assert refused.value.code == ErrorCode.NOT_IN_ROOM
        joined = await one.call(JoinRoom(room="calm"))
        assert [member.name for member in joined.members] == ["One"]
        listener = Listener(joined_state(joined))
        await other.call(JoinRoom(room="calm"))
        await told(one, listener, lambda known: known.online == 2)
        assert listener.members[other.user.id].name == "Other"

        first = await one.call(ListPresence(room="calm", limit=1))
        assert (first.online, len(first.members), first.next) == (2, 1, first.members[0].id)
        second = await one.call(ListPresence(room="calm", limit=1, after=first.next))
        assert second.next is None
        assert {first.members[0].id, second.members[0].id} == {one.user.id, other.user.id}

        await other.call(SetTyping(room="calm", typing=True))
        noted = await other.call(SetConfidence(room="calm", level=7))
        assert noted.confidence == Confidence(mean=7.0, count=1)
        await told(one, listener, lambda known: bool(known.typing) and known.confidence.count == 1)
        assert listener.typing == [other.user]
        await other.call(LeaveRoom(room="calm"))
        await told(one, listener, lambda known: known.online == 1)
        assert (listener.typing, listener.confidence.count) == ([], 0)
        assert listener.went == [other.user.id]


@pytest.mark.parametrize("level", [0, 11])
async def test_level_out_of_range(valkey: Valkey, pool: Pool, database_url: str, level: int) -> None:
    """A level that is none is refused with the name of its field, and the connection stays."""
    await make_room(pool, "calm")
    async with hosting(database_url, valkey.url, pool) as host:
        one = await host.client("One")
        await one.call(JoinRoom(room="calm"))
        with pytest.raises(Refused) as refused:
            await one.call(SetConfidence(room="calm", level=level))
        assert (refused.value.code, refused.value.path) == (ErrorCode.INVALID, "$.level")
        assert (await one.call(SetConfidence(room="calm", level=10))).confidence.mean == 10
