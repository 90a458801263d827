"""The typed boundary to redis-py: replies have one shape, and a Redis that is away costs little and says so."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from protocol.refusals import ErrorCode, Refused
from storage.redis.pool import (
    Command,
    RedisAway,
    delete,
    evaluate,
    expire,
    get,
    hdel,
    hgetall,
    hset,
    open_redis,
    ping,
    put,
)
from tests.redis.valkeys import Proxy, Valkey, certificate

DIALOGUE: list[tuple[Command[Any], object]] = [
    (ping(), True),
    (get("s"), None),
    (put("s", "one"), True),
    (put("s", b"two", nx=True), False),
    (get("s"), b"one"),
    (hset("h", {"a": b"\x00\xff", "b": 2}), 2),
    (hset("h", {"b": 3}), 0),
    (hgetall("h"), {b"a": b"\x00\xff", b"b": b"3"}),
    (hgetall("absent"), {}),
    (hdel("h", "a", "absent"), 1),
    (expire("h", 60_000), True),
    (expire("absent", 60_000), False),
    (put("brief", "x", px=60_000), True),
    (evaluate("return {redis.call('PTTL', KEYS[1]) > 59000, ARGV[1]}", ["brief"], ["v"]), [1, b"v"]),
    (delete("s", "h", "brief", "absent"), 3),
]


async def test_every_command_reads_its_reply(valkey: Valkey) -> None:
    """Each command comes back as the type that it names, whether there was something or nothing."""
    redis = open_redis(valkey.url)
    assert [reply for _, reply in DIALOGUE] == [await redis.run(command) for command, _ in DIALOGUE]
    await redis.aclose()


@pytest.mark.parametrize("atomic", [False, True])
async def test_a_pipeline_reads_the_same(valkey: Valkey, atomic: bool) -> None:
    """In a pipeline, with and without MULTI, the replies are what they are alone, in order."""
    redis = open_redis(valkey.url)
    expected = [reply for _, reply in DIALOGUE]
    assert expected == await redis.run_all([command for command, _ in DIALOGUE], atomic=atomic)
    assert await redis.run_all([]) == []
    await redis.aclose()


async def test_our_own_mistake_is_no_absence(valkey: Valkey) -> None:
    """A command on a key of another type is a bug of ours and is not hidden as an outage, alone or in a pipeline."""
    redis = open_redis(valkey.url)
    await redis.run(hset("m", {"a": "x"}))
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await redis.run(get("m"))
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await redis.run_all([get("m"), get("n")])
    assert await redis.run(hgetall("m")) == {b"a": b"x"}
    await redis.aclose()


async def test_away_is_a_refusal(valkey: Valkey) -> None:
    """A Redis that is not there is answered as unavailable, worth another try in a second; afterwards it just works."""
    redis = open_redis(valkey.url)
    await redis.run(put("s", "one"))
    valkey.kill()
    for ask in (redis.run(get("s")), redis.run_all([get("s")])):
        with pytest.raises(RedisAway) as caught:
            await ask
        assert isinstance(caught.value, Refused)
        assert ErrorCode.UNAVAILABLE is caught.value.code
        assert caught.value.retry_after == 1.0
        assert "Redis is away" in str(caught.value)
    valkey.start()
    assert await redis.run(get("s")) is None
    await redis.aclose()


async def test_hung_redis_costs_a_bounded_time(valkey: Valkey) -> None:
    """Three times as many callers as connections are all told within the timeout (twice, on Python 3.11) of a hang."""
    redis = open_redis(valkey.url, timeout=0.3)
    await redis.run(ping())
    valkey.freeze()
    began = time.monotonic()
    outcomes = await asyncio.gather(*(redis.run(ping()) for _ in range(60)), return_exceptions=True)
    took = time.monotonic() - began
    assert {RedisAway} == {type(outcome) for outcome in outcomes}
    assert took < 3
    valkey.thaw()
    assert await redis.run(ping())
    await redis.aclose()


async def test_nothing_is_done_twice(valkey: Valkey) -> None:
    """A write whose answer did not come in time is not sent again: INCR counts one at most."""
    redis = open_redis(valkey.url, timeout=0.2)
    increment = evaluate("return redis.call('INCR', KEYS[1])", ["n"])
    await redis.run(ping())
    valkey.freeze()
    with pytest.raises(RedisAway):
        await redis.run(increment)
    valkey.thaw()
    assert await redis.run(increment) == 2
    await redis.aclose()


async def test_a_full_redis_is_away() -> None:
    """A Redis that is out of memory refuses writes as unavailable and goes on reading."""
    with Valkey("--maxmemory", "3mb") as valkey:
        redis = open_redis(valkey.url)
        outcomes = await asyncio.gather(
            *(redis.run(put(f"k{number}", b"x" * 100_000)) for number in range(50)), return_exceptions=True
        )
        refused = [outcome for outcome in outcomes if outcome is not True]
        assert refused
        assert {RedisAway} == {type(outcome) for outcome in refused}
        assert await redis.run(get("absent")) is None
        await redis.aclose()


async def test_more_callers_than_connections(valkey: Valkey) -> None:
    """Callers beyond the pool's size wait their turn and get their own answer."""
    redis = open_redis(valkey.url, connections=2)
    await redis.run_all([put(f"k{number}", number) for number in range(100)])
    answers = await asyncio.gather(*(redis.run(get(f"k{number}")) for number in range(100)))
    assert [str(number).encode() for number in range(100)] == answers
    await redis.aclose()


async def test_a_cancelled_command_leaves_nothing_behind(valkey: Valkey) -> None:
    """Commands cancelled at any step never leave a connection out of step: nobody gets another's answer."""
    redis = open_redis(valkey.url, connections=2)
    await redis.run_all([put(f"k{number}", number) for number in range(100)])
    for steps in range(12):
        asked = [asyncio.create_task(redis.run(get(f"k{number}"))) for number in range(4)]
        for _ in range(steps):
            await asyncio.sleep(0)
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        answers = await asyncio.gather(*(redis.run(get(f"k{number}")) for number in range(50, 60)))
        assert [str(number).encode() for number in range(50, 60)] == answers
    await redis.aclose()


async def test_tls_and_password(tmp_path: Path) -> None:
    """A rediss:// URL with a password works, is refused with a wrong one, and without the right authority."""
    context, authority = certificate(tmp_path)
    with Valkey("--requirepass", "s3cr@t") as valkey:
        async with Proxy(valkey.socket, context) as proxy:
            place = f"127.0.0.1:{proxy.port}/0"
            for url, works in {
                f"rediss://:s3cr%40t@{place}?ssl_ca_certs={authority}": True,
                f"rediss://default:s3cr%40t@{place}?ssl_ca_certs={authority}": True,
                f"rediss://:wrong@{place}?ssl_ca_certs={authority}": False,
                f"rediss://:s3cr%40t@{place}": False,
            }.items():
                redis = open_redis(url)
                if works:
                    assert await redis.run(ping())
                else:
                    with pytest.raises(RedisAway):
                        await redis.run(ping())
                await redis.aclose()


def test_what_is_no_url() -> None:
    """A URL of another kind is refused when it is read, not when it is used."""
    with pytest.raises(ValueError, match="scheme"):
        open_redis("http://localhost")
