"""Blocks: two people who are not there for each other, on every node, by any name, and in no word that says so."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from protocol.envelope import NOBODY, Person, RoomId, UserId
from storage.postgres.pool import Pool
from tests.hosting import hosting, make_room
from tests.http.conftest import Servers, servers
from tests.leaving import town
from tests.nodes.raw import Message
from tests.posting import comment, post
from tests.redis.valkeys import Valkey
from tests.standing import Room, Standing, nodes, room
from tests.stores import database_url, pool, postgres, valkey
from tests.visitors import Visitor, arrive, visit
from tests.waiting import until

__all__ = ["database_url", "nodes", "pool", "postgres", "room", "servers", "valkey"]  # fixtures

GONE = msgspec.to_builtins(NOBODY, str_keys=True) | {"id": str(NOBODY.id)}


async def three(nodes: Standing, room: RoomId) -> tuple[Visitor, Visitor, Visitor]:
    """Let Ada and Cy into a room on one node, and Bo on the other; each sees all of them."""
    ada, cy = [await visit(nodes.north, name, room) for name in ("Ada", "Cy")]
    bo = await visit(nodes.south, "Bo", room)
    for visitor in (ada, bo, cy):
        await sees(visitor, room, ada, bo, cy)
    return ada, bo, cy


async def present(visitor: Visitor, room: RoomId) -> set[str]:
    """Return the ids of those whom somebody is told of in a room."""
    listed = await visitor.call("presence.list", room=str(room))
    return {person["id"] for person in listed["members"]}


async def page_by_page(visitor: Visitor, room: RoomId) -> set[str]:
    """Return the same, asked for one by one."""
    found: set[str] = set()
    after: Message = {}
    while True:
        page = await visitor.call("presence.list", room=str(room), limit=1, **after)
        found |= {person["id"] for person in page["members"]}
        if "next" not in page:
            return found
        after = {"after": page["next"]}


async def sees(visitor: Visitor, room: RoomId, *others: Visitor) -> None:
    """Wait until somebody is told of these in a room, and of nobody else."""
    expected = {str(other.person.id) for other in others}

    async def all_seen() -> bool:
        return await present(visitor, room) == expected or await _breathe()

    await until(all_seen)


async def _breathe() -> bool:
    """Say no, after a while: one connection may not ask all the time."""
    await asyncio.sleep(0.05)
    return False


async def block(visitor: Visitor, **whom: Any) -> Message:
    """Block somebody; return how that stands in the list."""
    answer = await visitor.call("person.block", **whom)
    assert answer["type"] == "person.blocked", answer
    return dict(answer["relation"])


def mentions(visitor: Visitor, of: Visitor, since: int = 0) -> bool:
    """Say whether anything that somebody has heard since then names another."""
    heard = msgspec.json.encode(visitor.heard[since:]).decode()
    return str(of.person.id) in heard or f'"{of.person.name}"' in heard


async def last_lines(visitor: Visitor, room: RoomId, count: int) -> list[tuple[str, str]]:
    """Return the newest lines of a room as somebody finds them in its history and in a snapshot: author and text."""
    history = (await visitor.call("chat.history", room=str(room), limit=count))["lines"]
    recent = (await visitor.join(room))["recent"][-count:]
    assert history == recent
    return [(line["author"]["name"], line["text"]) for line in history]


async def test_not_there_for_each_other(nodes: Standing, room: Room) -> None:
    """From the answer on, on both nodes: no line, nobody who is here, writes or reacts; offsets and totals are everyone's."""
    ada, bo, cy = await three(nodes, room.id)
    await bo.say(room.id, "before")
    await ada.hear(1)
    relation = await block(ada, person=str(bo.person.id))
    assert relation == {"person": bo.welcome["user"], "blocked": True}
    heard = len(ada.heard)
    await sees(bo, room.id, bo, cy)
    for told in (present, page_by_page):
        assert await told(ada, room.id) == {str(ada.person.id), str(cy.person.id)}
    assert (await cy.call("presence.list", room=str(room.id)))["online"] == 3
    assert (await ada.call("presence.list", room=str(room.id)))["online"] == 3
    since = len(bo.heard)
    for visitor, text in ((bo, "of Bo"), (ada, "of Ada")):
        line = (await visitor.say(room.id, text))["line"]["id"]
        await visitor.call("chat.edit", room=str(room.id), line=line, text=f"{text}, again")
        await visitor.call("typing.set", room=str(room.id), typing=True)
        target = {"kind": "looproom", "id": str(room.id)}
        await visitor.call("reaction.add", target=target, reaction="HEART")
    for visitor in (ada, bo, cy):
        await visitor.hear(5)
        assert visitor.offsets[-5:] == [1, 2, 3, 4, 5]
    await until(lambda: _hearts(ada) == _hearts(bo) == 2)
    assert not mentions(ada, bo, heard)
    assert not mentions(bo, ada, since)
    seen = {event["offset"]: event for event in bo.events}
    assert (seen[4]["line"]["author"], seen[4]["line"]["text"], seen[4]["line"]["removed"]) == (
        GONE,
        "",
        True,
    )
    assert (seen[5]["type"], seen[5]["of"]) == ("chat.removal", 4)
    assert await last_lines(ada, room.id, 3) == [("", ""), ("", ""), ("Ada", "of Ada, again")]
    assert await last_lines(bo, room.id, 3) == [("Bo", "before"), ("Bo", "of Bo, again"), ("", "")]
    assert [name for name, _ in await last_lines(cy, room.id, 3)] == ["Bo", "Bo", "Ada"]
    await bo.call("room.leave", room=str(room.id))
    await sees(cy, room.id, ada, cy)
    assert not mentions(ada, bo, heard), "nor that they go"


def _hearts(visitor: Visitor) -> int:
    tallies = [message.get("reactions", {}).get("HEART") for message in visitor.heard]
    states = [message.get("state", {}).get("reactions", {}).get("HEART", 0) for message in visitor.heard]
    return max([tally["total"] for tally in tallies if tally] + states, default=0)


async def test_coming_back(nodes: Standing, room: Room) -> None:
    """Who resumes, on whatever node, is replayed every offset and shown nobody who is hidden; nor in the snapshot of a newcomer."""
    ada, bo, cy = await three(nodes, room.id)
    await block(bo, person=str(ada.person.id))
    for text in ("one", "two"):
        await ada.say(room.id, text)
    for host in nodes.both:
        position = {"room": room.slug, "epoch": bo.welcome["epoch"], "offset": 0}
        back = await arrive(host, await host.token("Bo", bo.person), resume=[position])
        await back.hear(2)
        assert [event["line"]["text"] for event in back.events] == ["", ""]
        (resumed,) = back.welcome["resumed"]
        assert (resumed["recovered"], resumed["missed"]) == (True, 2)
        assert {person["name"] for person in resumed["state"]["members"]} <= {"Bo", "Cy"}
        assert not mentions(back, ada)
        fresh = await arrive(host, await host.token("Bo", bo.person))
        joined = await fresh.join(room.id)
        assert [line["author"] for line in joined["recent"]] == [GONE, GONE]
        assert joined["online"] == 3
    assert await last_lines(cy, room.id, 2) == [("Ada", "one"), ("Ada", "two")]


async def test_taken_back(nodes: Standing, room: Room) -> None:
    """Both are there again for each other: at once among those who are here, and with all they have said."""
    ada, bo, cy = await three(nodes, room.id)
    await block(ada, person=str(bo.person.id))
    await block(ada, person=str(bo.person.id))
    await bo.say(room.id, "while apart")
    listed = await ada.call("relation.list", kind="BLOCKED")
    assert [one["person"]["name"] for one in listed["relations"]] == ["Bo"]
    for _ in range(2):
        answer = await ada.call("person.unblock", person=str(bo.person.id))
        assert (answer["type"], answer["person"]) == ("person.unblocked", str(bo.person.id))
    for visitor in (ada, bo):
        await sees(visitor, room.id, ada, bo, cy)
        assert await last_lines(visitor, room.id, 1) == [("Bo", "while apart")]
        assert [m for m in visitor.heard if m["type"] == "room.pulse" and "state" in m]
    await bo.say(room.id, "together")
    await ada.hear(2)
    assert ada.events[-1]["line"]["text"] == "together"


async def test_every_connection_and_device(nodes: Standing, room: Room) -> None:
    """It holds on all connections of both, and the other devices of who has blocked are told; who is blocked is told nothing."""
    ada, bo, _ = await three(nodes, room.id)
    second = await visit(nodes.south, ada.person, room.id)
    tab = await visit(nodes.north, bo.person, room.id)
    relation = await block(ada, person=str(bo.person.id))
    for visitor in (ada, second):
        await until(lambda v=visitor: [m for m in v.heard if m["type"] == "relation.change"])  # type: ignore[misc] # early bound
        (event,) = [message for message in visitor.heard if message["type"] == "relation.change"]
        assert (event["relation"], event["person_offset"]) == (relation, 1)
    for visitor, other in ((second, bo), (tab, ada)):

        async def apart(visitor: Visitor = visitor, other: Visitor = other) -> bool:
            return str(other.person.id) not in await present(visitor, room.id)

        await until(apart)
    for visitor in (bo, tab):
        await visitor.settle()
        told = {message["type"] for message in visitor.heard}
        assert told <= {"welcome", "room.joined", "room.pulse", "session.ponged"}


async def test_as_if_they_were_not_there(nodes: Standing, room: Room) -> None:
    """Asked for a profile, a friend, a follow, a block or a mute, what is hidden is what never was, word for word."""
    ada, bo, _ = await three(nodes, room.id)
    line = (await ada.say(room.id, "hello"))["line"]["id"]
    await bo.hear(1)
    await block(ada, person=str(bo.person.id))
    nobody = str(UserId(room.id))
    for command in (
        "person.get",
        "friend.request",
        "friend.accept",
        "creator.follow",
        "person.block",
        "person.mute",
    ):
        answers = [await bo.call(command, person=person) for person in (str(ada.person.id), nobody)]
        assert [(answer["code"], answer["message"]) for answer in answers] == [
            ("not_found", answers[1]["message"])
        ] * 2, command
    for command in ("person.block", "person.mute"):
        assert (await bo.call(command, room=str(room.id), line=line))["code"] == "not_found"
        assert (await bo.call(command, room=str(room.id), person=str(ada.person.id)))["code"] == "not_found"
    for kind in ("FRIENDS", "SENT", "RECEIVED", "FOLLOWING", "MUTED", "BLOCKED"):
        assert (await bo.call("relation.list", kind=kind))["relations"] == []
    assert (await ada.call("person.get", person=str(bo.person.id)))["code"] == "not_found"


async def test_a_friendship_ends(nodes: Standing) -> None:
    """A friend who is blocked is told what they are told when a friendship ends, and no more."""
    ada, bo = await visit(nodes.north, "Ada"), await visit(nodes.south, "Bo")
    ended: list[list[Message]] = []
    for end in ("friend.remove", "person.block"):
        for one, command, other in ((ada, "friend.request", bo), (bo, "friend.accept", ada)):
            answer = await one.call(command, person=str(other.person.id))
            assert "relation" in answer, answer
        await until(lambda: _friendships(bo)[-1:] == ["FRIENDS"])
        heard = len(bo.heard)
        await ada.call(end, person=str(bo.person.id))
        await until(lambda: _friendships(bo)[-1:] == [None])
        await bo.settle()
        ended.append([{**message, "person_offset": 0} for message in bo.heard[heard:]])
    assert ended[0] == ended[1]
    assert _friendships(ada) == ["SENT", "FRIENDS", None] * 2, "and a friend of before by a block"


def _friendships(visitor: Visitor) -> list[str | None]:
    """Return what somebody was told that they are to others, in order."""
    return [m["relation"].get("friendship") for m in visitor.heard if m["type"] == "relation.change"]


async def test_the_rooms_of_a_host(nodes: Standing, room: Room) -> None:
    """Whichever of the two has blocked: who is in a room of the other's is put out as when it is withdrawn, and finds it nowhere."""
    row = await nodes.pool.fetchrow("select host_id from rooms where id = $1", room.id)
    assert row is not None
    host = await visit(nodes.north, Person(id=UserId(row["host_id"]), name="host"), room.id)
    for blocker in ("host", "guest"):
        guest = await visit(nodes.south, "Gil", room.id)
        await block(
            *((host,) if blocker == "host" else (guest,)),
            person=str((guest if blocker == "host" else host).person.id),
        )
        await until(lambda v=guest: [m for m in v.heard if m["type"] == "room.departure"])  # type: ignore[misc] # early bound
        (departure,) = [message for message in guest.heard if message["type"] == "room.departure"]
        assert departure["code"] == "not_found"
        draft = await guest.call("room.join", room="no-such-room")
        for command in ("room.join", "room.get"):
            answer = await guest.call(command, room=room.slug)
            assert (answer["code"], answer["message"]) == (draft["code"], draft["message"])
        slugs: list[str] = []
        after: Message = {}
        while True:
            page = await guest.call("room.list", limit=100, **after)
            slugs += [one["slug"] for one in page["rooms"]]
            if "next" not in page:
                break
            after = {"after": page["next"]}
        assert room.slug not in slugs
        assert (await guest.call("room.list", after=str(room.id)))["code"] == "not_found"
        resume = [{"room": room.slug, "epoch": guest.welcome["epoch"], "offset": 0}]
        back = await arrive(nodes.north, await nodes.north.token("Gil", guest.person), resume=resume)
        assert back.welcome["resumed"][0]["error"] == "not_found"
        if blocker == "host":
            await host.call("person.unblock", person=str(guest.person.id))
            await until(lambda v=guest: _joins(v, room))  # type: ignore[misc] # early bound


async def _joins(visitor: Visitor, room: Room) -> bool:
    answer = await visitor.call("room.join", room=room.slug)
    return bool(answer["type"] == "room.joined") or await _breathe()


async def test_word_that_is_lost(
    database_url: str, valkey: Valkey, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that has not heard of a block finds it by itself, on both sides, and puts out of a host's room whom it hides."""
    monkeypatch.setattr("server.session.SWEEP_SECONDS", 0.05)
    here, room = await make_room(pool, "here"), await make_room(pool, "calm")
    async with hosting(database_url, valkey.url, pool) as host:
        ada, bo = await visit(host, "Ada", here, room), await visit(host, "Bo", here, room)
        await pool.execute("update rooms set host_id = $2 where id = $1", here, ada.person.id)
        await pool.execute(
            "insert into blocks (blocker_id, blocked_id) values ($1, $2)", ada.person.id, bo.person.id
        )
        await until(lambda: [message for message in bo.heard if message["type"] == "room.departure"])
        for visitor in (ada, bo):
            await sees(visitor, room, visitor)


async def test_through_a_pseudonym(nodes: Standing, room: Room) -> None:
    """Named as they are seen, on another node and before they have said a word, or by a line: it holds for the person, under every
    name, and the blocker is told of the pseudonym alone, by which they take it back.
    """
    ada, _, cy = await three(nodes, room.id)
    token = await nodes.south.token("Adalgisa")
    who = Person(
        id=UserId(await nodes.pool.fetchval("select id from users where name = 'Adalgisa'")), name="Adalgisa"
    )
    await nodes.pool.execute("update users set anonymous = true where id = $1", who.id)
    masked = await arrive(nodes.south, token)
    mask = (await masked.join(room.id))["you"]
    assert mask["id"] != str(who.id)

    async def here() -> bool:
        return mask["id"] in await present(ada, room.id) or await _breathe()

    async def away() -> bool:
        return mask["id"] not in await present(ada, room.id) or await _breathe()

    await until(here)
    elsewhere = await visit(nodes.north, who)
    whom = {"person": mask["id"]}
    for text in ("who am I", "and again"):
        relations = [await block(ada, room=str(room.id), **whom) for _ in range(2)]
        assert relations == [{"person": mask, "blocked": True}] * 2
        assert await away()
        line = (await masked.say(room.id, text))["line"]
        assert line["author"] == mask
        await ada.hear(line["offset"])
        assert (await last_lines(ada, room.id, 1))[0] == ("", "")
        assert (await elsewhere.call("person.get", person=str(ada.person.id)))["code"] == "not_found"
        assert (await ada.call("relation.list", kind="BLOCKED"))["relations"] == relations[:1]
        assert (await ada.call("person.unblock", person=str(who.id)))["type"] == "person.unblocked"
        assert await away(), "by the account it is not taken back: that would tell who it is"
        await ada.call("person.unblock", person=mask["id"])
        await until(here)
        whom = {"line": line["id"]}
    assert str(who.id) not in msgspec.json.encode([ada.heard, cy.heard]).decode()
    for visitor in (masked, elsewhere):
        assert (await visitor.call("person.block", person=mask["id"], room=str(room.id)))["code"] in (
            "invalid",
            "not_in_room",
        )
    await masked.call("room.leave", room=str(room.id))
    await until(away)
    assert (await block(ada, room=str(room.id), person=mask["id"]))["person"] == mask, "who has left, too"


async def test_by_what_somebody_has_written(nodes: Standing) -> None:
    """Whoever is anonymous in the feed is blocked and muted by the pseudonym of a vybe or a comment, and by it comes back."""
    ada, bo = await visit(nodes.north, "Ada"), await visit(nodes.south, "Bo")
    own = await post(ada, "a quiet day")
    vybe = await post(bo, "secret", "ANONYMOUS")
    await nodes.pool.execute("update users set anonymous = true where id = $1", bo.person.id)
    masked = await visit(nodes.south, bo.person)
    boo = await comment(masked, own["id"], "boo")
    assert len({str(bo.person.id), vybe["author"]["id"], boo["author"]["id"]}) == 3
    for place, author in ((vybe["id"], vybe["author"]), (own["id"], boo["author"])):
        for done, undone in (("person.block", "person.unblock"), ("person.mute", "person.unmute")):
            for _ in range(2):
                answer = await ada.call(done, vybe=place, person=author["id"])
                assert answer["relation"]["person"] == author
            heard = (await ada.call("comment.list", vybe=own["id"]))["comments"]
            assert len(heard) == (done == "person.mute" and author != boo["author"]), "a mute is of a name"
            await ada.call(undone, person=author["id"])
            assert len((await ada.call("comment.list", vybe=own["id"]))["comments"]) == 1
        assert (await ada.call("person.block", person=author["id"]))["code"] == "not_found"
    assert str(bo.person.id) not in msgspec.json.encode(ada.heard).decode()


async def test_naming_nobody(nodes: Standing, room: Room) -> None:
    """Neither nobody nor two can be named, a line only with its room, a room only when one is in it; a removed line names nobody."""
    ada, bo, _ = await three(nodes, room.id)
    line = (await bo.say(room.id, "hello"))["line"]["id"]
    await bo.call("chat.remove", room=str(room.id), line=line)
    for whom, code in (
        ({}, "invalid"),
        ({"line": line}, "invalid"),
        ({"line": line, "room": str(room.id), "person": str(bo.person.id)}, "invalid"),
        ({"line": line, "vybe": str(UserId(room.id))}, "invalid"),
        ({"person": str(bo.person.id), "room": str(room.id), "vybe": str(UserId(room.id))}, "invalid"),
        ({"line": line, "room": "elsewhere"}, "not_in_room"),
        ({"line": line, "room": str(room.id)}, "not_found"),
        ({"person": str(ada.person.id)}, "invalid"),
    ):
        assert (await ada.call("person.block", **whom))["code"] == code
    answer = await block(ada, person=str(bo.person.id), room=str(room.id))
    assert answer["person"]["name"] == "Bo", "who is there under their own name is named by it"


async def test_mutes(nodes: Standing, room: Room) -> None:
    """What somebody says is not heard by who has muted them, who sees them all the same; for others nothing changes."""
    ada, bo, cy = await three(nodes, room.id)
    answer = await ada.call("person.mute", person=str(bo.person.id))
    assert answer["relation"] == {"person": bo.welcome["user"], "muted": True}
    await bo.say(room.id, "la la la")
    await ada.say(room.id, "peace")
    for visitor in (ada, bo):
        await visitor.hear(2)
        await sees(visitor, room.id, ada, bo, cy)
    assert await last_lines(ada, room.id, 2) == [("", ""), ("Ada", "peace")]
    assert await last_lines(bo, room.id, 2) == [("Bo", "la la la"), ("Ada", "peace")]
    assert (await ada.call("person.get", person=str(bo.person.id)))["relation"]["muted"]
    await ada.call("person.unmute", person=str(bo.person.id))
    assert await last_lines(ada, room.id, 2) == [("Bo", "la la la"), ("Ada", "peace")]


async def test_a_mute_tells_nobody_who_is_behind_a_pseudonym(nodes: Standing, room: Room) -> None:
    """Whoever was muted under their name is heard under their pseudonym, and the other way round; both names can be muted."""
    ada, bo = await visit(nodes.north, "Ada", room.id), await visit(nodes.south, "Bo", room.id)
    await bo.say(room.id, "as Bo")
    await bo.call("person.anonymous", on=True)
    mask = (await bo.say(room.id, "as nobody"))["line"]["author"]
    assert mask["id"] != str(bo.person.id)
    name = {"person": str(bo.person.id)}
    both = [("Bo", "as Bo"), (mask["name"], "as nobody")]
    unheard = ("", "")
    await ada.call("person.mute", **name)
    assert await last_lines(ada, room.id, 2) == [unheard, both[1]]
    await bo.say(room.id, "live")
    await ada.hear(3)
    assert [line["line"]["text"] for line in ada.heard if line["type"] == "chat.line"][-1] == "live"
    await ada.call("person.mute", room=str(room.id), person=mask["id"])
    assert await last_lines(ada, room.id, 3) == [unheard] * 3
    assert len((await ada.call("relation.list", kind="MUTED"))["relations"]) == 2
    await ada.call("person.unmute", **name)
    assert (await last_lines(ada, room.id, 3))[:2] == [both[0], unheard]


async def test_moderators(nodes: Standing, room: Room) -> None:
    """Who looks after everyone sees whoever has blocked them, and is seen."""
    ada, bo, cy = await three(nodes, room.id)
    await nodes.pool.execute("update users set role = 'MODERATOR' where id = $1", bo.person.id)
    await block(ada, person=str(bo.person.id))
    await bo.say(room.id, "be kind")
    await ada.hear(1)
    assert ada.events[-1]["line"]["text"] == "be kind"
    for visitor in (ada, bo):
        await sees(visitor, room.id, ada, bo, cy)


async def test_friends_on_every_device(nodes: Standing) -> None:
    """A request and its acceptance reach both on all their connections, also when they come back; nobody asks under a mask."""
    ada, bo = await visit(nodes.north, "Ada"), await visit(nodes.south, "Bo")
    phone = await visit(nodes.north, bo.person)
    position = {"epoch": bo.welcome["epoch"], "offset": 0}
    assert (await ada.call("person.get", person=str(bo.person.id)))["relation"] == {
        "person": bo.welcome["user"]
    }
    await ada.call("friend.request", person=str(bo.person.id))
    for visitor in (bo, phone):
        await until(lambda v=visitor: _friendships(v) == ["RECEIVED"])  # type: ignore[misc] # early bound
    await phone.call("friend.accept", person=str(ada.person.id))
    for visitor in (ada, bo, phone):
        await until(lambda v=visitor: _friendships(v)[-1] == "FRIENDS")  # type: ignore[misc] # early bound
    back = await arrive(nodes.north, await nodes.north.token("Bo", bo.person), person=position)
    await until(lambda: _friendships(back) == ["RECEIVED", "FRIENDS"])
    await bo.call("person.anonymous", on=True)
    for command in ("friend.request", "friend.accept"):
        assert (await bo.call(command, person=str(ada.person.id)))["code"] == "forbidden"
    cy = await visit(nodes.north, "Cy")
    await cy.call("friend.request", person=str(ada.person.id))
    await ada.call("friend.decline", person=str(cy.person.id))
    await cy.settle()
    assert _friendships(cy) == ["SENT"]


async def test_follows(nodes: Standing) -> None:
    """Creators are followed; a page of a list leads to the next one."""
    ada = await visit(nodes.north, "Ada")
    creators = [await visit(nodes.north, f"Creator {number}") for number in range(3)]
    for creator in creators:
        assert (await ada.call("creator.follow", person=str(creator.person.id)))["code"] == "forbidden"
        await nodes.pool.execute("update users set role = 'CREATOR' where id = $1", creator.person.id)
        answer = await ada.call("creator.follow", person=str(creator.person.id))
        assert answer["relation"]["following"]
        assert (await ada.call("person.get", person=str(creator.person.id)))["creator"]
    page = await ada.call("relation.list", kind="FOLLOWING", limit=2)
    rest = await ada.call("relation.list", kind="FOLLOWING", limit=2, after=page["next"])
    assert [one["person"]["name"] for one in (*page["relations"], *rest["relations"])] == [
        "Creator 2",
        "Creator 1",
        "Creator 0",
    ]
    assert "next" not in rest
    await ada.call("creator.unfollow", person=str(creators[0].person.id))
    assert len((await ada.call("relation.list", kind="FOLLOWING"))["relations"]) == 2


async def test_only_so_many(servers: Servers) -> None:
    """Nobody asks of a whole room who is who: blocks are counted, on all nodes together, also those that find nobody."""
    async with town(await servers.settings(LOOPROOMS_LIMITS_FACTOR="0.05"), 1) as place:
        visitor = await (await place.member("Ada")).come()
        nobody = str(UserId(visitor.person.id))[:-12] + "0" * 12
        answers = await asyncio.gather(*(visitor.call("person.block", person=nobody) for _ in range(5)))
        assert [answer["code"] for answer in answers] == ["not_found"] * 3 + ["rate_limited"] * 2
