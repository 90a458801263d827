"""Notifications in Postgres: one ledger of what happened to whom, written in the transaction of its cause.

`notify` is for every domain: it notes what happened, once per person, kind and thing while that is unread, stores the event that
tells of it, and leaves it to a job to push it to whoever has devices (`storage.devices`). Nobody is told of what they did themselves, of what is done by somebody who is not there for them or whom they
have muted, or of a kind that they want to hear nothing of. A mute is of the name that it was given to: nobody learns by muting who is
behind a pseudonym.

Everything that changes a person's notifications locks their position first, in the order of their ids: so call it once in a
transaction, with all that happened in it, after what the domain itself locks.

The rule of forgetting: what was read goes `READ_KEPT_DAYS` after that, what was never read `UNREAD_KEPT_DAYS` after it happened
last. Both are longer than an event is kept, so that no event tells of somebody whom nobody could take out of it any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct

from protocol.envelope import NOBODY, Offset, Person, UserId
from protocol.notifications import (
    Notice,
    Notification,
    NotificationKind,
    NotificationSettings,
    NotificationsSeen,
    QuietHours,
    Thing,
    Way,
)
from protocol.refusals import ErrorCode, Refused
from storage import person_events
from storage.jobs import Job, enqueue_all, wake
from storage.people import person
from storage.person_events import NewEvent, Told
from storage.personal import Part
from storage.postgres.pool import Connection, Pool, answering

READ_KEPT_DAYS: Final = 31.0
UNREAD_KEPT_DAYS: Final = 180.0
MOST_UNREAD: Final = 100
"""Unread ones are counted up to here: more is many."""
_DAY: Final = 86400.0

UNREAD_OF: Final = f"""
    (select count(*) from (
        select from notifications where user_id = u.id and read_at is null limit {MOST_UNREAD}
    ) unread) as unread
"""
"""The column of a person `u` that says how many they have not read."""

# Who is not there any more is left out; a person to whom nothing has happened yet gets a position.
LOCK = """
insert into person_positions as p (user_id, last)
select id, 0 from users where id = any($1::uuid[]) order by id
on conflict (user_id) do update set last = p.last
"""

# After the lock, as a statement of its own: so it sees what the one before has committed. What people do alerts once while it is unread;
# what nobody in particular does is news each time, so it begins anew: another outcome of a payment, a room that is live again.
NOTE = """
with wanted as (
    select * from unnest($1::int[], $2::uuid[], $3::text[], $4::text[], $5::uuid[], $6::uuid[], $7::text[], $8::text[],
                         $9::uuid[], $10::uuid[], $11::text[])
        as wanted (i, user_id, kind, thing_kind, thing_id, part_id, outcome, occasion, actor_id, face_id, face_name)
), heard as materialized (
    select w.*, coalesce(s.ways ->> w.kind, 'push') = 'push' as pushed
    from wanted w
    join person_positions p using (user_id)
    left join notification_settings s using (user_id)
    where w.user_id is distinct from w.actor_id
      and coalesce(s.ways ->> w.kind, 'push') <> 'none'
      and not exists (select from hidden_pairs h where h.user_id = w.user_id and h.other_id = w.actor_id)
      and not exists (
          select from mutes m
          where m.muter_id = w.user_id and m.muted_id = w.actor_id and coalesce(m.known_as, m.muted_id) = w.face_id
      )
      and not (w.occasion <> '' and exists (
          select from notifications n
          where n.user_id = w.user_id and n.kind = w.kind and n.thing_id = w.thing_id and n.occasion = w.occasion
      ))
), newest as (
    select distinct on (user_id, kind, thing_id) * from heard order by user_id, kind, thing_id, i desc
), target as materialized (
    select coalesce(n.id, gen_random_uuid()) as id, n.id is null as fresh, w.*
    from newest w
    left join notifications n
        on n.user_id = w.user_id and n.kind = w.kind and n.thing_id = w.thing_id and n.read_at is null
), added as (
    insert into notification_actors (notification_id, face_id, face_name, actor_id)
    select id, face_id, face_name, actor_id
    from (
        select distinct on (t.id, h.face_id) t.id, h.face_id, h.face_name, h.actor_id, h.i
        from heard h join target t using (user_id, kind, thing_id)
        where h.actor_id is not null
        order by t.id, h.face_id, h.i desc
    ) doers
    order by i
    on conflict do nothing
    returning notification_id, face_id
), told as (
    select t.*, a.came, a.newest_i,
        p.last + row_number() over (partition by t.user_id order by t.i)
            + (select count(*) from unnest($12::uuid[]) as also (user_id) where also.user_id = t.user_id) as place
    from target t
    join person_positions p using (user_id)
    cross join lateral (
        select count(distinct a.face_id) as came, max(h.i) as newest_i
        from added a
        join heard h on h.face_id = a.face_id and h.user_id = t.user_id and h.kind = t.kind and h.thing_id = t.thing_id
        where a.notification_id = t.id
    ) a
    where t.actor_id is null or a.came > 0
), begun as (
    insert into notifications
        (id, user_id, kind, thing_kind, thing_id, part_id, outcome, occasion, count, first, last)
    select id, user_id, kind, thing_kind, thing_id, part_id, outcome, occasion, greatest(came, 1), place, place
    from told where fresh
), changed as (
    update notifications n
    set count = n.count + greatest(t.came, 1), last = t.place, part_id = t.part_id, outcome = t.outcome,
        occasion = t.occasion, changed_at = now(),
        first = case when t.actor_id is null then t.place else n.first end,
        created_at = case when t.actor_id is null then now() else n.created_at end
    from told t where n.id = t.id and not t.fresh
    returning n.id, n.count
)
select t.id, t.user_id, t.place, coalesce(t.newest_i, t.i) as i, coalesce(c.count, greatest(t.came, 1))::int as count,
    (extract(epoch from now()) * 1000)::bigint as at,
    a.id as known_id, a.name as known_name, a.avatar as known_avatar,
    (t.fresh or t.actor_id is null) and t.pushed and exists (select from push_devices d where d.user_id = t.user_id) as pushes
from told t
left join changed c on c.id = t.id
left join users a on a.id = (select actor_id from wanted where wanted.i = t.newest_i)
order by t.user_id, t.place
"""

PAGE = """
select n.id, n.kind, n.thing_kind, n.thing_id, n.part_id, n.outcome, n.count, n.last, n.read_at is not null as read,
    (extract(epoch from n.changed_at) * 1000)::bigint as at,
    a.face_id, a.face_name, u.id as known_id, u.name as known_name, u.avatar as known_avatar
from notifications n
left join lateral (
    select face_id, face_name, actor_id from notification_actors
    where notification_id = n.id order by nth desc limit 1
) a on true
left join users u on u.id = a.actor_id
where n.user_id = $1 and ($2::bigint is null or n.last < $2)
order by n.last desc limit $3
"""

COUNT_UNREAD = f"""
select {UNREAD_OF} from users u where u.id = $1
"""

READ_ONE = """
update notifications set read_at = now() where id = $1 and user_id = $2 and read_at is null returning id
"""

READ_UPTO = """
update notifications set read_at = now() where user_id = $1 and last <= $2 and read_at is null returning id
"""

IS_THERE = """
select exists (select from notifications where id = $1 and user_id = $2)
"""

SETTINGS = """
select ways::text, quiet_start, quiet_end, quiet_zone, names from notification_settings where user_id = $1
"""

SET = """
insert into notification_settings as s (user_id, ways, quiet_start, quiet_end, quiet_zone, names)
values ($1, $2, $3, $4, $5, $6)
on conflict (user_id) do update
set ways = excluded.ways, quiet_start = excluded.quiet_start, quiet_end = excluded.quiet_end,
    quiet_zone = excluded.quiet_zone, names = excluded.names
"""

DOINGS = """
select a.notification_id, a.face_id, n.user_id, n.first, n.last
from notification_actors a join notifications n on n.id = a.notification_id
where a.actor_id = $1 limit $2
"""

DOINGS_AS = """
select a.notification_id, a.face_id, n.user_id, n.first, n.last
from unnest($1::uuid[], $2::uuid[], $3::uuid[]) as d (user_id, actor_id, face_id)
join notification_actors a on a.actor_id = d.actor_id and a.face_id = d.face_id
join notifications n on n.id = a.notification_id and n.user_id = d.user_id
where $4::text is null or n.kind = $4
"""

# Whom an event has told of is nobody from here on. Of a person that it was about, the id goes too.
BLANK = """
update person_events e
set body = jsonb_set(
    case when e.body::jsonb #>> '{notification,thing,id}' = d.face_id::text
        then jsonb_set(e.body::jsonb, '{notification,thing,id}', to_jsonb($5::jsonb ->> 'id'))
        else e.body::jsonb
    end,
    '{notification,actor}', $5::jsonb
)::text
from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[]) as d (user_id, face_id, first, last)
where e.user_id = d.user_id and e."offset" between d.first and d.last
  and e.body::jsonb #>> '{notification,actor,id}' = d.face_id::text
"""

TAKE_BACK = """
with gone as (
    delete from notification_actors a
    using unnest($1::uuid[], $2::uuid[]) as d (notification_id, face_id)
    where a.notification_id = d.notification_id and a.face_id = d.face_id
    returning a.notification_id
), less as (
    select notification_id as id, count(*)::int as taken from gone group by notification_id
), emptied as (
    delete from notifications n using less where n.id = less.id and n.count <= less.taken
)
update notifications n set count = n.count - less.taken from less where n.id = less.id and n.count > less.taken
"""

FORGET = """
delete from notifications where id in (
    select id from notifications
    where read_at < now() - make_interval(secs => $1)
       or (read_at is null and changed_at < now() - make_interval(secs => $2))
    limit 10000
)
"""

PARTS = (
    Part(
        name="notifications",
        columns=("notifications.user_id",),
        rows="""
        select id, kind, thing_kind, thing_id, part_id, outcome, count, created_at, changed_at, read_at
        from notifications where user_id = $1 order by last
        """,
    ),
    Part(
        name="notifications_caused",
        columns=("notification_actors.actor_id",),
        rows="""
        select n.kind, n.thing_kind, a.face_name as done_as, n.changed_at
        from notification_actors a join notifications n on n.id = a.notification_id
        where a.actor_id = $1 order by a.nth
        """,
    ),
    Part(
        name="notification_settings",
        columns=("notification_settings.user_id",),
        rows="""
        select ways::text, quiet_start, quiet_end, quiet_zone, names from notification_settings where user_id = $1
        """,
    ),
)


class PushNotifications(Job, tag="notifications.push"):
    """What somebody has not been told on one of their devices is pushed to it."""

    user: UserId


class NewNotice(Struct, frozen=True, kw_only=True):
    """Something happened to `user`.

    `actor` is who did it, `face` as whom they are seen if that is a pseudonym. `part` is what came of it, such as the comment.
    Where nobody in particular did it, `occasion` may name what happens once: told again it changes nothing.
    """

    user: UserId
    kind: NotificationKind
    thing: Thing
    actor: UserId | None = None
    face: Person | None = None
    part: UUID | None = None
    outcome: str = ""
    occasion: str = ""


class Doing(Struct, frozen=True):
    """What somebody did as `face`: which notification it is part of, whose, and which events may tell of it."""

    notification: UUID
    face: UserId
    user: UserId
    first: Offset
    last: Offset


async def notify(
    connection: Connection, notices: Sequence[NewNotice], also: Sequence[NewEvent] = ()
) -> list[Told]:
    """Note what happened, in the transaction that `connection` is in; return what is to be published after the commit.

    `also` are other events of the same transaction, which come first. What adds nothing - the same person did the same again - is told to nobody.
    """
    await connection.execute(LOCK, [*{new.user for new in notices} | {new.user for new in also}])
    rows = await connection.fetch(
        NOTE,
        list(range(len(notices))),
        [new.user for new in notices],
        [new.kind for new in notices],
        [new.thing.kind for new in notices],
        [new.thing.id for new in notices],
        [new.part for new in notices],
        [new.outcome for new in notices],
        [new.occasion for new in notices],
        [new.actor for new in notices],
        [new.actor if new.face is None else new.face.id for new in notices],
        [new.face and new.face.name for new in notices],
        [new.user for new in also],
    )
    pushes = sorted({row["user_id"] for row in rows if row["pushes"]})
    if pushes:
        jobs = [PushNotifications(user=user) for user in pushes]
        await enqueue_all(connection, jobs, keys=[str(user) for user in pushes])
    # Their places are those that the events get now: nobody else moves a position that is locked.
    told = [NewEvent(row["user_id"], Notice(notification=_noted(row, notices[row["i"]]))) for row in rows]
    if not told and not also:
        return []
    return await person_events.append(connection, [*also, *told])


async def page(pool: Pool, user: UserId, before: Offset | None, limit: int) -> list[Notification]:
    """Return a person's notifications before an offset, the newest first."""
    async with answering(pool) as connection:
        rows = await connection.fetch(PAGE, user, before, limit)
    return [_listed(row) for row in rows]


async def unread(pool: Pool, user: UserId) -> int:
    """Count what a person has not read, up to `MOST_UNREAD`."""
    async with answering(pool) as connection:
        count: int | None = await connection.fetchval(COUNT_UNREAD, user)
    return count or 0


class Read(Struct, frozen=True):
    """How many are left unread, and what is to be published."""

    unread: int
    told: Sequence[Told]


async def read(pool: Pool, user: UserId, notification: UUID | None, upto: Offset) -> Read:
    """Mark one as read, or all up to an offset. Raises `Refused` (not_found) for one that is not theirs."""
    async with answering(pool) as connection, connection.transaction():
        await connection.execute(LOCK, [user])
        if notification is None:
            marked = await connection.fetch(READ_UPTO, user, upto)
        else:
            marked = await connection.fetch(READ_ONE, notification, user)
            if not marked and not await connection.fetchval(IS_THERE, notification, user):
                raise Refused(ErrorCode.NOT_FOUND)
        left: int = await connection.fetchval(COUNT_UNREAD, user) or 0
        if not marked:
            return Read(left, ())
        event = NotificationsSeen(notification=notification, upto=upto, unread=left)
        return Read(left, await person_events.append(connection, [NewEvent(user, event)]))


async def settings_of(pool: Pool, user: UserId) -> NotificationSettings:
    """Return how a person wants to be told."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(SETTINGS, user)
    return NotificationSettings() if row is None else settings_from(row)


async def set_settings(pool: Pool, user: UserId, settings: NotificationSettings) -> None:
    """Let a person be told as they want."""
    quiet = settings.quiet
    ways = msgspec.json.encode(settings.ways).decode()
    async with answering(pool) as connection, connection.transaction():
        await connection.execute(
            SET,
            user,
            ways,
            quiet and quiet.start,
            quiet and quiet.end,
            quiet and quiet.zone,
            settings.names,
        )
        await wake(
            connection, PushNotifications, str(user)
        )  # it may wait for the end of quiet hours that are none any more


async def forget_doings(pool: Pool, actor: UserId, limit: int) -> int:
    """Take back at most `limit` of what somebody did who has left for good; return how many there were."""
    async with answering(pool) as connection, connection.transaction():
        rows = await connection.fetch(DOINGS, actor, limit)
        doings = [Doing(*row.values()) for row in rows]
        await connection.execute(LOCK, [one.user for one in doings])
        await _take_back(connection, doings)
    return len(doings)


async def take_back(
    connection: Connection,
    doings: Sequence[tuple[UserId, UserId, UserId]],
    kind: NotificationKind | None = None,
) -> None:
    """Let people not see any more what somebody did as whom, in the transaction that `connection` is in: all, or of one kind.

    Each of `doings` is who saw it, who did it, and as whom: what was done under another name stays, because if it went, it would
    be known whose it was.
    """
    users, actors, faces = zip(*doings, strict=True)
    await connection.execute(LOCK, users)
    rows = await connection.fetch(DOINGS_AS, users, actors, faces, kind)
    await _take_back(connection, [Doing(*row.values()) for row in rows])


async def _take_back(connection: Connection, doings: Sequence[Doing]) -> None:
    if not doings:
        return
    faces = [one.face for one in doings]
    await connection.execute(
        BLANK,
        [one.user for one in doings],
        faces,
        [one.first for one in doings],
        [one.last for one in doings],
        msgspec.json.encode(NOBODY).decode(),
    )
    await connection.execute(TAKE_BACK, [one.notification for one in doings], faces)


async def forget(pool: Pool) -> int:
    """Delete what the rule says, some at a time; return how many."""
    async with answering(pool) as connection:
        status = await connection.execute(FORGET, READ_KEPT_DAYS * _DAY, UNREAD_KEPT_DAYS * _DAY)
    return int(status.rpartition(" ")[2])


def settings_from(row: asyncpg.Record) -> NotificationSettings:
    """Make settings of a row."""
    quiet = None
    if row["quiet_zone"] is not None:
        quiet = QuietHours(start=row["quiet_start"], end=row["quiet_end"], zone=row["quiet_zone"])
    ways = msgspec.json.decode(row["ways"], type=dict[str, Way])
    return NotificationSettings(ways=ways, quiet=quiet, names=row["names"])


def _noted(row: asyncpg.Record, new: NewNotice) -> Notification:
    actor = None if new.actor is None else new.face or _known(row)
    return Notification(
        id=row["id"],
        kind=new.kind,
        thing=new.thing,
        at=row["at"],
        offset=row["place"],
        count=row["count"],
        actor=actor,
        part=new.part,
        outcome=new.outcome,
    )


def _listed(row: asyncpg.Record) -> Notification:
    actor = None
    if row["face_id"] is not None:
        pseudonym = row["face_name"]
        actor = _known(row) if pseudonym is None else Person(id=row["face_id"], name=pseudonym)
    return Notification(
        id=row["id"],
        kind=row["kind"],
        thing=Thing(kind=row["thing_kind"], id=row["thing_id"]),
        at=row["at"],
        offset=row["last"],
        count=row["count"],
        actor=actor,
        part=row["part_id"],
        outcome=row["outcome"],
        read=row["read"],
    )


def _known(row: asyncpg.Record) -> Person:
    return person(row["known_id"], row["known_name"], row["known_avatar"])
