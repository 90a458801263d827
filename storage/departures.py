"""People leave for good: in one transaction they are no longer there, and what they leave in public goes right after.

The row of the person is deleted before they are answered. Whatever refers to it goes in the same transaction, and Postgres
refuses what was under way meanwhile: a foreign key waits for that transaction, and then finds nobody. So nothing of theirs is
accepted after the answer, on whatever node.

What others see goes some at a time, because each line has an event that everyone in its room gets, and a total that others
wait for is locked for moments only. Until then lines have an author who is not there: nobody. `Departure` is the durable
job for it; `storage.privacy` lists what stays.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID, uuid4

import asyncpg
from msgspec import Struct

from protocol.chat import ChatRemoval, Line
from protocol.envelope import NOBODY, RoomId, UserId
from protocol.reactions import Reaction, Target, TargetKind
from protocol.refusals import ErrorCode, Refused
from storage.checkouts import leave_checkouts
from storage.engagement import leave_engagement
from storage.grants import revoke_provider_tokens
from storage.jobs import Job, enqueue
from storage.media import leave_media
from storage.postgres.pool import Connection, Pool, answering
from storage.reactions import Total
from storage.sealing import Sealer
from storage.subscriptions import leave_provider
from storage.waitlist import leave_waitlist

LEAVE_SECONDS: Final = 30.0
"""How long a statement may take that removes all that somebody has in a table."""
_ATTEMPTS: Final = 5

# The strongest lock of a row: whatever refers to this person waits, and what already does was first.
LOCK_PERSON = """
select true from users where id = $1 for update
"""

# Whoever claims what somebody else has proven, comes no more, and could come no other way. Who has paid here, or works here, stays.
_IS_VOID = """
from identities c join users u on u.id = c.user_id
where c.provider = 'EMAIL' and c.issuer <> '' and c.created_at < now() - make_interval(secs => $1)
  and u.role = 'MEMBER'
  and exists (select from identities p where p.provider = 'EMAIL' and p.issuer = '' and p.subject = c.subject)
  and not exists (select from identities o where o.user_id = c.user_id and o.provider <> 'EMAIL')
  and not exists (
    select from sessions s where s.user_id = c.user_id and s.last_seen_at > now() - make_interval(secs => $1)
  )
  and not exists (select from subscriptions s where s.user_id = c.user_id)
  and not exists (select from passes p where p.user_id = c.user_id)
"""

VOID_ACCOUNTS = f"""
select c.user_id {_IS_VOID} order by c.created_at limit $2
"""

IS_VOID = f"""
select exists (select {_IS_VOID} and c.user_id = $2)
"""

DELETE_PERSON = """
delete from users where id = $1
"""

ALLOW_TIME = f"""
set local statement_timeout = '{LEAVE_SECONDS:.0f}s'
"""

# Nobody can enter a room without its host: what others said in it is theirs still, so the room stays and what its host has
# written goes.
LEAVE_ROOMS = """
update rooms
set status = 'ARCHIVED', slug = 'left-' || id, title = '', description = '', content_url = null, thumbnail = null, live = false,
    host_id = null
where host_id = $1
returning id
"""

# Nothing that others wait for is locked here: the totals follow, some at a time.
LEAVE_REACTIONS = """
with gone as (
    delete from reactions where user_id = $1 returning target_id, kind, target_kind
)
insert into reactions_left (target_id, kind, target_kind, departure) select target_id, kind, target_kind, $2 from gone
"""

SETTLE_LEFT = """
with gone as (
    delete from reactions_left where ctid = any(array(
        select ctid from reactions_left where departure = $1 order by target_id limit $2 for update
    ))
    returning target_id, kind
), less as (
    select target_id, kind, count(*) as taken from gone group by target_id, kind
), locked as materialized (
    select target_id, kind, taken
    from reaction_totals t join less using (target_id, kind)
    order by target_id, kind
    for update of t
)
update reaction_totals t set total = t.total - l.taken, revision = t.revision + 1
from locked l
where t.target_id = l.target_id and t.kind = l.kind
returning t.target_id, t.kind::text, t.target_kind::text, t.total, t.revision, l.taken
"""

# Lines before rooms, as in every other statement, and rooms in one order.
ERASE_LINES = """
with gone as materialized (
    select id, room_id, "offset" from chat_lines where author_id = $1 limit $2 for update
), wanted as (
    select room_id, count(*) as n from gone group by room_id
), locked as materialized (
    select room_id from room_positions where room_id in (select room_id from wanted) order by room_id for update
), moved as (
    update room_positions p set last = p.last + wanted.n
    from wanted join locked using (room_id)
    where p.room_id = wanted.room_id
    returning p.room_id, p.last - wanted.n as base
), erased as (
    update chat_lines l
    set text = '', author_id = null, pseudonym = null, pseudonym_name = null, removed_at = coalesce(l.removed_at, now())
    from gone where l.id = gone.id
    returning l.id, (extract(epoch from l.sent_at) * 1000)::bigint as sent_at,
        (extract(epoch from l.edited_at) * 1000)::bigint as edited_at
), removals as (
    insert into room_events (room_id, "offset", kind, line_id)
    select room_id, base + row_number() over (partition by room_id order by gone."offset"), 'REMOVAL', id
    from gone join moved using (room_id)
    returning line_id, "offset"
)
select gone.id, gone.room_id, gone."offset" as line_offset, r."offset", erased.sent_at, erased.edited_at
from gone join erased using (id) join removals r on r.line_id = gone.id
order by gone.room_id, r."offset"
"""


class Departure(Job, tag="person.leave"):
    """What somebody who has left for good said in rooms is removed, what they gave is taken out of the totals.

    `rooms` are those that had them as their host. `departure` names the reactions, which don't know any more whose they were.
    """

    user: UserId
    departure: UUID
    rooms: list[RoomId]


Leave = Callable[[Connection, Sealer, UserId], Awaitable[None]]
LEAVES: Final[tuple[Leave, ...]] = (
    leave_waitlist,
    revoke_provider_tokens,
    leave_checkouts,
    leave_provider,
    leave_media,
    leave_engagement,
)
"""What other domains do in the transaction, while the person is still there: remove what does not refer to them, have something
done outside by a job."""


class Taken(Struct, frozen=True):
    """By how much a total became less when somebody left, and what it is now."""

    target: Target
    kind: Reaction
    taken: int
    total: Total


async def remove_person(
    pool: Pool, sealer: Sealer, user: UserId, *, void_for: float | None = None
) -> Departure | None:
    """Delete a person and all that is theirs alone; return what is left to be done, which is a job already.

    None when there is no such person, or, with `void_for` seconds, when they are not, or no longer, one of `void_accounts`.
    Raises `Refused`: unavailable, or busy when others were in the way each time.
    """
    for _ in range(_ATTEMPTS):
        try:
            return await _remove(pool, sealer, user, void_for)
        except asyncpg.DeadlockDetectedError:
            continue  # somebody's line in a room that goes, too: theirs was under way first
    raise Refused(ErrorCode.BUSY, retry_after=1.0)


async def void_accounts(pool: Pool, after: float, limit: int) -> list[UserId]:
    """List accounts of nobody, the oldest first: their address somebody else has proven, and for `after` seconds nobody came."""
    async with answering(pool) as connection:
        return [row["user_id"] for row in await connection.fetch(VOID_ACCOUNTS, after, limit)]


async def _remove(
    pool: Pool, sealer: Sealer, user: UserId, void_for: float | None = None
) -> Departure | None:
    async with answering(pool) as connection, connection.transaction():
        await connection.execute(ALLOW_TIME)
        if await connection.fetchval(LOCK_PERSON, user) is None:
            return None
        if void_for is not None and not await connection.fetchval(IS_VOID, void_for, user):
            return None
        for leave in LEAVES:
            await leave(connection, sealer, user)
        rooms: list[RoomId] = [row["id"] for row in await connection.fetch(LEAVE_ROOMS, user)]
        departure = Departure(user=user, departure=uuid4(), rooms=rooms)
        await connection.execute(LEAVE_REACTIONS, user, departure.departure, timeout=LEAVE_SECONDS)
        await connection.execute(DELETE_PERSON, user, timeout=LEAVE_SECONDS)
        await enqueue(connection, departure)
    return departure


async def settle_left(pool: Pool, departure: UUID, limit: int) -> list[Taken]:
    """Take at most `limit` reactions of somebody who left out of the totals. Nothing: all are."""
    async with answering(pool) as connection:
        rows = await connection.fetch(SETTLE_LEFT, departure, limit)
    return [
        Taken(
            target=Target(kind=TargetKind(row["target_kind"]), id=row["target_id"]),
            kind=Reaction(row["kind"]),
            taken=row["taken"],
            total=Total(row["total"], row["revision"]),
        )
        for row in rows
    ]


async def erase_lines(pool: Pool, author: UserId, limit: int) -> list[tuple[ChatRemoval, Line]]:
    """Erase at most `limit` lines of somebody who left for good: nobody has said them, and nothing is left of what was said.

    Each has a removal with an offset of its own, also one that was removed before: who has seen its author shall forget them.
    Returned are the removals, and the lines as they are now.
    """
    async with answering(pool) as connection:
        rows = await connection.fetch(ERASE_LINES, author, limit)
    removals = []
    for row in rows:
        line = Line(
            id=row["id"],
            offset=row["line_offset"],
            author=NOBODY,
            text="",
            sent_at=row["sent_at"],
            edited_at=row["edited_at"],
            removed=True,
        )
        removal = ChatRemoval(
            room=row["room_id"], offset=row["offset"], line=line.id, of=line.offset, departed=True
        )
        removals.append((removal, line))
    return removals
