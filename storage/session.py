"""Sessions in Postgres: one for each sign-in, and the refresh tokens that keep it going.

All refresh tokens of a session are a family, and the row of the session is its lock. A token is used once and replaced by its
successor. The cases, each with a test:

1. the current token: it is replaced;
2. the last one again within the grace, its successor unused (an answer was lost, two tabs asked at once): the same successor;
3. any other one that was replaced (it was copied, by whom can't be known): the session ends;
4. a token of a session that has ended, or that was not used for too long: refused, nothing changes;
5. a token that was never given out: refused.

The name of the device that signed in is personal: it is sealed, and shown to the person alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto
from uuid import uuid4

import asyncpg
from msgspec import Struct

from protocol.envelope import RoomId, SessionId, UserId
from protocol.refusals import ErrorCode, Refused
from protocol.session import SessionEntry
from protocol.subscriptions import Subscription
from storage.notifications import UNREAD_OF
from storage.people import LOCK_PERSON
from storage.personal import Part
from storage.postgres.pool import Connection, Pool, answering
from storage.sealing import Sealer
from storage.subscriptions import STANDING, standing_of

LIVE_SESSIONS = f"""
select s.id, s.user_id, u.name, u.avatar, u.role::text, u.anonymous,
       s.ended_at is not null as ended, u.banned_at is not null as banned,
       coalesce(p.last, 0) as person_last, {STANDING},
       array(select distinct room_id from passes where user_id = u.id and open) as passes, {UNREAD_OF}, d.pushed,
       array(select other_id from hidden_pairs where user_id = u.id) as hidden,
       array(select coalesce(known_as, muted_id) from mutes where muter_id = u.id) as muted
from sessions s join users u on u.id = s.user_id
left join person_positions p on p.user_id = u.id
left join subscriptions sub on sub.user_id = u.id
left join push_devices d on d.session_id = s.id
where s.id = any($1::uuid[])
"""

OPEN_SESSION = """
with opened as (
    insert into sessions (id, user_id, sealed_device) values ($1, $2, $3) returning id
)
insert into refresh_tokens (hash, session_id, expires_at)
select $4, id, now() + make_interval(secs => $5) from opened
"""

LOCK_FAMILY = """
select id from sessions where id = (select session_id from refresh_tokens where hash = $1) for update
"""

# Run after the lock, as a statement of its own: so it sees what the one before has committed.
FAMILY = """
select s.id, s.user_id, u.role::text, u.tier::text,
       s.ended_at is not null as ended,
       u.banned_at is not null as banned,
       t.expires_at <= clock_timestamp() as expired,
       t.replaced_by,
       n.replaced_at is null and t.replaced_at > clock_timestamp() - make_interval(secs => $2) as repeats
from refresh_tokens t
join sessions s on s.id = t.session_id
join users u on u.id = s.user_id
left join refresh_tokens n on n.hash = t.replaced_by
where t.hash = $1
"""

ROTATE = """
with used as (
    update refresh_tokens set replaced_at = clock_timestamp(), replaced_by = $2 where hash = $1
), seen as (
    update sessions set last_seen_at = now() where id = $3
), forgotten as (
    delete from refresh_tokens where session_id = $3 and expires_at <= now()
)
insert into refresh_tokens (hash, session_id, expires_at) values ($2, $3, now() + make_interval(secs => $4))
"""

END_SESSION = """
update sessions set ended_at = now(), ended_because = $2 where id = $1 and ended_at is null
"""

FIND_FAMILY = """
select s.id from refresh_tokens t join sessions s on s.id = t.session_id where t.hash = $1 and s.ended_at is null
"""

END_FAMILY = """
update sessions set ended_at = now(), ended_because = $2
where id = (select session_id from refresh_tokens where hash = $1) and ended_at is null
returning id
"""

SESSIONS_OF = """
select id, device, sealed_device,
       (extract(epoch from created_at) * 1000)::bigint as created,
       (extract(epoch from last_seen_at) * 1000)::bigint as seen,
       id = $2 as current
from sessions
where user_id = $1 and ended_at is null and (id = $2 or last_seen_at > now() - make_interval(secs => $3))
order by id = $2 desc, last_seen_at desc, id
limit 100
"""

REVOKE_SESSION = """
update sessions
set ended_at = coalesce(ended_at, now()), ended_because = coalesce(ended_because, 'revoked')
where id = $1 and user_id = $2
returning id
"""

REVOKE_OTHERS = """
update sessions set ended_at = now(), ended_because = 'revoked'
where user_id = $1 and id <> $2 and ended_at is null
returning id
"""

# Whoever is thrown out by this may have asked for another address, and hold its link.
DROP_REQUESTS = """
delete from email_changes where user_id = $1 and confirmed_at is null
"""

AGE = """
select extract(epoch from now() - created_at)::float8 from sessions where id = $1
"""

END_SESSIONS = """
update sessions set ended_at = now(), ended_because = $2
where user_id = $1 and id is distinct from $3 and ended_at is null
"""

FORGET_SESSIONS = """
delete from sessions where id in (
    select id from sessions where last_seen_at < now() - make_interval(secs => $1) limit 10000
)
"""

UNSEALED_DEVICES = """
select id, device from sessions where device <> '' limit $1 for update skip locked
"""

SEAL_DEVICES = """
update sessions s set device = '', sealed_device = n.sealed
from unnest($1::uuid[], $2::bytea[]) as n (id, sealed)
where s.id = n.id
"""

DEVICE = "sessions.sealed_device"
"""Where names of devices are sealed; the row is the session's."""

PARTS = (
    Part(
        name="sessions",
        columns=("sessions.user_id",),
        rows="""
        select id, created_at, last_seen_at, ended_at, ended_because,
               nullif(device, '') as device, sealed_device, id as bound_to
        from sessions where user_id = $1 order by created_at, id
        """,
        sealed=(DEVICE,),
    ),
)


class LiveSession(Struct, frozen=True, kw_only=True):
    """What a session is right now, by the reading `read` of the node.

    `person_last` is the offset of the newest event of its person at the same moment; `pushed` is up to which of them its device was
    pushed what it says, None where it has none.
    """

    id: SessionId
    user_id: UserId
    name: str
    avatar: str | None
    role: str
    subscription: Subscription
    anonymous: bool
    ended: bool
    banned: bool
    person_last: int
    passes: frozenset[RoomId] = frozenset()
    unread: int = 0
    pushed: int | None = None
    hidden: frozenset[UserId] = frozenset()
    muted: frozenset[UserId] = frozenset()
    read: int = 0


class Outcome(Enum):
    """What became of a refresh token that was presented."""

    REPLACED = auto()
    REPEATED = auto()
    REUSED = auto()
    ENDED = auto()


class Family(Struct, frozen=True):
    """Whose refresh token it was, and what became of it. `successor` is the hash of the token that counts now."""

    outcome: Outcome
    session: SessionId
    user: UserId
    role: str
    tier: str
    successor: bytes


async def live_sessions(pool: Pool, ids: Sequence[SessionId], read: int) -> dict[SessionId, LiveSession]:
    """Read sessions in one statement; those that were never there are missing in the answer.

    `read` numbers the readings of a node, in the order in which they begin.
    """
    async with answering(pool) as connection:
        rows = await connection.fetch(LIVE_SESSIONS, ids)
    return {row["id"]: _live(row, read) for row in rows}


async def open_session(
    pool: Pool, sealer: Sealer, user: UserId, device: str, token_hash: bytes, *, lifetime: float
) -> SessionId:
    """Begin a session with its first refresh token, which lives `lifetime` seconds unless it is used."""
    session = SessionId(uuid4())
    sealed = sealer.seal(DEVICE, session, device)
    async with answering(pool) as connection:
        await connection.execute(OPEN_SESSION, session, user, sealed, token_hash, lifetime)
    return session


async def seal_devices(pool: Pool, sealer: Sealer, limit: int = 200) -> int:
    """Seal names of devices of rows of before, at most `limit`; return how many there were."""
    async with answering(pool) as connection, connection.transaction():
        rows = await connection.fetch(UNSEALED_DEVICES, limit)
        sealed = [sealer.seal(DEVICE, row["id"], row["device"]) for row in rows]
        await connection.execute(SEAL_DEVICES, [row["id"] for row in rows], sealed)
    return len(rows)


async def use_token(
    pool: Pool, token_hash: bytes, successors: Sequence[bytes], *, lifetime: float, grace: float
) -> Family | None:
    """Use a refresh token, in one transaction with its family locked. None for one that was never given out.

    `successors` are the hashes that may follow it, the one to use now first; `lifetime` and `grace` are in seconds.
    """
    async with answering(pool) as connection, connection.transaction():
        if await connection.fetchval(LOCK_FAMILY, token_hash) is None:
            return None
        return await _use_locked(connection, token_hash, successors, lifetime, grace)


async def _use_locked(
    connection: Connection, token_hash: bytes, successors: Sequence[bytes], lifetime: float, grace: float
) -> Family | None:
    row = await connection.fetchrow(FAMILY, token_hash, grace)
    if row is None:
        return None
    session: SessionId = row["id"]
    replaced_by: bytes | None = row["replaced_by"]
    if row["ended"] or row["banned"] or row["expired"]:
        outcome = Outcome.ENDED
    elif replaced_by is None:
        await connection.execute(ROTATE, token_hash, successors[0], session, lifetime)
        outcome = Outcome.REPLACED
    elif row["repeats"]:
        # A successor made with a key that is no longer known can't be given out again; nor is that a sign of theft.
        outcome = Outcome.REPEATED if replaced_by in successors else Outcome.ENDED
    else:
        await connection.execute(END_SESSION, session, "refresh token reused")
        outcome = Outcome.REUSED
    return Family(outcome, session, row["user_id"], row["role"], row["tier"], replaced_by or successors[0])


async def session_of_token(pool: Pool, token_hash: bytes) -> SessionId | None:
    """Return the session of a refresh token, which is not used by this. None when it has none that lives."""
    async with answering(pool) as connection:
        session: SessionId | None = await connection.fetchval(FIND_FAMILY, token_hash)
    return session


async def supersede_session(pool: Pool, session: SessionId) -> None:
    """End a session whose browser has another one now."""
    async with answering(pool) as connection:
        await connection.execute(END_SESSION, session, "signed in anew")


async def end_family(pool: Pool, token_hash: bytes, reason: str) -> SessionId | None:
    """End the session of a refresh token, current or not. None when nothing was to be ended."""
    async with answering(pool) as connection:
        session: SessionId | None = await connection.fetchval(END_FAMILY, token_hash, reason)
    return session


async def sessions_of(
    pool: Pool, sealer: Sealer, user: UserId, current: SessionId, *, lifetime: float
) -> list[SessionEntry]:
    """List the sessions of a person that can still be used: the current one first, then the newest seen.

    `lifetime` is how many seconds a refresh token lives that is not used.
    """
    async with answering(pool) as connection:
        rows = await connection.fetch(SESSIONS_OF, user, current, lifetime)
    return [
        SessionEntry(
            id=row["id"],
            device=_device(sealer, row),
            created=row["created"],
            seen=row["seen"],
            current=row["current"],
        )
        for row in rows
    ]


async def revoke_session(pool: Pool, user: UserId, session: SessionId) -> bool:
    """End a session of `user`, who may have ended it before; what was asked for an address is void. False when it is none of theirs."""
    async with answering(pool) as connection, connection.transaction():
        await connection.execute(LOCK_PERSON, user)
        if await connection.fetchval(REVOKE_SESSION, session, user) is None:
            return False
        await connection.execute(DROP_REQUESTS, user)
    return True


async def revoke_others(pool: Pool, user: UserId, session: SessionId) -> list[SessionId]:
    """End all sessions of `user` but one, and return those that were ended by this; what was asked for an address is void."""
    async with answering(pool) as connection, connection.transaction():
        await connection.execute(LOCK_PERSON, user)
        await connection.execute(DROP_REQUESTS, user)
        return [row["id"] for row in await connection.fetch(REVOKE_OTHERS, user, session)]


async def session_age(pool: Pool, session: SessionId) -> float:
    """Return how many seconds ago somebody signed in. Raises `Refused` (session_ended) for a session that is not there."""
    async with answering(pool) as connection:
        age: float | None = await connection.fetchval(AGE, session)
    if age is None:
        raise Refused(ErrorCode.SESSION_ENDED)
    return age


async def forget_sessions(pool: Pool, after: float) -> None:
    """Delete sessions whose last token was given out more than `after` seconds ago, with their tokens; some at a time."""
    async with answering(pool) as connection:
        await connection.execute(FORGET_SESSIONS, after)


def _device(sealer: Sealer, row: asyncpg.Record) -> str:
    """Return the name of a session's device; that of a row of before may not be sealed yet."""
    sealed: bytes | None = row["sealed_device"]
    return row["device"] if sealed is None else sealer.open(DEVICE, row["id"], sealed)


def _live(row: asyncpg.Record, read: int) -> LiveSession:
    return LiveSession(
        id=row["id"],
        user_id=row["user_id"],
        name=row["name"],
        avatar=row["avatar"],
        role=row["role"],
        subscription=standing_of(row),
        anonymous=row["anonymous"],
        ended=row["ended"],
        banned=row["banned"],
        person_last=row["person_last"],
        passes=frozenset(row["passes"]),
        unread=row["unread"],
        pushed=row["pushed"],
        hidden=frozenset(row["hidden"]),
        muted=frozenset(row["muted"]),
        read=read,
    )
