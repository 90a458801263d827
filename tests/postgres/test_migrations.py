"""The schema is brought forward once, in order, by one process at a time; what was applied is never edited."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from storage.postgres import migrations as module
from storage.postgres.embedded import EmbeddedPostgres
from storage.postgres.migrations import SCHEMA, Migration, MigrationError, migrate, migrations

_NUMBERS = itertools.count(1)

ONE = Migration(1, "0001_one.sql", "create table one (id int);\ninsert into one values (1);")
TWO = Migration(2, "0002_two.sql", "create table two (id int);")
THREE = Migration(3, "0003_three.sql", "create table three (id int);")


class Database:
    """An empty database, and a connection to look at it."""

    def __init__(self, dsn: str, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.dsn = dsn
        self.connection = connection

    async def tables(self) -> list[str]:
        """Return the names of the tables, but for the one that keeps the books."""
        rows = await self.connection.fetch(
            "select tablename::text from pg_tables where schemaname = 'public' order by 1"
        )
        return [row["tablename"] for row in rows if row["tablename"] != "schema_migration"]

    async def applied(self) -> list[tuple[int, str]]:
        """Return what the books say."""
        rows = await self.connection.fetch("select version, name from schema_migration order by version")
        return [(row["version"], row["name"]) for row in rows]


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    """Give a database with nothing in it."""
    name = f"migrated_{next(_NUMBERS)}"
    await postgres.create_database(name)
    connection = await asyncpg.connect(postgres.dsn(name))
    yield Database(postgres.dsn(name), connection)
    await connection.close()


def write(folder: Path, **files: str) -> None:
    """Write files of a schema."""
    for name, text in files.items():
        (folder / f"{name}.sql").write_text(text, "utf-8")


# The files.


def test_files(tmp_path: Path) -> None:
    """Files are read in the order of their numbers; a gap does no harm, and anything that is no SQL is left aside."""
    write(tmp_path, **{"0010_ten": "ten", "0002_two": "two", "0001_one": "eins", "x": ""})
    (tmp_path / "x.sql").rename(tmp_path / "README.md")
    assert [(one.version, one.name, one.sql) for one in migrations(tmp_path)] == [
        (1, "0001_one.sql", "eins"),
        (2, "0002_two.sql", "two"),
        (10, "0010_ten.sql", "ten"),
    ]


@pytest.mark.parametrize("name", ["one", "1_one", "0001-one", "0001_One", "0001_"])
def test_wrong_names(tmp_path: Path, name: str) -> None:
    """A file whose name does not say its place is refused: it would be applied anywhere or never."""
    write(tmp_path, **{name: ""})
    with pytest.raises(MigrationError, match=f"{name}.sql is not named NNNN_name.sql"):
        migrations(tmp_path)


def test_one_number_twice(tmp_path: Path) -> None:
    """Two files with one number are refused, by name: two branches met."""
    write(tmp_path, **{"0001_a": "", "0001_b": ""})
    with pytest.raises(MigrationError, match=r"0001_b.sql and 0001_a.sql have the same number"):
        migrations(tmp_path)


def test_our_own() -> None:
    """The schema of this project can be read, and none of its files is empty."""
    files = migrations(SCHEMA)
    assert files
    assert all(one.sql.strip() for one in files)


# Applying.


async def test_our_schema(database: Database) -> None:
    """The whole schema goes into an empty database; a second time there is nothing to do."""
    assert await migrate(database.dsn) == [one.name for one in migrations()]
    assert await migrate(database.dsn) == []


async def test_only_what_is_missing(database: Database) -> None:
    """What is new is applied, in order, and what is there is not touched."""
    assert await migrate(database.dsn, [ONE]) == ["0001_one.sql"]
    assert await migrate(database.dsn, [ONE, TWO, THREE]) == ["0002_two.sql", "0003_three.sql"]
    assert await migrate(database.dsn, [ONE, TWO, THREE]) == []
    assert await database.applied() == [(1, "0001_one.sql"), (2, "0002_two.sql"), (3, "0003_three.sql")]
    assert await database.connection.fetchval("select count(*) from one") == 1


async def test_several_at_once(database: Database) -> None:
    """Of several processes that start at once one applies, the others wait and find nothing to do."""
    slow = Migration(2, "0002_two.sql", "select pg_sleep(0.2);\ncreate table two (id int);")
    done = await asyncio.gather(*(migrate(database.dsn, [ONE, slow]) for _ in range(4)))
    assert sorted(done) == [[], [], [], ["0001_one.sql", "0002_two.sql"]]
    assert await database.tables() == ["one", "two"]


async def test_the_lock_is_not_to_be_had(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits too long for another process says so and applies nothing."""
    monkeypatch.setattr(module, "_LOCK_WAIT_SECONDS", 0.1)
    await database.connection.execute(f"select pg_advisory_lock({module._LOCK_KEY})")
    with pytest.raises(MigrationError, match="Another process has been migrating"):
        await migrate(database.dsn, [ONE])
    assert await database.tables() == []
    await database.connection.execute(f"select pg_advisory_unlock({module._LOCK_KEY})")
    assert await migrate(database.dsn, [ONE]) == ["0001_one.sql"]


async def test_a_failing_file(database: Database) -> None:
    """A file that fails leaves nothing behind and those before it stay; mended, it is applied, and the lock is free."""
    broken = Migration(2, "0002_two.sql", "create table two (id int);\nselect 1 / 0;")
    with pytest.raises(MigrationError, match=r"0002_two.sql failed and was not applied: division by zero"):
        await migrate(database.dsn, [ONE, broken, THREE])
    assert await database.tables() == ["one"]
    assert await database.applied() == [(1, "0001_one.sql")]
    assert await migrate(database.dsn, [ONE, TWO, THREE]) == ["0002_two.sql", "0003_three.sql"]


async def test_locks_are_waited_for_shortly(database: Database) -> None:
    """A file waits five seconds for a lock, not for ever: everyone else would wait behind it."""
    asks = Migration(
        1, "0001_one.sql", "create table one as select current_setting('lock_timeout') as value;"
    )
    await migrate(database.dsn, [asks])
    assert await database.connection.fetchval("select value from one") == "5s"


# What may not be.


async def test_an_edited_file(database: Database) -> None:
    """A file that was edited after it was applied is refused, by both names, and nothing else is applied."""
    await migrate(database.dsn, [ONE])
    edited = Migration(1, "0001_renamed.sql", ONE.sql + " ")
    with pytest.raises(MigrationError, match=r"0001_renamed.sql was edited .* as 0001_one.sql"):
        await migrate(database.dsn, [edited, TWO])
    assert await database.tables() == ["one"]


async def test_a_file_that_comes_late(database: Database) -> None:
    """A file with a number before what is applied is refused: another database has another order."""
    await migrate(database.dsn, [ONE, THREE])
    with pytest.raises(MigrationError, match=r"0002_two.sql comes before what this database already has"):
        await migrate(database.dsn, [ONE, TWO, THREE])


async def test_a_newer_database(database: Database) -> None:
    """A database that a newer version brought forward is left alone, so that the older one still runs during a rollout."""
    await migrate(database.dsn, [ONE, TWO, THREE])
    assert await migrate(database.dsn, [ONE]) == []
    assert await database.tables() == ["one", "three", "two"]


# Without a transaction.


OUTSIDE = """-- no-transaction
-- What follows; cannot run in a transaction.
create index concurrently if not exists one_by_id on one (id);

insert into one values (2);
-- The end;
"""


async def test_without_a_transaction(database: Database) -> None:
    """A file that says so is run statement by statement, which an index that is made beside the writers needs."""
    outside = Migration(2, "0002_outside.sql", OUTSIDE)
    assert await migrate(database.dsn, [ONE, outside]) == ["0001_one.sql", "0002_outside.sql"]
    assert await database.connection.fetchval(
        "select indisvalid from pg_index where indexrelid = 'one_by_id'::regclass"
    )
    assert await database.connection.fetchval("select count(*) from one") == 2


async def test_two_without_a_transaction(database: Database) -> None:
    """Those who wait for the lock hold no snapshot: an index that waits for all snapshots is not in a deadlock with them."""
    outside = Migration(2, "0002_outside.sql", OUTSIDE)
    done = await asyncio.gather(*(migrate(database.dsn, [ONE, outside]) for _ in range(3)))
    assert sorted(done) == [[], [], ["0001_one.sql", "0002_outside.sql"]]


async def test_without_a_transaction_and_failing(database: Database) -> None:
    """What failed half-way is not in the books and is run again from its start."""
    failing = Migration(2, "0002_outside.sql", OUTSIDE.replace("values (2)", "values (2 / 0)"))
    with pytest.raises(MigrationError, match=r"0002_outside.sql failed"):
        await migrate(database.dsn, [ONE, failing])
    assert await database.applied() == [(1, "0001_one.sql")]
    assert await migrate(database.dsn, [ONE, Migration(2, "0002_outside.sql", OUTSIDE)]) == [
        "0002_outside.sql"
    ]
