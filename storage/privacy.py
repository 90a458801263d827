"""Everything about a person: what is theirs in every table, as one document, and what stays when they have gone.

An export is read in one snapshot of the database and written in pieces, each sealed, so that neither a long history nor a
thief of the database is a problem. Its cases, each with a test:

1. asked for: a job makes it, and says how far it is;
2. asked for again while it is made: it is the same one;
3. its node dies in the middle: another one makes it from the beginning;
4. it has expired, or is somebody else's, or never was: there is no such export.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID, uuid4, uuid5

import msgspec
from msgspec import Struct

from protocol.envelope import Milliseconds, UserId
from storage import (
    chat,
    checkouts,
    comments,
    devices,
    emails,
    engagement,
    grants,
    ledger,
    links,
    media,
    moderation,
    notifications,
    passes,
    people,
    person_events,
    previews,
    reactions,
    relations,
    rooms,
    session,
    subscriptions,
    vybes,
)
from storage.jobs import Job, enqueue
from storage.personal import Part
from storage.postgres.pool import Connection, Pool, answering
from storage.sealing import Sealer

KEPT_HOURS: Final = 24
STALE_HOURS: Final = 1
"""An export that is not finished after so long is not waited for: asking again makes another one."""
PIECE_CHARACTERS: Final = 262144
READ_SECONDS: Final = 30.0
"""How long a statement may take that reads all that somebody has in a table."""
_PREFETCH: Final = 500

EXPORTS_OF = Part(
    name="exports",
    columns=("exports.user_id",),
    rows="select id, created_at, finished_at, expires_at from exports where user_id = $1 order by created_at, id",
)

PARTS: Final[tuple[Part, ...]] = (
    *people.PARTS,
    *grants.PARTS,
    *session.PARTS,
    *emails.PARTS,
    *links.PARTS,
    *rooms.PARTS,
    *chat.PARTS,
    *vybes.PARTS,
    *comments.PARTS,
    *reactions.PARTS,
    *previews.PARTS,
    *engagement.PARTS,
    *subscriptions.PARTS,
    *checkouts.PARTS,
    *passes.PARTS,
    *ledger.PARTS,
    *person_events.PARTS,
    *moderation.PARTS,
    *notifications.PARTS,
    *devices.PARTS,
    *relations.PARTS,
    *media.PARTS,
    EXPORTS_OF,
)
"""What every table holds of a person. `Part.stays` is the whole list of what is left when they have gone."""

PIECE: Final = "export_pieces.sealed_text"
"""Where pieces of exports are sealed; the row is the piece's."""

_STATE = """
    id, rows_done, rows_in_all, finished_at is not null as finished,
    (extract(epoch from created_at) * 1000)::bigint as created_at,
    (extract(epoch from expires_at) * 1000)::bigint as expires_at
"""

CURRENT_EXPORT = f"""
select {_STATE} from exports
where user_id = $1 and finished_at is null and created_at > now() - make_interval(hours => {STALE_HOURS})
"""

ADD_EXPORT = f"""
insert into exports (user_id, expires_at) values ($1, now() + make_interval(hours => {KEPT_HOURS})) returning {_STATE}
"""

FIND_EXPORT = f"""
select {_STATE} from exports where id = $1 and user_id = $2 and expires_at > now()
"""

LOCK_PERSON = """
select true from users where id = $1 for no key update
"""

ALLOW_TIME = f"""
set local statement_timeout = '{READ_SECONDS:.0f}s'
"""

BEGIN_EXPORT = """
update exports set run = $2, rows_done = 0, rows_in_all = null
where id = $1 and finished_at is null and expires_at > now()
returning user_id
"""

# A statement of its own, after the row of the export is locked: so it sees the last piece that an earlier run has committed.
DROP_PIECES = """
delete from export_pieces where export_id = $1
"""

# A run that was believed lost may go on beside the one that was begun in its place: it adds nothing any more.
ADD_PIECE = """
with current as (
    update exports set rows_done = $6, rows_in_all = $7 where id = $1 and run = $2 returning id
)
insert into export_pieces (id, export_id, place, sealed_text) select $3, id, $4, $5 from current
returning true
"""

FINISH_EXPORT = """
update exports set rows_done = $3, rows_in_all = $3, finished_at = now() where id = $1 and run = $2
"""

PIECE_OF = """
select p.sealed_text from export_pieces p join exports e on e.id = p.export_id
where p.id = $1 and p.export_id = $2 and e.user_id = $3 and e.expires_at > now()
"""

FORGET_EXPORTS = """
delete from exports where expires_at <= now()
"""


class MakeExport(Job, tag="person.export"):
    """Everything about a person is written down."""

    export: UUID


class Export(Struct, frozen=True):
    """How far an export is. `rows_in_all` is None before it is begun."""

    id: UUID
    rows_done: int
    rows_in_all: int | None
    finished: bool
    created_at: Milliseconds
    expires_at: Milliseconds

    @property
    def progress(self) -> float:
        """How much of it is done: 0 to 1."""
        if self.finished:
            return 1.0
        return min(0.99, self.rows_done / self.rows_in_all) if self.rows_in_all else 0.0


async def ask_export(pool: Pool, user: UserId) -> Export:
    """Have everything about a person written down, or find that it is being written. Raises `Refused`."""
    async with answering(pool) as connection, connection.transaction():
        await connection.fetchval(LOCK_PERSON, user)
        row = await connection.fetchrow(CURRENT_EXPORT, user)
        if row is None:
            row = await connection.fetchrow(ADD_EXPORT, user)
            assert row is not None
            await enqueue(connection, MakeExport(export=row["id"]))
    return Export(*row.values())


async def find_export(pool: Pool, export: UUID, user: UserId) -> Export | None:
    """Return a person's export. None when it has expired, was never asked for, or is somebody else's."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(FIND_EXPORT, export, user)
    return None if row is None else Export(*row.values())


async def make_export(pool: Pool, sealer: Sealer, export: UUID) -> None:
    """Write an export from its beginning. Nothing happens when it is finished, has expired, or its person has left."""
    run = uuid4()
    async with answering(pool) as connection, connection.transaction():
        user = await connection.fetchval(BEGIN_EXPORT, export, run)
        if user is None:
            return
        await connection.execute(DROP_PIECES, export)
    async with (
        answering(pool) as reading,
        reading.transaction(isolation="repeatable_read", readonly=True),
    ):
        await reading.execute(ALLOW_TIME)
        in_all = 0
        for part in PARTS:
            count = f"select count(*) from ({part.rows}) as theirs"
            in_all += await reading.fetchval(count, user, timeout=READ_SECONDS)
        place = done = 0
        async for text, done in _pieces(reading, sealer, user):
            piece = _piece_id(export, place)
            sealed = sealer.seal(PIECE, piece, text)
            async with answering(pool) as writing:
                added = await writing.fetchval(ADD_PIECE, export, run, piece, place, sealed, done, in_all)
            if not added:
                return
            place += 1
    async with answering(pool) as connection:
        await connection.execute(FINISH_EXPORT, export, run, done)


async def read_export(pool: Pool, sealer: Sealer, export: UUID, user: UserId) -> AsyncIterator[str]:
    """Read the pieces of a finished export, one after the other. It ends early if the export expires meanwhile."""
    place = 0
    while True:
        piece = _piece_id(export, place)
        async with answering(pool) as connection:
            sealed = await connection.fetchval(PIECE_OF, piece, export, user)
        if sealed is None:
            return
        yield sealer.open(PIECE, piece, sealed)
        place += 1


async def forget_exports(pool: Pool) -> None:
    """Delete what has expired."""
    async with answering(pool) as connection:
        await connection.execute(FORGET_EXPORTS)


async def _pieces(connection: Connection, sealer: Sealer, user: UserId) -> AsyncIterator[tuple[str, int]]:
    """Write everything about a person as one JSON object, in pieces; with each, how many rows were written so far."""
    waiting: list[str] = []
    size = done = 0
    async for text, rows in _texts(connection, sealer, user):
        waiting.append(text)
        size += len(text)
        done += rows
        if size >= PIECE_CHARACTERS:
            yield "".join(waiting), done
            waiting.clear()
            size = 0
    yield "".join(waiting), done


async def _texts(connection: Connection, sealer: Sealer, user: UserId) -> AsyncIterator[tuple[str, int]]:
    """Write the object bit by bit; with each bit, how many rows are in it."""
    opening = "{"
    for part in PARTS:
        yield f'{opening}"{part.name}":[', 0
        comma = ""
        async for row in connection.cursor(part.rows, user, prefetch=_PREFETCH, timeout=READ_SECONDS):
            yield comma + msgspec.json.encode(part.given(sealer, row)).decode(), 1
            comma = ","
        yield "]", 0
        opening = ","
    yield "}", 0


def _piece_id(export: UUID, place: int) -> UUID:
    """Return the id of a piece. It says of what it is a piece, and which, so that none can take the place of another."""
    return uuid5(export, str(place))
