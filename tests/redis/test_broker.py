"""The broker between nodes, on a Valkey that is killed, frozen and made deaf."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from storage.redis.broker import Broker
from storage.redis.link import Link, open_link, pack
from storage.redis.publications import Kind, Packet, unpack
from tests.redis.valkeys import Proxy, Valkey, certificate
from tests.waiting import until

ROOM = "lr:{00000000-0000-0000-0000-000000000001}:events"
OTHER = "lr:{00000000-0000-0000-0000-000000000002}:events"

pytestmark = pytest.mark.timeout(20)


class Node:
    """A broker and what it was told."""

    def __init__(self, url: str, number: int, **options: Any) -> None:
        self.heard: list[tuple[str, int]] = []
        self.publications = 0
        self.restored = 0
        self.broker = Broker(
            url,
            number.to_bytes(8, "big"),
            on_publication=self._publication,
            on_restored=self._restored,
            **options,
        )

    def offsets(self, channel: str = ROOM) -> list[int]:
        """Return the offsets heard on a channel, in order."""
        return [offset for heard, offset in self.heard if heard == channel]

    def _publication(self, channel: str, publication: bytes) -> None:
        self.publications += 1
        self.heard += [(channel, packet.offset) for packet in unpack(publication)]

    def _restored(self) -> None:
        self.restored += 1


Start = Callable[..., AbstractAsyncContextManager[Node]]
NUMBERS = itertools.count(1)


@asynccontextmanager
async def node(url: str, *channels: str, **options: Any) -> AsyncIterator[Node]:
    """Run a node that hears `channels`; probes come quickly, so that tests need not wait."""
    one = Node(url, next(NUMBERS), **{"probe_every": 0.1, **options})
    await one.broker.start()
    try:
        for channel in channels:
            assert await one.broker.subscribe(channel)
        yield one
    finally:
        await one.broker.aclose()


def line(offset: int, size: int = 10) -> Packet:
    """Make a durable packet."""
    return Packet(Kind.LINE, offset, b"j" * size, b"m")


async def admin(valkey: Valkey) -> Link:
    """Connect a second client, to interfere."""
    return await open_link(valkey.url, on_push=lambda _: None, name="admin", within=1)


async def call(link: Link, *args: str) -> Any:
    """Run one command on `link`."""
    answered: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
    link.send(pack(*(arg.encode() for arg in args)), 1, answered.set_result)
    return (await answered)[0]


async def test_order_is_kept(valkey: Valkey) -> None:
    """Thousands of packets on two channels, in many turns, arrive all and in order on each."""
    async with node(valkey.url) as a, node(valkey.url, ROOM, OTHER) as b:
        for offset in range(1, 3001):
            a.broker.publish(ROOM, line(offset))
            a.broker.publish(OTHER, line(-offset))
            if offset % 7 == 0:
                await asyncio.sleep(0)
        await until(lambda: len(b.heard) == 6000)
        assert b.offsets(ROOM) == list(range(1, 3001))
        assert b.offsets(OTHER) == list(range(-1, -3001, -1))


async def test_own_publications_are_not_handed_over(valkey: Valkey) -> None:
    """A node hears the others and never itself, on a channel that it publishes on."""
    async with node(valkey.url, ROOM) as a, node(valkey.url, ROOM) as b:
        a.broker.publish(ROOM, line(1))
        await until(b.offsets)
        b.broker.publish(ROOM, line(2))
        await until(a.offsets)
        assert a.offsets() == [2]
        assert b.offsets() == [1]
        assert (a.broker.received, b.broker.received) == (1, 1)


async def test_one_turn_is_one_publication(valkey: Valkey) -> None:
    """What is published on a channel in one turn of the loop travels as one publication; another channel has its own."""
    async with node(valkey.url) as a, node(valkey.url, ROOM, OTHER) as b:
        for offset in range(100):
            a.broker.publish(ROOM, line(offset))
            a.broker.publish(OTHER, line(offset))
        await until(lambda: len(b.heard) == 200)
        assert b.publications == 2
        await until(lambda: a.broker.packets == 200)
        assert (a.broker.published, a.broker.dropped) == (2, 0)


async def test_gathered_while_under_way(valkey: Valkey) -> None:
    """While Redis keeps us waiting for one publication, all that comes is gathered and sent as the next one."""
    async with node(valkey.url) as a, node(valkey.url, ROOM) as b:
        valkey.freeze()
        a.broker.publish(ROOM, line(0))
        await asyncio.sleep(0.01)
        for offset in range(1, 50):
            a.broker.publish(ROOM, line(offset))
            await asyncio.sleep(0)
        valkey.thaw()
        await until(lambda: len(b.heard) == 50)
        assert b.offsets() == list(range(50))
        assert b.publications == 2


async def test_quiet_system_publishes_at_once(valkey: Valkey) -> None:
    """With nothing under way, a publication is written within two turns of the loop; no timer is waited for."""
    async with node(valkey.url) as a, node(valkey.url, ROOM) as b:
        took = []
        for offset in range(20):
            began = time.monotonic()
            a.broker.publish(ROOM, line(offset))
            while len(b.heard) <= offset:
                await asyncio.sleep(0)
                assert time.monotonic() - began < 5
            took.append(time.monotonic() - began)
        assert min(took) < 0.01


async def test_a_thousand_channels(valkey: Valkey) -> None:
    """A thousand channels, subscribed at the same time, are each heard; unsubscribed, none is."""
    channels = [f"lr:{{{number}}}:events" for number in range(1000)]
    async with node(valkey.url) as a, node(valkey.url, timeout=10.0) as b:
        assert all(await asyncio.gather(*(b.broker.subscribe(channel) for channel in channels)))
        for channel in channels:
            a.broker.publish(channel, line(1))
        await until(lambda: len(b.heard) == 1000)
        assert set(b.heard) == {(channel, 1) for channel in channels}
        for channel in channels:
            b.broker.unsubscribe(channel)
        b.heard.clear()
        assert await b.broker.subscribe(ROOM)
        for channel in channels:
            a.broker.publish(channel, line(2))
        a.broker.publish(ROOM, line(3))
        await until(lambda: b.heard)
        assert b.heard == [(ROOM, 3)]


async def test_unsubscribed_is_silent_from_the_call_on(valkey: Valkey) -> None:
    """What is on its way when a channel is unsubscribed is not handed over any more."""
    async with node(valkey.url) as a, node(valkey.url, ROOM, OTHER) as b:
        a.broker.publish(ROOM, line(1))
        a.broker.publish(OTHER, line(1))
        b.broker.unsubscribe(ROOM)
        await until(lambda: b.offsets(OTHER))
        assert b.offsets(ROOM) == []


async def test_a_receiver_that_fails(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """A callback that raises is logged and costs one publication, not the reading."""
    heard = []

    def fail_once(channel: str, publication: bytes) -> None:
        heard.append(channel)
        if len(heard) == 1:
            raise KeyError("a bug")

    broker = Broker(valkey.url, b"failing!", on_publication=fail_once, on_restored=lambda: None)
    await broker.start()
    async with node(valkey.url) as a:
        assert await broker.subscribe(ROOM)
        a.broker.publish(ROOM, line(1))
        await until(lambda: len(heard) == 1)
        a.broker.publish(ROOM, line(2))
        await until(lambda: len(heard) == 2)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    await broker.aclose()


async def test_killed_and_back_empty(valkey: Valkey) -> None:
    """Redis killed and started again empty: within 2 s everything is subscribed again, and the node is told once."""
    channels = [f"lr:{{{number}}}:events" for number in range(1000)]
    async with node(valkey.url, ROOM) as a, node(valkey.url, ROOM, *channels) as b:
        valkey.kill()
        await until(lambda: not a.broker.healthy and not b.broker.healthy)
        assert not await b.broker.subscribe(OTHER)
        a.broker.publish(ROOM, Packet(Kind.PASSING, 0, b"gone", b""))
        valkey.start()
        await until(lambda: a.restored and b.restored, within=2)
        assert a.broker.healthy
        assert b.broker.healthy
        for number, channel in enumerate([*channels, ROOM, OTHER]):
            a.broker.publish(channel, line(number))
        await until(lambda: len(b.heard) == 1002)
        assert sorted(offset for _, offset in b.heard) == list(range(1002))
        assert (a.restored, b.restored) == (1, 1)
        assert (a.broker.reconnects, a.broker.dropped) == (1, 1)


async def test_what_waited_is_sent_when_redis_is_back(valkey: Valkey) -> None:
    """Durable packets of an outage are sent after it, in order; what only counted then is dropped and counted."""
    async with node(valkey.url) as a, node(valkey.url, ROOM) as b:
        valkey.kill()
        await until(lambda: a.broker.healthy is b.broker.healthy is False)
        for offset in range(1, 11):
            a.broker.publish(ROOM, line(offset))
            a.broker.publish(ROOM, Packet(Kind.PASSING, 0, b"cue", b"cue"))
        assert a.broker.dropped == 10
        valkey.start()
        await until(lambda: a.broker.healthy and b.broker.healthy)
        a.broker.publish(ROOM, line(11))
        await until(lambda: 11 in b.offsets())
        missed = b.offsets()[0]  # b may have been the later one to come back
        assert b.offsets() == list(range(missed, 12))


async def test_hung_redis(valkey: Valkey) -> None:
    """While Redis hangs, publishing returns at once, memory is bounded, the oldest goes first; it is found and left."""
    async with node(valkey.url, most_waiting=100_000) as a, node(valkey.url, ROOM) as b:
        valkey.freeze()
        a.broker.publish(ROOM, line(0))
        await asyncio.sleep(0.01)
        slowest = 0.0
        for offset in range(1, 5001):
            began = time.perf_counter()
            a.broker.publish(ROOM, line(offset, size=1000))
            slowest = max(slowest, time.perf_counter() - began)
        assert slowest < 0.5  # a publish that waited would wait for as long as Redis hangs
        assert 4800 < a.broker.dropped < 5000
        await until(lambda: not a.broker.healthy and not b.broker.healthy)
        await until(lambda: a.broker._publisher is None)
        valkey.thaw()
        await until(lambda: a.restored and b.restored)
        a.broker.publish(ROOM, line(5001))
        await until(lambda: 5001 in b.offsets())
        assert a.broker.dropped < 5000


async def test_many_are_heard_at_once(valkey: Valkey) -> None:
    """Whoever relies on many channels waits once; while Redis confirms nothing nobody waits, and all is told of later."""
    async with node(valkey.url, timeout=1.0, probe_every=1.0) as a, node(valkey.url) as b:
        channels = [f"lr:test:{number}" for number in range(200)]
        await a.broker.heard([a.broker.hear(channel) for channel in channels])
        for channel in channels:
            b.broker.publish(channel, line(1))
        await until(lambda: len(a.heard) == 200)
        await a.broker.heard([a.broker.hear(channel) for channel in channels])  # they are heard already
        loop = asyncio.get_running_loop()
        valkey.freeze()
        began = loop.time()
        first = a.broker.hear("lr:test:late")
        await a.broker.heard([first])
        assert loop.time() - began >= 0.45
        waiting = asyncio.create_task(a.broker.heard([a.broker.hear("lr:test:later")]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (waiting.done(), first.done(), a.restored) == (True, False, 0)
        valkey.thaw()
        await until(lambda: a.restored)
        assert await first
        await a.broker.heard([a.broker.hear("lr:test:again")])
        b.broker.publish("lr:test:again", line(7))
        await until(lambda: a.offsets("lr:test:again") == [7])


async def test_a_deaf_subscription_is_found(valkey: Valkey) -> None:
    """A connection that is alive but brings nothing any more is found by the probe, and made again."""
    async with Proxy(valkey.socket) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        async with node(url, ROOM) as a, node(valkey.url) as b:
            proxy.deaf = True
            b.broker.publish(ROOM, line(1))
            took = await until(lambda: not a.broker.healthy, within=2)
            assert took > 0.2
            await until(lambda: a.restored)
            b.broker.publish(ROOM, line(2))
            await until(a.offsets)
            assert a.offsets() == [2]
            assert a.broker.healthy


async def test_with_its_own_times_a_deaf_subscription_is_found_in_ten_seconds(valkey: Valkey) -> None:
    """With the times of a real node, deafness shows in `healthy` within 5 s and is over within 10 s."""
    async with Proxy(valkey.socket) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}"
        async with node(url, ROOM, probe_every=1.0) as a:
            proxy.deaf = True
            unhealthy = await until(lambda: not a.broker.healthy, within=5)
            assert unhealthy + await until(lambda: a.broker.healthy, within=10) < 10


async def test_writes_paused(valkey: Valkey) -> None:
    """A server that lets nothing be published, though it answers, is unhealthy for as long as that lasts."""
    interfering = await admin(valkey)
    async with node(valkey.url, ROOM) as a:
        assert await call(interfering, "CLIENT", "PAUSE", "1000", "WRITE") == b"OK"
        await until(lambda: not a.broker.healthy)
        await until(lambda: a.broker.healthy)
        assert a.restored == 1
    interfering.close()


async def test_dropped_by_redis(valkey: Valkey) -> None:
    """Redis drops a subscriber that reads too slowly: it comes back, is told, and goes on."""
    interfering = await admin(valkey)
    await call(interfering, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 100000 100000 1")
    async with node(valkey.url) as a, node(valkey.url, ROOM) as b:
        b.broker._subscriber._transport.pause_reading()  # type: ignore[union-attr] # as a busy loop would
        for offset in range(100):
            a.broker.publish(ROOM, line(offset, size=50_000))
        await until(lambda: b.restored)
        a.broker.publish(ROOM, line(1000))
        await until(lambda: 1000 in b.offsets())
        assert b.broker.healthy
        assert a.restored == 0
    interfering.close()


async def test_links_killed(valkey: Valkey) -> None:
    """An administrator kills all connections of all nodes: they are back, and have lost nothing that they had to send."""
    interfering = await admin(valkey)
    async with node(valkey.url) as a, node(valkey.url, ROOM) as b:
        assert await call(interfering, "CLIENT", "KILL", "TYPE", "pubsub") >= 2
        await until(lambda: a.restored and b.restored)
        a.broker.publish(ROOM, line(1))
        await until(b.offsets)
    interfering.close()


async def test_refused_publications(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """A user that may not publish or subscribe is never healthy, does no harm, and works once it may."""
    interfering = await admin(valkey)
    await call(interfering, "ACL", "SETUSER", "node", "on", ">pw", "+@all", "resetchannels")
    one = Node(f"unix://node:pw@{valkey.socket}", 77, probe_every=0.1)
    await one.broker.start()
    one.broker.publish(ROOM, line(1))
    assert not one.broker.healthy
    assert not await one.broker.subscribe(ROOM)
    assert "NOPERM" in caplog.text
    await call(interfering, "ACL", "SETUSER", "node", "allchannels")
    await until(lambda: one.restored and one.broker.healthy)
    await one.broker.aclose()
    interfering.close()


async def test_one_channel_refused(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """Publications on a channel that Redis refuses are counted as dropped and logged once; the others go on."""
    interfering = await admin(valkey)
    await call(
        interfering,
        "ACL",
        "SETUSER",
        "node",
        "on",
        ">pw",
        "+@all",
        "resetchannels",
        "&lr:probe:*",
        f"&{ROOM}",
    )
    async with node(f"unix://node:pw@{valkey.socket}") as a, node(valkey.url, ROOM) as b:
        for offset in range(10):
            a.broker.publish(ROOM, line(offset))
            a.broker.publish(OTHER, line(offset))
            a.broker.publish(OTHER, line(offset))
            await until(lambda wanted=offset + 1: len(b.heard) == wanted)  # type: ignore[misc] # a default argument
        await until(lambda: a.broker.packets == 10)
        assert (a.broker.published, a.broker.dropped) == (10, 20)
        assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
            "Redis refuses publications"
        ]
    interfering.close()


async def test_no_redis_at_the_start() -> None:
    """A node starts without Redis within a second, and has its subscriptions when Redis comes."""
    valkey = Valkey()
    began = time.monotonic()
    async with node(valkey.url) as a:
        assert time.monotonic() - began < 1.5
        assert not a.broker.healthy
        assert not await a.broker.subscribe(ROOM)
        with valkey:
            await until(lambda: a.restored)
            async with node(valkey.url) as b:
                b.broker.publish(ROOM, line(1))
                await until(a.offsets)


async def test_confirmed_late(valkey: Valkey) -> None:
    """Redis hangs, but not long enough to be left: who was told "not yet" is told when the channels are there after all."""
    async with node(valkey.url, timeout=0.3, deaf_after=100) as a, node(valkey.url, deaf_after=100) as b:
        valkey.freeze()
        assert (
            await asyncio.gather(*(a.broker.subscribe(channel) for channel in (ROOM, ROOM, OTHER)))
            == [False] * 3
        )
        a.broker.unsubscribe(OTHER)
        valkey.thaw()
        await until(lambda: a.restored)
        b.broker.publish(ROOM, line(1))
        await until(a.offsets)
        assert (a.restored, a.broker.reconnects) == (1, 0)


async def test_coming_back_may_fail_too(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    """A callback that raises when it is told of a return is logged, and the broker goes on."""

    def fail() -> None:
        raise KeyError("a bug")

    broker = Broker(
        valkey.url, b"failing!", on_publication=lambda _c, _p: None, on_restored=fail, probe_every=0.05
    )
    await broker.start()
    valkey.kill()
    await until(lambda: not broker.healthy)
    valkey.start()
    await until(lambda: broker.healthy and broker.reconnects == 1)
    probed = broker.probe_seconds
    await until(lambda: broker.probe_seconds != probed)
    assert "KeyError" in caplog.text
    await broker.aclose()


async def test_the_probe_tells_the_way(valkey: Valkey) -> None:
    """The round trip of the probe is measured again and again."""
    async with node(valkey.url, probe_every=0.02) as a:
        first = a.broker.probe_seconds
        assert first is not None
        assert 0 < first < 1
        await until(lambda: a.broker.probe_seconds != first)


async def test_a_loop_that_stood_still_is_not_deaf(valkey: Valkey) -> None:
    """A node whose process was stopped for longer than the probe's patience keeps its links when it wakes."""
    async with node(valkey.url, probe_every=0.1, deaf_after=3) as a:
        time.sleep(1.0)  # noqa: ASYNC251 - the loop is to stand still
        waking = a.broker.probe_seconds
        await until(lambda: a.broker.probe_seconds != waking)
        assert a.broker.healthy
        assert a.broker.reconnects == 0


async def test_closing_sends_what_waits(valkey: Valkey) -> None:
    """What was published before closing still goes out."""
    async with node(valkey.url, ROOM) as b:
        async with node(valkey.url) as a:
            for offset in range(50):
                a.broker.publish(ROOM, line(offset))
        await until(lambda: len(b.heard) == 50)


async def test_tls_and_password(tmp_path: Path) -> None:
    """Over rediss:// with a password the broker does the same."""
    context, authority = certificate(tmp_path)
    with Valkey("--requirepass", "s3cr@t") as valkey:
        async with Proxy(valkey.socket, context) as proxy:
            url = f"rediss://:s3cr%40t@127.0.0.1:{proxy.port}?ssl_ca_certs={authority}"
            async with node(url) as a, node(url, ROOM) as b:
                for offset in range(100):
                    a.broker.publish(ROOM, line(offset, size=10_000))
                await until(lambda: len(b.heard) == 100)


def test_a_node_id_has_its_length() -> None:
    """An id of another length would be taken for a part of the first record."""
    with pytest.raises(ValueError, match="8 bytes"):
        Broker("redis://", b"short", on_publication=lambda _c, _p: None, on_restored=lambda: None)
