"""All faults at random, one after the other and over one another, for as long as one likes.

python -m pytest tests/nodes/test_cocktail.py -s --cocktail-seconds 600 [--seed N]
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.nodes.cluster import Cluster, NodeProcess
from tests.nodes.traffic import Traffic, under_load

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(0)]

NODES = 3
RECOVERY_SECONDS = 20.0


class Cocktail:
    """What may happen. At most one fault of each machine at a time."""

    def __init__(self, cluster: Cluster, traffic: Traffic, dice: random.Random) -> None:
        self._cluster = cluster
        self._traffic = traffic
        self._dice = dice
        self._whole = list(traffic.nodes)
        self.faults: dict[str, tuple[str, Callable[[], Awaitable[None]]]] = {
            "a node is killed": ("node", self._kill_node),
            "a node is frozen": ("node", self._freeze_node),
            "a node is stopped": ("node", self._stop_node),
            "Redis is killed": ("redis", self._kill_redis),
            "Redis hangs": ("redis", self._freeze_redis),
            "Redis drops its subscribers": ("redis", self._drop_subscribers),
            "Redis is full": ("redis", self._fill_redis),
            "Postgres is killed": ("postgres", self._kill_postgres),
            "Postgres hangs": ("postgres", self._freeze_postgres),
            "all backends are terminated": ("postgres", self._terminate),
        }

    async def pour(self, seconds: float) -> None:
        """Let things happen, by ones and by twos; after each round lines must be acknowledged again."""
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            chosen = self._dice.sample(sorted(self.faults), self._dice.choice((1, 1, 2)))
            by_machine = {self.faults[name][0]: name for name in chosen}
            print(f"{seconds - ends + time.monotonic():6.1f} s: {', '.join(by_machine.values())}")
            await asyncio.gather(*(self.faults[name][1]() for name in by_machine.values()))
            await self._traffic.acknowledged(10, RECOVERY_SECONDS)

    async def _pause(self, most: float = 4.0) -> None:
        await asyncio.sleep(self._dice.uniform(0.1, most))

    def _victim(self) -> NodeProcess:
        node = self._dice.choice(self._whole)
        self._traffic.nodes = [other for other in self._whole if other is not node]
        return node

    async def _again(self, node: NodeProcess) -> None:
        while True:
            node.launch()
            try:
                await node.ready()
            except AssertionError:  # Postgres may be away: a start says so and ends
                if node.alive:
                    raise
                await asyncio.sleep(0.5)
            else:
                self._traffic.nodes = list(self._whole)
                return

    async def _kill_node(self) -> None:
        node = self._victim()
        node.kill()
        await self._pause()
        await self._again(node)

    async def _stop_node(self) -> None:
        node = self._victim()
        node.signal(signal.SIGTERM)
        await node.ended(30.0)
        await self._again(node)

    async def _freeze_node(self) -> None:
        node = self._dice.choice(self._whole)
        node.signal(signal.SIGSTOP)
        await self._pause()
        node.signal(signal.SIGCONT)

    async def _kill_redis(self) -> None:
        self._cluster.valkey.kill()
        await self._pause()
        self._cluster.valkey.start()

    async def _freeze_redis(self) -> None:
        self._cluster.valkey.freeze()
        await self._pause()
        self._cluster.valkey.thaw()

    async def _drop_subscribers(self) -> None:
        for _ in range(5):
            self._cluster.redis("CLIENT KILL TYPE pubsub")
            await self._pause(0.5)

    async def _fill_redis(self) -> None:
        self._cluster.redis("CONFIG SET maxmemory 1")
        await self._pause()
        self._cluster.redis("CONFIG SET maxmemory 0")

    async def _kill_postgres(self) -> None:
        self._cluster.postgres.kill()
        await self._pause()
        await self._cluster.postgres.again()

    async def _freeze_postgres(self) -> None:
        self._cluster.postgres.freeze()
        await self._pause()
        self._cluster.postgres.thaw()

    async def _terminate(self) -> None:
        for _ in range(5):
            await self._cluster.terminate_backends()
            await self._pause(0.5)


@pytest.mark.takes_time
async def test_everything_at_random(cluster: Cluster, seed: int, request: pytest.FixtureRequest) -> None:
    """Whatever happens in whatever order, the history is one, and presence is right in the end."""
    seconds: int = request.config.getoption("--cocktail-seconds")
    nodes = await cluster.start(NODES, presence_lease_seconds=5)
    async with under_load(cluster, nodes, seed, readers=12, restless=8, writers=5, members=4) as traffic:
        await Cocktail(cluster, traffic, random.Random(seed)).pour(seconds)
        await traffic.everywhere(20.0)
        people = len(traffic.readers) + len(traffic.writers) + len(traffic.members)
        await traffic.sees_exactly(people, nodes, 20.0)
