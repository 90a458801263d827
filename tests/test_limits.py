"""Whose limits are how large."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from protocol.refusals import ErrorCode, Refused
from server.limits import Quotas, check
from storage.redis.limits import Limit, Limiter
from storage.redis.pool import open_redis
from tests.redis.valkeys import Valkey
from tests.stores import valkey

__all__ = ["valkey"]

SLOW = Limit("slow", burst=3, rate=0.001)


@dataclass
class Standing:
    """Somebody."""

    role: str = "MEMBER"
    tier: str = "FREE"


@pytest.fixture
async def limiter(valkey: Valkey) -> AsyncIterator[Limiter]:
    """Count in a Redis of one's own."""
    redis = open_redis(valkey.url)
    limiter = Limiter(redis)
    yield limiter
    await limiter.aclose()
    await redis.aclose()


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        (Standing(), 3),
        (None, 3),
        (Standing(tier="PREMIUM_MONTHLY"), 6),
        (Standing(tier="PREMIUM_YEARLY"), 6),
        (Standing(role="CREATOR", tier="CREATOR_PRO"), 12),
        (Standing(role="ADMIN"), 30),
        (Standing(role="UNKNOWN", tier="UNKNOWN"), 3),
    ],
)
async def test_who_pays_may_do_more(limiter: Limiter, standing: Standing | None, expected: int) -> None:
    """Tier and role multiply a limit, the larger of the two."""
    quotas = Quotas(limiter)
    taken = [(await quotas.take(SLOW, "a", standing)).allowed for _ in range(expected + 1)]
    assert taken == [True] * expected + [False]
    assert [quotas.spend(SLOW, "b", standing).allowed for _ in range(expected + 1)] == taken
    with pytest.raises(Refused) as refused:
        check(quotas.spend(SLOW, "b", standing))
    assert refused.value.code is ErrorCode.RATE_LIMITED
    assert refused.value.retry_after == pytest.approx(3000 / expected, rel=0.01)


async def test_what_guards_sign_in_knows_no_tier(limiter: Limiter) -> None:
    """Taken without a session, a limit is the same for everyone; a refusal says when to come again."""
    quotas = Quotas(limiter)
    for _ in range(3):
        await quotas.demand(SLOW, "a")
    with pytest.raises(Refused) as refused:
        await quotas.demand(SLOW, "a")
    assert refused.value.retry_after == pytest.approx(1000, rel=0.01)
    await quotas.charge(SLOW, "a")
    with pytest.raises(Refused) as refused:
        check(await quotas.look(SLOW, "a"))
    assert refused.value.retry_after == pytest.approx(2000, rel=0.01)


async def test_for_a_load_tester_all_are_larger(limiter: Limiter) -> None:
    """The factor of the settings multiplies every limit."""
    quotas = Quotas(limiter, factor=10)
    assert (await quotas.look(SLOW, "a")).left == 30
