"""Comments: each stored once, in one order for all who look, and gone without a trace."""

from __future__ import annotations

import asyncio
from uuid import UUID

from storage.postgres.pool import Pool
from tests.hosting import hosting
from tests.nodes.raw import Message
from tests.posting import BEFRIEND, BLOCK, comment, heard, key, moderator, post, react, several, who
from tests.redis.valkeys import Valkey
from tests.standing import Standing
from tests.visitors import PATIENCE, Visitor, visit
from tests.waiting import until

HAPPENED = ("comment.entry", "comment.revision", "comment.removal", "vybe.revision", "vybe.gap")


def happened(visitor: Visitor, vybe: str) -> list[Message]:
    """Return what somebody heard of a vybe that has an offset."""
    return [message for message in visitor.heard if message["type"] in HAPPENED and message["vybe"] == vybe]


async def listed(visitor: Visitor, vybe: str) -> list[str]:
    """Return the texts of the newest comments."""
    return [one["text"] for one in (await visitor.call("comment.list", vybe=vybe))["comments"]]


async def test_added_once(nodes: Standing) -> None:
    """A key that comes ten times, over two nodes at once, has one effect and one answer; with another text it is refused."""
    (north,) = await several(nodes.north, "ada")
    south = await visit(nodes.south, north.person)
    vybe = await post(north, "x")
    fields = {"vybe": vybe["id"], "text": "well said", "key": key()}
    answers = await asyncio.gather(
        *(visitor.call("comment.add", **fields) for visitor in (north, south) for _ in range(5))
    )
    assert [answer["comment"] for answer in answers] == [answers[0]["comment"]] * 10
    assert answers[0]["comment"]["offset"] == 1
    found = (await north.call("vybe.get", vybe=vybe["id"]))["vybe"]
    assert found["comments"] == 1
    assert (await north.call("comment.add", **{**fields, "text": "other"}))["code"] == "key_reused"
    await north.call("comment.remove", comment=answers[0]["comment"]["id"])
    assert (await south.call("comment.add", **fields))["code"] == "not_found"
    assert (await north.call("comment.add", **{**fields, "text": "", "key": key()}))["code"] == "text_empty"


async def test_live_on_two_nodes(nodes: Standing) -> None:
    """Who looks at a vybe gets what happens to it in one order, without a gap, on every node, and nothing once they close it."""
    (ada,) = await several(nodes.north, "ada")
    ben = await visit(nodes.south, "ben")
    vybe = (await post(ada, "as it was"))["id"]
    before = await comment(ada, vybe, "said before")
    opened = [await visitor.call("vybe.open", vybe=vybe) for visitor in (ada, ben)]
    assert [one["offset"] for one in opened] == [1, 1]
    assert [one["text"] for one in opened[1]["recent"]] == ["said before"]
    assert [one["recent"][0].get("mine", False) for one in opened] == [True, False]
    first = await comment(ben, vybe, "first")
    await ben.call("comment.edit", comment=first["id"], text="first, edited")
    await ada.call("vybe.edit", vybe=vybe, text="as it is")
    await ada.call("comment.remove", comment=before["id"])
    await asyncio.gather(*(comment(one, vybe, str(n)) for n in range(10) for one in (ada, ben)))
    await until(lambda: len(happened(ada, vybe)) == len(happened(ben, vybe)) == 24, PATIENCE)
    for visitor in (ada, ben):
        assert [one["offset"] for one in happened(visitor, vybe)] == list(range(2, 26))
    types = [one["type"] for one in happened(ada, vybe)[:4]]
    assert types == ["comment.entry", "comment.revision", "vybe.revision", "comment.removal"]
    assert [(m["type"], m["offset"]) for m in happened(ada, vybe)] == [
        (m["type"], m["offset"]) for m in happened(ben, vybe)
    ]
    again = await ben.call("vybe.open", vybe=vybe)
    assert again["vybe"]["text"] == "as it is"
    assert again["offset"] == 25
    assert [one["text"] for one in again["recent"]] == await listed(ada, vybe)
    assert "said before" not in repr(again)
    assert (await ben.call("vybe.close", vybe=vybe))["type"] == "vybe.closed"
    await comment(ada, vybe, "nobody there")
    await heard(ada, "comment.entry", offset=26)
    await ben.settle()
    assert len(happened(ben, vybe)) == 24


async def test_who_may_change_what(nodes: Standing) -> None:
    """A comment is edited by who said it; removed by them, by the author of the vybe, and by moderators, which is recorded."""
    ada, ben, cleo = await several(nodes.north, "ada", "ben", "cleo")
    mo = await moderator(nodes.north, nodes.pool)
    vybe = (await post(ada, "x"))["id"]
    for remover, may in ((ben, True), (ada, True), (mo, True), (cleo, False)):
        said = (await comment(ben, vybe, "a word"))["id"]
        for other in (ada, mo, cleo):
            assert (await other.call("comment.edit", comment=said, text="y"))["code"] == "not_found"
        answer = await remover.call("comment.remove", comment=said)
        assert answer.get("code", "ok") == ("ok" if may else "not_found")
        assert (await remover.call("comment.remove", comment=said))["code"] == "not_found"
    assert await listed(cleo, vybe) == ["a word"]
    rows = await nodes.pool.fetch("select subject_id from decisions where actor_id = $1", who(mo))
    assert [row["subject_id"] for row in rows] == [who(ben)]


async def test_pages_do_not_move(nodes: Standing) -> None:
    """Pages of comments join on exactly, whatever is said and removed meanwhile."""
    (ada,) = await several(nodes.north, "ada")
    vybe = (await post(ada, "x"))["id"]
    said = [await comment(ada, vybe, str(number)) for number in range(10)]
    newest = await ada.call("comment.list", vybe=vybe, limit=4)
    assert [one["text"] for one in newest["comments"]] == ["6", "7", "8", "9"]
    assert newest["more"]
    await comment(ada, vybe, "later")
    await ada.call("comment.remove", comment=said[7]["id"])
    older = await ada.call("comment.list", vybe=vybe, before=newest["comments"][0]["offset"], limit=6)
    assert [one["text"] for one in older["comments"]] == ["0", "1", "2", "3", "4", "5"]
    assert not older["more"]


async def test_reactions_to_a_comment(nodes: Standing) -> None:
    """A comment is reacted to by those who see it, once of a kind each; who lists it sees how often."""
    ada, ben, enemy = await several(nodes.north, "ada", "ben", "enemy")
    vybe = (await post(ada, "x"))["id"]
    said = (await comment(ben, vybe, "a word"))["id"]
    await nodes.pool.execute(BLOCK, who(ben), who(enemy))
    assert [(await react(one, "comment", said))["type"] for one in (ada, ada, ben)] == ["reaction.added"] * 3
    assert (await react(enemy, "comment", said))["code"] == "not_found"
    assert (await react(ada, "vybe", said))["code"] == "not_found"
    shown = (await ada.call("comment.list", vybe=vybe))["comments"][0]
    assert shown["reactions"] == {"HEART": 2}
    assert await listed(enemy, vybe) == []


async def test_authors_are_notified(nodes: Standing) -> None:
    """Whose vybe or comment it is hears, once and counted, that somebody has said something about it or has reacted to it; never of
    themselves, and of who is anonymous there by their pseudonym of it alone.
    """
    ada, ben, cleo = await several(nodes.north, "ada", "ben", "cleo")
    vybe = (await post(ada, "x", "ANONYMOUS"))["id"]
    await comment(ada, vybe, "my own word")
    await react(ada, "vybe", vybe)
    said = await comment(ben, vybe, "a word")
    await cleo.call("person.anonymous", on=True)
    masked = await comment(cleo, vybe, "another")
    await react(cleo, "vybe", vybe, "FIRE")
    await react(cleo, "vybe", vybe, "CLAP")
    await react(ada, "comment", said["id"])
    noted = (await ada.call("notification.list"))["notifications"]
    seen = [(one["kind"], one["thing"]["id"], one.get("count", 1), one["actor"]) for one in reversed(noted)]
    assert seen == [
        ("comment", vybe, 2, masked["author"]),
        ("reaction", vybe, 1, masked["author"]),
    ]
    assert noted[1]["part"] == masked["id"]
    assert str(who(cleo)) not in repr(noted)
    (to_ben,) = (await ben.call("notification.list"))["notifications"]
    assert (to_ben["kind"], to_ben["thing"]) == ("reaction", {"kind": "comment", "id": said["id"]})
    assert str(who(ada)) not in repr(to_ben)
    await heard(ada, "notification.notice")


async def test_who_is_blocked_is_not_heard(nodes: Standing) -> None:
    """Of somebody who is hidden nothing is read under a vybe, live, in the snapshot and in the list; offsets have no gap by it."""
    ada, ben, enemy = await several(nodes.north, "ada", "ben", "enemy")
    vybe = (await post(ada, "x"))["id"]
    await comment(enemy, vybe, "poisonous words")
    assert (await ben.call("person.block", person=str(who(enemy))))["type"] == "person.blocked"
    opened = await ben.call("vybe.open", vybe=vybe)
    assert opened["recent"] == []
    said = await comment(enemy, vybe, "poisonous, too")
    await enemy.call("comment.edit", comment=said["id"], text="poisonous still")
    await react(enemy, "vybe", vybe)
    await comment(ada, vybe, "a kind word")
    await until(lambda: len(happened(ben, vybe)) == 3, PATIENCE)
    assert [one["offset"] for one in happened(ben, vybe)] == [2, 3, 4]
    assert await listed(ben, vybe) == ["a kind word"]
    everything = repr(ben.heard) + repr(opened)
    assert "poison" not in everything
    await ada.call("person.block", person=str(who(ben)))
    await heard(ben, "vybe.removal", vybe=vybe)


async def test_who_may_not_see_it_any_more_is_put_out(nodes: Standing) -> None:
    """Where a friendship has ended, a vybe for friends that is open is closed: no word that follows is heard."""
    ada, ben = await several(nodes.north, "ada", "ben")
    await nodes.pool.execute(BEFRIEND, who(ada), who(ben))
    vybe = (await post(ada, "for friends", "FRIENDS_ONLY"))["id"]
    assert (await ben.call("vybe.open", vybe=vybe))["type"] == "vybe.opened"
    await nodes.pool.execute("delete from friendships where $1 in (first_id, second_id)", who(ben))
    await heard(ben, "vybe.removal", vybe=vybe)
    await comment(ada, vybe, "among ourselves")
    await ben.settle()
    assert happened(ben, vybe) == []


async def test_what_redis_loses_is_read(database_url: str, pool: Pool) -> None:
    """With Redis gone a vybe that is open on two nodes still gets every comment; what can't be told is a gap that says so."""
    with Valkey() as redis:
        async with (
            hosting(database_url, redis.url, pool) as north,
            hosting(database_url, redis.url, pool) as south,
        ):
            (ada,) = await several(north, "ada")
            ben = await visit(south, "ben")
            vybe = (await post(ada, "x"))["id"]
            await ben.call("vybe.open", vybe=vybe)
            redis.kill()
            said = [await comment(ada, vybe, text) for text in ("one", "two", "three")]
            await ada.call("comment.remove", comment=said[1]["id"])
            await until(lambda: len(happened(ben, vybe)) == 4, PATIENCE)
            assert [(one["type"], one["offset"]) for one in happened(ben, vybe)] == [
                ("comment.entry", 1),
                ("vybe.gap", 2),
                ("comment.entry", 3),
                ("vybe.gap", 4),
            ]
            await ada.call("vybe.remove", vybe=vybe)
            await heard(ben, "vybe.removal", vybe=vybe)
    assert await pool.fetchval("select count(*) from comments where id = $1", UUID(said[0]["id"])) == 0
