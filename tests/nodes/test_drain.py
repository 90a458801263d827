"""A node is told to stop under load: everyone is told when to go, nothing is lost, and it ends in time."""

from __future__ import annotations

import signal
import time

import pytest

from tests.nodes.cluster import Cluster
from tests.nodes.traffic import under_load

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(120)]

CROWD = 300
RESUMES_PER_SECOND = 500
"""A sixth of what a node admits."""


async def test_a_stopping_node_sends_everyone_away(cluster: Cluster, seed: int) -> None:
    """SIGTERM with hundreds on it: each is told when, spread over time; readiness is off; exit 0 within 30 s; 0 lost, 0 twice."""
    leaving, other = await cluster.start(2)
    async with under_load(
        cluster, [leaving, other], seed, readers=CROWD, restless=0, writers=4, members=4, pause=0.1
    ) as traffic:
        sent_away = [reader for reader in traffic.readers if reader.node is leaving]
        began = time.monotonic()
        leaving.signal(signal.SIGTERM)
        traffic.nodes = [other]
        await traffic.until(lambda: all(reader.drains for reader in sent_away), 3.0)
        assert await leaving.status("/health/ready") in (0, 503)
        assert await leaving.ended(30.0) == 0
        print(f"{len(sent_away)} were sent away within {time.monotonic() - began:.1f} s")
        await traffic.all_connected(10.0, on=other)
        await traffic.everywhere(5.0)
        when = sorted(reader.drains[0] for reader in sent_away)
        assert when[-1] - when[0] > 0.5 * len(when) / 200
        assert {code for reader in sent_away for code in reader.codes} <= {4000, 1006}
        assert not any(reader.drains or reader.codes for reader in traffic.readers if reader not in sent_away)
    assert traffic.history.snapshots == 0


async def test_a_second_signal_ends_it_at_once(cluster: Cluster, seed: int) -> None:
    """Two SIGTERMs: it ends within a second of the second, and still nothing acknowledged is lost."""
    leaving, other = await cluster.start(2)
    async with under_load(cluster, [leaving, other], seed, readers=CROWD, restless=0, pause=0.1) as traffic:
        leaving.signal(signal.SIGTERM)
        traffic.nodes = [other]
        await traffic.until(lambda: any(reader.drains for reader in traffic.readers), 3.0)
        leaving.signal(signal.SIGTERM)
        await leaving.ended(1.0)
        await traffic.all_connected(10.0, on=other)
        await traffic.everywhere(5.0)


async def test_nodes_restart_one_after_the_other(cluster: Cluster, seed: int) -> None:
    """Both nodes are stopped and started in turn under load: 0 lost, 0 twice, no snapshot, arrivals below the admission limit."""
    nodes = await cluster.start(2)
    async with under_load(cluster, nodes, seed, readers=100, writers=4, members=4, pause=0.1) as traffic:
        for node in nodes:
            rest = [other for other in nodes if other is not node]
            traffic.nodes = rest
            arrived = await rest[0].metric("looprooms_sessions_resumed_total")
            began = time.monotonic()
            node.signal(signal.SIGTERM)
            assert await node.ended(30.0) == 0
            await traffic.all_connected(10.0, on=rest[0])
            arrived = await rest[0].metric("looprooms_sessions_resumed_total") - arrived
            assert 30 < arrived < RESUMES_PER_SECOND * (time.monotonic() - began)
            node.launch()
            await node.ready()
            traffic.nodes = nodes
            await traffic.everywhere(5.0)
    assert traffic.history.snapshots == 0
    assert not any(code in writer.errors for writer in traffic.writers for code in ("internal_error",))
