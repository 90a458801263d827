"""Engagement in Postgres: how long members who pay were in premium looprooms, counted for all of them in one statement.

All times are Postgres' own, and stretches that overlap count once, as in `storage.previews`. Who has premium by a trial, or by
hand, has paid nothing that could be shared, and a host does not earn by their own presence.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocol.envelope import RoomId, UserId
from storage.personal import Part
from storage.postgres.pool import Pool, answering

COUNT = """
insert into engagement as e (day, room_id, user_id, seconds, counted_until)
select (now() at time zone 'UTC')::date, r.id, sub.user_id, least($3::float8, $4::float8), clock_timestamp()
from unnest($1::uuid[], $2::uuid[]) as s (room_id, user_id)
join rooms r on r.id = s.room_id and r.premium and r.host_id <> s.user_id
join subscriptions sub on sub.user_id = s.user_id and sub.status in ('ACTIVE', 'CANCELED') and sub.reason <> 'payment_failed'
order by r.id, sub.user_id
on conflict (day, room_id, user_id) do update set
    seconds = least($4::float8, e.seconds + greatest(0, extract(epoch from excluded.counted_until
        - greatest(e.counted_until, excluded.counted_until - make_interval(secs => $3::float8))))),
    counted_until = greatest(e.counted_until, excluded.counted_until)
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
    ),
)


async def count(pool: Pool, present: Iterable[tuple[RoomId, UserId]], seconds: float, most: float) -> None:
    """Count people who were in rooms for `seconds` until now, at most `most` seconds a day for each of them in each room."""
    pairs = list(present)
    async with answering(pool) as connection:
        await connection.execute(
            COUNT, [room for room, _ in pairs], [user for _, user in pairs], seconds, most
        )


async def forget(pool: Pool, before: str) -> None:
    """Delete what was counted before a month, some at a time."""
    async with answering(pool) as connection:
        await connection.execute(FORGET, before)
