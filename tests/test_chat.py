"""Chat: who may say, edit and remove what; one order for everyone on every node; and what was taken back is nowhere."""

from __future__ import annotations

import asyncio
import itertools
from uuid import uuid4

import pytest

from protocol.chat import ChatLine, ChatRemoval, ChatRevision
from protocol.envelope import Person, UserId
from protocol.refusals import ErrorCode
from server.hub.subscriptions import Subscriptions
from storage.postgres.pool import Pool
from tests.hosting import hosting, make_room
from tests.nodes.raw import Message
from tests.redis.valkeys import Valkey
from tests.replay import assert_replay_reaches
from tests.standing import Room, Standing
from tests.stores import until_blocked
from tests.visitors import DURABLE, Visitor, arrive, visit
from tests.waiting import until


async def become(pool: Pool, visitor: Visitor, role: str) -> Person:
    """Give somebody a role, as of their next hello."""
    await pool.execute("update users set role = $2::user_role where id = $1", visitor.person.id, role)
    return visitor.person


def code_of(answer: Message) -> tuple[object, ...]:
    """Return what a refusal says."""
    return answer["type"], answer.get("code"), answer.get("path")


async def test_a_line_reaches_everyone_in_the_room(nodes: Standing, room: Room) -> None:
    """What is said is acknowledged with its line, and pushed once to all in the room, the author too, on every node."""
    author, near = await visit(nodes.north, "Ada", room.id), await visit(nodes.north, "Bo", room.id)
    far, outside = await visit(nodes.south, "Cy", room.id), await visit(nodes.north, "Dee")
    sent = await author.say(room.id, "hello")
    line = sent["line"]
    assert sent == {"type": "chat.sent", "id": sent["id"], "offset": 1, "line": line}
    assert line == {
        "id": line["id"],
        "offset": 1,
        "author": author.welcome["user"],
        "text": "hello",
        "sent_at": line["sent_at"],
    }
    for listener in (author, near, far):
        await listener.hear(1)
        assert listener.events == [{"type": "chat.line", "room": str(room.id), "offset": 1, "line": line}]
    await outside.settle()
    assert outside.events == []
    assert (await (await visit(nodes.south, "Eve")).join(room.id))["recent"] == [line]


async def test_one_order_on_every_node(nodes: Standing, room: Room) -> None:
    """Six people on two nodes speak at once: everyone hears the same lines in the same order, without a gap."""
    people = [await visit(nodes.both[number % 2], f"person {number}", room.id) for number in range(6)]

    async def speak(person: Visitor) -> list[int]:
        return [(await person.say(room.id, f"{id(person)} {n}"))["offset"] for n in range(20)]

    offsets = await asyncio.gather(*(speak(person) for person in people))
    assert sorted(itertools.chain(*offsets)) == list(range(1, 121))
    assert all(mine == sorted(mine) for mine in offsets)
    for person in people:
        await person.hear(120)
        assert person.offsets == list(range(1, 121))
        assert person.events == people[0].events


async def test_nothing_is_seen_before_it_is_committed(nodes: Standing, room: Room) -> None:
    """While the commit is held up there is neither an answer nor an event; afterwards there are both."""
    author, listener = await visit(nodes.north, "Ada", room.id), await visit(nodes.south, "Bo", room.id)
    async with nodes.pool.acquire() as connection, connection.transaction():
        await connection.execute("select from room_positions where room_id = $1 for update", room.id)
        speaking = asyncio.create_task(author.say(room.id, "not yet"))
        await until_blocked(nodes.pool)
        await author.settle()
        await listener.settle()
        assert (speaking.done(), author.events, listener.events) == (False, [], [])
    assert (await speaking)["type"] == "chat.sent"
    await listener.hear(1)


async def test_the_room_is_named_by_slug_or_id(nodes: Standing, room: Room) -> None:
    """Both names mean the room that one is in; any other is refused, whether it exists or not."""
    ada = await visit(nodes.north, "Ada", room.id)
    for name in (room.slug, str(room.id), str(room.id).upper(), room.id.hex):
        assert (await ada.call("chat.send", room=name, text=name, key=name))["type"] == "chat.sent"
    for name in (room.slug.upper(), room.slug + "x", str(uuid4()), "-"):
        answer = await ada.call("chat.send", room=name, text="x", key=name)
        assert code_of(answer) == ("error", ErrorCode.NOT_IN_ROOM, None)


async def test_only_who_is_in_the_room_speaks_and_reads(nodes: Standing, room: Room) -> None:
    """Before the join and after the leave every command of chat is refused, and nothing is stored."""
    ada, stranger = await visit(nodes.north, "Ada", room.id), await visit(nodes.north, "Bo")
    line = (await ada.say(room.id, "ours"))["line"]["id"]

    async def refusals() -> set[tuple[object, ...]]:
        return {
            code_of(await stranger.call(command, room=room.slug, **fields))
            for command, fields in (
                ("chat.send", {"text": "theirs", "key": "k"}),
                ("chat.edit", {"line": line, "text": "theirs"}),
                ("chat.remove", {"line": line}),
                ("chat.history", {}),
            )
        }

    assert await refusals() == {("error", ErrorCode.NOT_IN_ROOM, None)}
    await stranger.join(room.id)
    await stranger.call("room.leave", room=room.slug)
    assert await refusals() == {("error", ErrorCode.NOT_IN_ROOM, None)}
    assert [entry["text"] for entry in (await ada.call("chat.history", room=room.slug))["lines"]] == ["ours"]


@pytest.mark.parametrize("role", ["author", "host", "MODERATOR", "ADMIN"])
async def test_who_may_edit_and_remove(nodes: Standing, room: Room, role: str) -> None:
    """The author, the room's host and moderators may; each change has an offset of its own and reaches every node."""
    author, listener = await visit(nodes.north, "Ada", room.id), await visit(nodes.north, "Bo", room.id)
    if role == "author":
        actor = author
    elif role == "host":
        owner = UserId(await nodes.pool.fetchval("select host_id from rooms where id = $1", room.id))
        actor = await visit(nodes.south, Person(id=owner, name="host"), room.id)
    else:
        actor = await visit(
            nodes.south, await become(nodes.pool, await visit(nodes.south, role), role), room.id
        )
    line = (await author.say(room.id, "teh line"))["line"]
    edited = await actor.call("chat.edit", room=room.slug, line=line["id"], text="the line")
    revised = {**line, "text": "the line", "edited_at": edited["line"]["edited_at"]}
    assert (edited["type"], edited["offset"], edited["line"]) == ("chat.edited", 2, revised)
    removed = await actor.call("chat.remove", room=room.slug, line=line["id"])
    assert removed == {"type": "chat.removed", "id": removed["id"], "line": line["id"], "offset": 3}
    for person in (author, listener, actor):
        await person.hear(3)
        assert person.events == [
            {"type": "chat.line", "room": str(room.id), "offset": 1, "line": line},
            {"type": "chat.revision", "room": str(room.id), "offset": 2, "line": revised},
            {"type": "chat.removal", "room": str(room.id), "offset": 3, "line": line["id"], "of": 1},
        ]


@pytest.mark.parametrize("role", ["MEMBER", "CREATOR"])
async def test_who_may_not(nodes: Standing, room: Room, role: str) -> None:
    """Another's line can't be changed by a member, nor by a creator in another's room; nothing happens."""
    author = await visit(nodes.north, "Ada", room.id)
    other = await visit(nodes.north, await become(nodes.pool, await visit(nodes.north, "Bo"), role), room.id)
    line = (await author.say(room.id, "mine"))["line"]["id"]
    for command, fields in (("chat.edit", {"text": "yours"}), ("chat.remove", {})):
        answer = await other.call(command, room=room.slug, line=line, **fields)
        assert code_of(answer) == ("error", ErrorCode.FORBIDDEN, None)
    await other.settle()
    assert other.offsets == [1]
    assert await nodes.pool.fetchval("select text from chat_lines where room_id = $1", room.id) == "mine"


async def test_a_line_is_found_in_its_own_room_alone(nodes: Standing, room: Room) -> None:
    """A line of another room, one that was removed, and one that never was are the same: not found."""
    other = await make_room(nodes.pool, f"{room.slug}-too")
    ada = await visit(nodes.north, "Ada", room.id, other)
    elsewhere = (await ada.say(other, "there"))["line"]["id"]
    gone = (await ada.say(room.id, "here"))["line"]["id"]
    await ada.call("chat.remove", room=room.slug, line=gone)
    for line in (elsewhere, gone, str(uuid4())):
        answer = await ada.call("chat.edit", room=room.slug, line=line, text="new")
        assert code_of(answer) == ("error", ErrorCode.NOT_FOUND, None)
    for line in (elsewhere, str(uuid4())):
        answer = await ada.call("chat.remove", room=room.slug, line=line)
        assert code_of(answer) == ("error", ErrorCode.NOT_FOUND, None)


async def test_removed_twice_is_removed_once(nodes: Standing, room: Room) -> None:
    """However often and wherever a line is removed, there is one removal, and every answer names it."""
    north, south = await visit(nodes.north, "Ada", room.id), await visit(nodes.south, "Bo", room.id)
    ada = await visit(nodes.south, north.person, room.id)
    line = (await north.say(room.id, "oh"))["line"]["id"]
    answers = await asyncio.gather(
        *(one.call("chat.remove", room=room.slug, line=line) for one in (north, ada) for _ in range(5))
    )
    assert {(answer["type"], answer["offset"]) for answer in answers} == {("chat.removed", 2)}
    await north.say(room.id, "on")
    await south.hear(3)
    assert south.offsets == [1, 2, 3]


async def test_edits_at_once_are_one_after_the_other(nodes: Standing, room: Room) -> None:
    """Edits of one line on two nodes each have their offset, and the line ends as the last of them said, everywhere."""
    north = await visit(nodes.north, "Ada", room.id)
    south = await visit(nodes.south, north.person, room.id)
    line = (await north.say(room.id, "zero"))["line"]["id"]
    answers = await asyncio.gather(
        *(
            one.call("chat.edit", room=room.slug, line=line, text=f"edit {number}")
            for number, one in enumerate([north, south] * 5)
        )
    )
    assert sorted(answer["offset"] for answer in answers) == list(range(2, 12))
    last = next(answer["line"] for answer in answers if answer["offset"] == 11)
    for person in (north, south):
        await person.hear(11)
        assert person.events[-1]["line"] == last
        (kept,) = (await person.join(room.id))["recent"]
        assert kept == last


async def test_what_was_taken_back_is_nowhere(nodes: Standing, room: Room) -> None:
    """After the answer neither the removed text nor one that an edit replaced is in a snapshot, a replay, the history or the database."""
    author = await visit(nodes.north, "Ada", room.id)
    listener = await visit(nodes.south, "Bo", room.id)
    removed = (await author.say(room.id, "SECRET one"))["line"]["id"]
    edited = (await author.say(room.id, "SECRET two"))["line"]["id"]
    await author.call("chat.edit", room=room.slug, line=removed, text="SECRET three")
    await author.call("chat.edit", room=room.slug, line=edited, text="fine")
    await author.call("chat.remove", room=room.slug, line=removed)
    await listener.hear(5)
    position = {"room": str(room.id), "epoch": author.welcome["epoch"], "offset": 0}
    for host in nodes.both:
        reader = await visit(host, "Eve")
        assert "SECRET" not in str(await reader.join(room.id))
        assert "SECRET" not in str(await reader.call("chat.history", room=room.slug))
        back = await arrive(host, await host.token("Dee"), resume=[position])
        assert back.welcome["resumed"][0]["missed"] == 5
        await back.hear(5)
        assert back.offsets == [1, 2, 3, 4, 5]
        assert "SECRET" not in str(back.heard)
    tables = await nodes.pool.fetch(
        "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    )
    for (table,) in tables:
        assert await nodes.pool.fetchval(f"select count(*) from {table} t where t::text like '%SECRET%'") == 0


async def test_a_lost_removal_takes_the_text_with_it(
    database_url: str, valkey: Valkey, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that missed the publication of a removal reads it from Postgres, and shows the text to nobody from then on."""
    monkeypatch.setattr("server.hub.subscriptions.CHECK_SECONDS", 0.05)
    room = await make_room(pool, "calm")
    async with (
        hosting(database_url, valkey.url, pool) as north,
        hosting(database_url, valkey.url, pool) as south,
    ):
        author, listener = await visit(north, "Ada", room), await visit(south, "Bo", room)
        line = (await author.say(room, "SECRET"))["line"]["id"]
        await listener.hear(1)
        with monkeypatch.context() as deaf:
            deaf.setattr(Subscriptions, "received", lambda *_: None)
            await author.call("chat.edit", room="calm", line=line, text="SECRET still")
            await author.call("chat.remove", room="calm", line=line)
            await listener.hear(3)
        assert [event["type"] for event in listener.events] == list(DURABLE)
        reader = await visit(south, "Eve")
        assert "SECRET" not in str(await reader.join(room))
        position = {"room": str(room), "epoch": reader.welcome["epoch"], "offset": 0}
        back = await arrive(south, await south.token("Dee"), resume=[position])
        await back.hear(3)
        assert "SECRET" not in str(back.heard)


async def test_lines_are_replayed(nodes: Standing, room: Room) -> None:
    """More lines than a snapshot shows: whoever was there has what a newcomer is shown."""

    async def speak(actor: Visitor) -> None:
        for number in range(60):
            await actor.say(room.id, f"line {number}")

    await assert_replay_reaches(ChatLine, nodes, room, speak)


async def test_revisions_are_replayed(nodes: Standing, room: Room) -> None:
    """Lines from before and from now, edited once and several times."""
    author = await visit(nodes.south, "Ada", room.id)
    old = (await author.say(room.id, "old"))["line"]["id"]
    await author.say(room.id, "untouched")
    await author.call("chat.edit", room=room.slug, line=old, text="older")

    async def revise(actor: Visitor) -> None:
        new = (await actor.say(room.id, "new"))["line"]["id"]
        for text in ("newer", "newest"):
            await actor.call("chat.edit", room=room.slug, line=new, text=text)
            await author.call("chat.edit", room=room.slug, line=old, text=text)

    await assert_replay_reaches(ChatRevision, nodes, room, revise)


async def test_removals_are_replayed(nodes: Standing, room: Room) -> None:
    """Lines from before and from now, removed as they were said and after an edit."""
    author = await visit(nodes.south, "Ada", room.id)
    old = [(await author.say(room.id, f"old {number}"))["line"]["id"] for number in range(3)]
    await author.call("chat.edit", room=room.slug, line=old[0], text="older")

    async def remove(actor: Visitor) -> None:
        new = (await actor.say(room.id, "new"))["line"]["id"]
        await author.call("chat.edit", room=room.slug, line=old[1], text="older")
        for line in old[:2]:
            await author.call("chat.remove", room=room.slug, line=line)
        await actor.call("chat.remove", room=room.slug, line=new)

    await assert_replay_reaches(ChatRemoval, nodes, room, remove)


async def test_the_history_is_read_page_by_page(nodes: Standing, room: Room) -> None:
    """Older lines come oldest first, and the pages together are every line once, as it stands now."""
    ada = await visit(nodes.north, "Ada", room.id)
    lines = [(await ada.say(room.id, f"line {n}"))["line"] for n in range(7)]
    await ada.call("chat.remove", room=room.slug, line=lines[3]["id"])
    lines[3] |= {"text": "", "removed": True}
    newest = await ada.call("chat.history", room=room.slug, limit=3)
    assert newest == {"type": "chat.recalled", "id": newest["id"], "lines": lines[4:], "more": True}
    pages, before = [newest["lines"]], newest["lines"][0]["offset"]
    while (page := await ada.call("chat.history", room=room.slug, limit=3, before=before))["more"]:
        pages.insert(0, page["lines"])
        before = page["lines"][0]["offset"]
    assert [*page["lines"], *itertools.chain(*pages)] == lines
    nothing = await ada.call("chat.history", room=room.slug, before=1)
    assert (nothing["lines"], nothing["more"]) == ([], False)
    everything = await ada.call("chat.history", room=room.slug, before=2**63 - 1, limit=200)
    assert (everything["lines"], everything["more"]) == (lines, False)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"limit": 0}, "$.limit"),
        ({"limit": 201}, "$.limit"),
        ({"limit": "3"}, "$.limit"),
        ({"before": -1}, "$.before"),
        ({"before": 2**63}, "$.before"),
        ({"before": 1.5}, "$.before"),
    ],
)
async def test_pages_that_are_none(nodes: Standing, room: Room, fields: Message, path: str) -> None:
    """A page that can't be is refused with the field that says so."""
    ada = await visit(nodes.north, "Ada", room.id)
    assert code_of(await ada.call("chat.history", room=room.slug, **fields)) == (
        "error",
        ErrorCode.INVALID,
        path,
    )


async def test_as_long_as_allowed(nodes: Standing, room: Room) -> None:
    """2,000 characters are a line, whatever they are; one more is none."""
    ada = await visit(nodes.north, "Ada", room.id)
    for character in ("x", "é", "\U0001f9d8"):
        assert (await ada.say(room.id, character * 2000))["line"]["text"] == character * 2000
        answer = await ada.say(room.id, character * 2001)
        assert code_of(answer) == ("error", ErrorCode.INVALID, "$.text")


async def test_a_poisoned_line_fails_alone(
    nodes: Standing, room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    """Of fifty who speak in one commit, one has no account any more: the other forty-nine are heard."""
    crowd = await asyncio.gather(*(visit(nodes.north, f"person {n}", room.id) for n in range(50)))
    await nodes.pool.execute("delete from users where id = $1", crowd[20].person.id)
    async with nodes.pool.acquire() as connection, connection.transaction():
        await connection.execute("select from room_positions where room_id = $1 for update", room.id)
        first = asyncio.create_task(crowd[0].say(room.id, "first"))
        await until_blocked(nodes.pool)
        others = [asyncio.create_task(one.say(room.id, "among fifty")) for one in crowd]
        await asyncio.gather(*(one.settle() for one in crowd))
    answers = await asyncio.gather(first, *others)
    assert [answer["type"] for answer in answers].count("chat.sent") == 50
    assert code_of(answers[21]) == ("error", ErrorCode.SESSION_ENDED, None)
    await until(lambda: len(crowd[1].offsets) == 50)
    assert sorted(answer["offset"] for answer in answers if "offset" in answer) == crowd[1].offsets
    assert "ForeignKeyViolationError" not in caplog.text
