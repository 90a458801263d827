"""Pools in Postgres: a month's revenue of premium, shared out once: a part to the platform, the rest to creators by engagement.

Whoever books into a pool holds its row, and whoever closes it locks it: so what is shared out is all that came. What comes later
is of the month in which it comes, and what goes back later is the platform's loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from storage.ledger import PLATFORM, Booking, balance, book, creator_of, earnings, split
from storage.postgres.pool import Connection, Pool, answering

PLATFORM_PERCENT: Final = 20

OPEN = """
insert into pools (period) select * from unnest($1::text[]) as wanted (period) order by period on conflict do nothing
"""

HOLD = """
select period, closed_at is not null as closed from pools where period = any($1::text[]) order by period for share
"""

LOCK = """
select closed_at is null from pools where period = $1 for update
"""

CLOSE = """
update pools set closed_at = now() where period = $1
"""

TO_CLOSE = """
select period from pools where closed_at is null and period < $1 order by period
"""

ENGAGED = """
select r.host_id, sum(e.seconds) as seconds
from engagement e join rooms r on r.id = e.room_id
where to_char(e.day, 'YYYY-MM') = $1 and r.host_id is not null
group by r.host_id order by r.host_id
"""

LEFT = """
select payee_id, seconds from engagement_left where period = $1 order by payee_id
"""


def account(period: str) -> str:
    """Name the account of what is shared for a month."""
    return f"pool:{period}"


def months(at: float, count: int) -> list[str]:
    """Return so many months from a moment (seconds since 1970) on, as ``2026-11``."""
    moment = datetime.fromtimestamp(at, UTC)
    first = moment.year * 12 + moment.month - 1
    return [f"{one // 12:04d}-{one % 12 + 1:02d}" for one in range(first, first + count)]


async def closed(connection: Connection, periods: Iterable[str]) -> set[str]:
    """Return those of some months that are shared out already; the others are not before this transaction ends."""
    wanted = list(periods)
    await connection.execute(OPEN, wanted)
    return {row["period"] for row in await connection.fetch(HOLD, wanted) if row["closed"]}


async def to_close(pool: Pool, before: str) -> list[str]:
    """Return the months before another one that are not shared out, in order."""
    async with answering(pool) as connection:
        return [row["period"] for row in await connection.fetch(TO_CLOSE, before)]


async def close(pool: Pool, period: str) -> bool:
    """Share out a month; False when that was done. Where nobody was in any room, it is left to the month that follows."""
    async with answering(pool) as connection, connection.transaction():
        if not await connection.fetchval(LOCK, period):
            return False
        cents = -await balance(connection, account(period))
        if cents > 0:
            entries = {account(period): cents}
            for name, share in (await _shares(connection, period, cents)).items():
                entries[name] = -share
            await book(connection, Booking(cause=f"pool:{period}", kind="pool", entries=entries))
        await connection.execute(CLOSE, period)
    return True


async def _shares(connection: Connection, period: str, cents: int) -> dict[str, int]:
    seconds: dict[UUID, float] = {
        row["payee_id"]: row["seconds"] for row in await connection.fetch(LEFT, period)
    }
    for row in await connection.fetch(ENGAGED, period):
        creator = await creator_of(connection, row["host_id"])
        if creator is not None:
            seconds[creator] = seconds.get(creator, 0.0) + row["seconds"]
    percent = 100 - PLATFORM_PERCENT
    weights = {earnings(one): percent * int(counted) for one, counted in seconds.items() if counted >= 1}
    if not weights:
        year, month = map(int, period.split("-"))
        following = f"{year + month // 12:04d}-{month % 12 + 1:02d}"
        gone = await closed(connection, [following])
        return {PLATFORM if gone else account(following): cents}
    whole = sum(weights.values()) // (100 - PLATFORM_PERCENT)
    return split(cents, {PLATFORM: PLATFORM_PERCENT * whole} | weights)
