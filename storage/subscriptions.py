"""Subscriptions in Postgres: what was seen of them at the payment provider, and how each person's stands.

Everything that changes one person's subscription locks that person's row of `users` first, so there is one order: take the
state of an object if it is newer than the one that is known, compute how the person stands, write it down with the tier,
and tell the person, all in one transaction. The caller publishes what it is told after the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct

from protocol.envelope import UserId
from protocol.notifications import NotificationKind, Thing, ThingKind
from protocol.refusals import ErrorCode, Refused
from protocol.subscriptions import Reason, Subscription, SubscriptionChanged, SubscriptionStatus, Tier
from storage import passes
from storage.doubles import end_doubles
from storage.entitlements import Seen, Standing, newer, standing, tied
from storage.jobs import Job, enqueue
from storage.notifications import NewNotice, notify
from storage.payment_objects import USER, SubscriptionObject, room_of
from storage.person_events import NewEvent, Told
from storage.personal import Part
from storage.postgres.pool import Connection, Pool, answering
from storage.sealing import Sealer

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

CLAIM_EVENT = """
insert into payment_events (id, kind) values ($1, $2) on conflict do nothing returning id
"""

FORGET_EVENTS = """
delete from payment_events where id in (
    select id from payment_events where taken_at < now() - make_interval(secs => $1) limit 10000
)
"""

OWNER = """
select user_id from payment_customers where id = $1
"""

CUSTOMERS_OF = """
select id from payment_customers where user_id = $1 order by created_at, id
"""

KEEP_CUSTOMER = """
insert into payment_customers (id, user_id) select $1, id from users where id = $2
on conflict (id) do update set user_id = payment_customers.user_id
returning user_id
"""

DROP_CUSTOMER = """
delete from payment_customers where id = $1
"""

LOCK_PERSON = """
select tier::text from users where id = $1 for no key update
"""

SEEN = """
select id, seen_at, body::text from payment_subscriptions where user_id = $1
"""

SEE = """
insert into payment_subscriptions (id, user_id, seen_at, body) values ($1, $2, $3, $4::text::jsonb)
on conflict (id) do update set seen_at = excluded.seen_at, body = excluded.body
"""

NOTED = """
select tier::text, status::text, extract(epoch from until)::bigint as until, renews, reason,
       extract(epoch from changes_at)::bigint as changes_at
from subscriptions where user_id = $1
"""

NOTE = """
insert into subscriptions (user_id, tier, status, until, renews, reason, changes_at)
values ($1, $2::text::subscription_tier, $3::text::subscription_status, to_timestamp($4::bigint), $5, $6,
        to_timestamp($7::bigint))
on conflict (user_id) do update set
    tier = excluded.tier, status = excluded.status, until = excluded.until, renews = excluded.renews,
    reason = excluded.reason, changes_at = excluded.changes_at
"""

SET_TIER = """
update users set tier = $2::text::subscription_tier where id = $1
"""

DUE = """
select user_id from subscriptions where changes_at <= to_timestamp($1::double precision) order by changes_at limit $2
"""

NEXT_DUE = """
select extract(epoch from min(changes_at))::float8 from subscriptions
"""


class ForgetCustomers(Job, tag="customers.forget"):
    """Somebody has left for good: the provider ends what they pay for, and forgets them."""

    customers: list[str]


class Sighting(Struct, frozen=True):
    """What came of looking at a state. With `unsure` its place in time is a guess: ask the provider for the present one."""

    told: list[Told]
    unsure: bool = False


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


async def subscribed_before(pool: Pool, user: UserId) -> bool:
    """Say whether anything was ever seen of a person's subscription; a pass to a looproom is none."""
    async with answering(pool) as connection:
        seen = await _seen(connection, user)
    return any(room_of(one.subscription.metadata) is None for one in seen.values())


async def claim_event(connection: Connection, event: str, kind: str) -> bool:
    """Take an event of the provider in the transaction of its effect; False when it had its effect before.

    Whoever takes the same event at the same time waits here for the other one's commit.
    """
    return await connection.fetchval(CLAIM_EVENT, event, kind) is not None


async def forget_events(pool: Pool, after: float) -> None:
    """Forget events that were taken more than `after` seconds ago, some at a time."""
    async with answering(pool) as connection:
        await connection.execute(FORGET_EVENTS, after)


async def customers_of(pool: Pool, user: UserId) -> list[str]:
    """Return who a person is at the provider, the oldest first."""
    async with answering(pool) as connection:
        return [row["id"] for row in await connection.fetch(CUSTOMERS_OF, user)]


async def keep_customer(pool: Pool, customer: str, user: UserId) -> None:
    """Note who a person is at the provider."""
    async with answering(pool) as connection:
        await connection.execute(KEEP_CUSTOMER, customer, user)


async def drop_customer(pool: Pool, customer: str) -> None:
    """Forget a customer whom the provider does not have any more."""
    async with answering(pool) as connection:
        await connection.execute(DROP_CUSTOMER, customer)


async def leave_provider(connection: Connection, sealer: Sealer, user: UserId) -> None:  # noqa: ARG001 - as all are called
    """Have the provider forget somebody who leaves, in the transaction in which they do: nobody pays for what is gone."""
    customers = [row["id"] for row in await connection.fetch(CUSTOMERS_OF, user)]
    if customers:
        await enqueue(connection, ForgetCustomers(customers=customers))


async def owner_of(connection: Connection, customer: str | None, metadata: dict[str, str]) -> UserId | None:
    """Return whose a customer is: as it was noted, or as we wrote into the object itself. None when it is nobody's."""
    if customer is not None and (known := await connection.fetchval(OWNER, customer)) is not None:
        return UserId(known)
    try:
        user = UserId(UUID(metadata.get(USER, "")))
    except ValueError:
        return None
    if customer is None:
        return user
    noted = await connection.fetchval(KEEP_CUSTOMER, customer, user)
    return None if noted is None else UserId(noted)


async def see(
    connection: Connection, user: UserId, at: int, subscription: SubscriptionObject, *, now: int, grace: int
) -> Sighting:
    """Take note of a state of a person's subscription, and let them stand as follows. Moments and `grace` are in seconds."""
    if await connection.fetchval(LOCK_PERSON, user) is None:
        return Sighting([])
    known = await _seen(connection, user)
    new = Seen(at, subscription)
    old = known.get(subscription.id, new)
    unsure = tied(old, new)
    counts = newer(old, new)
    if subscription.id not in known or counts is not old:
        body = msgspec.json.encode(counts.subscription).decode()
        await connection.execute(SEE, subscription.id, user, counts.at, body)
    known[subscription.id] = counts
    await end_doubles(connection, user, [one.subscription for one in known.values()])
    told = await passes.follow(connection, user, counts.subscription, now=now, grace=grace)
    return Sighting(told + await _settle(connection, user, list(known.values()), now, grace), unsure)


async def settle(pool: Pool, user: UserId, *, now: int, grace: int) -> list[Told]:
    """Let a person stand as follows from what was seen, at this moment."""
    async with answering(pool) as connection, connection.transaction():
        if await connection.fetchval(LOCK_PERSON, user) is None:
            return []
        seen = await _seen(connection, user)
        return await _settle(connection, user, list(seen.values()), now, grace)


async def due(pool: Pool, now: float, limit: int = 100) -> list[UserId]:
    """Return those whose subscription changes by itself by `now`, at most `limit`."""
    async with answering(pool) as connection:
        return [row["user_id"] for row in await connection.fetch(DUE, now, limit)]


async def next_due(pool: Pool) -> float | None:
    """Return when the next subscription changes by itself."""
    async with answering(pool) as connection:
        moment: float | None = await connection.fetchval(NEXT_DUE)
    return moment


async def _seen(connection: Connection, user: UserId) -> dict[str, Seen]:
    rows = await connection.fetch(SEEN, user)
    return {
        row["id"]: Seen(row["seen_at"], msgspec.json.decode(row["body"], type=SubscriptionObject))
        for row in rows
    }


async def _settle(
    connection: Connection, user: UserId, seen: Sequence[Seen], now: int, grace: int
) -> list[Told]:
    new = standing([one.subscription for one in seen], now, grace)
    if new is None:
        return []
    row = await connection.fetchrow(NOTED, user)
    old = None if row is None else _noted(row)
    if new == old:
        return []
    await connection.execute(
        NOTE, user, new.tier, new.status, new.until, new.renews, new.reason, new.changes_at
    )
    if old is not None and msgspec.structs.replace(old, changes_at=new.changes_at) == new:
        return []
    await connection.execute(SET_TIER, user, new.tier)
    event = SubscriptionChanged(
        Subscription(
            tier=new.tier, status=new.status, until=new.until * 1000, renews=new.renews, reason=new.reason
        )
    )
    notices = []
    # That somebody does not want to go on is no outcome of a payment: they have said so themselves.
    if new.reason is not Reason.CANCELED:
        thing = Thing(kind=ThingKind.SUBSCRIPTION, id=user)
        notices.append(NewNotice(user=user, kind=NotificationKind.PAYMENT, thing=thing, outcome=new.reason))
    return await notify(connection, notices, also=[NewEvent(user, event, changes_session=True)])


def _noted(row: asyncpg.Record) -> Standing:
    return Standing(
        tier=Tier(row["tier"]),
        status=SubscriptionStatus(row["status"]),
        until=row["until"],
        renews=row["renews"],
        reason=Reason(row["reason"]),
        changes_at=row["changes_at"],
    )
