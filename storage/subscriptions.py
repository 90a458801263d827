"""Subscriptions in Postgres: how each person's stands."""

from __future__ import annotations

from typing import Final

import asyncpg

from protocol.envelope import UserId
from protocol.refusals import ErrorCode, Refused
from protocol.subscriptions import Reason, Subscription, SubscriptionStatus, Tier
from storage.personal import Part
from storage.postgres.pool import Pool, answering

STANDING: Final = """
    u.tier::text as tier, sub.status::text as status, (extract(epoch from sub.until) * 1000)::bigint as until,
    coalesce(sub.renews, false) as renews, sub.reason
"""
"""The columns of a person `u` and their subscription `sub` (a left join) that `standing_of` reads."""

FIND = f"""
select {STANDING} from users u left join subscriptions sub on sub.user_id = u.id where u.id = $1
"""

PARTS = (
    Part(
        name="subscription",
        columns=("subscriptions.user_id",),
        rows="select tier::text, status::text, until, renews, reason from subscriptions where user_id = $1",
    ),
    Part(
        name="payment_customers",
        columns=("payment_customers.user_id",),
        rows="select id, created_at from payment_customers where user_id = $1 order by created_at, id",
    ),
    Part(
        name="payment_subscriptions",
        columns=("payment_subscriptions.user_id",),
        rows="select id, seen_at, body::text from payment_subscriptions where user_id = $1 order by id",
    ),
)


def standing_of(row: asyncpg.Record) -> Subscription:
    """Read how a person's subscription stands. A tier without a subscription was given to them by hand."""
    return Subscription(
        tier=Tier(row["tier"]),
        status=None if row["status"] is None else SubscriptionStatus(row["status"]),
        until=row["until"],
        renews=row["renews"],
        reason=None if row["reason"] is None else Reason(row["reason"]),
    )


async def find(pool: Pool, user: UserId) -> Subscription:
    """Return how a person's subscription stands. Raises `Refused` (not_found) when there is no such person."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(FIND, user)
    if row is None:
        raise Refused(ErrorCode.NOT_FOUND)
    return standing_of(row)
