"""Two nodes that stand for the whole run, and rooms in which nobody has been.

A test that changes neither the stores nor the settings meets its own people in a room of its own on the standing nodes; every
other starts nodes on a fresh database.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from protocol.envelope import RoomId
from storage.postgres.embedded import EmbeddedPostgres
from storage.postgres.pool import Pool, open_pool
from tests.hosting import Host, hosting, make_room
from tests.redis.valkeys import Valkey
from tests.stores import make_database

_NUMBERS = itertools.count(1)


@dataclass
class Standing:
    """Two nodes with the settings of every day, and their database."""

    north: Host
    south: Host
    pool: Pool

    @property
    def both(self) -> tuple[Host, Host]:
        """The two."""
        return self.north, self.south


@dataclass
class Room:
    """A published looproom."""

    id: RoomId
    slug: str


@pytest.fixture(scope="session")
async def nodes(postgres: EmbeddedPostgres) -> AsyncIterator[Standing]:
    """Run two nodes that meet in real stores."""
    url = await make_database(postgres)
    pool = await open_pool(url, size=5)
    with Valkey() as redis:
        async with hosting(url, redis.url, pool) as north, hosting(url, redis.url, pool) as south:
            yield Standing(north, south, pool)
    await pool.close()


@pytest.fixture
async def room(nodes: Standing) -> Room:
    """Make a looproom in which nobody has been."""
    slug = f"room-{next(_NUMBERS)}"
    return Room(await make_room(nodes.pool, slug), slug)
