"""Vybes: posted once per key, seen by those who may and by nobody else, gone without a trace."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from protocol.reactions import Reaction
from storage.postgres.pool import Pool
from tests.hosting import hosting, make_room
from tests.nodes.raw import Message
from tests.posting import (
    BEFRIEND,
    BLOCK,
    MUTE,
    comment,
    feed,
    heard,
    key,
    moderator,
    post,
    react,
    several,
    share,
    who,
)
from tests.redis.valkeys import Valkey
from tests.standing import Standing
from tests.visitors import PATIENCE, Visitor, visit
from tests.waiting import until


async def get(visitor: Visitor, vybe: str) -> Message:
    """Look at a vybe; return it, or the error."""
    answer = await visitor.call("vybe.get", vybe=vybe)
    return answer["vybe"] if answer["type"] == "vybe.found" else answer


async def test_posted_once(nodes: Standing) -> None:
    """A key that comes ten times, over two nodes at once, has one effect and one answer; with another text it is refused."""
    (north,) = await several(nodes.north, "ada")
    south = await visit(nodes.south, north.person)
    fields = {"kind": "GRATITUDE", "privacy": "PUBLIC", "text": "  thank\u0000 you ", "key": key()}
    answers = await asyncio.gather(
        *(visitor.call("vybe.post", **fields) for visitor in (north, south) for _ in range(5))
    )
    assert {answer["type"] for answer in answers} == {"vybe.posted"}
    assert {answer["vybe"]["id"] for answer in answers} == {answers[0]["vybe"]["id"]}
    assert {answer["vybe"]["text"] for answer in answers} == {"thank you"}
    assert all(answer["vybe"]["mine"] for answer in answers)
    assert await nodes.pool.fetchval("select count(*) from vybes where author_id = $1", who(north)) == 1
    assert (await north.call("vybe.post", **{**fields, "text": "other"}))["code"] == "key_reused"
    chat = await north.call("comment.add", vybe=answers[0]["vybe"]["id"], text="x", key=fields["key"])
    assert chat["code"] == "key_reused"
    await north.call("vybe.remove", vybe=answers[0]["vybe"]["id"])
    assert (await south.call("vybe.post", **fields))["code"] == "not_found"


async def test_an_empty_one_is_refused(nodes: Standing) -> None:
    """A vybe says something; what passes another on need not."""
    (ada,) = await several(nodes.north, "ada")
    empty = {"kind": "REFLECTION", "privacy": "PUBLIC", "text": " \u200b ", "key": key()}
    assert (await ada.call("vybe.post", **empty))["code"] == "text_empty"
    vybe = await post(ada, "something")
    assert (await ada.call("vybe.edit", vybe=vybe["id"], text=" "))["code"] == "text_empty"
    shared = await share(ada, vybe["id"], text="")
    assert shared["shared"]["text"] == "something"


VISIBILITY = """
             PUBLIC  ANONYMOUS  FRIENDS_ONLY  PRIVATE
author       yes     yes        yes           yes
friend       yes     yes        yes           no
stranger     yes     yes        no            no
blocker      no      no         no            no
blocked      no      no         no            no
muter        yes     yes        no            no
moderator    yes     yes        yes           no
"""


async def _cast(nodes: Standing) -> dict[str, Visitor]:
    """Bring an author, and one of each who may look."""
    names = ("author", "friend", "stranger", "blocker", "blocked", "muter")
    people = dict(zip(names, await several(nodes.north, *names), strict=True))
    author = who(people["author"])
    await nodes.pool.execute(BEFRIEND, author, who(people["friend"]))
    await nodes.pool.execute(BLOCK, who(people["blocker"]), author)
    await nodes.pool.execute(BLOCK, author, who(people["blocked"]))
    await nodes.pool.execute(MUTE, who(people["muter"]), author)
    people["moderator"] = await moderator(nodes.north, nodes.pool)
    return people


async def test_who_sees_what(nodes: Standing) -> None:
    """Each privacy, for each kind of viewer, by every way to a vybe: its id, the feed, its author's list, opening it, reacting to
    it, saying something about it, passing it on. What may not be seen is answered word for word as what is not there.
    """
    people = await _cast(nodes)
    lines = VISIBILITY.strip("\n").splitlines()
    privacies = lines[0].split()
    vybes = {privacy: await post(people["author"], privacy.lower(), privacy) for privacy in privacies}
    unknown = await people["stranger"].call("vybe.get", vybe=str(uuid4()))
    for line in lines[1:]:
        name, *expected = line.split()
        viewer = people[name]
        shown = set(await feed(viewer))
        listed = await viewer.call("vybe.list", author=str(who(people["author"])))
        for privacy, seen in zip(privacies, expected, strict=True):
            vybe = vybes[privacy]["id"]
            about = {"kind": "vybe", "id": vybe}
            answers = [
                await viewer.call("vybe.get", vybe=vybe),
                await viewer.call("vybe.open", vybe=vybe),
                await viewer.call("comment.list", vybe=vybe),
                await viewer.call("comment.add", vybe=vybe, text="yes", key=key()),
                await viewer.call("reaction.add", target=about, reaction="CLAP"),
                await viewer.call("reaction.remove", target=about, reaction="CLAP"),
                await viewer.call("vybe.share", vybe=vybe, privacy="PRIVATE", key=key()),
            ]
            refused = [answer for answer in answers if answer["type"] == "error"]
            if seen == "yes":
                assert refused == [], (name, privacy)
                assert answers[0]["vybe"].get("mine", False) == (name == "author")
            else:
                assert len(refused) == len(answers), (name, privacy)
                assert {answer["code"] for answer in refused} == {"not_found"}
                assert {answer["message"] for answer in refused} == {unknown["message"]}
            in_feed = seen == "yes" and not (name == "muter" and privacy == "PUBLIC")
            if name != "moderator" or privacy != "FRIENDS_ONLY":  # they look at it; it is not posted to them
                assert (vybe in shown) == in_feed, (name, privacy)
            in_list = seen == "yes" and (name == "author" or privacy != "ANONYMOUS")
            if name != "moderator" or privacy != "FRIENDS_ONLY":
                assert (vybe in {one["id"] for one in listed["vybes"]}) == in_list, (name, privacy)


async def test_pseudonyms(nodes: Standing) -> None:
    """An anonymous author has one face at each vybe, whatever they do there, another at the next, and never their own."""
    ada, ben = await several(nodes.north, "ada", "ben")
    first, second = [await post(ada, text, "ANONYMOUS") for text in ("one", "two")]
    said = await comment(ada, first["id"], "and another thing")
    await react(ada, "vybe", first["id"])
    shared = await share(ben, first["id"])
    await ben.call("vybe.open", vybe=first["id"])
    await react(ada, "vybe", first["id"], "FIRE")
    faces = [first["author"], said["author"], shared["shared"]["author"]]
    assert faces == [faces[0]] * 3
    assert second["author"]["id"] != faces[0]["id"]
    assert second["author"]["name"] != faces[0]["name"]
    await ada.call("person.anonymous", on=True)
    public = await post(ada, "posted in anonymous mode")
    assert public["author"]["id"] not in (str(who(ada)), faces[0]["id"], second["author"]["id"])
    said_there = await comment(ada, second["id"], "still me")
    assert said_there["author"] == second["author"]
    await ben.call("feed.list")
    await ben.call("comment.list", vybe=first["id"])
    listed = await ben.call("vybe.list", author=str(who(ada)))
    assert listed["vybes"] == []
    await heard(ben, "room.pulse", room=first["id"])
    everything = repr(ben.heard) + repr(listed) + repr(shared)
    assert str(who(ada)) not in everything
    assert "'ada'" not in everything


async def test_what_is_passed_on_is_seen_by_who_sees_both(nodes: Standing) -> None:
    """A share of what is for friends reaches those who are friends of both; it goes with what it passes on, and is counted."""
    ada, ben, friend, stranger = await several(nodes.north, "ada", "ben", "friend", "stranger")
    for one, other in ((ada, ben), (ada, friend)):
        await nodes.pool.execute(BEFRIEND, who(one), who(other))
    vybe = await post(ada, "for friends", "FRIENDS_ONLY")
    shared = await share(ben, vybe["id"], text="look")
    again = await share(friend, shared["id"])
    assert again["shared"]["id"] == vybe["id"]
    assert (await get(ada, vybe["id"]))["shares"] == 2
    assert (await get(friend, shared["id"]))["shared"]["text"] == "for friends"
    assert (await get(stranger, shared["id"]))["code"] == "not_found"
    assert shared["id"] not in await feed(stranger)
    assert shared["id"] in await feed(friend)
    await friend.call("vybe.remove", vybe=again["id"])
    assert (await get(ada, vybe["id"]))["shares"] == 1
    await ada.call("vybe.remove", vybe=vybe["id"])
    assert (await get(ben, shared["id"]))["code"] == "not_found"
    assert (await ada.call("vybe.share", vybe=vybe["id"], privacy="PUBLIC", key=key()))["code"] == "not_found"


async def test_only_its_author_edits_it(nodes: Standing) -> None:
    """Who has not posted it is told what one is told of a vybe that is not there, a moderator too."""
    ada, ben = await several(nodes.north, "ada", "ben")
    vybe = await post(ada, "first words")
    for other in (ben, await moderator(nodes.north, nodes.pool)):
        assert (await other.call("vybe.edit", vybe=vybe["id"], text="mine"))["code"] == "not_found"
    edited = await ada.call("vybe.edit", vybe=vybe["id"], text="second words")
    assert edited["vybe"]["text"] == (await get(ben, vybe["id"]))["text"] == "second words"
    assert "edited_at" in edited["vybe"]


async def test_a_looproom_that_is_not_there_can_not_be_linked(nodes: Standing) -> None:
    """A vybe is about a looproom that its author may see."""
    (ada,) = await several(nodes.north, "ada")
    here = await make_room(nodes.pool, f"linked-{key()}")
    draft = await make_room(nodes.pool, f"linked-{key()}", status="DRAFT")
    assert (await post(ada, "after the session", looproom=str(here)))["looproom"] == str(here)
    for room in (draft, uuid4()):
        fields = {"kind": "MILESTONE", "privacy": "PUBLIC", "text": "x", "key": key(), "looproom": str(room)}
        assert (await ada.call("vybe.post", **fields))["code"] == "not_found"


async def _everything(pool: Pool) -> str:
    """Return what is stored in every table that may know of vybes."""
    found = ""
    for table in ("vybes", "comments", "vybe_positions", "decisions", "reactions", "reaction_totals"):
        found += repr(await pool.fetch(f"select t::text from {table} t"))
    return found


async def test_removed_is_gone(nodes: Standing) -> None:
    """After a removal is answered nothing of the vybe, its comments and their reactions is left, on no node, for nobody."""
    ada, ben = await several(nodes.north, "ada", "ben")
    cleo = await visit(nodes.south, "cleo")
    vybe = await post(ada, "unrepeatable words")
    said = await comment(ben, vybe["id"], "unrepeatable answer")
    await react(ben, "vybe", vybe["id"])
    await react(ada, "comment", said["id"])
    await cleo.call("vybe.open", vybe=vybe["id"])
    mo = await moderator(nodes.south, nodes.pool)
    assert (await ben.call("vybe.remove", vybe=vybe["id"]))["code"] == "not_found"
    assert (await mo.call("vybe.remove", vybe=vybe["id"]))["type"] == "vybe.removed"
    stored = await _everything(nodes.pool)
    assert "unrepeatable" not in stored
    orphans = await nodes.pool.fetchval(
        "select count(*) from reactions where target_id = any($1::uuid[])", [vybe["id"], said["id"]]
    )
    assert orphans == 0
    await heard(cleo, "vybe.removal", vybe=vybe["id"])
    for visitor in (ada, ben, cleo):
        for command, fields in (
            ("vybe.get", {}),
            ("vybe.open", {}),
            ("comment.list", {}),
            ("comment.add", {"text": "x", "key": key()}),
        ):
            assert (await visitor.call(command, vybe=vybe["id"], **fields))["code"] == "not_found"
        assert vybe["id"] not in await feed(visitor)
    assert (await react(cleo, "comment", said["id"]))["code"] == "not_found"
    decisions = await nodes.pool.fetch("select * from decisions where actor_id = $1", who(mo))
    assert [(row["decision"], row["detail"], row["subject_id"]) for row in decisions] == [
        ("vybe", f"removed {vybe['id']}", who(ada))
    ]


async def test_limits(database_url: str, valkey: Valkey, pool: Pool) -> None:
    """A person posts and edits so many vybes, and makes so many comments, and is then told when to go on."""
    async with hosting(database_url, valkey.url, pool, limits_factor=1.0) as host:
        (ada,) = await several(host, "ada")
        vybe = await post(ada, "the first")
        answers = [await ada.call("vybe.edit", vybe=vybe["id"], text=str(n)) for n in range(20)]
        assert [answer["type"] for answer in answers] == ["vybe.edited"] * 19 + ["error"]
        added = [
            ada.call("comment.add", vybe=vybe["id"], text=str(n), key=key(), within=PATIENCE)
            for n in range(60)
        ]
        refused = [one for one in await asyncio.gather(*added) if one["type"] == "error"]
        assert refused
        for one in (answers[19], *refused):
            assert one["code"] == "rate_limited"
            assert one["retry_after"] > 0


async def test_reactions_are_exact(nodes: Standing) -> None:
    """Whatever many people on two nodes give and take back at once, answers, pulse, list and table agree in the end."""
    people = await several(nodes.north, *(f"n{i}" for i in range(4)))
    people += await several(nodes.south, *(f"s{i}" for i in range(4)))
    vybe = await post(people[0], "much loved")
    for visitor in (people[1], people[5]):
        await visitor.call("vybe.open", vybe=vybe["id"])
    target = {"kind": "vybe", "id": vybe["id"]}

    async def wish(visitor: Visitor, verb: str, reaction: Reaction) -> int:
        answer = await visitor.call(f"reaction.{verb}", target=target, reaction=reaction)
        if verb == "add":
            return int(answer.get("added", False))
        return -int(answer.get("removed", False))

    moves = await asyncio.gather(
        *(
            wish(visitor, "remove" if (place + turn) % 3 == 2 else "add", reaction)
            for turn in range(6)
            for place, visitor in enumerate(people)
            for reaction in (Reaction.HEART, Reaction.PEACE)
        )
    )
    total = sum(moves)
    assert total == await nodes.pool.fetchval(
        "select count(*) from reactions where target_id = $1", UUID(vybe["id"])
    )
    assert sum((await get(people[3], vybe["id"])).get("reactions", {}).values()) == total

    def told(visitor: Visitor) -> int:
        known: dict[str, int] = {}
        for message in visitor.heard:
            if message["type"] == "room.pulse" and message["room"] == vybe["id"]:
                known |= {kind: tally["total"] for kind, tally in message.get("reactions", {}).items()}
        return sum(known.values())

    await until(lambda: told(people[1]) == told(people[5]) == total)


@pytest.mark.parametrize(
    "command", ["chat.send", "typing.set", "confidence.set", "presence.list", "cue.send"]
)
async def test_a_vybe_is_no_looproom(nodes: Standing, command: str) -> None:
    """Who has a vybe open is not in a looproom by that: nothing that one does in a looproom can be done there."""
    (ada,) = await several(nodes.north, "ada")
    vybe = await post(ada, "x")
    await ada.call("vybe.open", vybe=vybe["id"])
    await ada.call("feed.open")
    fields: dict[str, Any] = {"text": "x", "key": key(), "typing": True, "level": 5, "cue": "x"}
    for room in (vybe["id"], "feed0000-0000-4000-8000-000000000000"):
        assert (await ada.call(command, room=room, **fields))["code"] == "not_in_room"
        target = {"kind": "looproom", "id": room}
        assert (await ada.call("reaction.add", target=target, reaction="HEART"))["code"] == "not_found"
        assert (await ada.call("room.leave", room=room))["code"] == "not_in_room"
