"""Chat in Postgres: lines appended with their offsets in one statement per batch, and a room's history read back.

An offset is given by moving the room's position in the same transaction that stores the event. The position's row is locked
until the commit, so offsets have no gaps and become visible in order. (A sequence would have neither: a reader that
has seen 2 never gets 1.) Rooms are locked in one order, keys before rooms, so that batches of several nodes cannot deadlock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import asyncpg
from msgspec import Struct

from protocol.chat import ChatLine, ChatRemoval, ChatRevision, Line
from protocol.envelope import LineId, Person, RoomId, UserId
from protocol.refusals import ErrorCode, Refused
from storage.people import person
from storage.personal import Part
from storage.postgres.pool import Pool, answering

Durable = ChatLine | ChatRevision | ChatRemoval


class Happened(Struct, kw_only=True):
    """A durable event that is read back, and its line as it stands now."""

    event: Durable
    line: Line


class NewLine(Struct, kw_only=True):
    """A line that is to be said. `text` is normalised; `id` is new.

    `author` is whom others see; `speaker` is who it is, if that is somebody else: then `author` is their pseudonym.
    """

    id: LineId
    room: RoomId
    author: Person
    text: str
    key: str
    speaker: UserId | None = None

    @property
    def user(self) -> UserId:
        """Who says it."""
        return self.author.id if self.speaker is None else self.speaker

    @property
    def pseudonym(self) -> Person | None:
        """As whom, if they are anonymous."""
        return None if self.user == self.author.id else self.author

    @property
    def digest(self) -> bytes:
        """What the key was used for: the same key with another digest is refused."""
        return hashlib.sha256(b"chat.send\0" + self.room.bytes + self.text.encode()).digest()[:16]


class Said(Struct, kw_only=True):
    """A stored line. `fresh` is false when its key had stored it before."""

    line: Line
    fresh: bool


APPEND = """
with input as (
    select * from unnest($1::int[], $2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::uuid[], $7::text[], $8::uuid[],
                         $9::text[])
        as input (i, room_id, user_id, key, digest, line_id, text, pseudonym, pseudonym_name)
), claimed as (
    insert into idempotency_keys (user_id, key, digest, line_id)
    select user_id, key, digest, line_id from input order by user_id, key, i
    on conflict do nothing
    returning line_id
), fresh as (
    select input.*, row_number() over (partition by room_id order by i) as nth
    from input join claimed using (line_id)
), wanted as (
    select room_id, count(*) as n from fresh group by room_id
), locked as materialized (
    select room_id from room_positions where room_id in (select room_id from wanted) order by room_id for update
), moved as (
    update room_positions p set last = p.last + wanted.n
    from wanted join locked using (room_id)
    where p.room_id = wanted.room_id
    returning p.room_id, p.last - wanted.n as base
)
insert into chat_lines (room_id, "offset", id, author_id, text, pseudonym, pseudonym_name)
select fresh.room_id, moved.base + fresh.nth, fresh.line_id, fresh.user_id, fresh.text, fresh.pseudonym, fresh.pseudonym_name
from fresh join moved using (room_id)
returning id, "offset", (extract(epoch from sent_at) * 1000)::bigint as sent_at
"""

_LINE = """
    l.id, l."offset" as line_offset, l.text,
    (extract(epoch from l.sent_at) * 1000)::bigint as sent_at,
    (extract(epoch from l.edited_at) * 1000)::bigint as edited_at,
    l.removed_at is not null as removed,
    l.author_id as speaker_id,
    coalesce(l.pseudonym, u.id) as author_id,
    coalesce(l.pseudonym_name, u.name) as author_name,
    case when l.pseudonym is null then u.avatar end as author_avatar
"""

BY_KEY = f"""
select i.i, k.digest, {_LINE}
from unnest($1::int[], $2::uuid[], $3::text[]) as i (i, user_id, key)
join idempotency_keys k using (user_id, key)
join chat_lines l on l.id = k.line_id
left join users u on u.id = l.author_id
"""

EVENTS = f"""
select l."offset", 'LINE' as kind, {_LINE}
from chat_lines l left join users u on u.id = l.author_id
where l.room_id = $1 and l."offset" between $2 and $3
union all
select e."offset", e.kind::text, {_LINE}
from room_events e join chat_lines l on l.id = e.line_id left join users u on u.id = l.author_id
where e.room_id = $1 and e."offset" between $2 and $3
order by 1
"""

LINES_BEFORE = f"""
select {_LINE}
from chat_lines l left join users u on u.id = l.author_id
where l.room_id = $1 and l."offset" < $2
order by l."offset" desc limit $3
"""

POSITIONS = """
select room_id, last from room_positions where room_id = any($1::uuid[])
"""

LOCK_LINE = f"""
select {_LINE}
from chat_lines l left join users u on u.id = l.author_id
where l.id = $1 and l.room_id = $2
for update of l
"""

NEXT_OFFSET = """
update room_positions set last = last + 1 where room_id = $1 returning last
"""

REVISE_LINE = """
update chat_lines set text = $2, edited_at = now() where id = $1
returning (extract(epoch from edited_at) * 1000)::bigint
"""

REMOVE_LINE = """
update chat_lines set text = '', removed_at = now() where id = $1
"""

ADD_EVENT = """
insert into room_events (room_id, "offset", kind, line_id, actor_id) values ($1, $2, $3::room_event_kind, $4, $5)
"""

SPEAKER = """
select l.author_id as speaker_id, coalesce(l.pseudonym, u.id) as id, coalesce(l.pseudonym_name, u.name) as name
from chat_lines l join users u on u.id = l.author_id
where l.id = $1 and l.room_id = $2 and l.removed_at is null
"""

BEHIND = """
select author_id from chat_lines where room_id = $1 and pseudonym = $2 and author_id is not null limit 1
"""

PARTS = (
    Part(
        name="chat_lines",
        columns=("chat_lines.author_id",),
        rows="""
        select r.slug as looproom, l.id, l."offset", l.text, l.sent_at, l.edited_at, l.removed_at,
               l.pseudonym_name as said_as
        from chat_lines l join rooms r on r.id = l.room_id
        where l.author_id = $1 order by l.room_id, l."offset"
        """,
        stays="a removed line without text and author: its place and its time, so that the history of the room has no gap",
    ),
    Part(
        name="chat_changes",
        columns=("room_events.actor_id",),
        rows="""
        select r.slug as looproom, e."offset", e.kind::text, e.line_id, e.happened_at
        from room_events e join rooms r on r.id = e.room_id
        where e.actor_id = $1 order by e.room_id, e."offset"
        """,
        stays="that a line was edited or removed, and when, without by whom",
    ),
    Part(
        name="keys",
        columns=("idempotency_keys.user_id",),
        rows="select key, line_id, created_at from idempotency_keys where user_id = $1 order by created_at, key",
    ),
)

PRUNE_KEYS = """
delete from idempotency_keys where (user_id, key) in (
    select user_id, key from idempotency_keys where created_at < now() - make_interval(hours => $1) limit 10000
)
"""


async def append(pool: Pool, lines: Sequence[NewLine]) -> list[Said | Exception]:
    """Store lines, each once per key, in one commit; return them in order, with their offsets.

    A key that was used for something else gives `Refused` (key_reused) in its place. Raises `Refused` (unavailable) when
    Postgres is out of reach: then each line may or may not be stored, and sending its key again tells.
    """
    async with answering(pool) as connection:
        stored = {
            row["id"]: row
            for row in await connection.fetch(
                APPEND,
                list(range(len(lines))),
                [line.room for line in lines],
                [line.user for line in lines],
                [line.key for line in lines],
                [line.digest for line in lines],
                [line.id for line in lines],
                [line.text for line in lines],
                [line.pseudonym and line.pseudonym.id for line in lines],
                [line.pseudonym and line.pseudonym.name for line in lines],
            )
        }
        earlier: dict[int, asyncpg.Record] = {}
        if len(stored) < len(lines):
            known = [(i, line) for i, line in enumerate(lines) if line.id not in stored]
            rows = await connection.fetch(
                BY_KEY,
                [i for i, _ in known],
                [line.user for _, line in known],
                [line.key for _, line in known],
            )
            earlier = {row["i"]: row for row in rows}
    said: list[Said | Exception] = []
    for i, new in enumerate(lines):
        if (row := stored.get(new.id)) is not None:
            line = Line(
                id=new.id, offset=row["offset"], author=new.author, text=new.text, sent_at=row["sent_at"]
            )
            said.append(Said(line=line, fresh=True))
        elif (row := earlier.get(i)) is None:
            said.append(Refused(ErrorCode.NOT_FOUND))
        elif row["digest"] != new.digest:
            said.append(Refused(ErrorCode.KEY_REUSED))
        else:
            said.append(Said(line=_line(row), fresh=False))
    return said


async def events(pool: Pool, room: RoomId, first: int, last: int) -> list[Happened]:
    """Return the durable events of a room from `first` to `last`, both included, in order.

    A line that was edited or removed since shows its present form: what was taken back is nowhere.
    """
    async with answering(pool) as connection:
        rows = await connection.fetch(EVENTS, room, first, last)
    return [_happened(room, row) for row in rows]


async def positions(pool: Pool, rooms: Sequence[RoomId]) -> dict[RoomId, int]:
    """Return the last offset of each room that exists."""
    async with answering(pool) as connection:
        return {row["room_id"]: row["last"] for row in await connection.fetch(POSITIONS, rooms)}


async def newest(pool: Pool, room: RoomId, limit: int) -> tuple[int, list[Happened]]:
    """Return a room's last offset and its newest events (at most `limit`), as of one moment.

    Raises `Refused` (not_found) when there is no such room.
    """
    async with (
        answering(pool) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        position = await connection.fetchrow(POSITIONS, [room])
        if position is None:
            raise Refused(ErrorCode.NOT_FOUND)
        last: int = position["last"]
        rows = await connection.fetch(EVENTS, room, last - limit + 1, last)
    return last, [_happened(room, row) for row in rows]


async def lines_before(pool: Pool, room: RoomId, before: int, limit: int) -> list[Line]:
    """Return at most `limit` lines of a room with offsets below `before`, oldest first."""
    async with answering(pool) as connection:
        rows = await connection.fetch(LINES_BEFORE, room, before, limit)
    return [_line(row) for row in reversed(rows)]


async def said_by(pool: Pool, room: RoomId, line: LineId) -> tuple[UserId, Person] | None:
    """Return who has said a line, and as whom. None where there is no such line, or it was removed."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(SPEAKER, line, room)
    return None if row is None else (row["speaker_id"], person(row["id"], row["name"], None))


async def behind(pool: Pool, room: RoomId, pseudonym: UserId) -> UserId | None:
    """Return who has spoken in a room under a pseudonym. None: nobody, as far as is remembered."""
    async with answering(pool) as connection:
        user: UserId | None = await connection.fetchval(BEHIND, room, pseudonym)
    return user


async def revise(
    pool: Pool, room: RoomId, line: LineId, actor: UserId, text: str, *, any_author: bool
) -> ChatRevision:
    """Change a line's text, with an offset of its own. The same text again changes nothing but still has an offset.

    Raises `Refused`: not_found (no such line here, or removed), forbidden (another's, and not `any_author`).
    """
    async with answering(pool) as connection, connection.transaction():
        row = await _locked(connection, room, line, actor, any_author=any_author)
        if row["removed"]:
            raise Refused(ErrorCode.NOT_FOUND)
        offset: int = await connection.fetchval(NEXT_OFFSET, room)
        edited_at: int = await connection.fetchval(REVISE_LINE, line, text)
        await connection.execute(ADD_EVENT, room, offset, "REVISION", line, actor)
    revised = _line(row)
    revised.text = text
    revised.edited_at = edited_at
    return ChatRevision(room=room, offset=offset, line=revised)


async def remove(
    pool: Pool, room: RoomId, line: LineId, actor: UserId, *, any_author: bool
) -> tuple[ChatRemoval, Line] | None:
    """Remove a line, with an offset of its own; return the removal and the line as it is now.

    None when it was removed before. Raises `Refused`: not_found, forbidden.
    """
    async with answering(pool) as connection, connection.transaction():
        row = await _locked(connection, room, line, actor, any_author=any_author)
        if row["removed"]:
            return None
        offset: int = await connection.fetchval(NEXT_OFFSET, room)
        await connection.execute(REMOVE_LINE, line)
        await connection.execute(ADD_EVENT, room, offset, "REMOVAL", line, actor)
    gone = _line(row)
    gone.text = ""
    gone.removed = True
    return ChatRemoval(room=room, offset=offset, line=line, of=gone.offset), gone


REMOVAL_OF = """
select e.room_id, e."offset", l."offset" as line_offset
from room_events e join chat_lines l on l.id = e.line_id
where e.line_id = $1 and e.kind = 'REMOVAL'
"""


async def removal_of(pool: Pool, line: LineId) -> ChatRemoval:
    """Return the removal of a line that was removed. Raises `Refused` (not_found)."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(REMOVAL_OF, line)
    if row is None:
        raise Refused(ErrorCode.NOT_FOUND)
    return ChatRemoval(room=row["room_id"], offset=row["offset"], line=line, of=row["line_offset"])


async def prune_keys(pool: Pool, hours: int) -> int:
    """Forget idempotency keys that are older than `hours`, at most 10,000 at a time; return how many."""
    async with answering(pool) as connection:
        status = await connection.execute(PRUNE_KEYS, hours)
    return int(status.rpartition(" ")[2])


async def _locked(
    connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record],
    room: RoomId,
    line: LineId,
    actor: UserId,
    *,
    any_author: bool,
) -> asyncpg.Record:
    row = await connection.fetchrow(LOCK_LINE, line, room)
    if row is None:
        raise Refused(ErrorCode.NOT_FOUND)
    if row["speaker_id"] != actor and not any_author:
        raise Refused(ErrorCode.FORBIDDEN)
    return row


def _line(row: asyncpg.Record) -> Line:
    return Line(
        id=row["id"],
        offset=row["line_offset"],
        author=person(row["author_id"], row["author_name"], row["author_avatar"]),
        text=row["text"],
        sent_at=row["sent_at"],
        edited_at=row["edited_at"],
        removed=row["removed"],
    )


def _happened(room: RoomId, row: asyncpg.Record) -> Happened:
    line = _line(row)
    event: Durable
    if row["kind"] == "LINE":
        event = ChatLine(room=room, offset=row["offset"], line=line)
    elif row["kind"] == "REVISION":
        event = ChatRevision(room=room, offset=row["offset"], line=line)
    else:
        departed = row["speaker_id"] is None
        event = ChatRemoval(room=room, offset=row["offset"], line=line.id, of=line.offset, departed=departed)
    return Happened(event=event, line=line)
