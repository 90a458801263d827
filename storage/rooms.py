"""Looprooms in Postgres: the catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import asyncpg
from msgspec import Struct

from protocol.envelope import Person, RoomId, UserId
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import ContentKind, Room, RoomStatus
from storage.people import person
from storage.personal import Part
from storage.postgres.pool import Pool, answering
from storage.pseudonyms import pseudonym
from storage.sealing import Sealer

_ROOM = """
    r.id, r.slug, r.title, r.description, r.category, r.content::text, r.status::text, r.thumbnail, r.duration_seconds,
    case when r.content_url like '/media/%' or not (r.premium or coalesce(r.month_cents, r.session_cents) is not null)
        then r.content_url end as content_url,
    r.difficulty, r.premium, r.preview_seconds, r.live, r.month_cents, r.session_cents,
    u.id as host_id, u.name as host_name, u.avatar as host_avatar, u.anonymous as host_anonymous
"""

BY_REFS = f"""
select {_ROOM}
from rooms r left join users u on u.id = r.host_id
where r.slug = any($1::text[]) or r.id = any($2::uuid[])
"""

PUBLISHED = f"""
select {_ROOM}
from rooms r left join users u on u.id = r.host_id
where r.status = 'PUBLISHED' and ($1::text is null or r.category = $1)
  and not exists (select from hidden_pairs where user_id = $4 and other_id = r.host_id)
  and ($2::uuid is null or (r.title, r.id) > (select title, id from rooms where id = $2))
order by r.title, r.id limit $3
"""

TERMS = """
select id, status::text, premium, preview_seconds, (month_cents is not null or session_cents is not null) as exclusive
from rooms where id = any($1::uuid[])
"""

IS_PUBLISHED = """
select exists (
    select from rooms where id = $1 and status = 'PUBLISHED'
        and not exists (select from hidden_pairs where user_id = $2 and other_id = rooms.host_id)
)
"""

PARTS = (
    Part(
        name="looprooms",
        columns=("rooms.host_id",),
        rows="""
        select id, slug, title, description, category, status::text, content::text, content_url, thumbnail, duration_seconds,
               difficulty, premium, preview_seconds, live, month_cents, session_cents, created_at
        from rooms where host_id = $1 order by created_at, id
        """,
        stays="a looproom without host, title, description, picture and content, archived: others have spoken in it",
    ),
)


class Page(Struct, kw_only=True):
    """Rooms by title; `more` says whether there are further ones."""

    rooms: list[Room]
    more: bool


class Terms(Struct, frozen=True):
    """What decides who may be in a room."""

    status: RoomStatus
    premium: bool
    preview_seconds: int
    exclusive: bool


def terms_of(room: Room) -> Terms:
    """Return the terms of a catalogue entry."""
    return Terms(room.status, room.premium, room.preview_seconds, room.exclusive)


async def terms(pool: Pool, wanted: Sequence[RoomId]) -> dict[RoomId, Terms]:
    """Return the terms of rooms, of all of them in one statement."""
    async with answering(pool) as connection:
        rows = await connection.fetch(TERMS, wanted)
    return {
        RoomId(row["id"]): Terms(
            RoomStatus(row["status"]), row["premium"], row["preview_seconds"], row["exclusive"]
        )
        for row in rows
    }


async def by_refs(pool: Pool, sealer: Sealer, refs: Sequence[str]) -> dict[str, Room]:
    """Return the rooms with these slugs or ids, whatever their status, by what they were asked as."""
    ids = {ref: room for ref in refs if (room := _as_id(ref)) is not None}
    async with answering(pool) as connection:
        rows = await connection.fetch(BY_REFS, refs, list(ids.values()))
    rooms = [_room(sealer, row) for row in rows]
    by_slug = {room.slug: room for room in rooms}
    by_id = {room.id: room for room in rooms}
    found = {ref: by_id.get(ids[ref]) if ref in ids else by_slug.get(ref) for ref in refs}
    return {ref: room for ref, room in found.items() if room is not None}


async def published(
    pool: Pool, sealer: Sealer, user: UserId, category: str | None, after: RoomId | None, limit: int
) -> Page:
    """Return a page of published rooms that are there for somebody, of one category or of all, by title, after a room.

    Raises `Refused` (not_found) when that room is not one of them: where it would stand is told to nobody.
    """
    async with answering(pool) as connection:
        if after is not None and not await connection.fetchval(IS_PUBLISHED, after, user):
            raise Refused(ErrorCode.NOT_FOUND, path="$.after")
        rows = await connection.fetch(PUBLISHED, category, after, limit + 1, user)
    return Page(rooms=[_room(sealer, row) for row in rows[:limit]], more=len(rows) > limit)


def _as_id(ref: str) -> RoomId | None:
    try:
        return RoomId(UUID(ref))
    except ValueError:
        return None


def _room(sealer: Sealer, row: asyncpg.Record) -> Room:
    return Room(
        id=row["id"],
        slug=row["slug"],
        title=row["title"],
        description=row["description"],
        category=row["category"],
        host=_host(sealer, row),
        content=ContentKind(row["content"]),
        status=RoomStatus(row["status"]),
        thumbnail=row["thumbnail"],
        content_url=row["content_url"],
        duration_seconds=row["duration_seconds"],
        difficulty=row["difficulty"],
        premium=row["premium"],
        preview_seconds=row["preview_seconds"],
        live=row["live"],
        month_cents=row["month_cents"],
        session_cents=row["session_cents"],
    )


def _host(sealer: Sealer, row: asyncpg.Record) -> Person:
    """Return whom others see of a room's host."""
    if row["host_anonymous"]:
        return pseudonym(sealer, row["id"], row["host_id"])
    return person(row["host_id"], row["host_name"], row["host_avatar"])
