"""Postgres dies, hangs, or drops its connections under load: typed errors soon, nothing acknowledged is lost, no line twice."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest

from tests.nodes.cluster import Cluster, NodeProcess
from tests.nodes.raw import Message, RawConnection, open_raw
from tests.nodes.traffic import Traffic, under_load
from tests.proxy import proxied

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(90)]

ANSWERED_SECONDS = 2.5
"""The promise is 2 s; the rest is for a machine that does other things."""


class Pair:
    """Two people in the room, each on another node: one does something ephemeral, the other sees it."""

    def __init__(self, actor: RawConnection, watcher: RawConnection, pulses: list[Message]) -> None:
        self._actor = actor
        self._watcher = watcher
        self._pulses = pulses

    @classmethod
    async def enter(cls, traffic: Traffic, nodes: list[NodeProcess]) -> Pair:
        """Let both in."""
        pulses: list[Message] = []
        listeners = (lambda _: None, pulses.append)
        accounts = await traffic.cluster.accounts(["typist", "watcher"])
        connections = []
        for account, node, heard in zip(accounts, nodes, listeners, strict=True):
            connection = await open_raw(node.port, heard)
            await connection.call("hello", token=account.token)
            await connection.call("room.join", room=str(traffic.room))
            connections.append(connection)
        actor, watcher = connections
        return cls(actor, watcher, pulses)

    async def ephemeral_goes_on(self, traffic: Traffic) -> None:
        """Type, and see it, both within a second."""
        self._pulses.clear()
        answer = await self._actor.call("typing.set", room=str(traffic.room), typing=True, within=1.0)
        assert answer["type"] != "error", answer
        await traffic.until(
            lambda: any(
                '"typing"' in str(p).replace("'", '"') for p in self._pulses if p["type"] == "room.pulse"
            ),
            1.0,
        )
        await self._actor.call("typing.set", room=str(traffic.room), typing=False, within=1.0)

    def leave(self) -> None:
        """Let both go."""
        self._actor.leave()
        self._watcher.leave()


def answered_soon_and_typed(traffic: Traffic) -> None:
    """Hold the writers' refusals against the promise: retryable, typed, soon."""
    codes = {code for writer in traffic.writers for code in writer.errors}
    assert codes <= {"unavailable", "busy"}, codes
    assert max(writer.slowest_refusal for writer in traffic.writers) < ANSWERED_SECONDS


async def test_postgres_is_killed_and_comes_back(cluster: Cluster, seed: int) -> None:
    """While it is gone writers are refused within 2 s and typing goes on; 5 s after it is back lines are stored again."""
    nodes = await cluster.start(2)
    async with under_load(cluster, nodes, seed) as traffic:
        pair = await Pair.enter(traffic, nodes)
        cluster.postgres.kill()
        try:
            await traffic.until(lambda: any(writer.errors for writer in traffic.writers), 5.0)
            await pair.ephemeral_goes_on(traffic)
            assert await nodes[0].status("/health/ready") == 503
            await asyncio.sleep(2.0)
        finally:
            await cluster.postgres.again()
        print(f"stored again after {await traffic.acknowledged(10, 5.0):.2f} s")
        await traffic.everywhere(5.0)
        pair.leave()
    answered_soon_and_typed(traffic)


async def test_postgres_hangs(cluster: Cluster, seed: int) -> None:
    """It answers nothing for 6 s: refused within 2 s each, waiting is bounded, typing goes on, and it works again soon."""
    nodes = await cluster.start(2)
    async with under_load(cluster, nodes, seed) as traffic:
        pair = await Pair.enter(traffic, nodes)
        cluster.postgres.freeze()
        began = time.monotonic()
        try:
            await traffic.until(lambda: all(writer.errors for writer in traffic.writers), 6.0)
            await pair.ephemeral_goes_on(traffic)
            await asyncio.sleep(max(0.0, began + 6.0 - time.monotonic()))
        finally:
            cluster.postgres.thaw()
        print(f"stored again after {await traffic.acknowledged(10, 5.0):.2f} s")
        await traffic.everywhere(5.0)
        pair.leave()
    answered_soon_and_typed(traffic)


async def test_all_backends_are_terminated_again_and_again(cluster: Cluster, seed: int) -> None:
    """Every connection is cut fifteen times under load: writers get no error but a retryable one, and nothing is lost."""
    nodes = await cluster.start(2)
    async with under_load(cluster, nodes, seed) as traffic:
        for _ in range(15):
            await cluster.terminate_backends()
            await traffic.acknowledged(10)
        await traffic.everywhere(5.0)
    answered_soon_and_typed(traffic)


async def test_an_answer_is_torn_after_the_commit(cluster: Cluster, seed: int) -> None:
    """The commit is done and its answer lost, many times: the line is stored once, and sending its key again names it."""
    async with proxied("127.0.0.1", cluster.postgres.port) as proxy:
        nodes = await cluster.start(
            2, database_url=f"postgresql://postgres@{proxy.address}/{cluster.database}"
        )
        torn = 0
        async with under_load(cluster, nodes, seed) as traffic, cluster.connection() as past_the_proxy:
            for _ in range(8):
                before = traffic.history.acknowledgements
                proxy.hold_answers()
                torn += await _unheard(past_the_proxy, traffic, before)
                proxy.cut()
                proxy.flow()
                await traffic.acknowledged(20)
            await traffic.everywhere(10.0)
        assert torn > 0
        print(f"{torn} commits were not heard of")
    answered_soon_and_typed(traffic)


async def _unheard(connection: asyncpg.Connection[asyncpg.Record], traffic: Traffic, before: int) -> int:
    """Wait until lines are stored that nobody has heard of; return how many."""
    for _ in range(100):
        last = await connection.fetchval("select last from room_positions where room_id = $1", traffic.room)
        known = max((line.offset or 0 for line in traffic.history.sent_lines.values()), default=0)
        if last > known:
            return int(last - known)
        await asyncio.sleep(0.01)
    return 0


@pytest.mark.parametrize("how", ["both ways", "answers only", "refused"])
async def test_a_partition_ends_readiness(cluster: Cluster, how: str) -> None:
    """Cut off from Postgres, one way or both, a node says within 5 s that it is not ready, and is ready again after."""
    async with proxied("127.0.0.1", cluster.postgres.port) as proxy:
        (node,) = await cluster.start(
            1, database_url=f"postgresql://postgres@{proxy.address}/{cluster.database}"
        )
        await node.becomes_ready(5.0)
        began = time.monotonic()
        if how == "both ways":
            proxy.stall()
        elif how == "answers only":
            proxy.hold_answers()
        else:
            proxy.refuse()
            proxy.cut()
        while (status := await node.status("/health/ready")) == 200:
            assert time.monotonic() - began < 5.0
        assert status == 503
        assert time.monotonic() - began < 5.0
        if how == "refused":
            await proxy.listen()
        proxy.flow()
        await node.becomes_ready(5.0)
