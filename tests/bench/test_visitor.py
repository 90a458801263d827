"""What visitors notice, against a server that errs on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from bench.roomlog import Unexpected
from bench.team import until_true
from bench.tongue import Seat
from bench.visitor import House, Visitor
from protocol.chat import ChatLine, Line, SendChat
from protocol.envelope import LineId, RoomId
from protocol.presence import Confidence, RoomPulse, RoomState
from protocol.reactions import Reaction, Tally
from protocol.rooms import SendCue
from tests.bench.peer import ROOM, SOMEBODY, Peer


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    yield peer
    await peer.stop()


@pytest.fixture
async def house(peer: Peer) -> House:
    house = House([("127.0.0.1", await peer.start())], "looprooms.v1+json")
    house.window = (0, 2**63)
    return house


_COME: list[Visitor] = []


@pytest.fixture(autouse=True)
async def everyone_goes() -> AsyncIterator[None]:
    """Break every connection at the end of a test."""
    yield
    for visitor in _COME:
        if (gone := visitor.drop()) is not None:
            await gone
    _COME.clear()


async def _inside(house: House, count: int) -> list[Visitor]:
    visitors = [Visitor(house, Seat("token", "a-room")) for _ in range(count)]
    _COME.extend(visitors)
    for visitor in visitors:
        await visitor.come()
        await visitor.join("a-room")
    return visitors


async def _say(visitor: Visitor, count: int) -> None:
    for number in range(count):
        await visitor.call(SendChat("a-room", f"line {number} due 1 of a test", f"key-{number}"))


async def test_everyone_has_everything(peer: Peer, house: House) -> None:
    """Ten lines to three visitors, pings in between: each is at the last offset, and each arrival is timed."""
    peer.pings = True
    visitors = await _inside(house, 3)
    await _say(visitors[0], 10)
    assert await until_true(lambda: all(visitor.position(ROOM) == 10 for visitor in visitors), 2)
    assert house.counts["lines"] == 30
    assert (house.counts["missed"], house.counts["twice"]) == (0, 0)
    assert len(house.times["chat.send"]) == 10
    assert not any(visitor.waiting for visitor in visitors)


async def test_what_one_misses_or_gets_twice_is_counted(peer: Peer, house: House) -> None:
    """Offsets tell: two lines left out for one, one line sent twice to another."""
    visitors = await _inside(house, 3)
    first = visitors[0]
    ids = [4, 5]  # the numbers of commands: hello has 0, joining 1
    peer.skip = {1: set(ids)}
    peer.repeat = {2: {6}}
    await _say(first, 10)
    assert await until_true(lambda: all(visitor.position(ROOM) == 10 for visitor in visitors), 2)
    assert (house.counts["missed"], house.counts["twice"]) == (2, 1)


async def test_a_broken_connection_loses_its_answers_and_comes_back(peer: Peer, house: House) -> None:
    """Whoever waits is told at once; the next hello carries the position."""
    (visitor,) = await _inside(house, 1)
    await _say(visitor, 1)
    waiting = asyncio.ensure_future(visitor.call(SendCue("a-room", "breathe in")))
    await asyncio.sleep(0)
    gone = visitor.drop()
    assert gone is not None
    await gone
    with pytest.raises(Unexpected, match="ended before the answer"):
        await waiting
    assert visitor.welcome is None
    assert (await visitor.come()).user == SOMEBODY
    assert visitor.position(ROOM) == 1


async def test_the_picture_follows_the_pulses(peer: Peer, house: House) -> None:
    """Counts and totals are those of the last pulse that named them; a whole state replaces all."""
    (visitor,) = await _inside(house, 1)
    peer.tell(RoomPulse(room=ROOM, online=7, reactions={Reaction.HEART: Tally(added=2, total=5)}))
    peer.tell(RoomPulse(room=ROOM, reactions={Reaction.CLAP: Tally(added=1, total=1)}))
    assert await until_true(lambda: visitor.pulses == 2, 2)
    assert (visitor.online, visitor.told) == (7, {Reaction.HEART: 5, Reaction.CLAP: 1})
    state = RoomState(
        online=3, members=[], reactions={Reaction.FIRE: 9}, confidence=Confidence(mean=0, count=0)
    )
    peer.tell(RoomPulse(room=ROOM, state=state))
    assert await until_true(lambda: visitor.pulses == 3, 2)
    assert (visitor.online, visitor.told) == (3, {Reaction.FIRE: 9})


async def test_lines_of_rooms_that_one_is_not_in_are_counted(peer: Peer, house: House) -> None:
    """They are nobody's position."""
    (visitor,) = await _inside(house, 1)
    elsewhere = Line(id=LineId(ROOM), offset=1, author=SOMEBODY, text="x", sent_at=0)
    peer.tell(ChatLine(RoomId(UUID(int=8)), 1, elsewhere))
    assert await until_true(lambda: house.counts["of rooms that one is not in"] == 1, 2)
    assert visitor.position(ROOM) == 0


async def test_nobody_there_is_one_sentence() -> None:
    """A refused connection is not a traceback of sockets."""
    visitor = Visitor(House([("127.0.0.1", 1)], "looprooms.v1+json"), Seat("token", ""))
    with pytest.raises(Unexpected, match="cannot connect"):
        await visitor.come()
