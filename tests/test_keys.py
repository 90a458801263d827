"""The keys under which lines are said: the cases that `storage.chat` lists. (A crash, 6 and 7, is in `nodes/test_keys`.)"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from protocol.refusals import ErrorCode
from storage.chat import prune_keys
from storage.postgres.pool import Pool
from tests.hosting import make_room
from tests.nodes.raw import Message
from tests.standing import Room, Standing
from tests.stores import until_blocked
from tests.visitors import Visitor, visit
from tests.waiting import until

LOCK_ROOM = "select from room_positions where room_id = $1 for update"


async def stored(nodes: Standing, room: Room) -> list[tuple[int, str, str]]:
    """Return what is stored of a room: offset, text and key."""
    rows = await nodes.pool.fetch(
        'select l."offset", l.text, k.key from chat_lines l join idempotency_keys k on k.line_id = l.id '
        "where l.room_id = $1 order by 1",
        room.id,
    )
    return [(row["offset"], row["text"], row["key"]) for row in rows]


def outcome(answer: Message) -> Message:
    """Return an answer without what tells to which command it belongs."""
    return {name: value for name, value in answer.items() if name != "id"}


async def several(nodes: Standing, room: Room, count: int = 2) -> list[Visitor]:
    """Bring one person into the room on several connections, on both nodes in turn."""
    people = [await visit(nodes.north, "Ada", room.id)]
    while len(people) < count:
        people.append(await visit(nodes.both[len(people) % 2], people[0].person, room.id))
    return people


async def test_case_1_the_first_time(nodes: Standing, room: Room) -> None:
    """The line is stored with its key, pushed, and answered."""
    (ada,) = await several(nodes, room, 1)
    answer = await ada.say(room.id, "hello", "k")
    assert (answer["type"], answer["offset"]) == ("chat.sent", 1)
    await ada.hear(1)
    assert await stored(nodes, room) == [(1, "hello", "k")]


async def test_case_2_again(nodes: Standing, room: Room) -> None:
    """On the same connection and on the other node: the same answer, no second line, nothing pushed twice."""
    here, there = await several(nodes, room)
    first = await here.say(room.id, "hello", "k")
    for one in (here, there):
        assert outcome(await one.say(room.id, "hello", "k")) == outcome(first)
        assert outcome(await one.say(room.id, "  hello\u202e ", "k")) == outcome(first)
    then = await there.say(room.id, "then", "k2")
    for one in (here, there):
        await one.hear(then["offset"])
        assert one.offsets == [1, 2]
    assert await stored(nodes, room) == [(1, "hello", "k"), (2, "then", "k2")]


async def test_case_2_again_after_the_line_was_changed(nodes: Standing, room: Room) -> None:
    """The answer is the line as it stands now: a text that was taken back does not return through its key."""
    here, there = await several(nodes, room)
    line = (await here.say(room.id, "teh line", "k"))["line"]
    revised = (await here.call("chat.edit", room=room.slug, line=line["id"], text="the line"))["line"]
    assert (await there.say(room.id, "teh line", "k"))["line"] == revised
    await here.call("chat.remove", room=room.slug, line=line["id"])
    assert (await there.say(room.id, "teh line", "k"))["line"] == {**revised, "text": "", "removed": True}


async def test_case_2_another_person_has_keys_of_their_own(nodes: Standing, room: Room) -> None:
    """The same key of two people is two keys."""
    ada, bo = await visit(nodes.north, "Ada", room.id), await visit(nodes.south, "Bo", room.id)
    assert [(await one.say(room.id, "hello", "k"))["offset"] for one in (ada, bo)] == [1, 2]


async def test_case_3_again_while_running(nodes: Standing, room: Room) -> None:
    """While the first waits for its commit, the same comes on its own connection and on both nodes: one line, one answer."""
    here, near, there = await several(nodes, room, 3)
    async with nodes.pool.acquire() as connection, connection.transaction():
        await connection.execute(LOCK_ROOM, room.id)
        saying = [asyncio.create_task(here.say(room.id, "hello", "k"))]
        await until_blocked(nodes.pool)
        saying += [asyncio.create_task(one.say(room.id, "hello", "k")) for one in (here, near, there)]
        await until_blocked(nodes.pool, 2)
        await here.settle()
    answers = [outcome(answer) for answer in await asyncio.gather(*saying)]
    assert [answer["type"] for answer in answers] == ["chat.sent"] * 4
    assert answers == [answers[0]] * 4
    await there.say(room.id, "then")
    await until(lambda: there.offsets == here.offsets == [1, 2])
    assert (await stored(nodes, room))[0] == (1, "hello", "k")


async def test_case_3_a_hundred_times_at_once(nodes: Standing, room: Room) -> None:
    """Ten connections on two nodes say the same ten times each: one row, a hundred equal answers, one event."""
    people = await several(nodes, room, 10)
    answers = await asyncio.gather(*(one.say(room.id, "hello", "k") for one in people for _ in range(10)))
    assert [outcome(answer) for answer in answers] == [outcome(answers[0])] * 100
    await people[0].say(room.id, "then", "k2")
    for one in people:
        await one.hear(2)
        assert one.offsets == [1, 2]
    assert await stored(nodes, room) == [(1, "hello", "k"), (2, "then", "k2")]


async def test_case_3_the_first_fails_while_the_second_waits(nodes: Standing, room: Room) -> None:
    """The backend of the first is gone before its commit: its sender is told to try again, the second is the first."""
    here, there = await several(nodes, room)
    async with nodes.pool.acquire() as connection, connection.transaction():
        await connection.execute(LOCK_ROOM, room.id)
        first = asyncio.create_task(here.say(room.id, "hello", "k"))
        await until_blocked(nodes.pool)
        backend = await connection.fetchval(
            "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        )
        second = asyncio.create_task(there.say(room.id, "hello", "k"))
        await until_blocked(nodes.pool, 2)
        await connection.execute("select pg_terminate_backend($1)", backend)
        refused = await first
        assert (refused["code"], refused["retry_after"]) == (ErrorCode.UNAVAILABLE, 1.0)
    sent = await second
    assert (sent["type"], sent["offset"]) == ("chat.sent", 1)
    assert outcome(await here.say(room.id, "hello", "k")) == outcome(sent)
    assert await stored(nodes, room) == [(1, "hello", "k")]


async def test_case_4_again_with_another_body(nodes: Standing, room: Room) -> None:
    """Another text and another room are refused on either node, even of a line that is gone, and nothing is said."""
    other = await make_room(nodes.pool, f"{room.slug}-too")
    here, there = await several(nodes, room)
    line = (await here.say(room.id, "hello", "k"))["line"]["id"]
    for one in (here, there):
        await one.join(other)
        for place, text in ((room.id, "goodbye"), (room.id, "Hello"), (other, "hello")):
            answer = await one.say(place, text, "k")
            assert outcome(answer) == {
                "type": "error",
                "code": ErrorCode.KEY_REUSED,
                "message": ErrorCode.KEY_REUSED.advice,
            }
        await here.call("chat.remove", room=room.slug, line=line)
    assert (await there.say(room.id, "goodbye", "k"))["code"] == ErrorCode.KEY_REUSED
    await there.settle()
    assert [event["type"] for event in there.events] == ["chat.line", "chat.removal"]


async def test_case_4_two_bodies_in_one_batch(nodes: Standing, room: Room) -> None:
    """Under one key, in one commit and in two: the one that came first is said, the others are refused."""
    here, there = await several(nodes, room)
    async with nodes.pool.acquire() as connection, connection.transaction():
        await connection.execute(LOCK_ROOM, room.id)
        ahead = asyncio.create_task(here.say(room.id, "ahead", "k0"))
        await until_blocked(nodes.pool)
        saying = [asyncio.create_task(here.say(room.id, text, "k")) for text in ("one", "two", "one")]
        await here.settle()
        saying.append(asyncio.create_task(there.say(room.id, "three", "k")))
        await until_blocked(nodes.pool, 2)
    await ahead
    answers = await asyncio.gather(*saying)
    (said,) = [text for _, text, key in await stored(nodes, room) if key == "k"]
    told = [answer["line"]["text"] if "line" in answer else answer["code"] for answer in answers]
    if said == "three":
        assert told == [ErrorCode.KEY_REUSED] * 3 + ["three"]
    else:
        assert told == ["one", ErrorCode.KEY_REUSED, "one", ErrorCode.KEY_REUSED]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"text": "\u200b"}, ErrorCode.TEXT_EMPTY),
        ({"text": "x" * 2001}, ErrorCode.INVALID),
        ({"room": "another-room"}, ErrorCode.NOT_IN_ROOM),
    ],
)
async def test_case_5_refused_the_first_time(
    nodes: Standing, room: Room, fields: dict[str, Any], code: ErrorCode
) -> None:
    """What is refused leaves its key free: said again as it should be, it is the first time."""
    (ada,) = await several(nodes, room, 1)
    good = {"room": room.slug, "text": "hello", "key": "k"}
    assert (await ada.call("chat.send", **{**good, **fields}))["code"] == code
    assert (await ada.call("chat.send", **good))["offset"] == 1
    assert await stored(nodes, room) == [(1, "hello", "k")]


async def test_case_5_refused_for_being_too_fast(nodes: Standing, room: Room) -> None:
    """Whoever is told to wait may say the same under the same key afterwards; all of it is said, once each."""
    (ada,) = await several(nodes, room, 1)
    answers = await asyncio.gather(*(ada.say(room.id, f"line {n}", f"k{n}") for n in range(150)))
    late = [n for n, answer in enumerate(answers) if answer.get("code") == ErrorCode.RATE_LIMITED]
    assert late
    for n in late:
        answer = answers[n]
        while "retry_after" in answer:
            await asyncio.sleep(answer["retry_after"])
            answer = await ada.say(room.id, f"line {n}", f"k{n}")
        assert answer["type"] == "chat.sent"
    assert sorted(text for _, text, _ in await stored(nodes, room)) == sorted(f"line {n}" for n in range(150))


async def test_keys_are_kept_for_a_day(nodes: Standing, room: Room, pool: Pool) -> None:
    """A key is forgotten when it is older than a day, and not before."""
    await make_room(pool, room.slug)
    await pool.execute(
        "insert into idempotency_keys (user_id, key, digest, created_at) "
        "select host_id, age || ' h', '', now() - make_interval(hours => age) from rooms, unnest('{0,23,25,48}'::int[]) age"
    )
    assert await prune_keys(pool, 24) == 2
    assert [row["key"] for row in await pool.fetch("select key from idempotency_keys order by 1")] == [
        "0 h",
        "23 h",
    ]
