"""Stores and nodes for the fault tests, and the options that replay and prolong them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from tests.nodes import cluster as clusters
from tests.nodes import raw
from tests.nodes.cluster import Cluster, Memory


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--seed` and `--cocktail-seconds`."""
    group = parser.getgroup("nodes")
    group.addoption("--seed", type=int, default=None, help="Replay the random choices of a fault test.")
    group.addoption(
        "--cocktail-seconds", type=int, default=0, help="How long to mix all faults at random (default: not)."
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the fault tests one after the other, and beside them, where there are two workers, those that mostly wait.

    What measures how long something takes has the machine to itself, but for tests that leave it alone. What mixes all faults is a
    command of its own (`make cocktail`), which says for how long.
    """
    if not config.getoption("--cocktail-seconds", default=0):
        items[:] = [item for item in items if item.get_closest_marker("takes_time") is None]
    for item in items:
        if item.get_closest_marker("nodes") is not None:
            patient = item.get_closest_marker("patient") is not None
            item.add_marker(pytest.mark.xdist_group("patient" if patient else "busy"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Return the seed of this test, which is printed when it fails."""
    given: int | None = request.config.getoption("--seed", default=None)
    chosen = random.SystemRandom().randrange(10**6) if given is None else given
    print(f"--seed {chosen}")
    return chosen


@pytest.fixture(scope="session")
async def memory() -> AsyncIterator[Memory]:
    """Run a Postgres for all fault tests; who kills it starts it again."""
    async with clusters.memory() as server:
        yield server


@pytest.fixture
async def cluster(memory: Memory) -> AsyncIterator[Cluster]:
    """Give a fresh database, an empty Valkey, and no nodes yet."""
    async with clusters.cluster(memory) as one:
        yield one
        for transport in list(raw.OPEN):
            transport.abort()
        await asyncio.sleep(0)
