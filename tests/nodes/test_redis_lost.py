"""Redis dies, hangs, is full or drops a node under load: durable chat goes on, and all is whole again soon after."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.nodes.cluster import Cluster
from tests.nodes.raw import open_raw
from tests.nodes.traffic import Traffic, under_load

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(90)]


def people(traffic: Traffic) -> int:
    """Count everyone who is in the room."""
    return len(traffic.readers) + len(traffic.writers) + len(traffic.members)


async def test_redis_is_killed_and_comes_back_empty(cluster: Cluster, seed: int) -> None:
    """Lines are acknowledged without it, all nodes show them 5 s after it is back, presence is right after 15 s."""
    nodes = await cluster.start(2)
    async with under_load(cluster, nodes, seed) as traffic:
        cluster.valkey.kill()
        assert await traffic.acknowledged(100) < 10.0
        await asyncio.sleep(2.0)
        assert [await node.status("/health/ready") for node in nodes] == [503, 503]
        assert await traffic.acknowledged(50) < 5.0
        cluster.valkey.start()
        print(f"across nodes after {await traffic.everywhere(5.0):.2f} s")
        print(f"presence after {await traffic.sees_exactly(people(traffic), nodes, 15.0):.2f} s")
        for node in nodes:
            print(f"ready after {await node.becomes_ready(5.0):.2f} s more")
    assert traffic.history.snapshots == 0
    assert not any(writer.errors for writer in traffic.writers)


async def test_redis_hangs(cluster: Cluster, seed: int) -> None:
    """For 8 s nothing is answered: lines are acknowledged within half a second, newcomers get in, the other node catches up."""
    nodes = await cluster.start(2)
    async with under_load(cluster, nodes, seed) as traffic:
        for writer in traffic.writers:
            writer.latencies.clear()
        began = time.monotonic()
        cluster.valkey.freeze()
        try:
            await traffic.acknowledged(100)
            (newcomer,) = await cluster.accounts(["newcomer"])
            room = await cluster.room()
            connection = await open_raw(nodes[0].port, lambda _: None)
            assert (await connection.call("hello", token=newcomer.token))["type"] == "welcome"
            assert (await connection.call("room.join", room=str(room)))["type"] == "room.joined"
            connection.leave()
            while time.monotonic() - began < 8.0:
                await traffic.acknowledged(20)
        finally:
            cluster.valkey.thaw()
        latencies = sorted(latency for writer in traffic.writers for latency in writer.latencies)
        assert latencies[int(len(latencies) * 0.99)] < 0.5
        await traffic.everywhere(5.0)
        await traffic.sees_exactly(people(traffic), nodes, 15.0)
    assert traffic.history.snapshots == 0


async def test_redis_is_full(cluster: Cluster, seed: int) -> None:
    """Redis refuses every write for want of memory: chat is unharmed, and presence is right again when there is room."""
    nodes = await cluster.start(2)
    async with under_load(cluster, nodes, seed) as traffic:
        assert "OK" in cluster.redis("CONFIG SET maxmemory 1")
        await traffic.acknowledged(100)
        await traffic.everywhere(5.0)
        assert "OK" in cluster.redis("CONFIG SET maxmemory 0")
        await traffic.sees_exactly(people(traffic), nodes, 15.0)
    assert traffic.history.snapshots == 0


async def test_redis_drops_nodes_as_slow_subscribers(cluster: Cluster, seed: int) -> None:
    """Every subscriber is disconnected again and again: each loss is healed, everywhere within 5 s."""
    nodes = await cluster.start(2)
    async with under_load(cluster, nodes, seed) as traffic:
        for _ in range(8):
            cluster.redis("CLIENT KILL TYPE pubsub")
            await traffic.acknowledged(30)
        await traffic.everywhere(5.0)
        await traffic.sees_exactly(people(traffic), nodes, 15.0)
    assert traffic.history.snapshots == 0
