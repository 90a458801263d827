"""A node dies or freezes under load: everyone is back elsewhere, nothing is missed, the other node goes on."""

from __future__ import annotations

import asyncio
import signal

import pytest

from tests.nodes.cluster import Cluster
from tests.nodes.raw import open_raw
from tests.nodes.traffic import under_load

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(90)]

CROWD = 1000
STRANGERS = 10


async def test_nothing_is_wrong_without_a_fault(cluster: Cluster, seed: int) -> None:
    """Two nodes, restless readers, no fault: one history, and coming back is a replay, not a snapshot."""
    nodes = await cluster.start(2)
    async with under_load(cluster, nodes, seed) as traffic:
        await traffic.acknowledged(500)
        await traffic.everywhere(5.0)
    assert traffic.history.resumes > 0
    assert traffic.history.snapshots == 0


async def test_a_killed_node_is_left_behind(cluster: Cluster, seed: int) -> None:
    """Hundreds are on a node that is killed: back within 5 s (p99), its ghosts gone within 15 s, the other node undisturbed."""
    dying, other = await cluster.start(2)
    async with under_load(
        cluster, [dying, other], seed, readers=CROWD, restless=0, writers=3, members=0, pause=0.1
    ) as traffic:
        ghosts = []
        for account in await cluster.accounts(f"ghost {number}" for number in range(STRANGERS)):
            connection = await open_raw(dying.port, lambda _: None)
            await connection.call("hello", token=account.token)
            await connection.call("room.join", room=str(traffic.room))
            ghosts.append(connection)
        await traffic.sees_exactly(CROWD + 3 + STRANGERS, [other], 5.0)
        thrown_off = [reader for reader in traffic.readers if reader.node is dying]
        undisturbed = [reader for reader in traffic.readers if reader.node is other]
        assert len(thrown_off) > CROWD / 3
        for writer in traffic.writers:
            writer.latencies.clear()
        dying.kill()
        traffic.nodes = [other]
        await traffic.all_connected(10.0, on=other)
        await traffic.sees_exactly(CROWD + 3, [other], 15.0)
        back = sorted(reader.back[-1] for reader in thrown_off)
        assert back[int(len(back) * 0.99)] < 5.0
        assert not any(reader.back for reader in undisturbed)
        latencies = sorted(latency for writer in traffic.writers for latency in writer.latencies)
        assert latencies[int(len(latencies) * 0.95)] < 0.5
        print(f"{len(back)} were back after {back[len(back) // 2]:.2f} s, the last after {back[-1]:.2f} s")
    assert traffic.history.snapshots == 0


async def test_a_frozen_node_does_no_harm_when_it_wakes(cluster: Cluster, seed: int) -> None:
    """A node stands still for longer than its lease: its people go elsewhere; when it wakes, nothing stale is written or shown."""
    frozen, other = await cluster.start(2, presence_lease_seconds=4, presence_grace_seconds=1)
    async with under_load(cluster, [frozen, other], seed, restless=0, members=0) as traffic:
        frozen.signal(signal.SIGSTOP)
        try:
            traffic.nodes = [other]
            for reader in traffic.readers:
                if reader.node is frozen and reader.connection is not None:
                    reader.connection.reset()
            await traffic.all_connected(10.0, on=other)
            await traffic.acknowledged(100)
            await traffic.sees_exactly(len(traffic.readers) + len(traffic.writers), [other], 15.0)
            await asyncio.sleep(4.0)
        finally:
            frozen.signal(signal.SIGCONT)
        await traffic.acknowledged(100)
        traffic.nodes = [frozen, other]
        for reader in traffic.readers[::2]:
            if reader.connection is not None:
                reader.connection.reset()
        await traffic.everywhere(10.0)
        await traffic.all_connected(10.0)
        await traffic.sees_exactly(len(traffic.readers) + len(traffic.writers), [frozen, other], 15.0)
    assert traffic.history.snapshots == 0
