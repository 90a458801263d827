"""The keys of a provider: when they are fetched, by whom, and for how long they count."""

from __future__ import annotations

import asyncio
from typing import Any

import jwt
import pytest

from protocol.refusals import ErrorCode, Refused
from server.gateways.jwks import FRESH_SECONDS, PAUSE_SECONDS, RETRY_SECONDS, STALE_SECONDS, ProviderKeys
from server.gateways.outside import Answer
from tests.http.provider import rsa_key


def published(*kids: str) -> list[Any]:
    """Write a key set."""
    return [
        jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key(1).public_key(), as_dict=True) | {"kid": kid}
        for kid in kids
    ]


class Source:
    """A provider, and time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.keys: Any = published("one")
        self.status = 200
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.fetches = 0

    async def fetch(self) -> Answer:
        """Answer, when it may."""
        self.fetches += 1
        await self.gate.wait()
        if self.away:
            raise Refused(ErrorCode.UNAVAILABLE)
        return Answer(self.status, {"keys": self.keys})


@pytest.fixture
def source() -> Source:
    """Give a provider with one key."""
    return Source()


@pytest.fixture
def keys(source: Source) -> ProviderKeys:
    """Give what fetches from it."""
    return ProviderKeys(source.fetch, lambda: source.now)


async def found(keys: ProviderKeys, kid: str) -> bool:
    """Say whether there is such a key."""
    return await keys.find(kid) is not None


async def test_fetched_when_needed(source: Source, keys: ProviderKeys) -> None:
    """Not before the first token, then once."""
    assert source.fetches == 0
    assert [await found(keys, "one") for _ in range(3)] == [True] * 3
    assert source.fetches == 1


async def test_one_fetch_for_all_who_wait(source: Source, keys: ProviderKeys) -> None:
    """A thousand at once ask once; one that goes away takes nothing from the others."""
    source.gate.clear()
    asking = [asyncio.create_task(found(keys, "one")) for _ in range(1000)]
    await asyncio.sleep(0)
    asking[0].cancel()
    source.gate.set()
    assert await asyncio.gather(*asking[1:]) == [True] * 999
    assert source.fetches == 1


async def test_a_flood_of_unknown_names(source: Source, keys: ProviderKeys) -> None:
    """A thousand invented names cause one fetch a minute, however they are spread."""
    assert await found(keys, "one")
    for minute in range(1, 4):
        source.now = began = 1000.0 + minute * PAUSE_SECONDS
        for number in range(1000):
            source.now = began + number * PAUSE_SECONDS / 1000
            assert not await found(keys, f"unknown {number}")
        assert source.fetches == 1 + minute


async def test_a_new_key(source: Source, keys: ProviderKeys) -> None:
    """A name that is new is found when the last fetch is a minute ago, and the old one is gone then."""
    assert await found(keys, "one")
    source.keys = published("two")
    source.now += PAUSE_SECONDS - 1
    assert not await found(keys, "two")
    source.now += 1
    assert await found(keys, "two")
    assert not await found(keys, "one")


async def test_keys_grow_old(source: Source, keys: ProviderKeys) -> None:
    """After an hour they are fetched anew, so that one that was withdrawn does not count for ever."""
    assert await found(keys, "one")
    source.keys = published("two")
    source.now += FRESH_SECONDS + 1
    assert not await found(keys, "one")
    assert source.fetches == 2


async def test_while_the_provider_is_away(source: Source, keys: ProviderKeys) -> None:
    """The keys of before count for a day; whoever comes with another one is told that it can't be known now."""
    assert await found(keys, "one")
    source.away = True
    source.now += FRESH_SECONDS + 1
    assert await found(keys, "one")
    source.now += RETRY_SECONDS
    with pytest.raises(Refused):
        await keys.find("two")
    source.now += STALE_SECONDS
    with pytest.raises(Refused):
        await keys.find("one")
    source.away = False
    source.now += RETRY_SECONDS
    assert await found(keys, "one")


async def test_a_first_fetch_that_fails(source: Source, keys: ProviderKeys) -> None:
    """Soon after it is tried again, not at once for each who asks."""
    source.status = 500
    for _ in range(5):
        with pytest.raises(Refused):
            await keys.find("one")
    assert source.fetches == 1
    source.status = 200
    source.now += RETRY_SECONDS
    assert await found(keys, "one")


@pytest.mark.parametrize(
    "entries",
    [
        None,
        {},
        [],
        [7, None, "x"],
        [{"kty": "oct", "kid": "one", "k": "AAAA"}],
        [{"kty": "EC", "kid": "one", "crv": "P-256", "x": "AA", "y": "AA"}],
        [{"kty": "RSA", "kid": "one", "n": "AQAB", "e": "AQAB"}],
        [published("one")[0] | {"use": "enc"}],
        [published("one")[0] | {"kid": None}],
        [{**published("one")[0], "n": 7}],
    ],
)
async def test_what_is_no_key(source: Source, keys: ProviderKeys, entries: Any) -> None:
    """Secret keys, short keys, keys for something else, and what is no key at all, verify nothing."""
    source.keys = entries
    with pytest.raises(Refused):
        await keys.find("one")
    source.keys = [*(entries or ()), *published("two")]
    source.now += RETRY_SECONDS
    assert await found(keys, "two")
    assert not await found(keys, "one")
