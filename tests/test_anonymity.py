"""Being anonymous: others see a pseudonym, the same in a room, another in every other, and nothing that links it to anyone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import msgspec
import pytest

from protocol.envelope import Person, RoomId, UserId
from storage.pseudonyms import pseudonym
from storage.sealing import Sealer
from tests.http.conftest import Servers, servers
from tests.leaving import Member, Town, town
from tests.nodes.raw import open_raw
from tests.stores import SEALING_KEY
from tests.visitors import Visitor
from tests.waiting import until

__all__ = ["servers"]  # fixtures

SHUFFLE = 0.6
NAME = "Adalgisa"
ROOM, OTHER = RoomId(UUID(int=1)), RoomId(UUID(int=2))
ADA, BO = UserId(UUID(int=3)), UserId(UUID(int=4))


@pytest.fixture
async def place(servers: Servers) -> AsyncIterator[Town]:
    """Give two nodes with a database of their own, on which a switch is over soon."""
    settings = await servers.settings(
        LOOPROOMS_SWITCH_SECONDS=str(SHUFFLE), LOOPROOMS_PRESENCE_GRACE_SECONDS="0"
    )
    async with town(settings) as running:
        yield running


async def switch(visitor: Visitor, *, on: bool) -> None:
    """Be anonymous, or oneself again."""
    answer = await visitor.call("person.anonymous", on=on)
    assert answer["type"] == "person.switched", answer
    assert answer["anonymous"] == on


async def seen(visitor: Visitor, room: RoomId) -> Person:
    """Return as whom somebody is seen in a room that they are in."""
    return msgspec.convert((await visitor.join(room))["you"], Person)


def text(visitor: Visitor) -> str:
    """Return all that somebody heard."""
    return msgspec.json.encode(visitor.heard).decode()


def pulses(visitor: Visitor) -> list[dict[str, Any]]:
    """Return the pulses that somebody heard."""
    return [message for message in visitor.heard if message["type"] == "room.pulse"]


def moves(visitor: Visitor) -> list[str]:
    """Return who came and who left, by the names that were told, in order; those of one pulse are one entry."""
    told: list[str] = []
    for pulse in pulses(visitor):
        parts = [f"+{person['name']}" for person in pulse.get("joins", ())]
        parts += [f"-{user}" for user in pulse.get("leaves", ())]
        if parts:
            told.append(" ".join(parts))
    return told


async def present(visitor: Visitor, room: RoomId) -> set[str]:
    """Return the names of those who are in a room."""
    return {person["name"] for person in (await visitor.call("presence.list", room=str(room)))["members"]}


def test_a_pseudonym_is_the_same_in_a_room() -> None:
    """On every node, whatever key seals, and for everyone their own."""
    one, two = (Sealer((key,), bytes(32)) for key in (SEALING_KEY, f"other:{'B' * 43}"))
    assert pseudonym(one, ROOM, ADA) == pseudonym(two, ROOM, ADA)
    assert pseudonym(one, ROOM, ADA).id != pseudonym(one, ROOM, BO).id
    assert pseudonym(Sealer((SEALING_KEY,), b"x" * 32), ROOM, ADA).id != pseudonym(one, ROOM, ADA).id


def test_pseudonyms_of_two_rooms_have_nothing_in_common() -> None:
    """Neither id nor name: over many people, names meet no more often than by chance."""
    sealer = Sealer((SEALING_KEY,), bytes(32))
    people = [UserId(UUID(int=number)) for number in range(2000)]
    here, there = ([pseudonym(sealer, room, one) for one in people] for room in (ROOM, OTHER))
    assert len({person.id for person in (*here, *there)}) == 4000
    assert sum(one.name == other.name for one, other in zip(here, there, strict=True)) <= 3
    assert all(person.avatar is None and person.id not in people for person in (*here, *there))
    assert len({person.name for person in here}) > 1900


async def test_nothing_tells_who_it_is(place: Town) -> None:
    """Whatever an anonymous person does in a room, nobody hears their id, name or avatar, on whatever node, then or later."""
    room = await place.room()
    ada, bo = await place.member(NAME), await place.member("Bo")
    await place.pool.execute(
        "update users set avatar = 'https://adalgisa.example/face.png' where id = $1", ada.id
    )
    mine = await ada.come()
    await switch(mine, on=True)
    listeners = [await bo.come(site, room) for site in place.sites]
    me = await seen(mine, room)
    line = (await mine.say(room, "good evening"))["line"]
    assert line["author"] == {"id": str(me.id), "name": me.name}
    edited = await mine.call("chat.edit", room=str(room), line=line["id"], text="good night")
    assert edited["line"]["author"] == line["author"]
    await mine.call("typing.set", room=str(room), typing=True)
    await mine.call("confidence.set", room=str(room), level=7)
    await mine.call("reaction.add", target={"kind": "looproom", "id": str(room)}, reaction="HEART")
    await mine.say(room, "somebody removes this")
    gone = (await mine.say(room, "and I this"))["line"]
    await mine.call("chat.remove", room=str(room), line=gone["id"])
    for listener in listeners:
        await until(lambda v=listener: any(pulse.get("reactors") for pulse in pulses(v)))  # type: ignore[misc] # early bound
        await until(lambda v=listener: any(pulse.get("typing") for pulse in pulses(v)))  # type: ignore[misc] # early bound
        await listener.hear(5)
        listener.heard.append(await listener.call("presence.list", room=str(room)))
        listener.heard.append(await listener.call("chat.history", room=str(room)))
        listener.heard.append(await listener.join(room))
        late = await bo.come(place.sites[0])
        listener.heard.append(await late.join(room))
        assert me.name in text(listener)
        assert me.name in moves(listener)[-1]
    await mine.call("room.leave", room=str(room))
    for listener in listeners:
        await until(lambda v=listener: str(me.id) in moves(v)[-1])  # type: ignore[misc] # early bound
        for trace in (str(ada.id), NAME, "adalgisa"):
            assert trace not in text(listener)


async def test_the_same_again_and_another_elsewhere(place: Town) -> None:
    """Each time, on each node and device it is the same in a room; in another room it is another."""
    room, other = await place.room(), await place.room("another")
    ada = await place.member(NAME)
    await switch(await ada.come(), on=True)
    faces = [await seen(await ada.come(site), room) for site in (*place.sites, *place.sites)]
    assert len(set(map(str, faces))) == 1
    assert (await seen(await ada.come(), other)).id != faces[0].id
    visitor = await ada.come(place.sites[1])
    assert visitor.welcome["person"]["anonymous"] is True
    assert visitor.welcome["user"]["name"] == NAME


async def test_two_devices_are_one_pseudonym(place: Town) -> None:
    """Two connections on two nodes are one person, who leaves with the last of them."""
    room = await place.room()
    ada, bo = await place.member(NAME), await place.member("Bo")
    listener = await bo.come(place.sites[1], room)
    first, second = [await ada.come(site) for site in place.sites]
    await switch(first, on=True)
    await until(lambda: all(_anonymous(place, ada)))
    me = await seen(first, room)
    await seen(second, room)
    await until(lambda: moves(listener)[-1] == f"+{me.name}")
    await first.call("room.leave", room=str(room))
    assert me.name in await present(listener, room)
    await second.call("room.leave", room=str(room))
    await until(lambda: moves(listener)[-1] == f"-{me.id}")


def _anonymous(place: Town, member: Member) -> list[bool]:
    """Return of each connection of somebody whether it is anonymous."""
    found = [one for site in place.sites for one in site.node.hub.members.of_user(member.id)]
    return [one.session is not None and one.session.anonymous for one in found]


def draw(place: Town, *moments: float) -> None:
    """Let switches happen at these moments, in turn: for each connection who leaves, then who comes."""
    drawn = iter(moments)
    for site in place.sites:
        site.node.faces._draw = lambda _least, _most: next(drawn)


@pytest.mark.parametrize(("stays", "comes"), [(0.1, 0.3), (0.3, 0.1)], ids=["leaves first", "comes first"])
async def test_a_switch_is_two_things(place: Town, stays: float, comes: float) -> None:
    """Who was seen leaves at one random moment, the pseudonym comes at another; never in one pulse, and back in the same way."""
    room = await place.room()
    ada, bo = await place.member(NAME), await place.member("Bo")
    mine, listener = await ada.come(None, room), await bo.come(place.sites[1], room)
    await until(lambda: "+Bo" in moves(listener))
    before = len(moves(listener))
    draw(place, stays, comes, stays, comes)
    await switch(mine, on=True)
    me = mine_name = (await seen(mine, room)).name
    assert NAME in await present(listener, room)
    assert me not in await present(listener, room)
    await until(lambda: len(moves(listener)) == before + 2)
    expected = [f"-{ada.id}", f"+{me}"] if stays < comes else [f"+{me}", f"-{ada.id}"]
    assert moves(listener)[before:] == expected
    await switch(mine, on=False)
    await until(lambda: len(moves(listener)) == before + 4)
    back = moves(listener)[before + 2 :]
    assert sorted(back, key=lambda move: move[0]) == [f"+{NAME}", back[0 if stays < comes else 1]]
    assert mine_name not in await present(listener, room)


async def test_moments_are_drawn(place: Town) -> None:
    """Left to chance, the two moments are within the time that is set, and neither tells the other."""
    drawn = [place.sites[0].node.faces._draw(0, SHUFFLE) for _ in range(1000)]
    assert place.sites[0].node.faces._draw is random.uniform
    assert 0 <= min(drawn) < SHUFFLE / 10
    assert SHUFFLE * 0.9 < max(drawn) <= SHUFFLE


async def test_who_acts_is_there(place: Town) -> None:
    """Whoever speaks before their pseudonym has come is among those who are here from then on; who they were leaves later."""
    room = await place.room()
    ada, bo = await place.member(NAME), await place.member("Bo")
    mine, listener = await ada.come(None, room), await bo.come(place.sites[1], room)
    draw(place, 0.4, 5.0)
    await switch(mine, on=True)
    line = (await mine.say(room, "good evening"))["line"]
    me = line["author"]["name"]
    assert me != NAME
    await until(lambda: f"+{me}" in moves(listener))
    assert NAME in await present(listener, room)
    await until(lambda: moves(listener)[-1] == f"-{ada.id}")


async def test_what_was_said_stays_as_it_was_said(place: Town) -> None:
    """Lines under one's name stay under it, lines under the pseudonym too, whatever one is when they are read or edited."""
    room = await place.room()
    ada = await place.member(NAME)
    mine = await ada.come(None, room)
    named = (await mine.say(room, "as myself"))["line"]
    await switch(mine, on=True)
    masked = (await mine.say(room, "as somebody"))["line"]
    await switch(mine, on=False)
    again = (await mine.say(room, "as myself again"))["line"]
    reader = await (await place.member("Bo")).come(place.sites[1], room)
    lines = (await reader.call("chat.history", room=str(room)))["lines"]
    assert [line["author"] for line in lines] == [line["author"] for line in (named, masked, again)]
    assert [line["author"]["name"] == NAME for line in lines] == [True, False, True]
    edited = await mine.call("chat.edit", room=str(room), line=masked["id"], text="still as somebody")
    assert edited["line"]["author"] == masked["author"]
    assert (await reader.call("chat.edit", room=str(room), line=masked["id"], text="no"))[
        "code"
    ] == "forbidden"


async def test_a_line_that_is_sent_again(place: Town) -> None:
    """A key that was used under one's name answers with that line, also when one is anonymous by then."""
    room = await place.room()
    mine = await (await place.member(NAME)).come(None, room)
    first = await mine.say(room, "once", key="the-key")
    await switch(mine, on=True)
    again = await mine.say(room, "once", key="the-key")
    assert again["line"] == first["line"]
    assert await place.pool.fetchval("select count(*) from chat_lines") == 1


async def test_a_host_who_is_anonymous(place: Town) -> None:
    """The room is by a pseudonym, wherever it is shown, and the host may still do all that a host may."""
    room = await place.room("premium-room")
    ada, bo = await place.member(NAME), await place.member("Bo")
    await place.pool.execute(
        "update rooms set host_id = $1, premium = true, preview_seconds = 0 where id = $2", ada.id, room
    )
    mine = await ada.come()
    await switch(mine, on=True)
    reader = await bo.come(place.sites[1])
    shown = (await reader.call("room.get", room="premium-room"))["room"]["host"]
    listed = (await reader.call("room.list"))["rooms"][0]["host"]
    me = await seen(mine, room)
    assert shown == listed == {"id": str(me.id), "name": me.name}
    assert (await mine.call("cue.send", room=str(room), cue="breathe in"))["type"] == "cue.sent"
    await place.pool.execute("update rooms set premium = false where id = $1", room)
    theirs = await bo.come(place.sites[0])
    async with asyncio.timeout(5):
        while (await theirs.call("room.join", room=str(room)))["type"] != "room.joined":  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    line = (await theirs.say(room, "by Bo"))["line"]
    assert (await mine.call("chat.remove", room=str(room), line=line["id"]))["type"] == "chat.removed"
    await place.pool.execute("update rooms set status = 'DRAFT' where id = $1", room)
    draft = await ada.come(place.sites[1])
    assert (await draft.call("room.get", room=str(room)))["room"]["status"] == "DRAFT"


async def test_on_every_device(place: Town) -> None:
    """A switch is told to all connections of the person and to nobody else; they are seen as somebody else, too."""
    room = await place.room()
    ada, bo = await place.member(NAME), await place.member("Bo")
    first, second = await ada.come(place.sites[0], room), await ada.come(place.sites[1], room)
    other = await bo.come(place.sites[1], room)
    await switch(first, on=True)
    await switch(first, on=True)
    for visitor in (first, second):
        await until(lambda v=visitor: any(one["type"] == "person.anonymity" for one in v.heard))  # type: ignore[misc] # early bound
    await until(lambda: all(_anonymous(place, ada)))
    assert (await second.say(room, "hello"))["line"]["author"]["name"] == (await seen(first, room)).name
    events = [one for one in second.heard if one["type"] == "person.anonymity"]
    assert [(one["anonymous"], one["person_offset"]) for one in events] == [(True, 1)]
    assert not any(one["type"] == "person.anonymity" for one in other.heard)


async def test_nothing_is_left_behind(place: Town) -> None:
    """Whoever leaves, or whose connection breaks, in the middle of a switch is not there afterwards, under neither name."""
    room = await place.room()
    ada, bo = await place.member(NAME), await place.member("Bo")
    listener = await bo.come(place.sites[1], room)
    for ending in ("leave", "break", "act and break"):
        mine = await ada.come(None, room)
        await switch(mine, on=ending != "break")
        if ending == "leave":
            await mine.call("room.leave", room=str(room))
        elif ending == "act and break":
            await mine.say(room, "one moment")
        mine.connection.transport.abort()
        async with asyncio.timeout(5):
            while await present(listener, room) != {"Bo"}:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.02)
    faces = place.sites[0].node.faces
    assert not faces._awaited
    assert not faces._staying


async def test_leaving_for_good_in_the_middle(place: Town) -> None:
    """Whoever deletes their account right after a switch is gone under both names at once, and so are their lines."""
    room = await place.room()
    ada, bo = await place.member(NAME), await place.member("Bo")
    mine, listener = await ada.come(None, room), await bo.come(place.sites[1], room)
    draw(place, 60.0, 60.0)
    await switch(mine, on=True)
    await mine.say(room, "good evening")
    assert len(await present(listener, room)) == 3
    assert (await ada.leave()).status_code == 204
    async with asyncio.timeout(2):
        while await present(listener, room) != {"Bo"}:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.02)
    await place.cleared()
    row = await place.pool.fetchrow("select author_id, pseudonym, pseudonym_name, text from chat_lines")
    assert row is not None
    assert tuple(row.values()) == (None, None, None, "")


async def test_coming_back(place: Town) -> None:
    """Who resumes is told as whom they are seen."""
    room = await place.room()
    ada = await place.member(NAME)
    mine = await ada.come()
    await switch(mine, on=True)
    joined = await mine.join(room)
    position = {"room": str(room), "epoch": joined["epoch"], "offset": joined["offset"]}
    connection = await open_raw(place.sites[1].port, lambda _: None)
    welcome = await connection.call("hello", token=ada.access_token, resume=[position])
    assert welcome["resumed"][0]["you"] == joined["you"]


async def test_switching_is_limited(servers: Servers) -> None:
    """Nobody can flicker."""
    async with town(await servers.settings(LOOPROOMS_LIMITS_FACTOR="1"), 1) as place:
        mine = await (await place.member(NAME)).come()
        codes = [
            (await mine.call("person.anonymous", on=number % 2 == 0)).get("code") for number in range(12)
        ]
        assert codes[:10] == [None] * 10
        assert codes[-1] == "rate_limited"
