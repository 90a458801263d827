"""Premium rooms: the seconds of a preview that count, and rooms that open or are left while one is in them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from protocol.client import Client, Occurrence
from protocol.envelope import RoomId, UserId
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import Departure, JoinRoom, LeaveRoom, RoomJoined, RoomUnlocked
from protocol.subscriptions import Subscription, SubscriptionChanged, Tier
from server import previews as metering
from storage import person_events, previews
from storage.person_events import NewEvent
from storage.postgres.pool import Pool
from storage.previews import Stretch
from tests.hosting import make_room
from tests.meeting import Guest, Meeting, meeting
from tests.redis.valkeys import Valkey
from tests.waiting import until

PAY = "http://127.0.0.1:8000/pay"


@pytest.fixture
async def two(database_url: str, valkey: Valkey, pool: Pool) -> AsyncIterator[Meeting]:
    """Run two nodes."""
    async with meeting(database_url, valkey.url, pool, 2) as running:
        yield running


async def used(pool: Pool, room: RoomId) -> float:
    """Return the seconds that are counted in a room."""
    seconds: float | None = await pool.fetchval(
        "select sum(used_seconds) from previews where room_id = $1", room
    )
    return seconds or 0.0


async def settled(two: Meeting) -> None:
    """Wait until no meter runs, and all that is to be counted is."""
    for site in two.sites:
        await until(lambda site=site: len(site.node.previews) == 0)  # type: ignore[misc]
        await site.node.previews.gather.drain()


async def join(client: Client, room: RoomId) -> RoomJoined:
    """Enter a room."""
    return await client.call(JoinRoom(str(room)))


async def give(two: Meeting, guest: Guest, tier: Tier, site: int = 0) -> None:
    """Let somebody have another tier, as a payment does."""
    event = SubscriptionChanged(Subscription(tier=tier))
    async with two.pool.acquire() as connection, connection.transaction():
        await connection.execute(
            "update users set tier = $2::subscription_tier where id = $1", guest.user, tier.value
        )
        told = await person_events.append(connection, [NewEvent(guest.user, event, changes_session=True)])
    two.sites[site].node.person_events.publish(told)


def of(kind: type[Any], heard: Sequence[Occurrence]) -> list[Any]:
    """Return the events of a kind."""
    return [one for one in heard if isinstance(one, kind)]


async def test_only_the_time_that_one_is_there_counts(two: Meeting) -> None:
    """Whoever leaves keeps what is left, on whatever node they come back."""
    room = await make_room(two.pool, "premium", preview=60)
    ada = await two.guest()
    client = await two.come(ada, two.sites[0])
    assert (await join(client, room)).preview_ends_in == pytest.approx(60, abs=0.5)
    await asyncio.sleep(0.2)
    await client.call(LeaveRoom(str(room)))
    await settled(two)
    counted = await used(two.pool, room)
    assert counted >= 0.2
    await asyncio.sleep(0.3)
    elsewhere = await two.come(ada, two.sites[1])
    left = (await join(elsewhere, room)).preview_ends_in
    assert left is not None
    assert left == pytest.approx(60 - counted, abs=0.001)


async def test_a_person_counts_once_on_many_connections_and_nodes(
    two: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tabs here and one there, all at once, while the nodes report."""
    monkeypatch.setattr(metering, "REPORT_SECONDS", 0.05)
    room = await make_room(two.pool, "premium", preview=60)
    ada = await two.guest()
    began = time.monotonic()
    clients = [await two.come(ada, site) for site in (two.sites[0], two.sites[0], two.sites[1])]
    for client in clients:
        await join(client, room)
    present = time.monotonic()
    assert [len(site.node.previews) for site in two.sites] == [1, 1]
    await asyncio.sleep(0.5)
    least = time.monotonic() - present
    for client in clients:
        await client.call(LeaveRoom(str(room)))
    await settled(two)
    assert least * 0.9 <= await used(two.pool, room) <= time.monotonic() - began


async def test_a_preview_that_another_node_has_used_up_ends(two: Meeting) -> None:
    """A node that thinks there is time left learns at its next report that there is none."""
    room = await make_room(two.pool, "premium", preview=60)
    ada = await two.guest()
    client = await two.come(ada, two.sites[0])
    await join(client, room)
    await two.pool.execute("update previews set used_seconds = 60")
    await until(lambda: of(Departure, ada.heard[client]), within=7.0)
    assert of(Departure, ada.heard[client]) == [
        Departure(room, ErrorCode.PREMIUM_REQUIRED, ErrorCode.PREMIUM_REQUIRED.advice, pay=PAY)
    ]
    with pytest.raises(Refused) as refused:
        await join(client, room)
    assert refused.value.code is ErrorCode.PREMIUM_REQUIRED


async def test_seconds_are_owed_while_postgres_is_away(two: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be counted when somebody left is counted later."""
    room = await make_room(two.pool, "premium", preview=60)
    ada = await two.guest()
    client = await two.come(ada, two.sites[0])
    await join(client, room)
    count = previews.count

    async def away(pool: Pool, stretches: Sequence[Stretch]) -> list[float]:
        raise Refused(ErrorCode.UNAVAILABLE)

    monkeypatch.setattr(previews, "count", away)
    await asyncio.sleep(0.1)
    await client.call(LeaveRoom(str(room)))
    await settled(two)
    assert await used(two.pool, room) == 0
    monkeypatch.setattr(previews, "count", count)
    await until(lambda: two.sites[0].node.previews.gather.items > 1, within=metering.REPORT_SECONDS + 2)
    await settled(two)
    assert await used(two.pool, room) >= 0.1


async def test_stretches_that_overlap_count_once(pool: Pool) -> None:
    """What two nodes saw of the same time is that time; what one saw after the other is the sum."""
    room = await make_room(pool, "premium", preview=60)
    user: UserId = await pool.fetchval("insert into users (name) values ('Ada') returning id")
    assert await previews.enter(pool, room, user, 60) == 0
    await asyncio.sleep(0.2)
    began = time.monotonic()
    (first,) = await previews.count(pool, [Stretch(room, user, 0.2, stays=True)])
    (second,) = await previews.count(pool, [Stretch(room, user, 0.2, stays=True)])
    passed = time.monotonic() - began
    assert first == pytest.approx(0.2)
    assert first <= second <= first + passed
    assert (
        await previews.count(pool, [Stretch(room, user, 0.1, stays=False)] * 2)
        == [pytest.approx(second, abs=time.monotonic() - began)] * 2
    )


async def test_a_node_that_died_leaves_a_lease(pool: Pool) -> None:
    """It has said that somebody is there, and no more: the time until they come back counts, up to the lease."""
    room = await make_room(pool, "premium", preview=60)
    user: UserId = await pool.fetchval("insert into users (name) values ('Ada') returning id")
    await previews.enter(pool, room, user, 60)
    await pool.execute(
        "update previews set counted_until = now() - interval '1 hour', present_until = now() - interval '3594 s'"
    )
    assert await previews.enter(pool, room, user, 60) == pytest.approx(6.0)


async def test_a_room_opens_in_place(two: Meeting) -> None:
    """Who pays while looking at it stays in it, on every connection, and is told; nobody's meter runs on."""
    room = await make_room(two.pool, "premium", preview=60)
    open_room = await make_room(two.pool, "open")
    ada, bo = await two.guest(), await two.guest()
    clients = [await two.come(ada, site) for site in (*two.sites, two.sites[1])]
    other = await two.come(bo, two.sites[0])
    for client in (*clients, other):
        await join(client, open_room)
        assert (await join(client, room)).preview_ends_in is not None
    await give(two, ada, Tier.PREMIUM_MONTHLY)
    for client in clients:
        heard = ada.heard[client]
        await until(lambda heard=heard: of(RoomUnlocked, heard), within=1.0)  # type: ignore[misc]
        assert [type(one) for one in heard if type(one) in (SubscriptionChanged, RoomUnlocked)] == [
            SubscriptionChanged,
            RoomUnlocked,
        ]
        assert of(RoomUnlocked, heard) == [RoomUnlocked(room)]
        assert (await join(client, room)).preview_ends_in is None
    assert [len(site.node.previews) for site in two.sites] == [1, 0]
    assert of(RoomUnlocked, bo.heard[other]) == []


async def test_a_room_is_left_when_what_was_paid_has_ended(two: Meeting) -> None:
    """With the reason and the way to pay, on every connection; other rooms are not touched."""
    room = await make_room(two.pool, "premium", preview=0)
    open_room = await make_room(two.pool, "open")
    ada = await two.guest()
    await two.pool.execute("update users set tier = 'PREMIUM_YEARLY' where id = $1", ada.user)
    clients = [await two.come(ada, site) for site in two.sites]
    for client in clients:
        await join(client, open_room)
        assert (await join(client, room)).preview_ends_in is None
    await give(two, ada, Tier.FREE, site=1)
    for client in clients:
        heard = ada.heard[client]
        await until(lambda heard=heard: of(Departure, heard), within=1.0)  # type: ignore[misc]
        ended = ErrorCode.SUBSCRIPTION_ENDED
        assert of(Departure, heard) == [Departure(room, ended, ended.advice, pay=PAY)]
        assert client.rooms == [open_room]


async def test_without_redis_rooms_open_and_are_left_all_the_same(two: Meeting, valkey: Valkey) -> None:
    """The node that hears of it acts at once, the others when they look."""
    room = await make_room(two.pool, "premium", preview=60)
    ada = await two.guest()
    client = await two.come(ada, two.sites[0])
    await join(client, room)
    valkey.kill()
    await give(two, ada, Tier.PREMIUM_MONTHLY, site=1)
    await until(lambda: of(RoomUnlocked, ada.heard[client]), within=30.0)
    await give(two, ada, Tier.FREE, site=1)
    await until(lambda: of(Departure, ada.heard[client]), within=30.0)


@pytest.mark.parametrize("tier", [Tier.PREMIUM_MONTHLY, Tier.FREE])
async def test_a_change_while_a_room_is_opened_counts(
    two: Meeting, monkeypatch: pytest.MonkeyPatch, tier: Tier
) -> None:
    """Between the decision at the door and the step through it."""
    room = await make_room(two.pool, "premium", preview=60)
    ada = await two.guest()
    before = Tier.FREE if tier is Tier.PREMIUM_MONTHLY else Tier.PREMIUM_MONTHLY
    await two.pool.execute(
        "update users set tier = $2::subscription_tier where id = $1", ada.user, before.value
    )
    node = two.sites[0].node
    client = await two.come(ada, two.sites[0])
    open_room = node.subscriptions.open

    async def slowly(room: RoomId) -> Any:
        active = await open_room(room)
        await give(two, ada, tier)
        (connection,) = node.hub.members.of_user(ada.user)
        await until(lambda: connection.session is not None and connection.session.tier == tier)
        return active

    monkeypatch.setattr(node.subscriptions, "open", slowly)
    assert (await join(client, room)).preview_ends_in is None
    if tier is Tier.FREE:
        await until(lambda: of(Departure, ada.heard[client]))
    else:
        assert client.rooms == [room]
        assert len(node.previews) == 0


async def test_an_older_reading_of_a_session_changes_nothing(two: Meeting) -> None:
    """Two reads may overtake one another; what was read before the newest event, or by an earlier reading, is dropped."""
    ada = await two.guest()
    node = two.sites[0].node
    await two.come(ada, two.sites[0])
    (connection,) = node.hub.members.of_user(ada.user)
    session = connection.session
    assert session is not None
    older = await node.sessions.find(session.id)
    await give(two, ada, Tier.PREMIUM_MONTHLY)
    await until(lambda: session.tier == Tier.PREMIUM_MONTHLY)
    node.sessions.apply(connection, older)
    assert session.tier == Tier.PREMIUM_MONTHLY
    before = await node.sessions.find(session.id)
    bo = await two.guest("Bo")
    await two.pool.execute("insert into blocks (blocker_id, blocked_id) values ($1, $2)", bo.user, ada.user)
    await node.sessions.look_again(node.hub.members, [session.id])
    node.sessions.apply(connection, before)
    assert session.hidden == {bo.user}, "of what others have done there is no event"


async def test_a_refused_door_takes_no_time(two: Meeting) -> None:
    """Who is in too many rooms already has not begun a preview."""
    room = await make_room(two.pool, "premium", preview=60)
    ada = await two.guest()
    client = await two.come(ada, two.sites[0])
    most = two.sites[0].node.hub.limits.rooms
    for number in range(most):
        await join(client, await make_room(two.pool, f"room-{number}"))
    with pytest.raises(Refused) as refused:
        await join(client, room)
    assert refused.value.code is ErrorCode.TOO_MANY_ROOMS
    assert await two.pool.fetchval("select count(*) from previews") == 0


async def test_previews_leave_nothing_behind(two: Meeting) -> None:
    """However often one goes in and out, there is one meter for a person in a room, and none when they are out."""
    room = await make_room(two.pool, "premium", preview=3600)
    ada, bo = await two.guest("Ada"), await two.guest("Bo")
    node = two.sites[0].node
    clients = [await two.come(guest, two.sites[0]) for guest in (ada, bo)]
    for client in clients:
        await join(client, room)
    for _ in range(5):
        await join(clients[0], room)
        await clients[0].call(LeaveRoom(str(room)))
        assert len(node.previews) == 1
        await join(clients[0], room)
        assert len(node.previews) == 2
    for client in clients:
        await client.close()
    await settled(two)
    assert node.previews._rooms == {}
