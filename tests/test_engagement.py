"""The pool of premium: the time that counts, who earns by it, and a month that is shared out once, to the cent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from uuid import UUID, uuid4

import pytest

from protocol.envelope import RoomId, UserId
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import JoinRoom, LeaveRoom
from protocol.subscriptions import Tier
from server import engagement as counting
from server.engagement import close_pools
from server.jobs import DAY
from storage import engagement, pools
from storage.departures import remove_person
from storage.ledger import CARDS, PLATFORM, creator_of, earnings
from storage.postgres.pool import Pool
from storage.sales import Sale, link, returned, sell
from tests.hosting import make_room
from tests.meeting import Guest, Meeting, meeting
from tests.redis.valkeys import Valkey

NOVEMBER = datetime(2026, 11, 10, tzinfo=UTC).timestamp()
CLOSES = datetime(2026, 12, 4, 1, tzinfo=UTC).timestamp()


@pytest.fixture
async def two(
    database_url: str, valkey: Valkey, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Meeting]:
    """Run two nodes that count only when they are told to."""
    monkeypatch.setattr(counting, "COUNT_SECONDS", 3600.0)
    async with meeting(database_url, valkey.url, pool, 2, engagement_hours_a_day=1) as running:
        yield running


async def subscriber(two: Meeting, status: str = "ACTIVE", reason: str = "paid") -> Guest:
    """Make somebody who has a subscription."""
    guest = await two.guest()
    await two.pool.execute("update users set tier = 'PREMIUM_MONTHLY' where id = $1", guest.user)
    await two.pool.execute(
        "insert into subscriptions (user_id, tier, status, until, renews, reason) "
        "values ($1, 'PREMIUM_MONTHLY', $2::subscription_status, now() + interval '1 day', true, $3)",
        guest.user,
        status,
        reason,
    )
    return guest


async def counted(two: Meeting, seconds: float) -> None:
    """Let both nodes count, as if so many seconds had passed since they did last."""
    for site in two.sites:
        site.node.engagement._since = site.node.hub.clock() - seconds
        await site.node.engagement.count()


async def found(pool: Pool) -> dict[tuple[UUID, UUID], float]:
    """Return what is counted, by room and person."""
    rows = await pool.fetch("select room_id, user_id, seconds from engagement")
    return {(row["room_id"], row["user_id"]): row["seconds"] for row in rows}


async def test_who_counts(two: Meeting) -> None:
    """Members who pay, in premium rooms of others, once however many devices they have there on whatever node."""
    premium, free = await make_room(two.pool, "premium", preview=60), await make_room(two.pool, "free")
    sold = await make_room(two.pool, "sold", preview=60)
    await two.pool.execute("update rooms set month_cents = 500 where id = $1", sold)
    ada = await subscriber(two)
    others = [
        await subscriber(two, "TRIAL", "trial"),
        await subscriber(two, "ACTIVE", "payment_failed"),
        await two.guest(),
        await two.guest(),
        await subscriber(two),
    ]
    await two.pool.execute("update users set tier = 'PREMIUM_YEARLY' where id = $1", others[2].user)
    host = others[4]
    await two.pool.execute("update rooms set host_id = $1", host.user)
    clients = [await two.come(ada, site) for site in (*two.sites, two.sites[1])]
    for client in (*clients, *[await two.come(one, two.sites[0]) for one in others]):
        await client.call(JoinRoom(str(premium)))
        await client.call(JoinRoom(str(free)))
    await (await two.come(host, two.sites[1])).call(JoinRoom(str(sold)))
    await counted(two, 10)
    assert await found(two.pool) == {(premium, ada.user): pytest.approx(10, abs=0.5)}
    for client in clients:
        await client.call(LeaveRoom(str(premium)))
    await counted(two, 10)
    assert await found(two.pool) == {(premium, ada.user): pytest.approx(10, abs=0.5)}


async def test_a_day_has_an_end(two: Meeting) -> None:
    """Nobody counts for more than the hours of the settings, however long they stay."""
    room = await make_room(two.pool, "premium", preview=60)
    ada = await subscriber(two)
    await engagement.count(two.pool, [(room, ada.user)], 60, 3600)
    await two.pool.execute("update engagement set seconds = 3590, counted_until = now() - interval '60 s'")
    await engagement.count(two.pool, [(room, ada.user)], 60, 3600)
    assert await found(two.pool) == {(room, ada.user): 3600}


async def test_postgres_away(two: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be counted is counted with the next one, and no more than a minute of it."""
    room = await make_room(two.pool, "premium", preview=60)
    ada = await subscriber(two)
    await (await two.come(ada, two.sites[0])).call(JoinRoom(str(room)))
    node = two.sites[0].node
    count = engagement.count

    async def away(*_: object) -> None:
        raise Refused(ErrorCode.UNAVAILABLE)

    monkeypatch.setattr(engagement, "count", away)
    node.engagement._since = node.hub.clock() - 20
    with pytest.raises(Refused):
        await node.engagement.count()
    monkeypatch.setattr(engagement, "count", count)
    await node.engagement.count()
    assert await found(two.pool) == {(room, ada.user): pytest.approx(20, abs=1)}
    node.engagement._since = node.hub.clock() - 7200
    await two.pool.execute("delete from engagement")
    await node.engagement.count()
    assert await found(two.pool) == {(room, ada.user): 60}


# Sharing out.


async def person(pool: Pool) -> UserId:
    """Make an account."""
    user = UserId(uuid4())
    await pool.execute("insert into users (id, name) values ($1, 'somebody')", user)
    return user


async def stayed(pool: Pool, room: RoomId, seconds: float, day: str = "2026-11-12") -> None:
    """Let somebody have been in a room on a day."""
    await pool.execute(
        "insert into engagement values ($1, $2, $3, $4, now())",
        date.fromisoformat(day),
        room,
        await person(pool),
        seconds,
    )


async def paid(pool: Pool, cents: int, tier: Tier = Tier.PREMIUM_MONTHLY, *, now: float = NOVEMBER) -> str:
    """Let somebody have paid for premium in November; return the sale."""
    sale = Sale(id=f"in_{uuid4().hex}", cents=cents, at=int(NOVEMBER), tier=tier)
    async with pool.acquire() as connection, connection.transaction():
        await sell(connection, sale, now=int(now))
        await link(connection, f"pi_{sale.id}", sale.id, now=int(now))
    return sale.id


async def gave_back(pool: Pool, sale: str, cents: int, *, now: float) -> None:
    """Let a sale be refunded."""
    async with pool.acquire() as connection, connection.transaction():
        await returned(connection, f"ch_{sale}", f"pi_{sale}", cents, final=False, at=int(now), now=int(now))


async def sums(pool: Pool) -> dict[str, int]:
    """Return the balances of all accounts; a room's creator is called by the room."""
    found: dict[str, int] = {}
    rows = await pool.fetch("select account, sum(cents)::bigint as cents from ledger_entries group by 1")
    names = {
        f"earnings:{row['id']}": row["slug"]
        for row in await pool.fetch(
            "select c.id, r.slug from creators c join rooms r on r.host_id = c.user_id"
        )
    }
    for row in rows:
        if row["cents"]:
            found[names.get(row["account"], row["account"])] = row["cents"]
    assert sum(found.values()) == 0
    return found


async def close_on_both(two: Meeting, at: float = CLOSES) -> None:
    """Let both nodes share out what is over, twice at the same time."""
    await asyncio.gather(*(close_pools(site.node, at) for site in [*two.sites, *two.sites]))


async def test_a_month_is_shared_once(two: Meeting) -> None:
    """A fifth to the platform, the rest by the time of members, on the fourth day after the month; then never again."""
    rooms = [await make_room(two.pool, slug, preview=60) for slug in ("much", "little")]
    await stayed(two.pool, rooms[0], 3000)
    await stayed(two.pool, rooms[1], 1000.9)
    await stayed(two.pool, rooms[1], 10_000, "2026-12-01")
    await paid(two.pool, 1001)
    await close_on_both(two, CLOSES - 2 * DAY)
    assert await sums(two.pool) == {CARDS: 1001, "pool:2026-11": -1001}
    await close_on_both(two)
    assert await sums(two.pool) == {CARDS: 1001, PLATFORM: -200, "much": -601, "little": -200}
    assert await two.pool.fetchval("select count(*) from engagement") == 1
    await close_on_both(two)
    assert await two.pool.fetchval("select count(*) from ledger_transactions where kind = 'pool'") == 1


@pytest.mark.parametrize("who", ["nobody", "members", "a host", "everyone"])
async def test_who_leaves_takes_nothing_from_creators(two: Meeting, who: str) -> None:
    """In a month that is open: what counts is the same, of nobody, also for a host who leaves; a month that is closed stays so."""
    pool, sealer = two.pool, two.sites[0].node.stores.sealer
    rooms = [await make_room(pool, slug, preview=60) for slug in ("much", "little")]
    hosts = [await pool.fetchval("select host_id from rooms where id = $1", room) for room in rooms]
    for room, seconds in ((rooms[0], 2000.4), (rooms[0], 999.6), (rooms[1], 1000.9)):
        await stayed(pool, room, seconds)
    await stayed(pool, rooms[1], 5000, "2026-10-01")
    await close_pools(two.sites[0].node, NOVEMBER)
    assert await pool.fetchval("select count(*) from engagement") == 3
    await paid(pool, 1001)
    creators = []
    for host in hosts:
        async with pool.acquire() as connection:
            creators.append(await creator_of(connection, host))
    members = [row["user_id"] for row in await pool.fetch("select user_id from engagement order by seconds")]
    leaving = {
        "nobody": [],
        "members": members,
        "a host": hosts[:1],
        "everyone": [*members[:2], *hosts, members[2]],
    }
    for one in leaving[who]:
        assert await remove_person(pool, sealer, one) is not None
    assert bool(await pool.fetchval("select count(*) from engagement_left")) == (who != "nobody")
    await close_on_both(two)
    rows = await pool.fetch("select account, sum(cents)::int as cents from ledger_entries group by 1")
    assert {row["account"]: row["cents"] for row in rows if row["cents"]} == {
        CARDS: 1001,
        PLATFORM: -200,
        f"earnings:{creators[0]}": -601,
        f"earnings:{creators[1]}": -200,
    }
    assert await pool.fetchval("select count(*) from engagement_left") == 0


async def test_one_who_is_leaving_does_not_stop_the_counting(two: Meeting) -> None:
    """Of all who are there the others count, and nobody waits."""
    room = await make_room(two.pool, "premium", preview=60)
    ada, bo = await subscriber(two), await subscriber(two)
    async with two.pool.acquire() as connection, connection.transaction():
        await connection.execute("select from users where id = $1 for update", ada.user)
        await engagement.count(two.pool, [(room, ada.user), (room, bo.user)], 60, 3600)
        await connection.execute("delete from users where id = $1", ada.user)
    assert list(await found(two.pool)) == [(room, bo.user)]


async def test_what_comes_late_is_of_the_present_month(two: Meeting) -> None:
    """And what goes back late is the platform's loss: what was shared stays shared."""
    await stayed(two.pool, await make_room(two.pool, "room", preview=60), 100)
    sale = await paid(two.pool, 1000)
    await close_on_both(two)
    await paid(two.pool, 500, now=CLOSES)
    assert await sums(two.pool) == {CARDS: 1500, PLATFORM: -200, "room": -800, "pool:2026-12": -500}
    await gave_back(two.pool, sale, 1000, now=CLOSES)
    assert await sums(two.pool) == {CARDS: 500, PLATFORM: 800, "room": -800, "pool:2026-12": -500}


async def test_a_year_is_shared_over_its_months(two: Meeting) -> None:
    """What goes back of it comes from the months that are to come, and for those that are over from the platform."""
    await stayed(two.pool, await make_room(two.pool, "room", preview=60), 100)
    sale = await paid(two.pool, 9900, Tier.PREMIUM_YEARLY)
    await close_on_both(two)
    found = await sums(two.pool)
    assert (found["room"], found[PLATFORM], found["pool:2026-12"], found["pool:2027-10"]) == (
        -660,
        -165,
        -825,
        -825,
    )
    await gave_back(two.pool, sale, 9900, now=CLOSES)
    assert await sums(two.pool) == {"room": -660, PLATFORM: 660}


async def test_a_month_without_anybody(two: Meeting) -> None:
    """Its money is of the month that follows, over the end of a year, too."""
    await paid(two.pool, 1000)
    await close_on_both(two)
    assert await sums(two.pool) == {CARDS: 1000, "pool:2026-12": -1000}
    january = datetime(2027, 1, 5, tzinfo=UTC).timestamp()
    await close_on_both(two, january)
    assert await sums(two.pool) == {CARDS: 1000, "pool:2027-01": -1000}


async def test_a_host_who_has_left_earns_nothing(two: Meeting) -> None:
    """The others share what there is."""
    rooms = [await make_room(two.pool, slug, preview=60) for slug in ("left", "stays")]
    for room in rooms:
        await stayed(two.pool, room, 100)
    await two.pool.execute("update rooms set host_id = null where id = $1", rooms[0])
    await paid(two.pool, 1000)
    await close_on_both(two)
    assert await sums(two.pool) == {CARDS: 1000, PLATFORM: -200, "stays": -800}


@pytest.mark.parametrize("seed", range(6))
async def test_shares_and_platform_are_the_revenue(two: Meeting, seed: int) -> None:
    """Whatever was paid, however long whoever stayed, and whatever went back meanwhile: to the cent."""
    choose = random.Random(seed)
    rooms = [
        await make_room(two.pool, f"room-{number}", preview=60) for number in range(choose.randint(1, 9))
    ]
    for room in rooms:
        for _ in range(choose.randint(0, 3)):
            await stayed(two.pool, room, choose.uniform(0.5, 5000))
    await stayed(two.pool, rooms[0], 1)
    sales = {await paid(two.pool, cents): cents for cents in (choose.randint(1, 9999) for _ in range(8))}
    revenue = sum(sales.values())
    for sale, cents in sales.items():
        if choose.random() < 0.4:
            back = choose.randint(1, cents)
            await gave_back(two.pool, sale, back, now=NOVEMBER)
            revenue -= back
    await close_on_both(two)
    found = await sums(two.pool)
    assert found.pop(CARDS) == revenue
    assert not any(name.startswith("pool:") for name in found)
    assert -sum(found.values()) == revenue
    assert abs(found[PLATFORM] * 5 + revenue) < 5 * 1
    async with two.pool.acquire() as connection:
        for room in rooms:
            host = await connection.fetchval("select host_id from rooms where id = $1", room)
            creator = await creator_of(connection, host)
            assert creator is not None
            assert (
                await connection.fetchval(
                    "select coalesce(sum(cents), 0) from ledger_entries where account = $1", earnings(creator)
                )
            ) <= 0


async def test_money_that_comes_while_a_month_is_closed(two: Meeting) -> None:
    """Whatever comes at the same moment is in the month that is shared out, or in the present one; nothing is left in a closed pool."""
    await stayed(two.pool, await make_room(two.pool, "room", preview=60), 100)
    await paid(two.pool, 1)
    await asyncio.gather(*(paid(two.pool, 100, now=CLOSES) for _ in range(20)), close_on_both(two))
    assert "pool:2026-11" not in await sums(two.pool)
    assert await pools.to_close(two.pool, "2026-12") == []
