"""Passes to exclusive looprooms in Postgres: who may come in until when, by what they have paid.

A pass is of one payment or of one subscription. It counts until its end, which our own clock sees, and is taken back when all
of its money has gone back. Whatever changes somebody's passes locks their row of `users` first, and tells them in the same
transaction. The caller publishes what they are told after the commit.
"""

from __future__ import annotations

import asyncpg
from msgspec import Struct

from protocol.envelope import RoomId, UserId
from protocol.notifications import NotificationKind, Thing, ThingKind
from protocol.passes import PassChanged
from protocol.subscriptions import Reason, SubscriptionStatus
from storage.entitlements import paid_for
from storage.jobs import Job, enqueue
from storage.notifications import NewNotice, notify
from storage.payment_objects import SubscriptionObject, room_of
from storage.person_events import NewEvent, Told
from storage.personal import Part
from storage.postgres.pool import Connection, Pool, answering

OFFER = """
update rooms set month_cents = $3, session_cents = $4 where id = $1 and host_id = $2 returning true
"""

LOCK_PERSON = """
select true from users where id = $1 for no key update
"""

HOLDER = """
select user_id from passes where id = $1
"""

FIND = """
select room_id, until, open, taken_back from passes where id = $1
"""

NOTE = """
insert into passes (id, user_id, room_id, until, ends_at, renews)
select $1, $2, id, to_timestamp($4::bigint), to_timestamp($5::bigint), $6 from rooms where id = $3
on conflict (id) do update set until = excluded.until, ends_at = excluded.ends_at, renews = excluded.renews
"""

SETTLE = """
update passes p set
    taken_back = back.taken,
    open = not back.taken and p.ends_at > to_timestamp($2::bigint)
from (select exists (select from sales where pass_id = $1 and returned_cents >= cents) as taken) back
where p.id = $1
returning p.room_id, p.until, p.open, p.taken_back
"""

UNTIL = """
select (extract(epoch from max(until)) * 1000)::bigint from passes where user_id = $1 and room_id = $2 and open
"""

DUE = """
select id from passes where open and ends_at <= to_timestamp($1::double precision) order by ends_at limit $2
"""

NEXT_DUE = """
select extract(epoch from min(ends_at))::float8 from passes where open
"""

# What renews although its room can't be entered, or is open to everyone.
UNSOLD = """
select p.id from passes p join rooms r on r.id = p.room_id
where p.renews and p.open
  and (r.status <> 'PUBLISHED' or r.host_id is null or (r.month_cents is null and r.session_cents is null))
order by p.id limit 1000
"""

HOLDS = """
select exists (select from passes where user_id = $1 and room_id = $2 and open)
"""

HOLDS_ANOTHER = """
select exists (select from passes where user_id = $1 and room_id = $2 and open and id <> $3)
    and exists (select from passes where id = $3 and open)
"""

PARTS = (
    Part(
        name="passes",
        columns=("passes.user_id",),
        rows="""
        select r.slug as looproom, p.until, p.renews, p.taken_back
        from passes p join rooms r on r.id = p.room_id where p.user_id = $1 order by p.until, p.id
        """,
    ),
)


class EndRenewal(Job, tag="passes.end_renewal"):
    """A pass is not renewed any more: there is nothing left to pay for."""

    subscription: str


class Changed(Struct, frozen=True):
    """What became of a pass: what its person is told, and whether it was taken back by this."""

    told: list[Told]
    taken_back: bool = False


async def offer(pool: Pool, room: RoomId, host: UserId, month: int | None, session: int | None) -> bool:
    """Let a room cost so many cents by the month and by the session; False when it is not this host's."""
    async with answering(pool) as connection:
        return await connection.fetchval(OFFER, room, host, month, session) is not None


async def holds(pool: Pool, user: UserId, room: RoomId) -> bool:
    """Say whether somebody has a pass to a room."""
    async with answering(pool) as connection:
        found: bool = await connection.fetchval(HOLDS, user, room)
    return found


async def holds_another(connection: Connection, user: UserId, room: RoomId, pass_id: str) -> bool:
    """Say whether somebody has, beside a pass that counts, another one to the same room. They are locked already."""
    found: bool = await connection.fetchval(HOLDS_ANOTHER, user, room, pass_id)
    return found


async def grant(
    connection: Connection, pass_id: str, user: UserId, room: RoomId, until: int, now: int
) -> list[Told]:
    """Give somebody a pass until a moment (seconds since 1970)."""
    if await connection.fetchval(LOCK_PERSON, user) is None:
        return []
    before = await connection.fetchrow(FIND, pass_id)
    await connection.execute(NOTE, pass_id, user, room, until, until, False)
    return (await _settle(connection, pass_id, user, before, now, Reason.PAID)).told


async def follow(
    connection: Connection, user: UserId, subscription: SubscriptionObject, *, now: int, grace: int
) -> list[Told]:
    """Let a pass be as the newest state of its subscription says. The person is locked already. Nothing for other subscriptions."""
    room = room_of(subscription.metadata)
    stands = None if room is None else paid_for(subscription, now, grace)
    if stands is None or room is None:
        return []
    before = await connection.fetchrow(FIND, subscription.id)
    ends = stands.changes_at or stands.until
    if stands.status is SubscriptionStatus.EXPIRED:
        ends = min(ends, now)
    await connection.execute(NOTE, subscription.id, user, room, stands.until, ends, stands.renews)
    return (await _settle(connection, subscription.id, user, before, now, stands.reason)).told


async def settle(connection: Connection, pass_id: str, *, now: int, reason: Reason) -> Changed:
    """Let a pass count, or not, as its end and its money say now."""
    user: UserId | None = await connection.fetchval(HOLDER, pass_id)
    if user is None or await connection.fetchval(LOCK_PERSON, user) is None:
        return Changed([])
    before = await connection.fetchrow(FIND, pass_id)
    return await _settle(connection, pass_id, user, before, now, reason)


async def end(pool: Pool, pass_id: str, *, now: int) -> list[Told]:
    """End a pass whose moment has come."""
    async with answering(pool) as connection, connection.transaction():
        return (await settle(connection, pass_id, now=now, reason=Reason.ENDED)).told


async def due(pool: Pool, now: float, limit: int = 100) -> list[str]:
    """Return passes that have ended by `now`, at most `limit`."""
    async with answering(pool) as connection:
        return [row["id"] for row in await connection.fetch(DUE, now, limit)]


async def end_renewals(pool: Pool) -> None:
    """Have no pass renewed to a looproom that is withdrawn, or not sold any more. What is paid counts to its end."""
    async with answering(pool) as connection, connection.transaction():
        for row in await connection.fetch(UNSOLD):
            await enqueue(connection, EndRenewal(subscription=row["id"]), key=row["id"])


async def next_due(pool: Pool) -> float | None:
    """Return when the next pass ends."""
    async with answering(pool) as connection:
        moment: float | None = await connection.fetchval(NEXT_DUE)
    return moment


async def _settle(
    connection: Connection,
    pass_id: str,
    user: UserId,
    before: asyncpg.Record | None,
    now: int,
    reason: Reason,
) -> Changed:
    row = await connection.fetchrow(SETTLE, pass_id, now)
    if row is None:
        return Changed([])
    was = (False, None, False) if before is None else (before["open"], before["until"], before["taken_back"])
    taken_back = row["taken_back"] and not was[2]
    if (row["open"], row["until"]) == was[:2] or not (row["open"] or was[0]):
        return Changed([], taken_back)
    until = await connection.fetchval(UNTIL, user, row["room_id"])
    event = PassChanged(room=row["room_id"], until=until, reason=reason)
    notice = NewNotice(
        user=user,
        kind=NotificationKind.PAYMENT,
        thing=Thing(kind=ThingKind.LOOPROOM, id=row["room_id"]),
        outcome=reason,
    )
    told = await notify(connection, [notice], also=[NewEvent(user, event, changes_session=True)])
    return Changed(told, taken_back)
