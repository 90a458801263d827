"""Who is let in when many come at once from one address."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from server.addresses import Addresses
from server.door import CONNECTIONS, Door
from server.limits import Quotas
from storage.redis.limits import Limiter
from storage.redis.pool import open_redis
from tests.redis.valkeys import Valkey
from tests.stores import valkey

__all__ = ["valkey"]

PROXY = "10.0.0.1"


@pytest.fixture
async def door(valkey: Valkey) -> AsyncIterator[Door]:
    """Give a door that lets five in of an address, and hardly anybody after that."""
    redis = open_redis(valkey.url)
    limiter = Limiter(redis)
    yield Door(Addresses([PROXY]), Quotas(limiter, 5 / CONNECTIONS.burst))
    await limiter.aclose()
    await redis.aclose()


async def test_one_address(door: Door) -> None:
    """Five connections of one address are let in, a sixth is not; an IPv6 network is one address, and others are others."""
    assert [door.admits("1.2.3.4") for _ in range(7)] == [True] * 5 + [False] * 2
    assert [door.admits(f"2001:db8::{n}") for n in range(7)] == [True] * 5 + [False] * 2
    assert door.admits("1.2.3.5")
    assert door.turned_away == 4


async def test_a_stranger_s_word_is_nothing(door: Door) -> None:
    """What is not a proxy of ours was counted when it was accepted, and names nobody."""
    assert all(door.admits_behind("1.2.3.4", [f"9.9.9.{n}"]) for n in range(20))
    assert [door.admits("1.2.3.4") for _ in range(6)] == [True] * 5 + [False]


async def test_behind_a_proxy(door: Door) -> None:
    """A proxy may connect as often as it likes; whom it forwards for is counted, by what it wrote itself."""
    assert all(door.admits(PROXY) for _ in range(20))
    named = [[f"9.9.9.{n}, 1.2.3.4"] for n in range(6)]
    assert [door.admits_behind(PROXY, forwarded) for forwarded in named] == [True] * 5 + [False]
    assert door.admits_behind(PROXY, ["1.2.3.5"])
