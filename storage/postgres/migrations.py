"""Brings a database to the schema of this code: the files ``schema/NNNN_name.sql``, in order, each once.

- Several processes may start at once: one applies, the others wait and then find nothing to do. They poll for the
  advisory lock. A statement that waits inside ``pg_advisory_lock()`` would hold a snapshot, and with it deadlock a
  ``create index concurrently``.
- Each file is one transaction, unless its first line is ``-- no-transaction``. The statements of such a file end with
  ``;`` at the end of a line and run one by one; it must be written so that it can run again after half of it failed.
- A file is never edited once it is applied: its SHA-256 is kept and compared.
- A database that has more than this code knows was brought forward by a newer version, and is left alone.

The connection must be a direct one: an advisory lock does not survive a pooler in transaction mode.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import asyncpg
from msgspec import Struct

SCHEMA = Path(__file__).parent / "schema"

_LOCK_KEY = 0x6C6F6F70726F6F6D  # "looproom"
_LOCK_POLL_SECONDS = 0.05
_LOCK_WAIT_SECONDS = 120.0
_NO_TRANSACTION = "-- no-transaction"
_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

_TABLE = """
create table if not exists schema_migration (
    version integer primary key,
    name text not null,
    sha256 text not null,
    applied_at timestamptz not null default now()
)
"""
_TRY_LOCK = "select pg_try_advisory_lock($1)"
_UNLOCK = "select pg_advisory_unlock($1)"
_APPLIED = "select version, name, sha256 from schema_migration"
_RECORD = "insert into schema_migration (version, name, sha256) values ($1, $2, $3)"


class MigrationError(Exception):
    """The schema could not be brought forward; the message is one sentence for the operator."""


class Migration(Struct, frozen=True):
    """One file of the schema."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """What is compared, so that an applied file is never edited."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def migrations(folder: Path = SCHEMA) -> list[Migration]:
    """Read the files of `folder` in order. Raises `MigrationError` when a name is wrong or a number comes twice."""
    found: dict[int, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name} is not named NNNN_name.sql.")
        version = int(match[1])
        if version in found:
            raise MigrationError(f"{path.name} and {found[version].name} have the same number.")
        found[version] = Migration(version, path.name, path.read_text("utf-8"))
    return list(found.values())


async def migrate(dsn: str, files: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is missing in the database at `dsn` and return the names of the files that were applied.

    Raises `MigrationError`, and asyncpg's and the system's errors when the database can't be reached.
    """
    wanted = migrations() if files is None else files
    connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
        dsn, timeout=5.0, server_settings={"application_name": "looprooms migrate"}
    )
    try:
        if await _is_current(connection, wanted):
            return []
        await _lock(connection)
        try:
            await connection.execute(_TABLE)
            return await _apply(connection, wanted)
        finally:
            await connection.execute(_UNLOCK.replace("$1", str(_LOCK_KEY)))
    finally:
        await connection.close(timeout=5.0)


async def _is_current(connection: asyncpg.Connection[asyncpg.Record], wanted: Sequence[Migration]) -> bool:
    """Say whether nothing is to be done, without a lock: the usual start."""
    if not await connection.fetchval("select to_regclass('schema_migration') is not null"):
        return False
    return not _missing(await connection.fetch(_APPLIED), wanted)


async def _lock(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    deadline = asyncio.get_running_loop().time() + _LOCK_WAIT_SECONDS
    while not await connection.fetchval(_TRY_LOCK, _LOCK_KEY):
        if asyncio.get_running_loop().time() > deadline:
            raise MigrationError("Another process has been migrating this database for two minutes.")
        await asyncio.sleep(_LOCK_POLL_SECONDS)


async def _apply(connection: asyncpg.Connection[asyncpg.Record], wanted: Sequence[Migration]) -> list[str]:
    missing = _missing(await connection.fetch(_APPLIED), wanted)
    for migration in missing:
        record = (migration.version, migration.name, migration.sha256)
        try:
            if migration.sql.startswith(_NO_TRANSACTION):
                for statement in re.split(r";[ \t]*\n", migration.sql):
                    if _says_something(statement):
                        await connection.execute(statement)
                await connection.execute(_RECORD, *record)
            else:
                async with connection.transaction():
                    await connection.execute("set local lock_timeout = '5s'")
                    await connection.execute(migration.sql)
                    await connection.execute(_RECORD, *record)
        except asyncpg.PostgresError as error:
            raise MigrationError(f"{migration.name} failed and was not applied: {error}.") from error
    return [migration.name for migration in missing]


def _missing(applied: Sequence[asyncpg.Record], wanted: Sequence[Migration]) -> list[Migration]:
    """Return what is to be applied. Raises `MigrationError` when what was applied is not what the files say."""
    known = {row["version"]: row for row in applied}
    last = max(known, default=0)
    missing = []
    for migration in wanted:
        row = known.get(migration.version)
        if row is None:
            if migration.version < last:
                raise MigrationError(f"{migration.name} comes before what this database already has.")
            missing.append(migration)
        elif row["sha256"] != migration.sha256:
            raise MigrationError(
                f"{migration.name} was edited after it was applied as {row['name']}; a change belongs in a new file."
            )
    return missing


def _says_something(statement: str) -> bool:
    return any(line.strip() and not line.lstrip().startswith("--") for line in statement.splitlines())
