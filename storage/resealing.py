"""Sealing anew: what was sealed under an older key, and what was stored before its column was sealed.

It goes over one column after the other in the order of its rows, a few at a time, and changes a field only if it is still what
was read. So nobody waits for it, two that run at once do no harm, and one that is stopped in the middle begins again:
what is done is passed over.
"""

from __future__ import annotations

from collections import Counter
from typing import Final
from uuid import UUID

import asyncpg
from msgspec import Struct

from storage import devices, emails, grants, moderation, people, privacy, session, waitlist
from storage.postgres.pool import Pool, answering
from storage.sealing import INDEX_KEY, BrokenSeal, Sealer

BATCH: Final = 200
"""Rows of one transaction: some milliseconds."""


class Sealed(Struct, frozen=True):
    """A column whose fields are sealed, and the column that tells the rows apart, to which each seal is bound."""

    name: str
    row: str = "id"
    type: str = "uuid"

    @property
    def first(self) -> tuple[UUID | str, bytes]:
        """What comes before every field."""
        return ("" if self.type == "text" else UUID(int=0)), b""

    def sql(self, statement: str) -> str:
        """Return a statement about this column."""
        table, _, column = self.name.partition(".")
        return statement.format(table=table, column=column, row=self.row, type=self.type)


SEALED: Final = (
    Sealed(people.ADDRESS, "user_id"),
    Sealed(session.DEVICE),
    Sealed(grants.GRANT),
    Sealed(privacy.PIECE),
    Sealed(moderation.ABOUT),
    Sealed(moderation.REASON),
    Sealed(emails.OLD_ADDRESS),
    Sealed(emails.NEW_ADDRESS),
    Sealed(waitlist.ADDRESS),
    Sealed(devices.TOKEN, "session_id"),
    Sealed(INDEX_KEY, "name", "text"),
)
"""Every sealed column of the database."""

STALE_FIELDS = """
select {row} as row, {column} as sealed from {table}
where ({row}, {column}) > ($1::{type}, $2::bytea) and substring({column} from 1 for length($3::bytea)) <> $3
order by {row}, {column} limit $4
"""

RESEAL_FIELDS = """
update {table} set {column} = n.new
from unnest($1::{type}[], $2::bytea[], $3::bytea[]) as n (row, old, new)
where {table}.{row} = n.row and {table}.{column} = n.old
"""

COUNT_BY_KEY = """
select convert_from(substring({column} from 3 for get_byte({column}, 1)), 'UTF8') as key, count(*) as fields
from {table} where {column} is not null group by 1
"""


class Batch(Struct, frozen=True):
    """How much was sealed anew, how much does not open, and after what to go on; None when nothing is left."""

    count: int
    broken: int
    after: tuple[UUID | str, bytes] | None


async def seal_rest(pool: Pool, sealer: Sealer) -> int:
    """Seal a few of what was stored before its column was sealed; return how many there were."""
    return await people.seal_addresses(pool, sealer, BATCH) + await session.seal_devices(pool, sealer, BATCH)


async def reseal(
    pool: Pool, sealer: Sealer, sealed: Sealed, after: tuple[UUID | str, bytes], limit: int = BATCH
) -> Batch:
    """Seal the next few stale fields of a column under the newest key. What does not open is left as it is."""
    async with answering(pool) as connection:
        rows = await connection.fetch(sealed.sql(STALE_FIELDS), *after, sealer.header, limit)
        if not rows:
            return Batch(0, 0, None)
        renewed = [(row["row"], row["sealed"], new) for row in rows if (new := _renewed(sealer, sealed, row))]
        columns = [[field[place] for field in renewed] for place in range(3)]
        await connection.execute(sealed.sql(RESEAL_FIELDS), *columns)
    return Batch(len(renewed), len(rows) - len(renewed), (rows[-1]["row"], rows[-1]["sealed"]))


def _renewed(sealer: Sealer, sealed: Sealed, row: asyncpg.Record) -> bytes | None:
    try:
        return sealer.seal(sealed.name, row["row"], sealer.open(sealed.name, row["row"], row["sealed"]))
    except BrokenSeal:
        return None


async def fields_by_key(pool: Pool) -> Counter[str]:
    """Count the sealed fields of the database by the id of their key. Reads all of them."""
    counts: Counter[str] = Counter()
    for sealed in SEALED:
        async with answering(pool) as connection:
            for row in await connection.fetch(sealed.sql(COUNT_BY_KEY), timeout=60):
                counts[row["key"]] += row["fields"]
    return counts
