"""Engagement in Postgres: how long members who pay were in premium looprooms, counted for all of them in one statement.

All times are Postgres' own, and stretches that overlap count once, as in `storage.previews`. Who has premium by a trial, or by
hand, has paid nothing that could be shared, and a host does not earn by their own presence.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocol.envelope import RoomId, UserId
from storage.ledger import creator_of
from storage.personal import Part
from storage.pools import closed
from storage.postgres.pool import Connection, Pool, answering
from storage.sealing import Sealer

# Whoever is just leaving for good is passed over: a row of theirs would fail the statement, and with it what counts of all others.
COUNT = """
with there as materialized (
    select id from users where id = any($2::uuid[]) order by id for key share skip locked
)
insert into engagement as e (day, room_id, user_id, seconds, counted_until)
select (now() at time zone 'UTC')::date, r.id, sub.user_id, least($3::float8, $4::float8), clock_timestamp()
from unnest($1::uuid[], $2::uuid[]) as s (room_id, user_id)
join there on there.id = s.user_id
join rooms r on r.id = s.room_id and r.premium and r.host_id <> s.user_id
join subscriptions sub on sub.user_id = s.user_id and sub.status in ('ACTIVE', 'CANCELED') and sub.reason <> 'payment_failed'
order by r.id, sub.user_id
on conflict (day, room_id, user_id) do update set
    seconds = least($4::float8, e.seconds + greatest(0, extract(epoch from excluded.counted_until
        - greatest(e.counted_until, excluded.counted_until - make_interval(secs => $3::float8))))),
    counted_until = greatest(e.counted_until, excluded.counted_until)
"""

# What counts of a member is for the hosts of the rooms that they were in; what counts for a host is of all who were in theirs.
LEAVING = """
select to_char(e.day, 'YYYY-MM') as period, r.host_id, sum(e.seconds) as seconds
from engagement e join rooms r on r.id = e.room_id
where r.host_id is not null and (e.user_id = $1 or r.host_id = $1)
group by 1, 2 order by 1, 2
"""

KEEP = """
insert into engagement_left as l (period, payee_id, seconds) values ($1, $2, $3)
on conflict (period, payee_id) do update set seconds = l.seconds + excluded.seconds
"""

FORGET_LEFT = """
delete from engagement_left where period < $1
"""

FORGET = """
delete from engagement where ctid = any(array(
    select ctid from engagement where to_char(day, 'YYYY-MM') < $1 limit 10000
))
"""

PARTS = (
    Part(
        name="engagement",
        columns=("engagement.user_id",),
        rows="""
        select r.slug as looproom, e.day, e.seconds
        from engagement e join rooms r on r.id = e.room_id where e.user_id = $1 order by e.day, e.room_id
        """,
        stays="for how long members were with a creator in a month that is not shared out yet, in one sum: without who they were",
    ),
)


async def count(pool: Pool, present: Iterable[tuple[RoomId, UserId]], seconds: float, most: float) -> None:
    """Count people who were in rooms for `seconds` until now, at most `most` seconds a day for each of them in each room."""
    pairs = list(present)
    async with answering(pool) as connection:
        await connection.execute(
            COUNT, [room for room, _ in pairs], [user for _, user in pairs], seconds, most
        )


async def leave_engagement(connection: Connection, sealer: Sealer, user: UserId) -> None:  # noqa: ARG001 - as all are called
    """Let count on what somebody who leaves has given to creators, or has earned as one, in the months that are not shared out."""
    rows = await connection.fetch(LEAVING, user)
    shared_out = await closed(connection, {row["period"] for row in rows})
    for row in rows:
        payee = await creator_of(connection, UserId(row["host_id"]))
        if payee is not None and row["period"] not in shared_out:
            await connection.execute(KEEP, row["period"], payee, row["seconds"])


async def forget(pool: Pool, before: str) -> None:
    """Delete what was counted before a month, some at a time."""
    async with answering(pool) as connection:
        await connection.execute(FORGET, before)
        await connection.execute(FORGET_LEFT, before)
