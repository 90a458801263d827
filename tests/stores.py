"""Real stores for a test: a fresh database on a Postgres that all tests of a run share, and a Valkey that may be killed."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from storage.embedded import DataFolder
from storage.postgres.embedded import TEST_SETTINGS, EmbeddedPostgres
from storage.postgres.migrations import migrate
from storage.postgres.pool import Pool, open_pool
from tests.redis.valkeys import Valkey

SEALING_KEY = "test:" + "A" * 43

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    """Start a Postgres in memory, with a template that has the schema."""
    folder = _folder()
    data = DataFolder.claim(folder / "data")
    server = EmbeddedPostgres(data, TEST_SETTINGS, durable=False)
    await server.start()
    try:
        await server.create_database("template")
        await migrate(server.dsn("template"))
        yield server
    finally:
        await server.stop()
        data.release()
        shutil.rmtree(folder)


@pytest.fixture
async def database_url(postgres: EmbeddedPostgres) -> str:
    """Make a database with the schema and nothing else."""
    name = f"test_{next(_NUMBERS)}"
    connection = await asyncpg.connect(postgres.dsn("postgres"))
    try:
        await connection.execute(f"create database {name} template template strategy file_copy")
    finally:
        await connection.close()
    return postgres.dsn(name)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    """Connect to it."""
    pool = await open_pool(database_url, size=5)
    yield pool
    await pool.close()


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
