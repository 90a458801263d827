"""The feed: pages that do not move, and word of what is new that is the same bytes for all who have it open."""

from __future__ import annotations

import asyncio

from protocol.comments import AddComment, CommentEntry
from protocol.envelope import Epoch
from protocol.feed import FeedVybe, OpenFeed
from protocol.vybes import OpenVybe, PostVybe, Privacy, VybeKind
from server.feed import missed
from storage.postgres.pool import Pool
from tests.hosting import hosting
from tests.nodes.raw import Message
from tests.posting import BLOCK, comment, feed, heard, post, react, several, share, who
from tests.redis.valkeys import Valkey
from tests.standing import Standing
from tests.visitors import PATIENCE, Visitor, visit
from tests.waiting import until


def told(visitor: Visitor) -> list[Message]:
    """Return what somebody was told by the feed."""
    return [message for message in visitor.heard if message["type"].startswith("feed.")]


def accounted(visitor: Visitor, since: int) -> int:
    """Return the offset up to which somebody knows everything of the feed, told or counted, without a gap."""
    for message in told(visitor):
        if message["type"] == "feed.pulse":
            if message.get("new"):
                assert message["offset"] - message["new"] == since
                since = message["offset"]
        elif message["offset"] > since:
            assert message["offset"] == since + 1
            since += 1
    return since


def as_told(vybe: Message) -> Message:
    """Return a vybe that was answered as all are told of it."""
    return {name: value for name, value in vybe.items() if name != "mine"}


async def test_pages_do_not_move(nodes: Standing) -> None:
    """Pages join on exactly, newest first, whatever is posted and removed meanwhile."""
    ada, ben = await several(nodes.north, "ada", "ben")
    posted = [(await post(ada, str(number)))["id"] for number in range(7)]
    first = await ben.call("feed.list", limit=3)
    assert [vybe["id"] for vybe in first["vybes"]] == posted[:3:-1]
    await post(ada, "later")
    await ada.call("vybe.remove", vybe=posted[3])
    second = await ben.call("feed.list", limit=3, before=first["next"])
    assert [vybe["id"] for vybe in second["vybes"]] == posted[2::-1]
    mine = await ada.call("vybe.list", author=str(who(ada)), limit=4)
    assert [vybe["text"] for vybe in mine["vybes"]] == ["later", "6", "5", "4"]
    rest = await ada.call("vybe.list", author=str(who(ada)), limit=4, before=mine["next"])
    assert [vybe["text"] for vybe in rest["vybes"]] == ["2", "1", "0"]
    assert "next" not in rest


async def test_live_on_two_nodes(nodes: Standing) -> None:
    """Who has the feed open hears of each vybe for everyone, of edits, removals and totals, and of nothing else."""
    ada, other = await several(nodes.north, "ada", "other")
    ben = await visit(nodes.south, "ben")
    opened = await ben.call("feed.open")
    await other.call("feed.open")
    hidden = [await post(ada, text, text) for text in ("FRIENDS_ONLY", "PRIVATE")]
    masked = await post(ada, "nobody knows", "ANONYMOUS")
    vybe = await post(ada, "hear hear")
    await react(other, "vybe", vybe["id"])
    said = await comment(other, vybe["id"], "a word")
    for visitor in (ben, other):
        news = await heard(visitor, "feed.vybe", offset=opened["offset"] + 2)
        assert {**news["vybe"], "mine": True} == vybe
        assert (await heard(visitor, "feed.vybe", offset=opened["offset"] + 1))["vybe"]["author"] == masked[
            "author"
        ]
    await ada.call("vybe.edit", vybe=vybe["id"], text="hear, hear")
    await ada.call("vybe.remove", vybe=masked["id"])
    for visitor in (ben, other):
        assert (await heard(visitor, "feed.vybe", offset=opened["offset"] + 3))["vybe"][
            "text"
        ] == "hear, hear"
        await heard(visitor, "feed.removal", vybe=masked["id"])

    def totals(visitor: Visitor) -> dict[str, object]:
        known: dict[str, object] = {}
        for message in told(visitor):
            for one in message.get("totals", []):
                if one["vybe"] == vybe["id"]:
                    known |= one
        return known

    expected = {"vybe": vybe["id"], "reactions": {"HEART": 1}, "comments": 1}
    await until(lambda: totals(ben) == totals(other) == expected, PATIENCE)
    await ada.call("comment.remove", comment=said["id"])  # by the author of the vybe
    await until(lambda: totals(ben)["comments"] == 0, PATIENCE)
    everything = repr(ben.heard)
    assert not any(one["id"] in everything for one in hidden)
    assert str(who(ada)) not in repr([m for m in ben.heard if "nobody knows" in repr(m)])
    assert (await ben.call("feed.close"))["type"] == "feed.closed"
    known = len(told(ben))
    late = await post(ada, "too late for ben")
    await heard(other, "feed.vybe", vybe=as_told(late))
    await ben.settle()
    assert len(told(ben)) == known


async def test_who_was_away_is_told_how_much_they_missed(nodes: Standing) -> None:
    """A position that is sent along is answered with the number of changes since; one of another epoch with none."""
    ada, ben = await several(nodes.north, "ada", "ben")
    opened = await ben.call("feed.open")
    await ben.call("feed.close")
    for number in range(3):
        await post(ada, str(number))
    position = {"epoch": opened["epoch"], "offset": opened["offset"]}
    await until_counted(ben, position, 3)
    assert "missed" not in await ben.call("feed.open")
    assert "missed" not in await ben.call("feed.open", epoch="another", offset=1)
    ahead = await ben.call("feed.open", epoch=opened["epoch"], offset=2**62)
    assert ahead["missed"] == 0


async def until_counted(visitor: Visitor, position: dict[str, object], count: int) -> None:
    """Open the feed with a position until it is answered that `count` changes were missed."""

    async def counted() -> bool:
        missed: int = (await visitor.call("feed.open", **position))["missed"]
        assert missed <= count
        return missed == count

    await until(counted, PATIENCE)


def test_what_was_missed() -> None:
    """Only a position of this epoch says how much."""
    epoch = Epoch("e")
    assert missed(OpenFeed(epoch="e", offset=5), epoch, 7) == 2
    assert missed(OpenFeed(epoch="e", offset=9), epoch, 7) == 0
    assert missed(OpenFeed(epoch="f", offset=5), epoch, 7) is None
    assert missed(OpenFeed(offset=5), epoch, 7) is None
    assert missed(OpenFeed(epoch="e"), epoch, 7) is None


async def test_a_busy_feed_is_counted(database_url: str, pool: Pool) -> None:
    """Of more than fits on a screen there is a count, in a few frames; nothing is told twice, and all is accounted for."""
    with Valkey() as redis:
        async with (
            hosting(database_url, redis.url, pool, feed_pulse_seconds=0.2) as north,
            hosting(database_url, redis.url, pool, feed_pulse_seconds=0.2) as south,
        ):
            writers = [*await several(north, "a", "b"), *await several(south, "c", "d")]
            readers = [await visit(north, "north"), await visit(south, "south")]
            for reader in readers:
                assert (await reader.call("feed.open"))["offset"] == 0
            await asyncio.gather(*(post(writer, str(n)) for writer in writers for n in range(50)))
            await until(lambda: [accounted(reader, 0) for reader in readers] == [200, 200], PATIENCE)
            for reader in readers:
                pulses = [one for one in told(reader) if one["type"] == "feed.pulse"]
                assert pulses
                whole = [one["vybe"]["id"] for one in told(reader) if one["type"] == "feed.vybe"]
                assert len(whole) == len(set(whole)) < 200
            assert len(await feed(readers[0])) == 50


async def test_what_is_taken_back_is_not_told(database_url: str, valkey: Valkey, pool: Pool) -> None:
    """What was removed or edited before the next pulse is told as what it has become, whether it is told or counted."""
    async with hosting(database_url, valkey.url, pool, feed_pulse_seconds=2.0) as host:
        ada, reader = await several(host, "ada", "reader")
        await reader.call("feed.open")
        first = await post(ada, "told at once")
        await heard(reader, "feed.vybe", vybe=as_told(first))
        gone = await post(ada, "regretted words")
        passed_on = await share(reader, gone["id"])
        await ada.call("vybe.remove", vybe=gone["id"])
        await until(lambda: accounted(reader, 0) == 4, PATIENCE)
        edited = await post(ada, "regretted, too")
        await share(reader, edited["id"])
        await ada.call("vybe.edit", vybe=edited["id"], text="better words")
        await until(lambda: accounted(reader, 0) == 7, PATIENCE)
        for number in range(6):
            await post(ada, f"many words {number}")
        await ada.call("vybe.remove", vybe=first["id"])
        await heard(reader, "feed.removal", vybe=first["id"])
        assert accounted(reader, 0) == 14
        removals = {one["vybe"] for one in told(reader) if one["type"] == "feed.removal"}
        assert removals == {gone["id"], passed_on["id"], first["id"]}
        assert "regretted" not in repr(reader.heard)
        assert repr(reader.heard).count("better words") == 3


async def test_what_redis_loses_is_counted(database_url: str, pool: Pool) -> None:
    """A node that Redis tells nothing finds by looking that there is something new, and counts it; nobody waits for it in vain."""
    with Valkey() as redis:
        async with (
            hosting(database_url, redis.url, pool) as north,
            hosting(database_url, redis.url, pool) as south,
        ):
            (ada,) = await several(north, "ada")
            ben = await visit(south, "ben")
            await ben.call("feed.open")
            redis.kill()
            vybe = await post(ada, "x")
            await heard(ben, "feed.pulse", offset=1, new=1)
            assert await feed(ben) == [vybe["id"]]


async def test_the_python_client(nodes: Standing) -> None:
    """Its commands are typed, and what a feed and an open vybe say comes out of it in order with everything else."""
    client = await nodes.north.client("ada")
    await client.call(OpenFeed())
    new = PostVybe(
        kind=VybeKind.GRATITUDE, privacy=Privacy.PUBLIC, text="from Python", key=f"{client.user.id}"
    )
    vybe = (await client.call(new)).vybe
    opened = await client.call(OpenVybe(vybe=vybe.id))
    assert (opened.vybe.text, opened.recent) == ("from Python", [])
    comment = (await client.call(AddComment(vybe=vybe.id, text="and an answer", key=f"{vybe.id}"))).comment
    expected = {"feed.vybe": vybe.id, "comment.entry": comment.id}
    async with asyncio.timeout(PATIENCE):
        async for event in client:
            if isinstance(event, FeedVybe) and event.vybe.id == vybe.id:
                del expected["feed.vybe"]
            elif isinstance(event, CommentEntry):
                assert event.comment.id == expected.pop("comment.entry")
            if not expected:
                break


async def test_blocks(nodes: Standing) -> None:
    """With a block between two people neither hears of the other's vybes, posted openly or not, nor of their totals; all others do."""
    ada, blocker, blocked, ben = await several(nodes.north, "ada", "blocker", "blocked", "ben")
    await nodes.pool.execute(BLOCK, who(blocker), who(ada))
    await nodes.pool.execute(BLOCK, who(ada), who(blocked))
    apart = [await visit(nodes.north, one.person) for one in (blocker, blocked)]
    for visitor in (*apart, ben):
        await visitor.call("feed.open")
    vybes = [await post(ada, "open"), await post(ada, "hidden", "ANONYMOUS")]
    passed_on = await ben.call(
        "vybe.share", vybe=vybes[0]["id"], privacy="PUBLIC", key=f"share-{ben.person.id}"
    )
    await react(ben, "vybe", vybes[0]["id"])
    last = await post(ben, "seen by all")
    for visitor in (*apart, ben):
        await heard(visitor, "feed.vybe", vybe=as_told(last))
    await heard(ben, "feed.pulse", totals=[{"vybe": vybes[0]["id"], "reactions": {"HEART": 1}}])
    for visitor in apart:
        await visitor.settle()
        everything = repr(visitor.heard)
        assert not any(one in everything for one in (vybes[0]["id"], vybes[1]["id"], passed_on["vybe"]["id"]))
        assert not {one["id"] for one in vybes} & set(await feed(visitor))
