"""A crowd comes back at once to a node that knows nothing of its room: all in soon, Postgres hardly asked."""

from __future__ import annotations

import asyncio

import pytest

from tests.nodes.cluster import Cluster
from tests.nodes.traffic import under_load

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(120)]

CROWD = 1000
MOST_STATEMENTS = 200


async def test_a_storm_of_resumes(cluster: Cluster, seed: int) -> None:
    """A thousand lose their node and come to another: all back within 15 s, at most 200 statements, the history read once."""
    crowded, empty = await cluster.start(2)
    async with cluster.connection() as connection:
        await connection.execute("create extension pg_stat_statements")
    async with under_load(
        cluster, [crowded], seed, readers=CROWD, restless=0, writers=2, members=0, pause=0.1
    ) as traffic:
        traffic.stop.set()
        await asyncio.sleep(0.5)
        async with cluster.connection() as connection:
            await connection.execute("select pg_stat_statements_reset()")
            traffic.nodes = [empty]
            crowded.kill()
            seconds = await traffic.all_connected(15.0, on=empty)
            rows = await connection.fetch(
                "select query, calls from pg_stat_statements s join pg_database d on d.oid = s.dbid "
                "where datname = current_database() and query not like '%pg_stat%' order by calls desc"
            )
        statements = sum(row["calls"] for row in rows)
        history = sum(
            row["calls"] for row in rows if "chat_lines l" in row["query"] and "between" in row["query"]
        )
        print(f"{CROWD} back within {seconds:.1f} s, {statements} statements, history read {history} times")
        assert history == 1
        assert statements <= MOST_STATEMENTS
    assert traffic.history.snapshots == 0
    assert traffic.history.resumes == CROWD
