"""Metrics: every figure moves with what it says, over the real port, and none grows with the number of people or rooms."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from protocol.envelope import RoomId
from server.metrics import LAGGING_ROOMS
from storage.postgres.pool import Pool
from tests.hosting import Host, hosting, make_room
from tests.redis.valkeys import Valkey
from tests.visitors import TEXT, Visitor, approach, arrive, visit
from tests.waiting import until


@pytest.fixture
async def host(database_url: str, valkey: Valkey, pool: Pool) -> AsyncIterator[Host]:
    """Run a node."""
    async with hosting(database_url, valkey.url, pool) as one:
        yield one


@pytest.fixture
async def room(pool: Pool) -> RoomId:
    """Make a room."""
    return await make_room(pool, "calm")


async def text_of(host: Host) -> str:
    """Ask the node for its metrics."""
    async with httpx2.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{urlsplit(host.url).port}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return answer.text


async def figures(host: Host) -> dict[str, float]:
    """Return every figure by its name, with what tells its series apart behind it."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(await text_of(host)):
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "node"}
            name = sample.name.removeprefix("looprooms_")
            found[name + "".join(f" {value}" for value in labels.values())] = sample.value
    return found


async def moved(host: Host, before: dict[str, float], *names: str) -> list[float]:
    """Return by how much figures have grown since."""
    after = await figures(host)
    return [after.get(name, 0) - before.get(name, 0) for name in names]


async def test_every_figure_is_explained(host: Host) -> None:
    """Each has a type, a sentence and the name of its node, and each name is ours."""
    text = await text_of(host)
    families = list(text_string_to_metric_families(text))
    assert len(families) > 30
    for family in families:
        assert family.name.startswith("looprooms_")
        assert re.fullmatch(r"[A-Z0-9].*\.", family.documentation)
        assert family.type in {"gauge", "counter", "histogram"}
        for sample in family.samples:
            assert re.fullmatch(r"[0-9a-f]{16}", sample.labels["node"])
    assert len({sample.labels["node"] for family in families for sample in family.samples}) == 1


async def test_who_is_here(host: Host, room: RoomId) -> None:
    """Connections, sessions and rooms are counted as they are now."""
    names = ("connections", "sessions", "rooms", "draining", "broker_healthy")
    assert [(await figures(host))[name] for name in names] == [0, 0, 0, 0, 1]
    await approach(host)
    ada = await visit(host, "Ada", room)
    assert [(await figures(host))[name] for name in names] == [2, 1, 1, 0, 1]
    ada.connection.leave()
    await ada.connection.gone
    assert [(await figures(host))[name] for name in names[:2]] == [1, 0]


async def test_what_was_asked(host: Host, room: RoomId) -> None:
    """Commands, refusals and lines, with the commits that carried them."""
    ada = await visit(host, "Ada", room)
    before = await figures(host)
    for number in range(3):
        await ada.say(room, f"line {number}")
    await ada.say(room, "")
    await ada.error(b"nonsense", TEXT)
    names = ("commands_total", "refusals_total", "chat_lines_total", "chat_commits_total", "bugs_total")
    assert await moved(host, before, *names) == [4, 2, 3, 3, 0]


async def test_what_postgres_took(host: Host, room: RoomId) -> None:
    """Each statement is counted once, among those that took no longer; together they took some time."""
    ada = await visit(host, "Ada", room)
    before = await figures(host)
    await ada.say(room, "hello")
    await until(lambda: _more(host, before, "statement_seconds_count"))
    longest, seconds = await moved(host, before, "statement_seconds_bucket +Inf", "statement_seconds_sum")
    assert longest >= 1
    assert 0 < seconds < 60


async def _more(host: Host, before: dict[str, float], name: str) -> bool:
    (grown,) = await moved(host, before, name)
    return grown > 0


async def test_what_was_delivered(host: Host, room: RoomId) -> None:
    """An event counts once for each of those who are in its room."""
    people = [await visit(host, f"person {number}", room) for number in range(3)]
    await until(lambda: all("online" in str(person.heard[-1]) for person in people[:2]))
    before = await figures(host)
    await people[0].say(room, "hello")
    await people[2].hear(1)
    deliveries, turns = await moved(host, before, "deliveries_total", "fanout_turns_total")
    assert deliveries >= 3
    assert turns >= 1


async def test_who_was_sent_away(host: Host, room: RoomId) -> None:
    """Handshakes that were refused, and closes by their code."""
    before = await figures(host)
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(host.url).port)
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b" 400 " in await reader.readline()
    writer.transport.abort()
    for _ in range(2):
        stranger = await approach(host)
        await stranger.call("hello", token="x")
        await stranger.connection.gone
    assert await moved(host, before, "handshakes_refused_total", "closes_total 4500") == [1, 2]


async def test_who_came_back(host: Host, room: RoomId) -> None:
    """Sessions that are new and that return, events that were replayed, and positions that could not be."""
    ada = await visit(host, "Ada", room)
    for number in range(3):
        await ada.say(room, f"line {number}")
    before = await figures(host)
    epoch = ada.welcome["epoch"]
    for place in ({"epoch": epoch, "offset": 1}, {"epoch": "another", "offset": 1}):
        await arrive(host, await host.token("Bo"), resume=[{"room": "calm", **place}])
    await visit(host, "Cy")
    names = ("replayed_total", "snapshots_total", "sessions_resumed_total", "sessions_admitted_total")
    assert await moved(host, before, *names) == [2, 1, 2, 1]


async def test_how_far_screens_are_behind(host: Host, pool: Pool) -> None:
    """The worst report of each room, of no more rooms than one can look at."""
    rooms = [await make_room(pool, f"room-{number}") for number in range(LAGGING_ROOMS + 5)]
    reporter = await visit(host, "reporter", *rooms)

    async def report(visitor: Visitor, place: int, seen: int) -> None:
        await visitor.call("session.ping", seen=[{"room": str(rooms[place]), "offset": seen}])

    for place, room in enumerate(rooms):
        for number in range(2):
            await reporter.say(room, f"line {number}")
        await report(reporter, place, 1)
    await report(reporter, 3, 0)
    await report(reporter, 3, 2)
    await report(reporter, 4, 100)  # ahead of the room: a lie, or a line that is being told
    lags = {name: value for name, value in (await figures(host)).items() if name.startswith("delivered_lag")}
    assert len(lags) == LAGGING_ROOMS
    assert lags[f"delivered_lag {rooms[3]}"] == 2
    assert set(lags.values()) == {1, 2}


async def test_a_bug_is_counted(
    host: Host, room: RoomId, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What fails because of us is counted, and noted with the reference that the client was given."""
    ada = await visit(host, "Ada", room)
    before = await figures(host)

    async def broken(*_: object) -> list[object]:
        raise ZeroDivisionError

    monkeypatch.setattr("storage.chat.append", broken)
    answer = await ada.say(room, "hello")
    assert answer["code"] == "internal_error"
    (reference,) = re.findall(r"reference (\w{12})", answer["message"])
    assert reference in caplog.text
    assert await moved(host, before, "bugs_total", "refusals_total") == [1, 1]


async def test_redis_is_away(host: Host, valkey: Valkey) -> None:
    """Within moments it is told that events go no further than this node, and then that they do again."""

    async def healthy(value: int) -> bool:
        return (await figures(host))["broker_healthy"] == value

    before = await figures(host)
    valkey.kill()
    await until(lambda: healthy(0), within=15)
    valkey.start()
    await until(lambda: healthy(1), within=15)
    assert await moved(host, before, "broker_reconnects_total", "broker_dropped_total") == [1, 0]


async def test_who_pays(host: Host, pool: Pool) -> None:
    """Persons whose events are heard, previews that run, subscriptions that ended by the clock; nobody is asked for it."""
    premium = await make_room(pool, "premium", preview=60)
    names = (
        "persons",
        "previews",
        "payments_away",
        "person_events_healed_total",
        "subscriptions_ended_total",
    )
    assert [(await figures(host))[name] for name in names] == [0, 0, 0, 0, 0]
    ada = await visit(host, "Ada", premium)
    assert [(await figures(host))[name] for name in names] == [1, 1, 0, 0, 0]
    await pool.execute("update users set tier = 'PREMIUM_MONTHLY' where id = $1", ada.person.id)
    body = (
        '{"id":"sub_1","customer":"cus_1","status":"active","created":1,"cancel_at":2,'
        '"items":{"data":[{"price":{"id":"p","metadata":{"looprooms_tier":"PREMIUM_MONTHLY"}}}]}}'
    )
    await pool.execute(
        "insert into payment_subscriptions (id, user_id, seen_at, body) values ('sub_1', $1, 1, $2::text::jsonb)",
        ada.person.id,
        body,
    )
    await pool.execute(
        "insert into subscriptions (user_id, tier, status, until, renews, reason, changes_at) "
        "values ($1, 'PREMIUM_MONTHLY', 'CANCELED', now(), false, 'canceled', now())",
        ada.person.id,
    )
    await until(lambda: any(message["type"] == "subscription.changed" for message in ada.heard))
    assert (await figures(host))["subscriptions_ended_total"] == 1
