"""Leaving for good: at once, on every device and node, and nothing is left but what the list says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from protocol.chat import ChatRemoval
from protocol.closing import CloseCode
from protocol.envelope import NOBODY, LineId, Person, RoomId
from protocol.reactions import Reaction, Target, TargetKind
from protocol.refusals import ErrorCode, Refused
from server.http.callers import FRESH_SECONDS
from server.node import Node
from storage import chat, departures
from storage.chat import NewLine
from storage.departures import LOCK_PERSON, erase_lines, remove_person
from storage.postgres.pool import PersonGone, Pool
from storage.privacy import PARTS
from storage.reactions import Wish, settle
from storage.sealing import Sealer
from storage.waitlist import ADDRESS as WAITING
from storage.waitlist import ask_for_place
from tests.http.conftest import Servers
from tests.http.serving import PASSWORD
from tests.leaving import DEVICE, Town, town
from tests.posting import comment, heard, post, react, share
from tests.replay import assert_replay_reaches
from tests.standing import Room, Standing
from tests.stores import SEALING_KEY
from tests.visitors import Visitor, visit
from tests.waiting import until

SAID = "the plums that were in the icebox"
REFERENCES = """
select conrelid::regclass || '.' || a.attname as "column", confdeltype::text as action
from pg_constraint c join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
where c.contype = 'f' and c.confrelid = 'users'::regclass
"""
BLOCKED = """
select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()
"""
NAMES_OF_PEOPLE = """
select c.relname || '.' || a.attname as "column"
from pg_attribute a join pg_class c on c.oid = a.attrelid
where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace and a.atttypid = 'uuid'::regtype and not a.attisdropped
  and a.attname ~ '(user|author|actor|host|person|member|owner|creator|reader|sender|friend|_by)(_id)?$'
"""


@pytest.fixture
async def place(servers: Servers) -> AsyncIterator[Town]:
    """Give two nodes with a database of their own."""
    async with town(await servers.settings()) as running:
        yield running


async def heart(visitor: Any, room: RoomId, kind: str = "HEART") -> dict[str, Any]:
    """React to a room."""
    answer = await visitor.call("reaction.add", target={"kind": "looproom", "id": str(room)}, reaction=kind)
    assert answer["type"] == "reaction.added", answer
    return dict(answer)


async def test_every_reference_to_people_is_known(place: Town) -> None:
    """A column that refers to people is part of an export, and loses what it refers to or goes with it."""
    known = {column for part in PARTS for column in part.columns}
    references = {row["column"]: row["action"] for row in await place.pool.fetch(REFERENCES)}
    named = {row["column"] for row in await place.pool.fetch(NAMES_OF_PEOPLE)}
    assert set(references.values()) <= {"c", "n"}, "a reference stands in the way of leaving"
    assert references.keys() | named <= known, "nobody would be given what is theirs of it"
    assert known - references.keys() == {
        "users.id",
        "chat_lines.author_id",
        "comments.author_id",
        "notification_actors.actor_id",
    }


async def test_nothing_is_left_but_the_list(place: Town) -> None:
    """Of somebody who did all that leaves a trace, neither id nor name nor address nor a word is in any table afterwards."""
    room, own = await place.room(), await place.room("a-room-of-her-own")
    ada, bo = await place.member("Adalgisa"), await place.member("Bo")
    await place.pool.execute(
        "update rooms set host_id = $1, title = 'Evenings with Adalgisa', content_url = 'https://adalgisa.example/' where id = $2",
        ada.id,
        own,
    )
    await place.pool.execute("insert into previews (room_id, user_id) values ($1, $2)", room, ada.id)
    mine = await ada.come(None, room, own)
    said = [await mine.say(room, f"{SAID} {number}") for number in range(3)]
    await mine.call("chat.edit", room=str(room), line=said[0]["line"]["id"], text=f"{SAID}, edited")
    await mine.call("chat.remove", room=str(room), line=said[1]["line"]["id"])
    await heart(mine, room)
    theirs = await bo.come(place.sites[1], room)
    kept = await theirs.say(room, "good evening")
    for visitor, command, other in ((mine, "friend.request", bo), (theirs, "friend.accept", ada)):
        assert "relation" in await visitor.call(command, person=str(other.id))
    posted = [await post(mine, SAID, privacy) for privacy in ("PUBLIC", "ANONYMOUS")]
    answered = await post(theirs, "a vybe of Bo's")
    for vybe in (posted[0], answered):
        await comment(mine, vybe["id"], SAID)
        await react(mine, "vybe", vybe["id"])
        await react(theirs, "vybe", vybe["id"], "CLAP")
    await comment(theirs, posted[0]["id"], "said below what goes")
    await share(theirs, posted[0]["id"])
    looking = await theirs.call("vybe.open", vybe=answered["id"])
    await theirs.call("feed.open")
    await place.pool.execute("update users set role = 'MODERATOR' where id = $1", ada.id)
    await mine.call("token.refresh", token=ada.access_token)
    assert (await ada.ask("POST", "/me/export")).status_code == 202
    await place.cleared("person.export")
    before = "\n".join((await place.dump()).values())
    for trace in (str(ada.id), ada.name, SAID, "https://adalgisa.example/"):
        assert trace in before

    assert (await ada.leave()).status_code == 204
    await place.cleared()
    for table, rows in (await place.dump()).items():
        for trace in (str(ada.id), ada.id.hex, "dalgisa", ada.email, "plums", DEVICE):
            assert trace not in rows, f"{trace} is still in {table}"
    await heard(theirs, "comment.removal", vybe=answered["id"], of=looking["recent"][0]["offset"])
    for vybe in posted:
        await heard(theirs, "feed.removal", vybe=vybe["id"])
    again = await theirs.call("vybe.open", vybe=answered["id"])
    assert (again["recent"], again["vybe"].get("comments", 0)) == ([], 0)
    assert again["vybe"]["reactions"] == {"CLAP": 1}
    assert [vybe["id"] for vybe in (await theirs.call("feed.list"))["vybes"]] == [answered["id"]]
    lines = await place.pool.fetch(
        'select author_id, text, removed_at is not null as removed from chat_lines where room_id = $1 order by "offset"',
        room,
    )
    assert [tuple(row.values()) for row in lines] == [
        (None, "", True),
        (None, "", True),
        (None, "", True),
        (bo.id, "good evening", False),
    ]
    left = await place.pool.fetchrow(
        "select host_id, status::text, title, slug from rooms where id = $1", own
    )
    assert left is not None
    assert tuple(left.values()) == (None, "ARCHIVED", "", f"left-{own}")
    assert [part.name for part in PARTS if part.stays] == [
        "provider_tokens",
        "looprooms",
        "chat_lines",
        "chat_changes",
        "engagement",
        "creator",
        "applications_decided",
        "decisions_made",
    ]
    assert kept["line"]["author"]["name"] == "Bo"


async def test_others_see_it_as_it_happens(place: Town) -> None:
    """On both nodes: the person goes at once, every line is removed in order with its offset, the totals become less."""
    room = await place.room()
    ada, bo, cy = [await place.member(name) for name in ("Ada", "Bo", "Cy")]
    mine = await ada.come(None, room)
    for number in range(5):
        await mine.say(room, f"{SAID} {number}")
    await heart(mine, room)
    near, far = await bo.come(place.sites[0], room), await cy.come(place.sites[1], room)
    await heart(far, room)
    assert (await ada.leave()).status_code == 204
    for visitor in (near, far):
        await until(lambda v=visitor: sum(event["type"] == "chat.removal" for event in v.events) == 5)  # type: ignore[misc] # early bound
        assert visitor.offsets == [6, 7, 8, 9, 10]
        assert [event["of"] for event in visitor.events] == [1, 2, 3, 4, 5]
        assert all(event["departed"] for event in visitor.events)
        await until(lambda v=visitor: str(ada.id) in _left(v))  # type: ignore[misc] # early bound
        await until(lambda v=visitor: _total(v, "HEART") == 1)  # type: ignore[misc] # early bound
    late = await cy.come(place.sites[1], room)
    again = await late.call("room.join", room=str(room))
    assert again["reactions"] == {"HEART": 1}
    for line in again["recent"]:
        assert (line["author"], line["text"], line["removed"]) == (
            {"id": str(NOBODY.id), "name": ""},
            "",
            True,
        )
    listed = await late.call("chat.history", room=str(room))
    assert {line["author"]["name"] for line in listed["lines"]} == {""}


def _left(visitor: Any) -> list[str]:
    """Return who left, as somebody was told."""
    pulses = [message for message in visitor.heard if message["type"] == "room.pulse"]
    return [user for pulse in pulses for user in pulse.get("leaves", ())]


def _total(visitor: Any, kind: str) -> int | None:
    """Return the newest total of a kind that somebody was told."""
    totals = [
        message["reactions"][kind]["total"]
        for message in visitor.heard
        if message["type"] == "room.pulse" and kind in message.get("reactions", {})
    ]
    return totals[-1] if totals else None


async def test_the_waitlist_forgets_the_address(place: Town) -> None:
    """Whoever asked for a place before they had an account is not on the list any more; others are."""
    ada, bo = await place.member("Ada"), await place.member("Bo")
    stores = place.sites[0].node.stores
    for member in (ada, bo):
        await ask_for_place(stores.pool, stores.sealer, member.email)
    assert (await ada.leave()).status_code == 204
    (row,) = await place.pool.fetch("select id, sealed_address from waitlist")
    assert stores.sealer.open(WAITING, row["id"], row["sealed_address"]) == bo.email


async def test_departures_are_replayed(nodes: Standing, room: Room) -> None:
    """Who was there, who comes back and who comes anew know the same: lines that nobody said, also those removed before."""
    author = await visit(nodes.south, "Ada", room.id)
    old = [(await author.say(room.id, f"{SAID} {number}"))["line"]["id"] for number in range(4)]
    await author.call("chat.remove", room=room.slug, line=old[1])

    async def depart(actor: Visitor) -> None:
        await actor.say(room.id, "somebody else's")
        await author.call("chat.remove", room=room.slug, line=old[2])
        await remove_person(nodes.pool, Sealer((SEALING_KEY,), bytes(32)), author.person.id)
        await actor.hear(10)

    await assert_replay_reaches(ChatRemoval, nodes, room, depart)
    stored = [one.event for one in await chat.events(nodes.pool, room.id, 1, 100)]
    assert [event.departed for event in stored if isinstance(event, ChatRemoval)] == [True] * 6


async def test_nobody_comes_back(place: Town) -> None:
    """Every connection on every node closes for good, no token and no password is worth anything, and the address is free."""
    room = await place.room()
    ada = await place.member("Ada")
    connections = [await ada.come(site, room) for site in place.sites]
    again = await place.sites[1].post("/auth/login", email=ada.email, password=PASSWORD)
    assert (await ada.leave()).status_code == 204
    for visitor in connections:
        async with asyncio.timeout(1):
            gone = await visitor.connection.gone
        assert gone.code == CloseCode.SESSION_ENDED
    site = place.sites[1]
    assert (await site.me(ada.access_token)).json()["code"] == "session_ended"
    assert (await site.me(again.json()["access_token"])).json()["code"] == "session_ended"
    refreshed = await site.post("/auth/refresh", refresh_token=ada.refresh_token)
    assert refreshed.json()["code"] == "token_invalid"
    refused = await site.post("/auth/login", email=ada.email, password=PASSWORD)
    assert refused.json()["code"] == "credentials_refused"
    assert (await ada.leave()).json()["code"] == "session_ended"
    anew = await site.post("/auth/register", email=ada.email, password=PASSWORD, name="Ada")
    assert anew.status_code == 201
    assert anew.json()["user"]["id"] != str(ada.id)


async def test_proof(place: Town) -> None:
    """Who stole a token can't delete the account: it takes the password, or a sign-in of the last ten minutes."""
    ada = await place.member("Ada")
    wrong = await ada.leave("not this one")
    assert (wrong.status_code, wrong.json()["code"]) == (401, "credentials_refused")
    await place.pool.execute(
        "update sessions set created_at = now() - make_interval(secs => $1)", FRESH_SECONDS + 1
    )
    for password in (None, "not this one"):
        assert (await ada.leave(password)).json()["code"] in ("proof_required", "credentials_refused")
    assert await place.pool.fetchval("select count(*) from users") == 1
    assert (await ada.leave()).status_code == 204


async def test_proof_by_a_fresh_sign_in(place: Town) -> None:
    """Who has just signed in need not say the password again: there may be none."""
    ada = await place.member("Ada")
    assert (await ada.leave(None)).status_code == 204
    assert await place.pool.fetchval("select count(*) from users") == 0


async def test_guessing_is_slowed(servers: Servers) -> None:
    """Passwords can't be guessed here either."""
    async with town(await servers.settings(LOOPROOMS_LIMITS_FACTOR="1"), 1) as place:
        ada = await place.member("Ada")
        codes = [(await ada.leave(f"guess {number}")).json()["code"] for number in range(25)]
        assert set(codes) == {"credentials_refused", "rate_limited"}
        assert codes[-1] == "rate_limited"


async def test_a_room_closes_with_its_host(place: Town) -> None:
    """Everyone is taken out of it at once, on both nodes, and nobody finds it any more; what they said is theirs still."""
    room = await place.room()
    ada, bo, cy = [await place.member(name) for name in ("Ada", "Bo", "Cy")]
    await place.pool.execute("update rooms set host_id = $1 where id = $2", ada.id, room)
    near, far = await bo.come(place.sites[0], room), await cy.come(place.sites[1], room)
    await near.say(room, "who is the host?")
    assert (await ada.leave()).status_code == 204
    for visitor in (near, far):
        await until(lambda v=visitor: v.heard[-1]["type"] == "room.departure")  # type: ignore[misc] # early bound
        assert visitor.heard[-1]["code"] == "not_found"
        for ref in (str(room), "a-room"):
            assert (await visitor.call("room.join", room=ref))["code"] == "not_found"
    assert await place.pool.fetchval("select text from chat_lines") == "who is the host?"


async def test_what_was_under_way_comes_too_late(place: Town) -> None:
    """A line and a reaction that were being stored when their author left are not stored; of others in the batch all is."""
    room = await place.room()
    ada, bo = await place.member("Ada"), await place.member("Bo")
    writers = {
        one.id: NewLine(
            id=LineId(uuid4()),
            room=room,
            author=Person(id=one.id, name=one.name),
            text=SAID,
            key=f"key of {one.name}",
        )
        for one in (ada, bo)
    }
    node = place.sites[0].node
    async with place.pool.acquire() as connection:
        leaving = connection.transaction()
        await leaving.start()
        await connection.fetchval(LOCK_PERSON, ada.id)
        lines = [asyncio.create_task(node.chat.gather.ask(line)) for line in writers.values()]
        wish = Wish(Target(kind=TargetKind.LOOPROOM, id=room), ada.id, Reaction.HEART, present=True)
        reacting = asyncio.create_task(settle(place.pool, [wish]))
        await _waiting(place.pool, 2)
        await connection.execute(departures.DELETE_PERSON, ada.id)
        await leaving.commit()
    with pytest.raises(PersonGone):
        await lines[0]
    with pytest.raises(PersonGone):
        await reacting
    assert (await lines[1]).line.offset == 1
    assert [row[0] for row in await place.pool.fetch("select author_id from chat_lines")] == [bo.id]
    assert await place.pool.fetchval("select count(*) from reactions") == 0


async def test_an_edit_that_was_under_way(place: Town) -> None:
    """Nor is a line changed by who has left."""
    room = await place.room()
    ada = await place.member("Ada")
    visitor = await ada.come(None, room)
    line = (await visitor.say(room, SAID))["line"]
    async with place.pool.acquire() as connection:
        leaving = connection.transaction()
        await leaving.start()
        await connection.fetchval(LOCK_PERSON, ada.id)
        editing = asyncio.create_task(
            chat.revise(
                place.pool, room, LineId(UUID(line["id"])), ada.id, "something else", any_author=False
            )
        )
        await _waiting(place.pool, 1)
        await connection.execute(departures.DELETE_PERSON, ada.id)
        await leaving.commit()
    with pytest.raises(Refused) as refused:
        await editing
    assert refused.value.code is ErrorCode.SESSION_ENDED
    assert await place.pool.fetchval("select text from chat_lines") == SAID


async def test_leaving_while_speaking(place: Town) -> None:
    """Of one who speaks on both nodes all the while, nothing appears after the answer, and all is removed in the end."""
    room = await place.room()
    ada, bo = await place.member("Ada"), await place.member("Bo")
    listener = await bo.come(place.sites[1], room)
    speakers = [await ada.come(site, room) for site in place.sites]

    async def speak(visitor: Any) -> None:
        while not visitor.connection.gone.done():
            await visitor.say(room, SAID)

    speaking = [asyncio.create_task(speak(visitor)) for visitor in speakers]
    await until(lambda: len(listener.events) > 20)
    assert (await ada.leave()).status_code == 204
    stored = await place.pool.fetchval("select count(*) from chat_lines")
    await asyncio.gather(*speaking, return_exceptions=True)
    await place.cleared()
    assert await place.pool.fetchval("select count(*) from chat_lines") == stored
    assert (
        await place.pool.fetchval("select count(*) from chat_lines where text <> '' or author_id is not null")
        == 0
    )
    await until(lambda: listener.offsets[-1] == 2 * stored)
    assert listener.offsets == list(range(1, 2 * stored + 1))
    kinds = [event["type"] for event in listener.events]
    assert kinds.count("chat.line") == kinds.count("chat.removal") == stored


async def test_clearing_away_goes_on_after_a_crash(place: Town) -> None:
    """What a job had cleared away when its node died is not cleared again by the next; nothing is left out."""
    room = await place.room()
    ada, bo = await place.member("Ada"), await place.member("Bo")
    visitor = await ada.come(None, room)
    for number in range(7):
        await visitor.say(room, f"{SAID} {number}")
    for site in place.sites:
        await site.node.jobs.aclose()
    assert (await ada.leave()).status_code == 204
    assert len(await erase_lines(place.pool, ada.id, 3)) == 3
    listener = await bo.come(place.sites[1], room)
    node = await Node.open(place.sites[0].node.settings)
    try:
        await place.cleared()
    finally:
        await node.aclose()
    assert await place.pool.fetchval("select count(*) from room_events") == 7
    await until(lambda: len(listener.events) == 4)
    assert listener.offsets == [11, 12, 13, 14]


async def test_nobody_leaves_twice(place: Town) -> None:
    """Of several requests at once one is answered as done; the others find that there is nobody."""
    ada = await place.member("Ada")
    answers = await asyncio.gather(*(ada.leave(None) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [204] + [401] * 7
    stores = place.sites[0].node.stores
    assert await remove_person(stores.pool, stores.sealer, ada.id) is None


async def test_a_deadlock_is_tried_again(place: Town) -> None:
    """Somebody speaks in a room of the host who leaves, while holding what the leaving waits for: both are done in the end."""
    room, other = await place.room(), await place.room("another-room")
    ada, bo = await place.member("Ada"), await place.member("Bo")
    await place.pool.execute("update rooms set host_id = $1 where id = $2", ada.id, room)
    stores = place.sites[0].node.stores
    async with place.pool.acquire() as connection:
        speaking = connection.transaction()
        await speaking.start()
        await connection.execute(
            'insert into chat_lines (room_id, "offset", author_id, text) values ($1, 99, $2, $3)',
            room,
            bo.id,
            SAID,
        )
        leaving = asyncio.create_task(remove_person(stores.pool, stores.sealer, ada.id))
        await _waiting(place.pool, 1)
        with contextlib.suppress(asyncpg.DeadlockDetectedError):  # Postgres chooses who gives way
            await connection.execute(
                "insert into idempotency_keys (user_id, key, digest) values ($1, 'k', '')", ada.id
            )
        await speaking.rollback()
    departure = await leaving
    assert departure is not None
    assert departure.rooms == [room]
    assert other not in departure.rooms


async def _waiting(pool: Pool, count: int) -> None:
    """Wait until so many statements wait for a lock."""
    async with asyncio.timeout(5):
        while await pool.fetchval(BLOCKED) < count:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.005)
