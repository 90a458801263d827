"""Crowds: two thousand who come at once, a thousand who react at once, two hundred who sign in at once; and the cost of each."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import pytest
from argon2 import PasswordHasher

from protocol.envelope import RoomId, SessionId, UserId
from protocol.reactions import Reaction
from protocol.refusals import ErrorCode
from storage.postgres.embedded import EmbeddedPostgres
from storage.postgres.pool import Pool, open_pool
from tests.hosting import Host, hosting, make_room
from tests.nodes.raw import Message
from tests.redis.valkeys import Valkey
from tests.standing import Room, Standing
from tests.stores import counted_statements, make_database
from tests.visitors import PATIENCE, Visitor, arrive, bystander
from tests.waiting import until

pytestmark = pytest.mark.xdist_group("crowd")  # one such crowd a run is enough

CROWD = 2000
PULSE_SECONDS = 0.05
MOST_STATEMENTS = 20


class Crowd:
    """Very many people who are signed in on one node."""

    def __init__(self, host: Host, pool: Pool, people: list[Visitor]) -> None:
        self.host = host
        self.pool = pool
        self.people = people


@pytest.fixture(scope="module")
async def crowd(postgres: EmbeddedPostgres) -> AsyncIterator[Crowd]:
    """Sign two thousand people in on one node."""
    url = await make_database(postgres)
    pool = await open_pool(url, size=5)
    users = [UserId(uuid4()) for _ in range(CROWD)]
    sessions = [SessionId(uuid4()) for _ in users]
    await pool.execute(
        "insert into users (id, name) select id, 'one of many' from unnest($1::uuid[]) id", users
    )
    await pool.execute(
        "insert into sessions (id, user_id) select * from unnest($1::uuid[], $2::uuid[])", sessions, users
    )
    with Valkey() as redis:
        async with hosting(url, redis.url, pool, new_sessions_per_second=100_000) as host:
            people: list[Visitor] = []
            for start in range(0, CROWD, 100):
                people += await asyncio.gather(
                    *(arrive(host, host.sign(users[n], sessions[n])) for n in range(start, start + 100))
                )
            yield Crowd(host, pool, people)
            for person in people:
                person.connection.transport.abort()
    await pool.close()


async def test_two_thousand_join_in_a_second(crowd: Crowd) -> None:
    """All are let in and counted, with a handful of statements for all of them, and somebody who chats notices nothing."""
    room = await make_room(crowd.pool, "joined")
    async with bystander(crowd.host, room) as witness:
        async with counted_statements(crowd.pool) as count:
            joining = []
            for start in range(0, CROWD, 50):
                joining += [
                    asyncio.create_task(one.call("room.join", room="joined"))
                    for one in crowd.people[start : start + 50]
                ]
                await asyncio.sleep(50 / CROWD)
            joined = await asyncio.gather(*joining)
            statements = await count()
        assert {answer["type"] for answer in joined} == {"room.joined"}
        assert max(answer["online"] for answer in joined) == CROWD + 1
        assert max(len(answer["members"]) for answer in joined if not answer.get("complete", True)) <= 50
        told = [message["online"] for message in witness.heard if "online" in message]
        assert (
            told[-1] == CROWD + 1
            or (await witness.call("presence.list", room="joined"))["online"] == CROWD + 1
        )
    chat = ("idempotency_keys", "chat_lines")
    asked = {query: calls for query, calls in statements if not any(table in query for table in chat)}
    assert sum(asked.values()) <= MOST_STATEMENTS, asked
    await asyncio.gather(*(one.call("room.leave", room="joined") for one in crowd.people))


def totals_of(visitor: Visitor, room: RoomId) -> tuple[dict[str, int], dict[str, int]]:
    """Return what somebody was told of a room's reactions: the newest totals, and what was added in all."""
    totals: dict[str, int] = {}
    added: Counter[str] = Counter()
    for message in visitor.heard:
        if message["type"] == "room.pulse" and message["room"] == str(room):
            for kind, tally in message.get("reactions", {}).items():
                totals[kind] = tally["total"]
                added[kind] += tally["added"]
    return totals, dict(added)


async def test_a_thousand_react_ten_times_a_second(crowd: Crowd) -> None:
    """Everyone gives and takes back what they like at once: at most twenty frames a second to each, and exact totals."""
    room = await make_room(crowd.pool, "reacting")
    people = crowd.people[:1000]
    rng = random.Random(6)
    await asyncio.gather(*(one.call("room.join", room="reacting") for one in people))
    target: Message = {"kind": "looproom", "id": str(room)}
    expected: Counter[str] = Counter()
    plans: list[list[tuple[str, str]]] = []
    for _ in people:
        kinds = rng.sample([kind.value for kind in Reaction], 6)
        plan = [("reaction.add", kind) for kind in kinds] + [("reaction.remove", kind) for kind in kinds[:4]]
        expected.update(kinds[4:])
        plans.append(plan)

    async def react(one: Visitor, plan: list[tuple[str, str]]) -> None:
        for command, kind in plan:
            await asyncio.sleep(rng.uniform(0.05, 0.15))
            answer = await one.call(command, target=target, reaction=kind)
            unknown = False
            while answer["type"] == "error":  # a slow machine
                assert answer["code"] in (ErrorCode.BUSY, ErrorCode.UNAVAILABLE)
                unknown |= answer["code"] == ErrorCode.UNAVAILABLE  # whether it was done is not known
                await asyncio.sleep(answer["retry_after"])
                answer = await one.call(command, target=target, reaction=kind)
            assert answer["added" if command == "reaction.add" else "removed"] or unknown, answer

    known = [len(one.heard) for one in people]
    began = time.monotonic()
    await asyncio.gather(*(react(one, plan) for one, plan in zip(people, plans, strict=True)))
    await until(
        lambda: all(
            {k: t for k, t in totals_of(one, room)[0].items() if t} == expected for one in people[::50]
        ),
        within=PATIENCE,
    )
    seconds = time.monotonic() - began
    for one, before in zip(people, known, strict=True):
        totals, added = totals_of(one, room)
        assert {kind: total for kind, total in totals.items() if total} == expected
        assert {kind: total for kind, total in added.items() if total} == expected
        assert len(one.heard) - before <= seconds / PULSE_SECONDS + 2
    stored = await crowd.pool.fetch(
        "select kind::text, count(*) from reactions where target_id = $1 group by 1", room
    )
    assert {row["kind"]: row["count"] for row in stored} == expected
    await asyncio.gather(*(one.call("room.leave", room="reacting") for one in people))


async def test_two_hundred_sign_in_at_once(
    nodes: Standing, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passwords are looked at beside the loop: while they are, the room goes on, and everybody gets in."""
    # A fifth of the real cost: it is paid on two threads, and this is about where, not about how much.
    monkeypatch.setattr("server.passwords._HASHER", PasswordHasher(1, 8192, 1))
    base = f"http://127.0.0.1:{urlsplit(nodes.north.url).port}"
    account = {"email": f"{room.slug}@example.org", "password": "violets under a lamp"}
    limits = httpx2.Limits(max_connections=300)
    async with (
        httpx2.AsyncClient(base_url=base, timeout=60, limits=limits) as client,
        bystander(nodes.north, room.id) as witness,
    ):
        registered = await client.post("/auth/register", json={**account, "name": "Ada"})
        assert registered.status_code == 201
        before = len(witness.events)
        answers = await asyncio.gather(*(client.post("/auth/login", json=account) for _ in range(200)))
        assert [answer.status_code for answer in answers] == [200] * 200
        assert len(witness.events) - before >= 5
