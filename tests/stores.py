"""Real stores for a test: a fresh database on a Postgres that all tests of a run share, and a Valkey that may be killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import asyncpg
import pytest

from storage.embedded import DataFolder
from storage.postgres.embedded import TEST_SETTINGS, EmbeddedPostgres
from storage.postgres.migrations import migrate
from storage.postgres.pool import Pool, open_pool
from tests.redis.valkeys import Valkey

SEALING_KEY = "test:" + "A" * 43

_NUMBERS = itertools.count(1)

_COUNTED = r"""
select query, calls from pg_stat_statements s join pg_database d on d.oid = s.dbid
where d.datname = current_database()
  and query !~* 'pg_stat|typeinfo|current_setting|jobs|job_periods|^(begin|commit|rollback|set )'
  and query !~* 'min\((changes|ends)_at\)|from (passes|subscriptions) where (open and ends|changes)_at <='
"""

_LEFT = """
select datname from (select oid, datname from pg_database where datname ~ '^test_' order by oid desc offset 20) old
where not exists (select from pg_stat_activity a where a.datid = old.oid)
"""
"""Thousands of databases don't fit into memory. The newest stay: a node that is started anew finds its own."""

_BLOCKED = """
select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
"""


class Server(Protocol):
    """A running Postgres that has a database called template."""

    def dsn(self, database: str) -> str:
        """Return the address of a database."""
        ...


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    """Start a Postgres in memory, with a template that has the schema."""
    folder = _folder()
    data = DataFolder.claim(folder / "data")
    counted = {**TEST_SETTINGS, "shared_preload_libraries": "pg_stat_statements"}
    server = EmbeddedPostgres(data, counted, durable=False)
    await server.start()
    try:
        await server.create_database("template")
        await migrate(server.dsn("template"))
        yield server
    finally:
        await server.stop()
        data.release()
        shutil.rmtree(folder)


async def name_database(postgres: Server) -> str:
    """Make a database with the schema and nothing else, in place of an old one that nobody uses; return its name."""
    name = f"test_{next(_NUMBERS)}"
    connection = await asyncpg.connect(postgres.dsn("postgres"))
    try:
        await connection.execute(f"create database {name} template template strategy file_copy")
        for row in await connection.fetch(_LEFT):
            with contextlib.suppress(asyncpg.ObjectInUseError):
                await connection.execute(f"drop database {row['datname']}")
    finally:
        await connection.close()
    return name


async def make_database(postgres: Server) -> str:
    """Make a database with the schema and nothing else; return its address."""
    return postgres.dsn(await name_database(postgres))


@pytest.fixture
async def database_url(postgres: EmbeddedPostgres) -> str:
    """Make a database with the schema and nothing else."""
    return await make_database(postgres)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """Connect to it."""
    pool = await open_pool(database_url, size=5)
    yield pool
    await pool.close()


@asynccontextmanager
async def counted_statements(pool: Pool) -> AsyncIterator[Callable[[], Awaitable[list[tuple[str, int]]]]]:
    """Count the statements of this database from now on; what is given returns each with how often it ran.

    Not counted is what nodes do by the clock, whatever happens: looking for jobs, and for what has ended.
    """
    await pool.execute("create extension if not exists pg_stat_statements")
    await pool.execute("select pg_stat_statements_reset()")

    async def counts() -> list[tuple[str, int]]:
        rows = await pool.fetch(_COUNTED)
        return [(row["query"], row["calls"]) for row in rows]

    yield counts


async def until_blocked(pool: Pool, statements: int = 1) -> None:
    """Wait until so many statements of others in this database wait for a lock."""
    while await pool.fetchval(_BLOCKED) < statements:  # noqa: ASYNC110 - Postgres has no event for it
        await asyncio.sleep(0.002)


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """Give a running, empty Valkey of one's own."""
    with Valkey() as server:
        yield server


def _folder() -> Path:
    """Make a folder in memory, which whoever the server runs as may pass through."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="lr-", dir=memory if memory.is_dir() else None))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    return folder
