"""Previews of premium rooms in Postgres: how many seconds free members have used, counted while they are there.

All times are Postgres' own, so that clocks of nodes don't matter. What was used is the union of all stretches that nodes
report: a stretch that overlaps with what is counted already adds only what is new of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from protocol.envelope import RoomId, UserId
from storage.personal import Part
from storage.postgres.pool import Pool, answering

LEASE_SECONDS: Final = 6.0
"""How long somebody is taken to be there after a node has said so: nodes say it again before."""

# Whoever is taken to be there by a node has used the time since that node counted last; it counts no second time when that
# node reports it.
ENTER = """
insert into previews as p (room_id, user_id, counted_until, present_until)
values ($1, $2, clock_timestamp(), clock_timestamp() + make_interval(secs => $4))
on conflict (room_id, user_id) do update set
    used_seconds = p.used_seconds
        + greatest(0, extract(epoch from least(excluded.counted_until, p.present_until) - p.counted_until)),
    counted_until = greatest(p.counted_until, excluded.counted_until),
    present_until = case when p.used_seconds < $3 then excluded.present_until else p.present_until end
returning used_seconds
"""

COUNT = """
insert into previews as p (room_id, user_id, used_seconds, counted_until, present_until)
select room_id, user_id, seconds, clock_timestamp(), clock_timestamp() + make_interval(secs => stays)
from unnest($1::uuid[], $2::uuid[], $3::double precision[], $4::double precision[]) as s (room_id, user_id, seconds, stays)
order by room_id, user_id
on conflict (room_id, user_id) do update set
    used_seconds = p.used_seconds + greatest(0, extract(epoch from excluded.counted_until
        - greatest(p.counted_until, excluded.counted_until - make_interval(secs => excluded.used_seconds)))),
    counted_until = greatest(p.counted_until, excluded.counted_until),
    present_until = excluded.present_until
returning room_id, user_id, used_seconds
"""

PARTS = (
    Part(
        name="previews",
        columns=("previews.user_id",),
        rows="""
        select r.slug as looproom, p.used_seconds
        from previews p join rooms r on r.id = p.room_id where p.user_id = $1 order by p.room_id
        """,
    ),
)


class Stretch(Struct, frozen=True):
    """A free member was in a premium room for `seconds` until now, and `stays`, or does not."""

    room: RoomId
    user: UserId
    seconds: float
    stays: bool


async def enter(pool: Pool, room: RoomId, user: UserId, most: float) -> float:
    """Begin a stretch of somebody's preview, if less than `most` seconds of it are used; return the seconds that are."""
    async with answering(pool) as connection:
        used: float = await connection.fetchval(ENTER, room, user, most, LEASE_SECONDS)
    return used


async def count(pool: Pool, stretches: Sequence[Stretch]) -> list[float]:
    """Count stretches, and return for each the seconds that its person has used of the preview."""
    joined: dict[tuple[RoomId, UserId], Stretch] = {}
    for one in stretches:
        key = one.room, one.user
        before = joined[key].seconds if key in joined else 0.0
        joined[key] = Stretch(one.room, one.user, before + one.seconds, one.stays)
    async with answering(pool) as connection:
        rows = await connection.fetch(
            COUNT,
            [one.room for one in joined.values()],
            [one.user for one in joined.values()],
            [one.seconds for one in joined.values()],
            [LEASE_SECONDS if one.stays else 0.0 for one in joined.values()],
        )
    used = {(row["room_id"], row["user_id"]): row["used_seconds"] for row in rows}
    return [used[one.room, one.user] for one in stretches]
