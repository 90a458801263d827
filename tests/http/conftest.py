"""A node for each test, on a database of its own."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.process.environment import load
from server.settings import Settings
from storage.embedded import DataFolder
from storage.postgres.embedded import TEST_SETTINGS, EmbeddedPostgres
from storage.postgres.migrations import migrate
from storage.redis.embedded import EmbeddedValkey
from tests.http.serving import Site, new_key, serving
from tests.http.world import World, a_world
from tests.stores import make_database

_NUMBERS = itertools.count(1)


@dataclass
class Servers:
    """The real servers that all tests of the HTTP side use."""

    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    folder: Path

    async def settings(self, **variables: str) -> Settings:
        """Make a new database, and return settings that use it."""
        environment = {
            "DATABASE_URL": await make_database(self.postgres),
            "REDIS_URL": self.valkey.url(),
            "LOOPROOMS_DATA_DIR": str(self.folder / str(next(_NUMBERS))),
            "LOOPROOMS_SIGNING_KEYS": new_key("a"),
            "LOOPROOMS_SEALING_KEYS": new_key("a"),
            "LOOPROOMS_LIMITS_FACTOR": "1000",  # all tests come from one address
            **variables,
        }
        return load(environment, folder=Path("/nonexistent")).settings


def _folder() -> Path:
    """Make a folder in memory whose path is short enough for a socket."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="lr-http-", dir=memory if memory.is_dir() else None))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    return folder


@pytest.fixture(scope="session")
async def servers() -> AsyncIterator[Servers]:
    """Start Postgres and Valkey, once."""
    folder = _folder()
    data = DataFolder.claim(folder / "data")
    postgres = EmbeddedPostgres(data, TEST_SETTINGS, durable=False)
    valkey = EmbeddedValkey(data)
    await postgres.start()
    await valkey.start()
    try:
        await postgres.create_database("template")
        await migrate(postgres.dsn("template"))
        yield Servers(postgres, valkey, folder)
    finally:
        await valkey.stop()
        await postgres.stop()
        data.release()
        shutil.rmtree(folder)


@pytest.fixture
async def settings(servers: Servers) -> Settings:
    """Give settings with a database of one's own."""
    return await servers.settings()


@pytest.fixture
async def site(settings: Settings) -> AsyncIterator[Site]:
    """Give a node that serves."""
    async with serving(settings) as running:
        yield running


@pytest.fixture
async def world(servers: Servers) -> AsyncIterator[World]:
    """Give a node with both providers, and a browser."""
    async with a_world(servers) as running:
        yield running


@pytest.fixture(scope="session")
async def standing(servers: Servers) -> AsyncIterator[Site]:
    """Give a node that is shared by tests that leave nothing behind."""
    async with serving(await servers.settings()) as running:
        yield running
