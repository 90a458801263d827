"""Statements of creators, read off the ledger: what was earned, what went back, what was paid out; by month, by day."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from msgspec import Meta, Struct

from storage.ledger import earnings
from storage.postgres.pool import Pool, answering

MONTHS = """
select to_char(t.happened_at at time zone 'UTC', 'YYYY-MM') as period,
    coalesce(-sum(e.cents) filter (where t.kind in ('sale', 'pool')), 0)::bigint as earned,
    coalesce(-sum(e.cents) filter (where t.kind = 'return'), 0)::bigint as returned,
    coalesce(-sum(e.cents) filter (where t.kind = 'payout'), 0)::bigint as paid_out
from ledger_entries e join ledger_transactions t on t.id = e.transaction_id
where e.account = $1
group by 1 order by 1
"""

LINES = """
select to_char(t.happened_at at time zone 'UTC', 'YYYY-MM-DD') as day, t.kind, r.slug as looproom,
    count(*) as number, (-sum(e.cents))::bigint as cents
from ledger_entries e join ledger_transactions t on t.id = e.transaction_id left join rooms r on r.id = t.room_id
where e.account = $1 and to_char(t.happened_at at time zone 'UTC', 'YYYY-MM') = $2
group by 1, 2, 3 order by 1, 2, 3
"""

_CENTS = "In cents; what was taken is negative."


class Month(Struct, frozen=True, kw_only=True):
    """A month of a creator's, in cents. `balance` is what is theirs at its end, and was not paid out."""

    period: Annotated[str, Meta(description="As `2026-11`, in UTC.")]
    earned: Annotated[int, Meta(description="By passes to their looprooms, and from the pool of premium.")]
    returned: Annotated[int, Meta(description="Refunds and disputes. " + _CENTS)]
    paid_out: Annotated[int, Meta(description="To their account. " + _CENTS)]
    balance: Annotated[int, Meta(description="What is theirs at the end of the month.")]


class Line(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came together on one day, of one kind and one looproom."""

    day: Annotated[str, Meta(description="As `2026-11-25`, in UTC.")]
    kind: Annotated[
        Literal["sale", "pool", "return", "payout"],
        Meta(description="A pass that was sold, a share of premium, what went back, what was paid out."),
    ]
    cents: Annotated[int, Meta(description=_CENTS)]
    number: Annotated[int, Meta(description="How many bookings it sums up.")]
    looproom: Annotated[str | None, Meta(description="Its slug.")] = None


async def months(pool: Pool, creator: UUID) -> list[Month]:
    """Return all months of a creator in which something was booked, the first one first."""
    async with answering(pool) as connection:
        rows = await connection.fetch(MONTHS, earnings(creator))
    found: list[Month] = []
    balance = 0
    for row in rows:
        balance += row["earned"] + row["returned"] + row["paid_out"]
        found.append(
            Month(
                period=row["period"],
                earned=row["earned"],
                returned=row["returned"],
                paid_out=row["paid_out"],
                balance=balance,
            )
        )
    return found


async def lines(pool: Pool, creator: UUID, period: str) -> list[Line]:
    """Return what makes up a month of a creator: their sum is by how much the balance has changed."""
    async with answering(pool) as connection:
        rows = await connection.fetch(LINES, earnings(creator), period)
    return [
        Line(
            day=row["day"],
            kind=row["kind"],
            cents=row["cents"],
            number=row["number"],
            looproom=row["looproom"],
        )
        for row in rows
    ]
