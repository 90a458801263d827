"""Wrong passwords are counted by who sends them and at whom, on all nodes together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from protocol.refusals import Refused
from server.http.guesses import Guesses
from server.limits import Quotas
from storage.redis.limits import Limiter
from storage.redis.pool import open_redis
from tests.redis.valkeys import Valkey
from tests.stores import valkey

__all__ = ["valkey"]

ADA = "ada@example.org"


@pytest.fixture
async def nodes(valkey: Valkey) -> AsyncIterator[list[Guesses]]:
    """Give what two nodes know of guesses."""
    redis = open_redis(valkey.url)
    limiters = [Limiter(redis, retry=60) for _ in range(2)]
    yield [Guesses(Quotas(limiter), redis) for limiter in limiters]
    for limiter in limiters:
        await limiter.aclose()
    await redis.aclose()


async def wait(guesses: Guesses, address: str, email: str = ADA) -> float:
    """Return how long one must wait."""
    try:
        await guesses.check(address, email)
    except Refused as refused:
        return refused.retry_after or 0.0
    return 0.0


async def test_of_an_address(nodes: list[Guesses]) -> None:
    """Twenty are free, whoever is guessed and whichever node is asked; then one each 5 s. Others are not slowed."""
    for number in range(20):
        assert await wait(nodes[number % 2], "1.2.3.4", f"{number}@example.org") == 0
        await nodes[number % 2].wrong("1.2.3.4", f"{number}@example.org")
    for node in nodes:
        assert 0 < await wait(node, "1.2.3.4", "other@example.org") <= 5
        assert await wait(node, "1.2.3.5", "1@example.org") == 0


async def test_all_at_once_is_a_debt(nodes: list[Guesses]) -> None:
    """Guesses that were sent before the first was answered are all counted."""
    await asyncio.gather(*(nodes[0].wrong("1.2.3.4", f"{number}@example.org") for number in range(120)))
    assert await wait(nodes[1], "1.2.3.4") == pytest.approx(505, abs=2)


async def test_at_an_account(nodes: list[Guesses]) -> None:
    """Guesses at one account from many addresses slow every address but those from which its owner came, in any spelling."""
    await nodes[0].right("9.9.9.9", ADA)
    for number in range(20):
        await nodes[number % 2].wrong(
            f"1.2.3.{number}", ("a.da+x@example.org", "ADA@example.org")[number % 2]
        )
    for node in nodes:
        assert 0 < await wait(node, "5.5.5.5") <= 60
        assert await wait(node, "9.9.9.9") == 0
    for _ in range(20):
        await nodes[0].wrong("9.9.9.9", ADA)
    assert await wait(nodes[1], "9.9.9.9") > 0


async def test_an_account_that_is_not_there(nodes: list[Guesses]) -> None:
    """Guessing at nobody is slowed like guessing at somebody."""
    for number in range(20):
        await nodes[0].wrong(f"1.2.3.{number}", "nobody@example.org")
    assert 0 < await wait(nodes[1], "5.5.5.5", "nobody@example.org") <= 60


async def test_without_redis(nodes: list[Guesses], valkey: Valkey) -> None:
    """While Redis is away each node counts for itself, and nobody is let in because of that."""
    valkey.kill()
    await nodes[0].right("9.9.9.9", ADA)
    for _ in range(20):
        await nodes[0].wrong("1.2.3.4", ADA)
    assert 0 < await wait(nodes[0], "1.2.3.4") <= 5
    assert 0 < await wait(nodes[0], "9.9.9.9") <= 60
