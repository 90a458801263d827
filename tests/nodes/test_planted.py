"""The negative twin: nodes with a planted bug, under which the checker must find what it finds nowhere else."""

from __future__ import annotations

import pytest

from tests.nodes.cluster import Cluster
from tests.nodes.history import Fault
from tests.nodes.traffic import Traffic, under_load

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(90)]


async def found(traffic: Traffic) -> set[Fault]:
    """Return what the checker finds in a history that is over."""
    stored = await traffic.cluster.stored(traffic.room)
    return {violation.fault for violation in traffic.history.violations(stored)}


async def test_a_publication_before_the_commit_is_found(cluster: Cluster, seed: int) -> None:
    """Lines are published before their commit, which now and then fails: readers saw what is not stored."""
    nodes = await cluster.start(2, bug="early-publish")
    async with under_load(cluster, nodes, seed, restless=0, members=0, clean=False, patience=3.0) as traffic:
        await traffic.acknowledged(150)
    assert Fault.PHANTOM in await found(traffic)


async def test_reading_before_subscribing_is_found(cluster: Cluster, seed: int) -> None:
    """A node opens a room under load and subscribes after it has read: its readers miss lines."""
    nodes = await cluster.start(2, bug="history-first")
    async with under_load(
        cluster, nodes[:1], seed, restless=0, members=0, clean=False, patience=3.0, pause=0.01
    ) as traffic:
        traffic.nodes = nodes[1:]
        for reader in traffic.readers:
            if reader.connection is not None:
                reader.connection.reset()
        await traffic.all_connected(10.0, on=nodes[1])
        await traffic.acknowledged(50)
    assert Fault.SKIPPED in await found(traffic)


async def test_a_lost_publication_is_found(cluster: Cluster, seed: int) -> None:
    """Every tenth publication is lost and gaps are not looked for: readers of the other node miss lines."""
    nodes = await cluster.start(2, bug="losing")
    async with under_load(cluster, nodes, seed, restless=0, members=0, clean=False, patience=3.0) as traffic:
        await traffic.acknowledged(200)
    assert Fault.SKIPPED in await found(traffic)
