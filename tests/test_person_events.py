"""What happens to a person reaches all their connections, once and in order, and those who were away when they come back."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import pytest

from protocol.client import CaughtUp, Occurrence
from protocol.client.backoff import Backoff
from protocol.envelope import UserId
from protocol.subscriptions import Subscription, SubscriptionChanged, Tier
from server import person_events as carrying
from server.node import Node
from server.person_events import Feed, channel_of, is_channel
from storage import person_events
from storage.person_events import NewEvent, Told
from storage.postgres.pool import Pool
from storage.redis.publications import Kind, Packet
from tests.http.serving import Site
from tests.meeting import Guest, Meeting, meeting
from tests.nodes.raw import RawConnection, open_raw
from tests.redis.valkeys import Valkey
from tests.waiting import until

WINDOW = 20
FREE = SubscriptionChanged(Subscription(tier=Tier.FREE))


@pytest.fixture
async def two(database_url: str, valkey: Valkey, pool: Pool) -> AsyncIterator[Meeting]:
    """Run two nodes."""
    async with meeting(database_url, valkey.url, pool, 2, replay_window=WINDOW) as running:
        yield running


async def store(pool: Pool, *users: UserId, changes_session: bool = False) -> list[Told]:
    """Commit one event for each."""
    async with pool.acquire() as connection, connection.transaction():
        return await person_events.append(
            connection, [NewEvent(user, FREE, changes_session) for user in users]
        )


async def tell(node: Node, pool: Pool, *users: UserId) -> None:
    """Commit one event for each, and publish."""
    node.person_events.publish(await store(pool, *users))


def offsets(heard: Sequence[Occurrence]) -> list[int]:
    """Return the offsets of the person's events among what a client handed out."""
    return [one.person_offset for one in heard if isinstance(one, SubscriptionChanged)]


async def test_it_reaches_every_connection_of_the_person_and_nobody_else(two: Meeting) -> None:
    """On both nodes, in both encodings, in order."""
    ada, bo = await two.guest(), await two.guest()
    for site in two.sites:
        for encoding in ("json", "msgpack"):
            await two.come(ada, site, encoding=encoding)
    await two.come(bo, two.sites[1])
    for turn in range(6):
        await tell(two.sites[turn % 2].node, two.pool, ada.user)
    await until(lambda: all(offsets(heard) == [1, 2, 3, 4, 5, 6] for heard in ada.heard.values()))
    assert len(ada.heard) == 4
    assert all(heard == [] for heard in bo.heard.values())


@pytest.mark.parametrize("missed", [0, 1, WINDOW])
async def test_who_comes_back_gets_exactly_what_was_missed(two: Meeting, missed: int) -> None:
    """On another node than before, as ordinary events."""
    ada = await two.guest()
    first = await come_raw(two, ada, two.sites[0])
    await tell(two.sites[0].node, two.pool, ada.user)
    await until(lambda: first.offsets == [1])
    first.connection.transport.abort()
    for _ in range(missed):
        await tell(two.sites[0].node, two.pool, ada.user)
    again = await come_raw(two, ada, two.sites[1], offset=1)
    assert again.person == {"offset": 1 + missed, "recovered": True} | ({"missed": missed} if missed else {})
    await tell(two.sites[0].node, two.pool, ada.user)
    await until(lambda: len(again.offsets) > missed)
    assert again.offsets == list(range(2, missed + 3))


@pytest.mark.parametrize(
    ("stored", "offset", "epoch"),
    [(WINDOW + 1, 0, None), (1, 2, None), (1, 2**63 - 1, None), (1, 1, "another")],
    ids=["past the window", "ahead", "far ahead", "another epoch"],
)
async def test_what_can_not_be_replayed_is_a_snapshot(
    two: Meeting, stored: int, offset: int, epoch: str | None
) -> None:
    """Who missed too much, or lies, is told where they stand, and goes on from there."""
    ada = await two.guest()
    for _ in range(stored):
        await store(two.pool, ada.user)
    again = await come_raw(two, ada, two.sites[0], offset=offset, epoch=epoch)
    assert again.person == {"offset": stored, "subscription": {"tier": "FREE"}}
    await tell(two.sites[1].node, two.pool, ada.user)
    await until(lambda: again.offsets)
    assert again.offsets == [stored + 1]


async def test_what_was_forgotten_is_a_snapshot(two: Meeting) -> None:
    """Old events are deleted; the position stays, so nothing comes twice."""
    ada = await two.guest()
    for _ in range(3):
        await store(two.pool, ada.user)
    await two.pool.execute("update person_events set happened_at = now() - interval '31 days'")
    await store(two.pool, ada.user)
    await person_events.forget(two.pool, 30 * 86400)
    again = await come_raw(two, ada, two.sites[0], offset=1)
    assert again.person == {"offset": 4, "subscription": {"tier": "FREE"}}
    recent = await come_raw(two, ada, two.sites[0], offset=3)
    assert recent.person == {"offset": 4, "recovered": True, "missed": 1}


async def test_a_lost_publication_is_found_by_the_next(two: Meeting) -> None:
    """A hole is filled from Postgres within a second."""
    ada = await two.guest()
    client = await two.come(ada, two.sites[0])
    await store(two.pool, ada.user)
    await tell(two.sites[1].node, two.pool, ada.user)
    await until(lambda: offsets(ada.heard[client]) == [1, 2], within=1.0)
    assert two.sites[0].node.person_events.healed == 2


async def test_a_lost_publication_at_the_tail_is_found_by_looking(two: Meeting) -> None:
    """Within five seconds, by comparing with what happened lately."""
    ada = await two.guest()
    client = await two.come(ada, two.sites[0])
    await store(two.pool, ada.user)
    await until(lambda: offsets(ada.heard[client]) == [1], within=5.0)


async def test_without_redis_it_is_found_by_looking(two: Meeting, valkey: Valkey) -> None:
    """The node that stores it tells its own people at once, others find it."""
    ada = await two.guest()
    here, there = [await two.come(ada, site) for site in two.sites]
    valkey.kill()
    await tell(two.sites[0].node, two.pool, ada.user)
    assert offsets(ada.heard[here]) == [] or offsets(ada.heard[here]) == [1]
    await until(lambda: offsets(ada.heard[here]) == [1], within=0.5)
    await until(lambda: offsets(ada.heard[there]) == [1], within=5.0)


async def test_what_is_rolled_back_leaves_no_hole(two: Meeting) -> None:
    """Its offset goes to the next."""
    ada = await two.guest()
    client = await two.come(ada, two.sites[0])
    async with two.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await person_events.append(connection, [NewEvent(ada.user, FREE)])
        await transaction.rollback()
    await tell(two.sites[0].node, two.pool, ada.user)
    await until(lambda: offsets(ada.heard[client]) == [1])


async def test_offsets_have_no_gaps_whatever_is_stored_at_once(two: Meeting) -> None:
    """Transactions for the same persons in different orders neither deadlock nor skip."""
    guests = [await two.guest() for _ in range(4)]
    choose = random.Random(4)
    chosen = [choose.choices([guest.user for guest in guests], k=choose.randint(1, 6)) for _ in range(60)]
    await asyncio.gather(*(store(two.pool, *users) for users in chosen))
    for guest in guests:
        rows = await two.pool.fetch(
            'select "offset" from person_events where user_id = $1 order by 1', guest.user
        )
        expected = sum(users.count(guest.user) for users in chosen)
        assert [row["offset"] for row in rows] == list(range(1, expected + 1))


async def test_nothing_is_lost_or_doubled_while_one_comes_and_goes(
    database_url: str, valkey: Valkey, pool: Pool
) -> None:
    """Events of both nodes, while connections break again and again."""
    async with meeting(database_url, valkey.url, pool, 2) as two:
        ada = await two.guest()
        clients = [await two.come(ada, site, backoff=Backoff(0.0, 0.0)) for site in two.sites]
        choose = random.Random(7)
        for turn in range(150):
            await tell(two.sites[turn % 2].node, pool, ada.user)
            link = choose.choice(clients)._traffic.carrier.link
            if link is not None and choose.random() < 0.15:
                link.abort()
        for client in clients:
            heard = ada.heard[client]
            await until(lambda heard=heard: offsets(heard)[-1:] == [150])  # type: ignore[misc]
            assert offsets(heard) == list(range(1, 151))
            assert any(isinstance(one, CaughtUp) for one in heard)


async def test_an_event_that_changes_sessions_makes_them_be_read_again(two: Meeting) -> None:
    """Another tier counts on both nodes as soon as the event is there; one that says nothing of it changes nothing."""
    ada = await two.guest()
    for site in two.sites:
        await two.come(ada, site)
    await two.pool.execute("update users set tier = 'PREMIUM_MONTHLY' where id = $1", ada.user)
    two.sites[0].node.person_events.publish(await store(two.pool, ada.user))
    await until(lambda: all(offsets(heard) == [1] for heard in ada.heard.values()))
    assert tiers(two, ada) == {"FREE"}
    two.sites[0].node.person_events.publish(await store(two.pool, ada.user, changes_session=True))
    await until(lambda: tiers(two, ada) == {"PREMIUM_MONTHLY"}, within=1.0)


async def test_a_change_during_hello_is_not_missed(two: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is committed after the session was read and published before the session is let in."""
    ada = await two.guest()
    node = two.sites[0].node
    find = node.sessions.find

    async def slowly(session: Any, hearing: Any) -> Any:
        live = await find(session, hearing)
        await two.pool.execute("update users set tier = 'PREMIUM_YEARLY' where id = $1", ada.user)
        node.person_events.publish(await store(two.pool, ada.user, changes_session=True))
        return live

    monkeypatch.setattr(node.sessions, "find", slowly)
    arrived = await come_raw(two, ada, two.sites[0])
    await until(lambda: arrived.offsets == [1])
    await until(lambda: tiers(two, ada) == {"PREMIUM_YEARLY"}, within=1.0)


def tiers(two: Meeting, guest: Guest) -> set[str]:
    """Return the tiers of somebody's live sessions."""
    connections = [c for site in two.sites for c in site.node.hub.members.of_user(guest.user)]
    return {c.session.tier for c in connections if c.session is not None}


async def test_a_channel_is_heard_while_somebody_is_there(
    two: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a moment longer, because people come back."""
    monkeypatch.setattr(carrying, "LINGER_SECONDS", 0.0)
    ada = await two.guest()
    client = await two.come(ada, two.sites[0])
    node = two.sites[0].node
    assert len(node.person_events) == 1
    await client.close()
    await until(lambda: not node.hub.members.has_user(ada.user))
    await until(lambda: len(node.person_events) == 0, within=2 * carrying.CHECK_SECONDS + 1)


async def test_a_publication_that_can_not_be_read_harms_nobody(two: Meeting) -> None:
    """Whatever comes on a person's channel."""
    ada = await two.guest()
    client = await two.come(ada, two.sites[0])
    node = two.sites[0].node
    node.person_events.received(channel_of(ada.user), b"12345678garbage")
    node.person_events.received("lr:person:{nobody}", b"12345678")
    await tell(node, two.pool, ada.user)
    await until(lambda: offsets(ada.heard[client]) == [1])


@pytest.mark.parametrize("seed", range(4))
def test_a_feed_gives_out_each_event_once_and_in_order(seed: int) -> None:
    """However they come: early, late, twice, before it is known where to begin."""
    for schedule in range(seed * 250, seed * 250 + 250):
        choose = random.Random(schedule)
        start = choose.randint(0, 5)
        events = [Packet(Kind.DURABLE, offset, b"", b"") for offset in range(1, 30)]
        coming = events * 2
        choose.shuffle(coming)
        begin = choose.randint(0, len(coming))
        feed, given = Feed(), []
        for at, packet in enumerate(coming):
            if at == begin:
                given += feed.begin(start)
            given += feed.offer(packet)
        given += feed.begin(start)
        assert [packet.offset for packet in given] == list(range(start + 1, 30)), schedule
        assert feed.early is None


def test_channels_are_told_apart() -> None:
    """A person's channel is not a room's."""
    assert is_channel(channel_of(UserId(UUID(int=7))))
    assert not is_channel("lr:{00000000-0000-0000-0000-000000000007}:events")


class Raw:
    """A connection that says what it wants. `offsets` are those of the events that came."""

    def __init__(self, connection: RawConnection, offsets: list[int], person: dict[str, Any]) -> None:
        self.connection = connection
        self.offsets = offsets
        self.person = person


async def come_raw(
    two: Meeting, guest: Guest, site: Site, *, offset: int | None = None, epoch: str | None = None
) -> Raw:
    """Say hello, with a position if one is given."""
    heard: list[int] = []
    connection = await open_raw(
        site.port,
        lambda message: heard.append(message["person_offset"]) if "person_offset" in message else None,
    )
    said: dict[str, Any] = {}
    if offset is not None:
        said["person"] = {"epoch": epoch or site.node.stores.epoch, "offset": offset}
    welcome = await connection.call("hello", token=await two.token(guest, site), **said)
    assert welcome["type"] == "welcome"
    return Raw(connection, heard, welcome["person"])
