"""Devices that are pushed to: which there are, how far each has been told, and what is left to push.

A device is told twice over one ledger: live, by the events of its person, whose offset it acknowledges; and by a push of what it
has not acknowledged. Both are marks on its row, so what is to be pushed is what lies behind neither and nobody has read.

The cases, each with a test:

1. it acknowledges before its time has come: nothing is pushed to it;
2. it is away, or does not acknowledge: each notification is pushed once, in order;
3. somebody reads it on another device: it is pushed to none any more;
4. it comes back while it is being pushed: the hello says how far that was, and what it acknowledges is not pushed;
5. the node dies after the push was taken and before that is noted: it is pushed once more, under the same tag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from msgspec import Struct

from protocol.envelope import SessionId, UserId
from protocol.notifications import NotificationSettings
from protocol.refusals import ErrorCode, Refused
from storage.notifications import SETTINGS, settings_from
from storage.personal import Part
from storage.postgres.pool import Pool, answering
from storage.sealing import Sealer

TOKEN: Final = "push_devices.sealed_token"  # noqa: S105 - where it stands, not what it is
"""Where tokens are sealed; the row is the session's."""
TOO_OLD_SECONDS: Final = 86400.0
"""What could not be pushed for so long is no news any more: it is found in the list."""
MOST: Final = 200
"""Of one run of the job."""

RELEASE = """
delete from push_devices where token_index = $1 and session_id <> $2
"""

# What happened before is not pushed: it was there to be seen.
REGISTER = """
insert into push_devices as d (session_id, user_id, token_index, sealed_token, seen, pushed)
select s.id, s.user_id, $2, $3, coalesce(p.last, 0), coalesce(p.last, 0)
from sessions s left join person_positions p using (user_id)
where s.id = $1 and s.ended_at is null
on conflict (session_id) do update
set token_index = excluded.token_index, sealed_token = excluded.sealed_token, registered_at = now()
returning true
"""

UNREGISTER = """
delete from push_devices where session_id = $1
"""

DROP = """
delete from push_devices where session_id = $1 and token_index = $2
"""

# Nobody can have seen what has not happened.
SEEN = """
update push_devices d set seen = least(w.seen, p.last)
from unnest($1::uuid[], $2::bigint[]) as w (session_id, seen), person_positions p
where d.session_id = w.session_id and p.user_id = d.user_id and d.seen < least(w.seen, p.last)
"""

PUSHED = """
update push_devices set pushed = greatest(pushed, $2) where session_id = $1
"""

_UNTOLD = """
    d.user_id = $1 and n.read_at is null and n.first > greatest(d.seen, d.pushed)
    and s.ended_at is null and u.banned_at is null
"""

PENDING = f"""
select d.session_id, d.token_index, d.sealed_token, n.id, n.kind, n.thing_kind, n.thing_id, n.count, n.first,
    extract(epoch from clock_timestamp() - n.created_at)::float8 as age,
    coalesce(a.face_name, doer.name) as doer
from push_devices d
join sessions s on s.id = d.session_id
join users u on u.id = d.user_id
join notifications n on n.user_id = d.user_id
left join notification_settings st on st.user_id = d.user_id
left join lateral (
    select face_name, actor_id from notification_actors where notification_id = n.id order by nth desc limit 1
) a on true
left join users doer on doer.id = a.actor_id
where {_UNTOLD} and coalesce(st.ways ->> n.kind, 'push') = 'push'
  and n.created_at > now() - make_interval(secs => {TOO_OLD_SECONDS})
order by n.first, d.session_id limit $2
"""

STILL = f"""
select exists (
    select from push_devices d
    join sessions s on s.id = d.session_id
    join users u on u.id = d.user_id
    join notifications n on n.user_id = d.user_id
    where d.session_id = $2 and n.id = $3 and {_UNTOLD}
)
"""

FORGET_DEVICES = """
delete from push_devices d using sessions s where s.id = d.session_id and s.ended_at is not null
"""

PARTS = (
    Part(
        name="push_devices",
        columns=("push_devices.user_id",),
        rows="""
        select session_id, registered_at, sealed_token, session_id as bound_to
        from push_devices where user_id = $1 order by registered_at, session_id
        """,
        sealed=(TOKEN,),
    ),
)


class Pending(Struct, frozen=True, kw_only=True):
    """What is to be pushed to a device. `age` is in seconds; `doer` is who did it last, as the person sees them."""

    session: SessionId
    token_index: bytes
    token: str
    id: UUID
    kind: str
    thing_kind: str
    thing: UUID
    count: int
    first: int
    age: float
    doer: str | None


async def register(pool: Pool, sealer: Sealer, session: SessionId, token: str) -> None:
    """Push to the device of a session from now on, and to nobody else's by this token. Raises `Refused` (session_ended)."""
    index = sealer.index("push token", token)
    sealed = sealer.seal(TOKEN, session, token)
    async with answering(pool) as connection, connection.transaction():
        await connection.execute(RELEASE, index, session)
        if not await connection.fetchval(REGISTER, session, index, sealed):
            raise Refused(ErrorCode.SESSION_ENDED)


async def unregister(pool: Pool, session: SessionId) -> None:
    """Push to the device of a session no more."""
    async with answering(pool) as connection:
        await connection.execute(UNREGISTER, session)


async def drop(pool: Pool, pending: Pending) -> None:
    """Forget a device that the push service does not know any more, unless it has another token by now."""
    async with answering(pool) as connection:
        await connection.execute(DROP, pending.session, pending.token_index)


async def seen(pool: Pool, offsets: Mapping[SessionId, int]) -> None:
    """Note how far sessions have acknowledged the events of their persons; those without a device are passed over."""
    async with answering(pool) as connection:
        await connection.execute(SEEN, list(offsets), list(offsets.values()))


async def pushed(pool: Pool, pending: Pending) -> None:
    """Note that something was pushed to a device."""
    async with answering(pool) as connection:
        await connection.execute(PUSHED, pending.session, pending.first)


async def pending(pool: Pool, sealer: Sealer, user: UserId) -> tuple[NotificationSettings, Sequence[Pending]]:
    """Return how a person wants to be told, and what is left to push to their devices, in the order in which it happened."""
    async with answering(pool) as connection:
        chosen = await connection.fetchrow(SETTINGS, user)
        rows = await connection.fetch(PENDING, user, MOST)
    found = [
        Pending(
            session=row["session_id"],
            token_index=row["token_index"],
            token=sealer.open(TOKEN, row["session_id"], row["sealed_token"]),
            id=row["id"],
            kind=row["kind"],
            thing_kind=row["thing_kind"],
            thing=row["thing_id"],
            count=row["count"],
            first=row["first"],
            age=row["age"],
            doer=row["doer"],
        )
        for row in rows
    ]
    return NotificationSettings() if chosen is None else settings_from(chosen), found


async def still(pool: Pool, user: UserId, one: Pending) -> bool:
    """Say whether something is to be pushed to a device still: it was not read or acknowledged meanwhile, nor its session ended."""
    async with answering(pool) as connection:
        found: bool = await connection.fetchval(STILL, user, one.session, one.id)
    return found


async def forget_devices(pool: Pool) -> None:
    """Delete the devices of sessions that have ended."""
    async with answering(pool) as connection:
        await connection.execute(FORGET_DEVICES)
