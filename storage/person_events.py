"""Events of persons in Postgres: stored with their offset in the transaction of what they tell, read back by who was away.

An offset is given by moving the person's position in the same transaction, whose row is locked until the commit: so offsets
have no gaps and become visible in order. Positions of persons are locked last of all, in the order of their ids. Whoever
stores an event publishes it after the commit (`server.person_events`); if that is lost, nodes find it by looking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg
import msgspec
from msgspec import Struct

from protocol.codec import JSON, MSGPACK
from protocol.envelope import PersonEvent, UserId
from storage.personal import Part
from storage.postgres.pool import Connection, Pool, answering
from storage.redis.publications import Kind, Packet

MOVE = """
with wanted as (
    select * from unnest($1::uuid[], $2::bigint[]) as wanted (user_id, n) order by user_id
)
insert into person_positions as p (user_id, last) select user_id, n from wanted
on conflict (user_id) do update set last = p.last + excluded.last
returning user_id, last
"""

ADD = """
insert into person_events (user_id, "offset", changes_session, body)
select * from unnest($1::uuid[], $2::bigint[], $3::boolean[], $4::text[])
"""

SINCE = """
select e.user_id, e."offset", e.changes_session, e.body
from unnest($1::uuid[], $2::bigint[]) as wanted (user_id, after)
cross join lateral (
    select user_id, "offset", changes_session, body from person_events
    where user_id = wanted.user_id and "offset" > wanted.after
    order by "offset" limit $3
) e
order by e.user_id, e."offset"
"""

RECENT = """
select user_id, max("offset") as last from person_events
where happened_at > now() - make_interval(secs => $1)
group by user_id
"""

FORGET = """
delete from person_events where (user_id, "offset") in (
    select user_id, "offset" from person_events
    where happened_at < now() - make_interval(secs => $1) order by happened_at limit 10000
)
"""

PARTS = (
    Part(
        name="events",
        columns=("person_events.user_id", "person_positions.user_id"),
        rows='select "offset", body, happened_at from person_events where user_id = $1 order by "offset"',
    ),
)


class NewEvent(Struct, frozen=True):
    """Something that happened to a person. With `changes_session` nodes read again what their sessions may do."""

    user: UserId
    event: PersonEvent
    changes_session: bool = False


class Told(Struct, frozen=True):
    """A stored event, encoded: publish it after the commit."""

    user: UserId
    packet: Packet


async def append(connection: Connection, events: Sequence[NewEvent]) -> list[Told]:
    """Store events in the transaction that `connection` is in, and return them with their offsets, in order."""
    counts: dict[UserId, int] = {}
    for new in events:
        counts[new.user] = counts.get(new.user, 0) + 1
    rows = await connection.fetch(MOVE, list(counts), list(counts.values()))
    following = {row["user_id"]: row["last"] - counts[row["user_id"]] + 1 for row in rows}
    told = []
    for new in events:
        offset = following[new.user]
        following[new.user] = offset + 1
        event = msgspec.structs.replace(new.event, person_offset=offset)
        kind = Kind.SESSION if new.changes_session else Kind.DURABLE
        told.append(Told(new.user, Packet(kind, offset, JSON.encode(event), MSGPACK.encode(event))))
    await connection.execute(
        ADD,
        [one.user for one in told],
        [one.packet.offset for one in told],
        [one.packet.kind is Kind.SESSION for one in told],
        [one.packet.json.decode() for one in told],
    )
    return told


async def since(pool: Pool, positions: Mapping[UserId, int], limit: int) -> dict[UserId, list[Packet]]:
    """Return for each person the events after their position, in order, at most `limit` of them."""
    async with answering(pool) as connection:
        rows = await connection.fetch(SINCE, list(positions), list(positions.values()), limit)
    found: dict[UserId, list[Packet]] = {user: [] for user in positions}
    for row in rows:
        found[row["user_id"]].append(_packet(row))
    return found


async def recent(pool: Pool, seconds: float) -> dict[UserId, int]:
    """Return the last offset of everyone to whom something happened in the last `seconds`."""
    async with answering(pool) as connection:
        return {row["user_id"]: row["last"] for row in await connection.fetch(RECENT, seconds)}


async def forget(pool: Pool, after: float) -> None:
    """Delete events that are older than `after` seconds, some at a time; positions stay."""
    async with answering(pool) as connection:
        await connection.execute(FORGET, after)


def _packet(row: asyncpg.Record) -> Packet:
    """Encode a stored event. An older node passes on what only a newer one can read, so no type is needed here."""
    body = row["body"].encode()
    kind = Kind.SESSION if row["changes_session"] else Kind.DURABLE
    return Packet(kind, row["offset"], body, msgspec.msgpack.encode(msgspec.json.decode(body)))
