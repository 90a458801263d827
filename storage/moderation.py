"""Moderation in Postgres: applications to become a creator, roles, and a record of every decision.

A decision, the role that follows from it, its record and the event that tells the person are one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import asyncpg
from msgspec import Struct

from protocol.envelope import UserId
from protocol.moderation import Application, ApplicationState, Decision, Role, RoleChange
from protocol.notifications import NotificationKind, Thing, ThingKind
from protocol.refusals import ErrorCode, Refused
from storage import person_events
from storage.notifications import NewNotice, notify
from storage.people import address_index, person
from storage.person_events import NewEvent, Told
from storage.personal import Part
from storage.postgres.pool import Connection, Pool, answering
from storage.sealing import Sealer

ABOUT = "creator_applications.sealed_about"
REASON = "creator_applications.sealed_reason"
"""Where what somebody wrote and why they were declined are sealed; the row is the application's."""

_APPLICATION = """
    a.id, a.state::text, a.sealed_about, a.sealed_reason,
    (extract(epoch from a.applied_at) * 1000)::bigint as applied_at,
    (extract(epoch from a.decided_at) * 1000)::bigint as decided_at,
    u.id as user_id, u.name, u.avatar, u.role::text
"""

LOCK_PERSON = """
select role::text from users where id = $1 for no key update
"""

NEWEST_APPLICATION = f"""
select {_APPLICATION}
from creator_applications a join users u on u.id = a.user_id
where a.user_id = $1 order by a.applied_at desc, a.id limit 1
"""

ADD_APPLICATION = """
insert into creator_applications (id, user_id, sealed_about) values ($1, $2, $3)
"""

WAITING_APPLICATIONS = f"""
select {_APPLICATION}
from creator_applications a join users u on u.id = a.user_id
where a.state = 'PENDING'
  and ($1::uuid is null or (a.applied_at, a.id) > (select applied_at, id from creator_applications where id = $1))
order by a.applied_at, a.id limit $2
"""

APPLICANT = """
select user_id from creator_applications where id = $1
"""

LOCK_APPLICATION = f"""
select {_APPLICATION}
from creator_applications a join users u on u.id = a.user_id
where a.id = $1
for no key update of a
"""

DECIDE_APPLICATION = """
update creator_applications
set state = $2::application_state, sealed_reason = $3, decided_at = now(), decided_by = $4
where id = $1
returning (extract(epoch from decided_at) * 1000)::bigint
"""

SET_ROLE = """
update users set role = $2::user_role where id = $1
"""

FIND_BY_ADDRESS = """
select user_id from identities where provider = 'EMAIL' and issuer = '' and subject = any($1::text[])
"""

RECORD = """
insert into decisions (decision, detail, by_operator, actor_id, subject_id) values ($1, $2, $3, $4, $5)
"""

PARTS = (
    Part(
        name="creator_applications",
        columns=("creator_applications.user_id",),
        rows="""
        select id, state::text, applied_at, decided_at, sealed_about, sealed_reason, id as bound_to
        from creator_applications where user_id = $1 order by applied_at, id
        """,
        sealed=(ABOUT, REASON),
    ),
    Part(
        name="applications_decided",
        columns=("creator_applications.decided_by",),
        rows="""
        select id, state::text, decided_at from creator_applications where decided_by = $1 order by decided_at, id
        """,
        stays="an application of somebody else, and when it was decided, without by whom",
    ),
    Part(
        name="decisions_made",
        columns=("decisions.actor_id",),
        rows="select decided_at, decision, detail from decisions where actor_id = $1 order by id",
        stays="that a moderator decided something and when, without by whom and about whom",
    ),
    Part(
        name="decisions_about",
        columns=("decisions.subject_id",),
        rows="select decided_at, decision, detail from decisions where subject_id = $1 order by id",
    ),
)


class Decided(Struct, frozen=True):
    """A decision and what is to be published after it; nothing, if it had been made before."""

    application: Application
    told: Sequence[Told]


async def apply(pool: Pool, sealer: Sealer, user: UserId, about: str) -> Application:
    """Store an application, or find the one that waits. Raises `Refused` (forbidden) for who is no mere member."""
    application = uuid4()
    async with answering(pool) as connection, connection.transaction():
        role = await connection.fetchval(LOCK_PERSON, user)
        if role not in (None, Role.MEMBER):
            raise Refused(ErrorCode.FORBIDDEN, "You may host looprooms already.")
        row = await connection.fetchrow(NEWEST_APPLICATION, user)
        if row is None or row["state"] != ApplicationState.PENDING:
            await connection.execute(
                ADD_APPLICATION, application, user, sealer.seal(ABOUT, application, about)
            )
            row = await connection.fetchrow(NEWEST_APPLICATION, user)
            assert row is not None
    return _application(sealer, row)


async def newest(pool: Pool, sealer: Sealer, user: UserId) -> Application | None:
    """Return a person's newest application."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(NEWEST_APPLICATION, user)
    return None if row is None else _application(sealer, row)


async def waiting(pool: Pool, sealer: Sealer, after: UUID | None, limit: int) -> list[Application]:
    """Return applications that wait, the oldest first, after one of them."""
    async with answering(pool) as connection:
        rows = await connection.fetch(WAITING_APPLICATIONS, after, limit)
    return [_application(sealer, row) for row in rows]


async def decide(
    pool: Pool, sealer: Sealer, application: UUID, actor: UserId, reason: str, *, approve: bool
) -> Decided:
    """Decide an application.

    Raises `Refused`: not_found; forbidden (one's own); already_decided (in another way).
    """
    state = ApplicationState.APPROVED if approve else ApplicationState.DECLINED
    async with answering(pool) as connection, connection.transaction():
        applicant = await connection.fetchval(APPLICANT, application)
        await connection.fetchval(LOCK_PERSON, applicant)  # people before what is theirs, as when they leave
        row = await connection.fetchrow(LOCK_APPLICATION, application)
        if row is None:
            raise Refused(ErrorCode.NOT_FOUND)
        found = _application(sealer, row)
        if found.person.id == actor:
            raise Refused(ErrorCode.FORBIDDEN, "Somebody else decides your application.")
        if found.state is not ApplicationState.PENDING:
            if found.state is not state:
                raise Refused(ErrorCode.ALREADY_DECIDED)
            return Decided(found, ())
        sealed = sealer.seal(REASON, application, reason)
        found.decided_at = await connection.fetchval(DECIDE_APPLICATION, application, state, sealed, actor)
        found.state, found.reason = state, reason
        await connection.execute(RECORD, "creator", state, False, actor, found.person.id)
        # Whoever was made a moderator meanwhile stays one.
        promoted = approve and row["role"] == Role.MEMBER
        if promoted:
            await connection.execute(SET_ROLE, found.person.id, Role.CREATOR)
        event = Decision(application=application, state=state, reason=reason)
        told = await notify(
            connection,
            [
                NewNotice(
                    user=found.person.id,
                    kind=NotificationKind.DECISION,
                    thing=Thing(kind=ThingKind.APPLICATION, id=application),
                    outcome=state,
                )
            ],
            also=[NewEvent(found.person.id, event, changes_session=promoted)],
        )
    return Decided(found, told)


async def set_role(pool: Pool, sealer: Sealer, email: str, role: Role) -> list[Told]:
    """Give the person with an address (normalised) a role, as the operator; return what is to be published.

    Nothing, if they had it. Raises `Refused` (not_found).
    """
    async with answering(pool) as connection, connection.transaction():
        user = await connection.fetchval(FIND_BY_ADDRESS, [address_index(sealer, email), email])
        before = await connection.fetchval(LOCK_PERSON, user)
        if before is None:
            raise Refused(ErrorCode.NOT_FOUND, "Nobody has proven that this address is theirs.")
        if before == role:
            return []
        return await _set_role(connection, user, before, role)


async def _set_role(connection: Connection, user: UserId, before: str, role: Role) -> list[Told]:
    await connection.execute(SET_ROLE, user, role)
    await connection.execute(RECORD, "role", f"{before} to {role}", True, None, user)
    return await person_events.append(
        connection, [NewEvent(user, RoleChange(role=role), changes_session=True)]
    )


def _application(sealer: Sealer, row: asyncpg.Record) -> Application:
    reason = row["sealed_reason"]
    return Application(
        id=row["id"],
        person=person(row["user_id"], row["name"], row["avatar"]),
        state=ApplicationState(row["state"]),
        about=sealer.open(ABOUT, row["id"], row["sealed_about"]),
        applied_at=row["applied_at"],
        decided_at=row["decided_at"],
        reason="" if reason is None else sealer.open(REASON, row["id"], reason),
    )
