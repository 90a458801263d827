"""Far more than anyone needs: told so a few times, then closed with a code that says to wait; the room goes on."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from protocol.closing import CloseCode
from protocol.refusals import ErrorCode
from server.hub.limits import PATIENCE
from tests.hosting import make_room
from tests.standing import Room, Standing
from tests.visitors import Visitor, approach, bystander, visit
from tests.waiting import until

MANY = 100_000
BURST = 100
"""Commands at once, by the settings of every day."""
GIVEN_BACK = 100
"""What time may give back meanwhile: two seconds' worth, on a machine that has much else to do."""

TINY = {
    "nonsense": b"x",
    "empty objects": b"{}",
    "pings": b'{"type":"session.ping","id":7}',
    "lines": b'{"type":"chat.send","id":7,"room":"x","text":"y","key":"z"}',
}


def frames(payload: bytes) -> bytes:
    """Return a hundred thousand frames, masked with zeros."""
    return (bytes([0x81, 0x80 | len(payload), 0, 0, 0, 0]) + payload) * MANY


async def outcome(visitor: Visitor) -> Counter[str]:
    """Wait for the end; count the errors that came before it by their codes."""
    gone = await asyncio.wait_for(visitor.connection.gone, 20)
    assert gone.code == CloseCode.FLOODING
    return Counter(error["code"] for error in visitor.errors)


def came(witness: Visitor) -> list[str]:
    """Return who was told to have come into the room, in order."""
    return [
        person["id"]
        for message in witness.heard
        if message["type"] == "room.pulse"
        for person in message.get("joins", ())
    ]


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait less long for an answer to a close: what floods doesn't read it soon."""
    monkeypatch.setattr("server.hub.connection.CLOSE_SECONDS", 0.5)


@pytest.mark.parametrize("payload", TINY.values(), ids=TINY.keys())
async def test_a_hundred_thousand_tiny_messages(nodes: Standing, room: Room, payload: bytes) -> None:
    """A burst is answered, what follows is told to wait, and after two hundred warnings the connection is closed."""
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor", room.id)
        visitor.connection.transport.write(frames(payload))
        told = await outcome(visitor)
        answered = [message for message in visitor.heard if message.get("id") == 7]
        assert PATIENCE <= told[ErrorCode.RATE_LIMITED] <= PATIENCE + GIVEN_BACK
        assert all(
            error["retry_after"] > 0 for error in visitor.errors if error["code"] == ErrorCode.RATE_LIMITED
        )
        assert len(answered) <= BURST + PATIENCE + 2 * GIVEN_BACK


async def test_before_hello(nodes: Standing, room: Room) -> None:
    """Whoever has not said who they are is limited just as well, and hears of nothing but that."""
    async with bystander(nodes.north, room.id):
        stranger = await approach(nodes.north)
        stranger.connection.transport.write(frames(TINY["pings"]))
        told = await outcome(stranger)
        assert told.keys() == {ErrorCode.HELLO_FIRST, ErrorCode.RATE_LIMITED}


async def test_right_behind_hello(nodes: Standing, room: Room) -> None:
    """What comes while hello is being answered counts, too: waiting makes nobody rich."""
    async with bystander(nodes.north, room.id):
        stranger = await approach(nodes.north)
        stranger.connection.send({"type": "hello", "id": 1, "token": await nodes.north.token("visitor")})
        stranger.connection.transport.write(frames(TINY["pings"]))
        await outcome(stranger)
        pongs = [message for message in stranger.heard if message["type"] == "session.ponged"]
        assert len(pongs) <= BURST + GIVEN_BACK


async def test_three_hundred_joins_of_one_room(nodes: Standing, room: Room) -> None:
    """Each that is not told to wait is answered with a snapshot; it is one person who came, once."""
    async with bystander(nodes.north, room.id) as witness:
        visitor = await visit(nodes.north, "visitor")
        answers = await asyncio.gather(
            *(visitor.call("room.join", within=20, room=room.slug) for _ in range(300))
        )
        told = Counter(answer.get("code", answer["type"]) for answer in answers)
        assert told.keys() == {"room.joined", ErrorCode.RATE_LIMITED}
        assert told["room.joined"] >= BURST
        assert {answer["online"] for answer in answers if "online" in answer} == {2}
        comer = visitor.welcome["user"]["id"]
        await until(lambda: comer in came(witness))
        await asyncio.sleep(max(answer.get("retry_after", 0) for answer in answers))
        await visitor.call("room.leave", room=room.slug)
        await until(lambda: any(comer in message.get("leaves", ()) for message in witness.heard))
        assert came(witness).count(comer) == 1


async def test_joins_of_three_hundred_rooms(nodes: Standing, room: Room) -> None:
    """As many as one connection may be in are joined; the others are refused, or told to wait."""
    rooms = [await make_room(nodes.pool, f"{room.slug}-{number}") for number in range(300)]
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor")
        answers = await asyncio.gather(
            *(visitor.call("room.join", within=20, room=str(one)) for one in rooms)
        )
        told = Counter(answer.get("code", answer["type"]) for answer in answers)
        assert told.keys() == {"room.joined", ErrorCode.TOO_MANY_ROOMS, ErrorCode.RATE_LIMITED}
        assert told["room.joined"] == 32


async def test_three_hundred_people_join(nodes: Standing, room: Room) -> None:
    """All of them are let in, and count."""
    async with bystander(nodes.north, room.id):
        crowd = await asyncio.gather(*(visit(nodes.north, f"person {number}") for number in range(300)))
        joined = await asyncio.gather(*(one.join(room.id) for one in crowd))
        assert max(answer["online"] for answer in joined) == 301
        assert (await crowd[0].call("presence.list", room=room.slug))["online"] == 301
