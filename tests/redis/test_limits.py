"""Buckets that nodes share: what they let pass, on one node and on several, with Redis and without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from storage.redis.limits import MOST_DEBT, REPORT_SECONDS, Limit, Limiter
from storage.redis.pool import Redis, open_redis
from tests.redis.valkeys import Valkey
from tests.waiting import until

SLOW = Limit("slow", burst=5, rate=0.01)
"""Nothing comes back while a test runs."""


class Clock:
    """A node's own time; Redis has its own."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Counted(Redis):
    """Counts round trips."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis._client, redis._timeout)
        self.trips = 0

    async def _bounded(self, ask: object) -> object:
        self.trips += 1
        return await super()._bounded(ask)  # type: ignore[arg-type]


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Counted]:
    """Connect."""
    pool = Counted(open_redis(valkey.url, timeout=0.3))
    yield pool
    await pool.aclose()


@pytest.fixture
async def nodes(redis: Counted) -> AsyncIterator[list[Limiter]]:
    """Give two nodes that only share Redis."""
    two = [Limiter(redis, retry=0.05) for _ in range(2)]
    yield two
    for limiter in two:
        await limiter.aclose()


@pytest.fixture
def node(nodes: list[Limiter]) -> Limiter:
    """Give one of them."""
    return nodes[0]


async def allowed(limiter: Limiter, count: int, limit: Limit = SLOW, who: str = "a") -> int:
    """Ask so many times, at once, and return how many were allowed."""
    verdicts = await asyncio.gather(*(limiter.take(limit, who) for _ in range(count)))
    return sum(verdict.allowed for verdict in verdicts)


async def test_a_burst_over_all_nodes(nodes: list[Limiter]) -> None:
    """Whoever asks on two nodes in turn gets one burst; somebody else, and another kind of thing, has a bucket of its own."""
    first, second = nodes
    passed = [(await nodes[number % 2].take(SLOW, "a")).allowed for number in range(12)]
    assert passed == [True] * 5 + [False] * 7
    assert await allowed(first, 9, who="b") == 5
    assert await allowed(second, 9, Limit("other", burst=3, rate=0.01)) == 3


async def test_what_a_verdict_tells(node: Limiter) -> None:
    """How much is left, how long until as much as was asked is there, and until all of it is."""
    limit = Limit("told", burst=4, rate=0.1)
    first = await node.take(limit, "a")
    assert (first.allowed, first.left, first.retry_after) == (True, 3, 0.0)
    assert first.full_after == pytest.approx(10, abs=0.1)
    rest = await node.take(limit, "a", 3)
    assert (rest.allowed, rest.left) == (True, 0)
    refused = await node.take(limit, "a", 2)
    assert (refused.allowed, refused.left) == (False, 0)
    assert refused.retry_after == pytest.approx(20, abs=0.5)
    assert refused.full_after == pytest.approx(40, abs=0.5)
    assert node.refused == 1


async def test_it_comes_back(node: Limiter) -> None:
    """After as long as the refusal said, and not before, it is there again."""
    limit = Limit("brisk", burst=2, rate=20)
    assert await allowed(node, 2, limit) == 2
    refused = await node.take(limit, "a")
    assert not refused.allowed
    await asyncio.sleep(refused.retry_after + 0.002)
    assert (await node.take(limit, "a")).allowed


async def test_a_look_takes_nothing(nodes: list[Limiter]) -> None:
    """One may look as often as one likes."""
    for _ in range(20):
        assert (await nodes[0].look(SLOW, "a")).left == 5
    assert await allowed(nodes[1], 9) == 5
    assert not (await nodes[0].look(SLOW, "a")).allowed


async def test_a_debt(nodes: list[Limiter]) -> None:
    """What went wrong is charged whatever is there, on all nodes, down to a wait of an hour and no more."""
    limit = Limit("wrong", burst=3, rate=0.5)
    for number in range(103):
        await nodes[number % 2].charge(limit, "a")
    for node in nodes:
        assert (await node.look(limit, "a")).retry_after == pytest.approx(
            202, abs=3
        )  # or as of its last charge
    deep = await nodes[0].charge(limit, "a", 10_000)
    assert deep.full_after == pytest.approx(MOST_DEBT + limit.window, abs=1)
    assert not (await nodes[0].take(limit, "a")).allowed


async def test_asked_at_once_is_one_round_trip(node: Limiter, redis: Counted) -> None:
    """While busy, gather: a hundred who ask in one turn share a round trip, each with its own bucket."""
    verdicts = await asyncio.gather(*(node.take(SLOW, str(number)) for number in range(100)))
    assert [verdict.left for verdict in verdicts] == [4] * 100
    assert redis.trips == 1


async def test_a_flood_reaches_redis_once(node: Limiter, redis: Counted) -> None:
    """Whoever has nothing left is refused here, without asking again."""
    assert await allowed(node, 6) == 5
    trips = redis.trips
    for _ in range(100):
        assert not (await node.take(SLOW, "a")).allowed
    assert redis.trips == trips


async def test_nothing_is_kept_of_a_full_bucket(node: Limiter, redis: Counted, valkey: Valkey) -> None:
    """A key lives no longer than its bucket takes to fill up, and it does not say whose it is."""
    limit = Limit("brief", burst=5, rate=100)
    await node.take(limit, "somebody@example.org", 5)
    await node.look(SLOW, "somebody@example.org")
    keys = await redis._client.keys("*")
    assert len(keys) == 1
    assert b"somebody" not in keys[0]
    await asyncio.sleep(0.06)
    assert await redis._client.keys("*") == []


async def test_tiers_share_a_bucket(node: Limiter) -> None:
    """Who may do twice as much has twice the burst and the rate; whoever changes keeps the bucket, as empty as it was."""
    premium = SLOW.times(2)
    assert await allowed(node, 5) == 5
    assert await allowed(node, 5, premium) == 0
    assert await allowed(node, 20, premium, who="b") == 10
    assert (await node.look(premium, "b")).retry_after == pytest.approx(50, abs=1)


async def test_spending_waits_for_nobody(node: Limiter, redis: Counted) -> None:
    """Who stays under a quarter of the bucket costs no round trip, however long that goes on."""
    clock = Clock()
    limiter = Limiter(redis, clock=clock)
    limit = Limit("chat", burst=8, rate=2)
    for _ in range(1000):
        assert limiter.spend(limit, "a").allowed
        clock.now += 0.5
    await limiter.aclose()
    assert redis.trips == 0


async def test_spending_on_two_nodes(nodes: list[Limiter]) -> None:
    """Reports carry what was spent to the other node; too much is at most a quarter of a bucket for each node."""
    limit = Limit("chat", burst=40, rate=0.1)
    passed = [0, 0]
    for _ in range(40):
        for number, node in enumerate(nodes):
            passed[number] += node.spend(limit, "a").allowed
        await asyncio.gather(*(node._reports.drain() for node in nodes))
    assert 40 <= sum(passed) <= 60
    assert min(passed) > 10
    for node in nodes:
        assert node.spend(limit, "a").retry_after > 0
    assert nodes[0].spend(limit, "b").allowed


async def test_a_steady_pace_is_never_refused(redis: Counted) -> None:
    """Whoever spends as fast as it comes back, above the quarter too, owes nothing that has come back long ago."""
    limit = Limit("steady", burst=10, rate=100)
    limiter = Limiter(redis)
    loop = asyncio.get_running_loop()
    for _ in range(5):
        assert limiter.spend(limit, "a").allowed
    began = loop.time()
    spent = 0
    while loop.time() < began + 0.5:
        if spent < (loop.time() - began) * 90:
            spent += 1
            assert limiter.spend(limit, "a").allowed
        await asyncio.sleep(0.001)
    took = loop.time() - began
    await limiter.aclose()
    assert 0 < redis.trips <= took / REPORT_SECONDS + 2


async def test_redis_is_away(nodes: list[Limiter], valkey: Valkey) -> None:
    """Each node goes on with what it knows: who had nothing left still has nothing; others have a burst a node; nobody waits."""
    first, second = nodes
    assert await allowed(first, 6) == 5
    valkey.kill()
    assert await allowed(first, 6, who="b") == 5
    assert first.away
    assert await allowed(first, 3) == 0
    assert await allowed(second, 6) == 5
    verdict = await first.charge(SLOW, "b", 3)
    assert verdict.retry_after == pytest.approx(300, abs=2)
    assert first.spend(SLOW, "c").allowed


async def test_redis_hangs(redis: Counted, valkey: Valkey) -> None:
    """Those who ask while it falls silent are answered after its timeout, those who come later without asking it."""
    node = Limiter(redis, retry=60)
    valkey.freeze()
    try:
        assert await allowed(node, 9) == 5
        trips = redis.trips
        assert await allowed(node, 100, who="b") == 5
        assert redis.trips == trips
    finally:
        valkey.thaw()
        await node.aclose()


async def test_redis_comes_back(nodes: list[Limiter], valkey: Valkey) -> None:
    """Nodes share again as soon as Redis answers."""
    valkey.kill()
    for node in nodes:
        await node.take(SLOW, "a")
        assert node.away
    valkey.start()
    await until(lambda: not any(node.away for node in nodes))
    passed = [(await nodes[number % 2].take(SLOW, "new")).allowed for number in range(8)]
    assert sum(passed) == 5


async def test_bounded(redis: Counted) -> None:
    """However many ask, few buckets are kept here: those that were used last."""
    limiter = Limiter(redis, most=100)
    for number in range(1000):
        limiter.spend(SLOW, str(number))
    assert len(limiter._buckets) == 100
    await limiter.aclose()
