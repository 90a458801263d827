"""The ledger: whatever is booked sums to zero, shares sum to what is shared, and a cause is booked once."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.envelope import RoomId, UserId
from protocol.subscriptions import Tier
from storage.ledger import CARDS, PLATFORM, Booking, balance, book, creator_of, earnings, entries_of, split
from storage.pools import account as pool_of
from storage.pools import months
from storage.postgres.pool import Pool
from storage.sales import Sale, link, returned, sell
from tests.hosting import make_room

CENTS = st.integers(0, 10**9)


@given(CENTS, st.dictionaries(st.text(max_size=3), st.integers(0, 10**6), max_size=8))
def test_shares_sum_to_what_is_shared(cents: int, weights: dict[str, int]) -> None:
    """To the cent, nobody less than the whole cents of their part, and nobody a cent more than one above it."""
    shares = split(cents, weights)
    whole = sum(weights.values())
    assert sum(shares.values()) == (cents if whole else 0)
    for key, share in shares.items():
        assert 0 <= share - cents * weights[key] // whole <= 1
        assert weights[key] or not share


def test_largest_remainders_come_first() -> None:
    """What rounding leaves is given by the remainders, and between equal ones by their order."""
    assert split(100, {"a": 1, "b": 1, "c": 1}) == {"a": 34, "b": 33, "c": 33}
    assert split(10, {"a": 15, "b": 85}) == {"a": 2, "b": 8}
    assert split(999, {"platform": 20, "creator": 80}) == {"platform": 200, "creator": 799}
    assert split(5, {}) == split(5, {"a": 0}) == {}


def test_months() -> None:
    """A year of months begins with the one of the moment, over the end of the year."""
    assert months(1_796_000_000, 2) == ["2026-11", "2026-12"]
    assert months(1_796_000_000, 12)[-1] == "2027-10"


async def booked(pool: Pool, cause: str, **entries: int) -> bool:
    """Book a transaction."""
    async with pool.acquire() as connection, connection.transaction():
        return await book(connection, Booking(cause=cause, kind="test", entries=entries))


async def test_a_cause_is_booked_once(pool: Pool) -> None:
    """However many try at the same time."""
    tried = await asyncio.gather(*(booked(pool, "one", cards=5, platform=-5) for _ in range(10)))
    assert sorted(tried) == [False] * 9 + [True]
    async with pool.acquire() as connection:
        assert await entries_of(connection, "one") == {"cards": 5, "platform": -5}
        assert await balance(connection, CARDS) == 5
    assert not await booked(pool, "nothing", cards=0, platform=0)


@pytest.mark.parametrize("entries", [{"cards": 5}, {"cards": 5, "platform": -4}])
async def test_what_does_not_balance_is_refused(pool: Pool, entries: dict[str, int]) -> None:
    """By Postgres itself, at the commit; nothing of it is left."""
    with pytest.raises(asyncpg.CheckViolationError, match="does not balance"):
        await booked(pool, "one", **entries)
    assert await pool.fetchval("select count(*) from ledger_transactions") == 0


@pytest.mark.parametrize(
    "statement",
    [
        "update ledger_entries set cents = 6",
        "delete from ledger_entries",
        "truncate ledger_entries",
        "update ledger_transactions set kind = 'other'",
        "delete from ledger_transactions",
        "insert into ledger_transactions (cause, kind) values ('two', 'test')",
        "insert into ledger_entries select id, 'more', 1 from ledger_transactions",
    ],
)
async def test_nothing_is_changed_afterwards(pool: Pool, statement: str) -> None:
    """Nor is an entry added that unbalances what stands, nor a transaction without entries."""
    await booked(pool, "one", cards=5, platform=-5)
    with pytest.raises(asyncpg.CheckViolationError):
        await pool.execute(statement)


async def test_a_creator_has_one_account(pool: Pool) -> None:
    """And nobody who is not there has one. It outlives them, without their name."""
    user = UserId(uuid4())
    await pool.execute("insert into users (id, name) values ($1, 'Ada')", user)
    async with pool.acquire() as connection:
        creator = await creator_of(connection, user)
        assert creator == await creator_of(connection, user)
        assert await creator_of(connection, UserId(uuid4())) is None
        await connection.execute("delete from users where id = $1", user)
        assert [tuple(row) for row in await connection.fetch("select id, user_id from creators")] == [
            (creator, None)
        ]


async def sums(pool: Pool) -> dict[str, int]:
    """Return the balance of every account."""
    rows = await pool.fetch(
        "select account, sum(cents)::bigint as cents from ledger_entries group by 1 having sum(cents) <> 0"
    )
    return {row["account"]: row["cents"] for row in rows}


async def take(pool: Pool, step: str, sale: Sale) -> None:
    """Take one of the words about a payment."""
    async with pool.acquire() as connection, connection.transaction():
        match step.split():
            case ["paid"]:
                await sell(connection, sale, now=sale.at)
            case ["link"]:
                await link(connection, "pi_1", sale.id, now=sale.at)
            case [who, cents, at, final]:
                await returned(
                    connection, who, "pi_1", int(cents), final=final == "final", at=int(at), now=sale.at
                )


@pytest.mark.parametrize("number", range(12))
async def test_any_order_has_one_end(pool: Pool, number: int) -> None:
    """Paid, linked, refunded twice, disputed and won, in many orders and some of them twice: the same balances, to the cent."""
    room: RoomId = await make_room(pool, "sold")
    host = await pool.fetchval("select host_id from rooms where id = $1", room)
    sale = Sale(id="in_1", cents=999, at=1_796_000_000, room=room, pass_id="sub_1", fee=15)
    steps = ["paid", "link", "ch_1 100 1 -", "ch_1 333 2 -", "du_1 999 3 -", "du_1 0 3 final"]
    order = steps[number % 6 :] + steps[: number % 6]
    for step in order[::-1] if number >= 6 else order:
        await take(pool, step, sale)
        assert sum((await sums(pool)).values()) == 0
        await take(pool, step, sale)
    async with pool.acquire() as connection:
        creator = await creator_of(connection, host)
    assert creator is not None
    back = split(333, {PLATFORM: 150, earnings(creator): 849})
    assert await sums(pool) == {
        CARDS: 666,
        PLATFORM: back[PLATFORM] - 150,
        earnings(creator): back[earnings(creator)] - 849,
    }


async def test_all_that_goes_back_leaves_nothing(pool: Pool) -> None:
    """A refund and a dispute of all of it are more than was paid: what is taken back is what was paid."""
    room = await make_room(pool, "sold")
    sale = Sale(id="in_1", cents=1001, at=1_796_000_000, room=room, fee=15)
    for step in ("paid", "link", "ch_1 1001 1 -", "du_1 1001 2 -"):
        await take(pool, step, sale)
    assert await sums(pool) == {}
    assert await pool.fetchval("select returned_cents from sales") == 1001


async def test_premium_is_pooled(pool: Pool) -> None:
    """A month in its pool, a year in twelve, to the cent; what is nobody's is the platform's."""
    for number, (tier, cents) in enumerate(
        [(Tier.PREMIUM_MONTHLY, 999), (Tier.PREMIUM_YEARLY, 9901), (Tier.CREATOR_PRO, 2900), (None, 7)]
    ):
        sale = Sale(id=f"in_{number}", cents=cents, at=1_796_000_000, tier=tier)
        await take(pool, "paid", sale)
    await take(pool, "paid", Sale(id="gone", cents=5, at=1_796_000_000, room=RoomId(uuid4())))
    found = await sums(pool)
    assert found.pop(CARDS) == 999 + 9901 + 2900 + 7 + 5
    assert found.pop(PLATFORM) == -2912
    assert found.pop(pool_of("2026-11")) == -999 - 826
    assert set(found.values()) == {-825}
    assert len(found) == 11
