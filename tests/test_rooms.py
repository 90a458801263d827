"""Rooms: what one finds, sees and may enter, the snapshot at the door, previews, cues, and the rooms of a node itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest

from protocol.envelope import Person, RoomId, UserId
from protocol.refusals import ErrorCode
from server.hub.members import Room as ActiveRoom
from server.hub.subscriptions import Subscriptions, channel_of
from server.rooms import put_out
from server.settings import Settings
from storage.postgres.pool import Pool
from storage.redis.pool import Command, open_redis
from tests.hosting import SIGNING_KEY, Host, hosting, make_room
from tests.http.serving import serving
from tests.nodes.raw import Message
from tests.redis.valkeys import Valkey
from tests.standing import Room, Standing
from tests.stores import SEALING_KEY
from tests.visitors import Visitor, arrive, visit
from tests.waiting import until

HIDDEN = ("DRAFT", "ARCHIVED", "RESTRICTED")


@pytest.fixture
async def host(database_url: str, valkey: Valkey, pool: Pool) -> AsyncIterator[Host]:
    """Run a node on a database of its own."""
    async with hosting(database_url, valkey.url, pool) as one:
        yield one


async def host_of(pool: Pool, room: RoomId) -> Person:
    """Return who hosts a room."""
    row = await pool.fetchrow(
        "select u.id, u.name from rooms r join users u on u.id = r.host_id where r.id = $1", room
    )
    assert row is not None
    return Person(id=UserId(row["id"]), name=row["name"])


async def change(pool: Pool, visitor: Visitor, column: str, value: str) -> Person:
    """Give somebody another role or tier, as of their next hello."""
    kind = {"role": "user_role", "tier": "subscription_tier"}[column]
    await pool.execute(
        f"update users set {column} = $2::text::{kind} where id = $1", visitor.person.id, value
    )
    return visitor.person


def departures(visitor: Visitor) -> list[Message]:
    """Return how somebody was taken out of rooms."""
    return [message for message in visitor.heard if message["type"] == "room.departure"]


async def test_the_catalogue_page_by_page(host: Host, pool: Pool) -> None:
    """Published rooms by title, all or of a category; the pages together are each of them once, the others are nowhere."""
    for number in range(5):
        await make_room(pool, f"calm-{number}", category="meditation" if number % 2 else "recovery")
    hidden = [await make_room(pool, f"calm-1-{status.lower()}", status=status) for status in HIDDEN]
    ada = await visit(host, "Ada")
    seen: list[str] = []
    after: Message = {}
    while True:
        page = await ada.call("room.list", limit=2, **after)
        seen += [room["slug"] for room in page["rooms"]]
        if "next" not in page:
            break
        after = {"after": page["next"]}
    assert seen == [f"calm-{number}" for number in range(5)]
    of_one = await ada.call("room.list", category="meditation")
    assert [room["slug"] for room in of_one["rooms"]] == ["calm-1", "calm-3"]
    last = await ada.call("room.list", after=page["rooms"][-1]["id"])
    assert (last["rooms"], "next" in last) == ([], False)
    nothing = await ada.call("room.list", category="no-such-category")
    assert (nothing["rooms"], "next" in nothing) == ([], False)
    for place in (*hidden, uuid4()):  # where a hidden room would stand in the list is nobody's business
        answer = await ada.call("room.list", after=str(place))
        assert (answer["code"], answer["path"]) == (ErrorCode.NOT_FOUND, "$.after")


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"limit": 0}, "$.limit"),
        ({"limit": 101}, "$.limit"),
        ({"category": "Ré"}, "$.category"),
        ({"after": "x"}, "$.after"),
    ],
)
async def test_pages_that_are_none(nodes: Standing, fields: Message, path: str) -> None:
    """A page that can't be is refused with the field that says so."""
    answer = await (await visit(nodes.north, "Ada")).call("room.list", **fields)
    assert (answer["code"], answer["path"]) == (ErrorCode.INVALID, path)


async def test_one_room_by_either_name(nodes: Standing, room: Room) -> None:
    """A room is found by its slug and by its id, whole, without a join."""
    ada = await visit(nodes.north, "Ada")
    expected = {
        "id": str(room.id),
        "slug": room.slug,
        "title": room.slug,
        "description": "",
        "category": "recovery",
        "host": {"id": str((await host_of(nodes.pool, room.id)).id), "name": "host"},
        "content": "TEXT",
    }
    for name in (room.slug, str(room.id), str(room.id).upper()):
        found = await ada.call("room.get", room=name)
        assert found == {"type": "room.found", "id": found["id"], "room": expected}


@pytest.mark.parametrize("status", HIDDEN)
async def test_a_hidden_room_is_like_none(nodes: Standing, room: Room, status: str) -> None:
    """A member can't tell a room that is not published from one that never was; its host and moderators see it."""
    hidden = await make_room(nodes.pool, f"{room.slug}-hidden", status=status)
    ada = await visit(nodes.north, "Ada")
    for name in (f"{room.slug}-hidden", str(hidden), f"{room.slug}-nowhere", str(uuid4())):
        for command in ("room.get", "room.join"):
            answer = await ada.call(command, room=name)
            assert {**answer, "id": 0} == {
                "type": "error",
                "id": 0,
                "code": ErrorCode.NOT_FOUND,
                "message": ErrorCode.NOT_FOUND.advice,
            }
    owner = await host_of(nodes.pool, hidden)
    for who in (owner, await change(nodes.pool, await visit(nodes.north, "Mo"), "role", "MODERATOR")):
        insider = await visit(nodes.south, who, hidden)
        assert (await insider.call("room.get", room=str(hidden)))["room"]["status"] == status


async def test_a_room_that_is_withdrawn(nodes: Standing, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody finds or enters it any more, once the time is over for which a node believes its catalogue."""
    monkeypatch.setattr("server.rooms.FRESH_SECONDS", 0.1)
    ada = await visit(nodes.north, "Ada")
    assert (await ada.call("room.get", room=room.slug))["type"] == "room.found"
    await nodes.pool.execute("update rooms set status = 'DRAFT' where id = $1", room.id)
    async with asyncio.timeout(5):
        while (await ada.call("room.get", room=room.slug))["type"] == "room.found":  # noqa: ASYNC110 - time tells
            await asyncio.sleep(0.03)
    assert (await ada.call("room.join", room=room.slug))["code"] == ErrorCode.NOT_FOUND


async def test_a_room_that_is_withdrawn_while_one_is_on_the_way(
    database_url: str, valkey: Valkey, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was let in before is not put into it, neither joining nor coming back: who was in it is out already."""
    rooms = [await make_room(pool, slug) for slug in ("calm", "quiet")]
    settings = Settings(
        database_url=database_url,
        redis_url=valkey.url,
        signing_keys=(SIGNING_KEY,),
        sealing_keys=(SEALING_KEY,),
    )
    truly = Subscriptions.open

    async def withdrawn(self: Subscriptions, room: RoomId) -> ActiveRoom:
        active = await truly(self, room)
        await pool.execute("update rooms set status = 'RESTRICTED' where id = $1", room)
        await put_out(site.node, room)
        return active

    async with serving(settings) as site, AsyncExitStack() as stack:
        monkeypatch.setattr(Subscriptions, "open", withdrawn)
        host = Host(f"ws://127.0.0.1:{site.port}/ws", site.node.tokens, pool, stack)
        ada = await visit(host, "Ada")
        assert (await ada.call("room.join", room="calm")).get("code") == ErrorCode.NOT_FOUND
        position = {"room": "quiet", "epoch": ada.welcome["epoch"], "offset": 0}
        (resumed,) = (await arrive(host, await host.token("Bo"), resume=[position])).welcome["resumed"]
        assert resumed.get("error") == ErrorCode.NOT_FOUND
        assert not any(site.node.hub.members.rooms[room].connections for room in rooms)


async def test_the_snapshot_at_the_door(nodes: Standing, room: Room) -> None:
    """Whoever enters is told all that is to be known, complete up to its offset; what comes later follows."""
    ada = await visit(nodes.north, "Ada", room.id)
    line = (await ada.say(room.id, "hello"))["line"]
    await ada.call("confidence.set", room=room.slug, level=7)
    await ada.call("reaction.add", target={"kind": "looproom", "id": str(room.id)}, reaction="HEART")
    bo = await visit(nodes.north, "Bo")
    joined = await bo.join(room.id)
    assert joined == {
        "type": "room.joined",
        "id": joined["id"],
        "room": (await ada.call("room.get", room=room.slug))["room"],
        "you": {"id": str(bo.person.id), "name": "Bo"},
        "epoch": bo.welcome["epoch"],
        "offset": 1,
        "online": 2,
        "members": joined["members"],
        "reactions": {"HEART": 1},
        "confidence": {"mean": 7.0, "count": 1},
        "recent": [line],
    }
    assert {member["name"] for member in joined["members"]} == {"Ada", "Bo"}
    await ada.say(room.id, "there")
    await bo.hear(2)
    assert bo.offsets == [2]


async def test_joining_again_is_a_new_snapshot(nodes: Standing, room: Room) -> None:
    """Who is in already gets the room as it is now, is one person still, and hears everything once."""
    ada = await visit(nodes.north, "Ada", room.id)
    await ada.say(room.id, "one")
    again = await ada.join(room.id)
    assert (again["offset"], again["online"], len(again["recent"])) == (1, 1, 1)
    await ada.say(room.id, "two")
    await ada.hear(2)
    assert ada.offsets == [1, 2]


async def test_after_leaving_nothing_is_heard(nodes: Standing, room: Room) -> None:
    """The answer is the last that is heard of the room; to leave it again is refused, to come back is not."""
    ada, bo = await visit(nodes.north, "Ada", room.id), await visit(nodes.north, "Bo", room.id)
    left = await bo.call("room.leave", room=room.slug)
    assert left == {"type": "room.left", "id": left["id"], "room": str(room.id)}
    heard = len(bo.heard)
    await ada.say(room.id, "one")
    await ada.settle()
    await bo.settle()
    assert bo.heard[heard:] == []
    assert (await bo.call("room.leave", room=room.slug))["code"] == ErrorCode.NOT_IN_ROOM
    assert (await bo.join(room.id))["offset"] == 1


async def test_commands_of_one_connection_keep_their_order(nodes: Standing, room: Room) -> None:
    """Sent without waiting: what is said before the join and after the leave is refused, what is said between is not."""
    ada = await visit(nodes.north, "Ada")
    answers = await asyncio.gather(
        ada.say(room.id, "before"),
        ada.call("room.join", room=room.slug),
        ada.say(room.id, "between"),
        ada.call("room.leave", room=room.slug),
        ada.say(room.id, "after"),
    )
    assert [answer.get("code", answer["type"]) for answer in answers] == [
        ErrorCode.NOT_IN_ROOM,
        "room.joined",
        "chat.sent",
        "room.left",
        ErrorCode.NOT_IN_ROOM,
    ]


async def test_as_many_rooms_as_allowed(database_url: str, valkey: Valkey, pool: Pool) -> None:
    """One room too many is refused until another is left; a room that one is in may be joined again."""
    rooms = [await make_room(pool, f"room-{number}") for number in range(4)]
    async with hosting(database_url, valkey.url, pool, max_rooms_per_connection=3) as host:
        ada = await visit(host, "Ada", *rooms[:3])
        assert (await ada.call("room.join", room="room-3"))["code"] == ErrorCode.TOO_MANY_ROOMS
        await ada.join(rooms[0])
        await ada.call("room.leave", room="room-1")
        await ada.join(rooms[3])


async def test_a_preview_ends_everywhere_once(nodes: Standing, room: Room) -> None:
    """A free member is told how long they may stay, is taken out at its end on every connection, once each, and not let in
    again, by any node.
    """
    premium = await make_room(nodes.pool, f"{room.slug}-premium", preview=1)
    ada = await visit(nodes.north, "Ada")
    first = await ada.join(premium)
    assert 0.5 < first["preview_ends_in"] <= 1
    tab, phone = await visit(nodes.north, ada.person), await visit(nodes.south, ada.person)
    for one in (tab, phone):
        assert (await one.join(premium))["preview_ends_in"] < first["preview_ends_in"]
    for _ in range(
        3
    ):  # neither a new snapshot nor a way out and in again makes it longer, or its end a second one
        await ada.join(premium)
        await ada.call("room.leave", room=str(premium))
        await ada.join(premium)
    for one in (ada, tab, phone):
        await until(lambda one=one: departures(one))  # type: ignore[misc] # bound now
        assert (await one.call("room.join", room=str(premium)))["code"] == ErrorCode.PREMIUM_REQUIRED
        assert (await one.say(premium, "still here?"))["code"] == ErrorCode.NOT_IN_ROOM
        assert departures(one) == [
            {
                "type": "room.departure",
                "room": str(premium),
                "code": ErrorCode.PREMIUM_REQUIRED,
                "message": ErrorCode.PREMIUM_REQUIRED.advice,
                "pay": "http://127.0.0.1:8000/pay",
            }
        ]
    position = {"room": str(premium), "epoch": ada.welcome["epoch"], "offset": 0}
    back = await arrive(nodes.south, await nodes.south.token("Ada", ada.person), resume=[position])
    (refused,) = back.welcome["resumed"]
    assert (refused["recovered"], refused["error"]) == (False, ErrorCode.PREMIUM_REQUIRED)


async def test_a_premium_room_is_open_to_those_who_pay(nodes: Standing, room: Room) -> None:
    """Members of every paid tier, the room's host and moderators stay as long as they like."""
    premium = await make_room(nodes.pool, f"{room.slug}-premium", preview=0)
    insiders = [await host_of(nodes.pool, premium)]
    for column, value in (
        ("tier", "PREMIUM_MONTHLY"),
        ("tier", "PREMIUM_YEARLY"),
        ("tier", "CREATOR_PRO"),
        ("role", "MODERATOR"),
    ):
        insiders.append(await change(nodes.pool, await visit(nodes.north, value), column, value))
    for insider in insiders:
        joined = await (await visit(nodes.north, insider)).join(premium)
        assert "preview_ends_in" not in joined
    for role in ("MEMBER", "CREATOR"):
        outsider = await visit(
            nodes.north, await change(nodes.pool, await visit(nodes.north, role), "role", role)
        )
        assert (await outsider.call("room.join", room=str(premium)))["code"] == ErrorCode.PREMIUM_REQUIRED


async def test_the_host_gives_cues(nodes: Standing, room: Room) -> None:
    """A cue of the host reaches everyone in the room on every node, now and never again; nobody else gives one."""
    leader = await visit(nodes.north, await host_of(nodes.pool, room.id), room.id)
    near, far = await visit(nodes.north, "Bo", room.id), await visit(nodes.south, "Cy", room.id)
    sent = await leader.call("cue.send", room=room.slug, cue=" breathe\u202e in ")
    assert sent == {"type": "cue.sent", "id": sent["id"]}
    expected = {"type": "room.cue", "room": str(room.id), "cue": "breathe in"}
    for one in (leader, near, far):
        await until(lambda one=one: expected in one.heard)  # type: ignore[misc] # bound now
    assert "breathe" not in str(await (await visit(nodes.south, "Dee")).join(room.id))
    moderator = await change(nodes.pool, await visit(nodes.north, "Mo"), "role", "MODERATOR")
    for other in (near, await visit(nodes.north, moderator, room.id)):
        answer = await other.call("cue.send", room=room.slug, cue="run")
        assert (answer["code"], answer["message"]) == (
            ErrorCode.FORBIDDEN,
            "Only the host of a looproom gives its cues.",
        )
    for cue, code in (
        ("\u200b", ErrorCode.TEXT_EMPTY),
        ("", ErrorCode.INVALID),
        ("x" * 201, ErrorCode.INVALID),
    ):
        answer = await leader.call("cue.send", room=room.slug, cue=cue)
        assert (answer["code"], answer["path"]) == (code, "$.cue")
    await leader.call("room.leave", room=room.slug)
    assert (await leader.call("cue.send", room=room.slug, cue="out"))["code"] == ErrorCode.NOT_IN_ROOM


async def test_a_node_listens_to_rooms_that_have_members(
    database_url: str, valkey: Valkey, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It subscribes with a room's first member, and some time after the last has left it lets the room go; a comeback is whole."""
    monkeypatch.setattr("server.hub.subscriptions.CHECK_SECONDS", 0.02)
    monkeypatch.setattr("server.hub.subscriptions.LINGER_SECONDS", 0.1)
    room = await make_room(pool, "calm")
    redis = open_redis(valkey.url)
    asking = Command(("PUBSUB", "NUMSUB", channel_of(room)), lambda reply: int(reply[1]))

    async def listeners(count: int) -> None:
        async with asyncio.timeout(5):
            while await redis.run(asking) != count:
                pass

    async with (
        hosting(database_url, valkey.url, pool, presence_grace_seconds=0) as north,
        hosting(database_url, valkey.url, pool, presence_grace_seconds=0) as south,
    ):
        await listeners(0)
        ada = await visit(north, "Ada", room)
        await listeners(1)
        bo = await visit(south, "Bo", room)
        cy = await visit(south, "Cy", room)
        await listeners(2)
        await bo.call("room.leave", room="calm")
        await ada.say(room, "one")
        await cy.hear(1)
        cy.connection.leave()
        await listeners(1)
        await ada.say(room, "two")
        assert [line["text"] for line in (await bo.join(room))["recent"]] == ["one", "two"]
        await listeners(2)
        bo.connection.reset()
        ada.connection.leave()
        await listeners(0)
    await redis.aclose()
