"""Media in Postgres: whose the files are, where they belong, and which uploads are under way.

A file is there before its row, and goes before its row: a row never promises bytes that are not there, and a file that no row
knows is left over from a crash and is swept away. A person is locked before anything of theirs changes, so that their bytes
are added up one upload at a time, and nothing of theirs is set while they leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg
from msgspec import Struct

from protocol.envelope import RoomId, UserId
from protocol.media import AvatarChanged, MediaKind
from protocol.refusals import ErrorCode, Refused
from storage.jobs import Job, enqueue
from storage.person_events import NewEvent, Told, append
from storage.personal import Part
from storage.postgres.pool import Connection, Pool, answering
from storage.sealing import Sealer

KEPT_SECONDS: Final = 3600.0
"""How long a picture that was replaced is still there: somebody's screen may show it yet."""
FORGOTTEN_SECONDS: Final = 45.0
"""An upload of which nothing was heard for so long is given up."""
TOLD_SECONDS: Final = 3600.0
"""How long one can ask what came of an upload."""

LOCK_PERSON = """
select true from users where id = $1 for no key update
"""

HELD = """
select coalesce((select sum(bytes) from media where user_id = $1 and dropped_at is null), 0)::bigint
     + coalesce((select sum(bytes) from uploads where user_id = $1 and not finished), 0)::bigint
"""

BEGIN = """
insert into uploads (id, user_id, kind, room_id, media_type, bytes) values ($1, $2, $3::media_kind, $4, $5, $6)
"""

FIND_UPLOAD = """
select u.id, u.user_id, u.kind::text, u.room_id, u.media_type, u.bytes, u.finished, u.media_id,
    m.media_type as made_type, m.bytes as made_bytes
from uploads u left join media m on m.id = u.media_id
where u.id = $1 and u.user_id = $2
"""

TOUCH = """
update uploads set touched_at = now() where id = $1 and not finished returning true
"""

GIVE_UP = """
delete from uploads where id = $1 and not finished
"""

FORGET_UPLOADS = """
delete from uploads
where touched_at < now() - make_interval(secs => case when finished then $2::float8 else $1::float8 end)
"""

FINISH = """
update uploads set finished = true, media_id = $2, touched_at = now() where id = $1 and not finished returning true
"""

ADD = """
insert into media (id, user_id, kind, room_id, media_type, bytes, sha256, duration_ms, opening_bytes, closing_from)
values ($1, $2, $3::media_kind, $4, $5, $6, $7, $8, $9, $10)
"""

DROP_OTHERS = """
update media set dropped_at = now()
where kind = $1::media_kind and dropped_at is null and id <> $2
  and case when $1::media_kind = 'AVATAR' then user_id = $3::uuid else room_id = $4::uuid end
"""

SET_AVATAR = """
update users set avatar = $2 where id = $1
"""

SET_THUMBNAIL = """
update rooms set thumbnail = $2 where id = $1 and host_id = $3 returning true
"""

SET_CONTENT = """
update rooms set content_url = $2, duration_seconds = coalesce($4, duration_seconds)
where id = $1 and host_id = $3
returning true
"""

FIND_MEDIA = """
select id, user_id, kind::text, room_id, media_type, bytes, sha256, duration_ms, opening_bytes, closing_from
from media where id = $1 and dropped_at is null
"""

WHOSE = """
select user_id from media where id = $1 and dropped_at is null
"""

DROP = """
update media set dropped_at = now() where id = $1 and user_id = $2 and dropped_at is null
returning kind::text, room_id
"""

NOTE_DROP = """
insert into decisions (decision, detail, actor_id, subject_id) values ('media', $1, $2, $3)
"""

UNSET_AVATAR = """
update users set avatar = null where id = $1 and avatar = $2 returning true
"""

UNSET_ROOM = """
update rooms
set thumbnail = nullif(thumbnail, $2), content_url = nullif(content_url, $2)
where id = $1 and host_id = $3
"""

GONE = """
select id from media
where dropped_at < now() - make_interval(secs => $1) order by dropped_at limit $2
"""

FORGET_MEDIA = """
delete from media where id = any($1::uuid[])
"""

KNOWN = """
select id from media where id = any($1::uuid[])
"""

LEAVE = """
with dropped as (
    update media set dropped_at = '-infinity' where user_id = $1 returning id
)
select count(*) from dropped
"""

PARTS = (
    Part(
        name="media",
        columns=("media.user_id",),
        rows="""
        select id, kind::text, room_id, media_type, bytes, made_at from media where user_id = $1 order by made_at, id
        """,
    ),
    Part(
        name="uploads",
        columns=("uploads.user_id",),
        rows="""
        select id, kind::text, room_id, media_type, bytes, begun_at from uploads where user_id = $1 order by begun_at, id
        """,
    ),
)


class ClearMedia(Job, tag="media.clear"):
    """Somebody has left: their files go now."""


class Upload(Struct, frozen=True, kw_only=True):
    """An upload of a person. `media` is what came of it, once it is finished and as long as that is there."""

    id: UUID
    user: UserId
    kind: MediaKind
    room: RoomId | None
    media_type: str
    size: int
    finished: bool = False
    media: UUID | None = None
    made_type: str | None = None
    made_size: int | None = None


class Media(Struct, frozen=True, kw_only=True):
    """A file. `duration_ms` is how long it plays, if it says so; see the schema for `opening_bytes` and `closing_from`."""

    id: UUID
    user: UserId | None
    kind: MediaKind
    room: RoomId | None
    media_type: str
    size: int
    sha256: bytes
    duration_ms: int | None = None
    opening_bytes: int = 0
    closing_from: int | None = None


def url_of(media: UUID) -> str:
    """Return where a file is fetched: a path on this server."""
    return f"/media/{media}"


async def begin(pool: Pool, upload: Upload, most: int) -> None:
    """Reserve the place of an upload, if the person then has at most `most` bytes. Raises `Refused` (quota_reached)."""
    async with answering(pool) as connection, connection.transaction():
        await connection.fetchval(LOCK_PERSON, upload.user)
        if await connection.fetchval(HELD, upload.user) + upload.size > most:
            raise Refused(ErrorCode.QUOTA_REACHED)
        await connection.execute(
            BEGIN, upload.id, upload.user, upload.kind.value, upload.room, upload.media_type, upload.size
        )


async def find_upload(pool: Pool, upload: UUID, user: UserId) -> Upload | None:
    """Return an upload of a person. None when it was given up, never was, or is somebody else's."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(FIND_UPLOAD, upload, user)
    if row is None:
        return None
    return Upload(
        id=row["id"],
        user=row["user_id"],
        kind=MediaKind(row["kind"]),
        room=row["room_id"],
        media_type=row["media_type"],
        size=row["bytes"],
        finished=row["finished"],
        media=row["media_id"],
        made_type=row["made_type"],
        made_size=row["made_bytes"],
    )


async def touch(pool: Pool, upload: UUID) -> bool:
    """Note that an upload goes on. False: it was given up, or is finished."""
    async with answering(pool) as connection:
        return bool(await connection.fetchval(TOUCH, upload))


async def give_up(pool: Pool, upload: UUID) -> None:
    """Forget an upload that is not finished, and free its place."""
    async with answering(pool) as connection:
        await connection.execute(GIVE_UP, upload)


async def forget_uploads(pool: Pool) -> None:
    """Forget the uploads that went silent, and those whose end nobody need ask for any more."""
    async with answering(pool) as connection:
        await connection.execute(FORGET_UPLOADS, FORGOTTEN_SECONDS, TOLD_SECONDS)


async def finish(pool: Pool, upload: Upload, made: Media) -> list[Told]:
    """Put a file, which is there, where it belongs; return what is to be published. What was there before is dropped.

    Raises `Refused` (not_found) when the upload was given up, or the room is not theirs any more.
    """
    async with answering(pool) as connection, connection.transaction():
        await connection.fetchval(LOCK_PERSON, upload.user)
        await connection.execute(
            ADD,
            made.id,
            made.user,
            made.kind.value,
            made.room,
            made.media_type,
            made.size,
            made.sha256,
            made.duration_ms,
            made.opening_bytes,
            made.closing_from,
        )
        if not await connection.fetchval(FINISH, upload.id, made.id):
            raise Refused(ErrorCode.NOT_FOUND)
        await connection.execute(DROP_OTHERS, made.kind.value, made.id, made.user, made.room)
        return await _put(connection, upload, made)


async def _put(connection: Connection, upload: Upload, made: Media) -> list[Told]:
    url = url_of(made.id)
    if made.kind is MediaKind.AVATAR:
        await connection.execute(SET_AVATAR, upload.user, url)
        event = NewEvent(upload.user, AvatarChanged(avatar=url), changes_session=True)
        return await append(connection, [event])
    if made.kind is MediaKind.THUMBNAIL:
        put = await connection.fetchval(SET_THUMBNAIL, made.room, url, upload.user)
    else:
        seconds = None if made.duration_ms is None else max(1, round(made.duration_ms / 1000))
        put = await connection.fetchval(SET_CONTENT, made.room, url, upload.user, seconds)
    if not put:
        raise Refused(ErrorCode.NOT_FOUND)
    return []


async def find_media(pool: Pool, media: UUID) -> Media | None:
    """Return a file that is shown somewhere."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(FIND_MEDIA, media)
    return None if row is None else _media(row)


def _media(row: asyncpg.Record) -> Media:
    return Media(
        id=row["id"],
        user=row["user_id"],
        kind=MediaKind(row["kind"]),
        room=row["room_id"],
        media_type=row["media_type"],
        size=row["bytes"],
        sha256=row["sha256"],
        duration_ms=row["duration_ms"],
        opening_bytes=row["opening_bytes"],
        closing_from=row["closing_from"],
    )


class Dropped(Struct, frozen=True):
    """A file was taken away from where it was shown: from this room, or from its person; `told` is to be published."""

    room: RoomId | None
    told: list[Told]


async def drop(pool: Pool, media: UUID, user: UserId, *, moderates: bool) -> Dropped | None:
    """Take a file away from where it is shown. None when there is none, or it is somebody else's and this person is no moderator.

    What a moderator takes away is among the decisions.
    """
    async with answering(pool) as connection, connection.transaction():
        owner: UserId | None = await connection.fetchval(WHOSE, media)
        if owner is None or not (owner == user or moderates):
            return None
        await connection.fetchval(LOCK_PERSON, owner)
        row = await connection.fetchrow(DROP, media, owner)
        if row is None:
            return None
        if owner != user:
            await connection.execute(NOTE_DROP, row["kind"].lower(), user, owner)
        url = url_of(media)
        if row["kind"] != MediaKind.AVATAR:
            await connection.execute(UNSET_ROOM, row["room_id"], url, owner)
            return Dropped(row["room_id"], [])
        if not await connection.fetchval(UNSET_AVATAR, owner, url):
            return Dropped(None, [])
        event = NewEvent(owner, AvatarChanged(), changes_session=True)
        return Dropped(None, await append(connection, [event]))


async def gone(pool: Pool, limit: int) -> list[UUID]:
    """Return files that nothing has shown for long enough."""
    async with answering(pool) as connection:
        return [row["id"] for row in await connection.fetch(GONE, KEPT_SECONDS, limit)]


async def forget(pool: Pool, media: Sequence[UUID]) -> None:
    """Forget files that are deleted."""
    async with answering(pool) as connection:
        await connection.execute(FORGET_MEDIA, media)


async def known(pool: Pool, media: Sequence[UUID]) -> set[UUID]:
    """Return which of these files have a row."""
    async with answering(pool) as connection:
        return {row["id"] for row in await connection.fetch(KNOWN, media)}


async def leave_media(connection: Connection, _sealer: Sealer, user: UserId) -> None:
    """Have the files of somebody who leaves deleted: nothing shows them from the end of this transaction on."""
    if await connection.fetchval(LEAVE, user):
        await enqueue(connection, ClearMedia())
