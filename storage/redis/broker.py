"""What nodes tell each other: publications on channels, through Redis pub/sub.

While busy, gather. `Broker.publish` only puts a packet aside. What was put aside in one turn of the loop goes out together, in
one write, the packets of one channel as one publication; while that is under way, whatever comes is gathered, and the next
write carries it all. A quiet system publishes at once. On the other side everything that has arrived is read and handed over,
in order, without a task or a wait in between.

CPU of this process, one core, uvloop, a unix socket, 200 bytes of payload a packet:

| | us each |
| --- | --- |
| publish, 100 packets of one channel in a turn | 0.6 |
| publish, 100 packets of 100 channels in a turn | 2.0 |
| publish with redis-py, 100 in a pipeline / one by one | 7.5 / 44 |
| receive, hand over | 0.6 |
| receive with redis-py's PubSub (hiredis too) | 7.3 |

One packet alone is with Redis, and acknowledged by it, after 20 to 30 us.

Pub/sub may lose what it carries at any moment, and that is no fault here: durable events have offsets, and their receivers
see a gap and read it from Postgres. What this module promises is to notice:

- a link that is lost is made again, everything is subscribed again, and then `on_restored` is called;
- a subscription that has gone deaf although its connection is alive is found by a probe that goes round through pub/sub;
- what waits while Redis is away is bounded by bytes: the oldest goes first, and is counted. What was under way when the link
  was lost is sent again, so a receiver may see it twice; what is only worth something now (`Kind.PASSING`) is not.

A Redis Cluster is not spoken to yet. Plain pub/sub works on one, through any node, but it carries everything to every node
of the cluster. Channel names have hash tags already, so what is missing is a pair of links for each shard, with SPUBLISH and
SSUBSCRIBE in place of the two verbs below.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

import hiredis

from storage.redis.link import Link, Replies, open_link, pack
from storage.redis.pool import RedisAway
from storage.redis.publications import NODE_ID_BYTES, Kind, Packet, sender
from storage.redis.publications import pack as pack_publication
from storage.redis.subscriptions import Subscriptions

_log = logging.getLogger(__name__)

_SHORTEST_WAIT: Final = 0.05
_LONGEST_WAIT: Final = 1.0
_BYTES_A_WRITE: Final = 1 << 20
"""A write is cut here: subscribers should not have to swallow at once all that waited."""
_PACKET_BYTES: Final = 200
"""What a waiting packet costs in memory beside its payloads."""
_UNHEALTHY_AFTER: Final = 3
_STEADY: Final = 5.0
"""Seconds that a connection must have lasted for its loss to be met by a quick return."""
_MOMENT: Final = struct.Struct("!d")

_Waiting = tuple[str, Packet, int]


class Broker:
    """The publications of one node, in the loop that is running when it is made.

    `node` is this node's id of 8 bytes; publications that begin with it are its own and are not handed over. `on_publication`
    is called with the channel and the publication, `on_restored` when all channels are subscribed again after a loss (what
    was published in between is lost: compare positions). Both are called in the loop and must not take long.

    `most_waiting` is in bytes; `timeout` (seconds) bounds connecting and confirming; a probe is sent every `probe_every`
    seconds, and after `deaf_after` of them without one coming back the links are made anew.

    Counters: `published` (publications sent), `packets` (in them), `dropped` (packets that were not sent, or refused), `received`
    (publications of others), `reconnects`. `probe_seconds` is the last round trip of the probe.
    """

    def __init__(
        self,
        redis_url: str,
        node: bytes,
        *,
        on_publication: Callable[[str, bytes], None],
        on_restored: Callable[[], None],
        most_waiting: int = 16 << 20,
        timeout: float = 1.0,
        probe_every: float = 1.0,
        deaf_after: int = 5,
    ) -> None:
        if len(node) != NODE_ID_BYTES:
            raise ValueError(f"a node's id has {NODE_ID_BYTES} bytes")
        self._url = redis_url
        self._node = node
        self._on_publication = on_publication
        self._on_restored = on_restored
        self._most_waiting = most_waiting
        self._timeout = timeout
        self._probe_every = probe_every
        self._deaf_after = deaf_after

        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._publisher: Link | None = None
        self._subscriber: Link | None = None
        self._subscriptions = Subscriptions()

        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._under_way: list[_Waiting] = []
        self._flushing = False
        self._refused = False
        self._idle: asyncio.Future[None] | None = None

        self._probe_channel = "lr:probe:" + node.hex()
        self._probe_returned: asyncio.Future[None] = self._loop.create_future()
        self._unanswered = 0
        self._restored = False
        self._behind = False
        self._silent = False
        """Whether Redis has confirmed nothing in the time of the last who waited for it."""

        self.published = 0
        self.packets = 0
        self.dropped = 0
        self.received = 0
        self.reconnects = 0
        self.probe_seconds: float | None = None

    @property
    def healthy(self) -> bool:
        """Everything is subscribed, and the probe comes back."""
        return self._restored and self._unanswered < _UNHEALTHY_AFTER

    async def start(self) -> None:
        """Connect, and stay connected until `aclose`. Returns after `timeout` seconds at most, with Redis or without."""
        _ = self._subscriptions.want(self._probe_channel)
        first: asyncio.Future[None] = self._loop.create_future()
        self._task = self._loop.create_task(self._run(first), name="broker")
        await asyncio.wait({first}, timeout=self._timeout)
        self._behind = not first.done()

    async def aclose(self) -> None:
        """Send what waits, for `timeout` seconds at most, and disconnect."""
        if self._publisher is not None and (self._waiting or self._under_way):
            self._idle = self._loop.create_future()
            await asyncio.wait(
                {self._idle, self._publisher.lost}, timeout=self._timeout, return_when="FIRST_COMPLETED"
            )
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def hear(self, channel: str) -> asyncio.Future[bool]:
        """Hear `channel` from now on. To be handed to `heard`, with those of others, before what it says is relied on."""
        return self._subscriptions.want(channel)

    async def heard(self, confirmations: Iterable[asyncio.Future[bool]]) -> None:
        """Wait until Redis has confirmed all these channels: once for all, for half of `timeout` seconds at most.

        While it confirms nothing nobody waits for it. What is confirmed later than that is told by `on_restored`.
        """
        late = {confirmed for confirmed in confirmations if not confirmed.done()}
        if late and self._subscriber is not None and not self._silent:
            done, late = await asyncio.wait(late, timeout=self._timeout / 2)
            self._silent = not done
        for confirmed in late:
            confirmed.add_done_callback(self._confirmed_late)

    async def subscribe(self, channel: str) -> bool:
        """Hear `channel`. True when Redis has confirmed.

        False when it has not within `timeout` seconds, or at once while there is no link: the channel is remembered, and
        `on_restored` is called when it is subscribed after all.
        """
        confirmed = self._subscriptions.want(channel)
        if self._subscriber is not None:
            await asyncio.wait({confirmed}, timeout=self._timeout)
        if not confirmed.done():
            confirmed.add_done_callback(self._confirmed_late)
            return False
        return confirmed.result()

    def unsubscribe(self, channel: str) -> None:
        """Hear `channel` no more: from this call on none of its publications is handed over."""
        self._subscriptions.forget(channel)

    def publish(self, channel: str, packet: Packet) -> None:
        """Send `packet` to all other nodes that hear `channel`, soon. Never waits and never fails: see `dropped`."""
        if self._publisher is None and packet.kind is Kind.PASSING:
            self.dropped += 1
            return
        size = (
            _PACKET_BYTES
            + len(packet.json)
            + len(packet.msgpack)
            + len(packet.of_json)
            + len(packet.of_msgpack)
        )
        self._waiting.append((channel, packet, size))
        self._waiting_bytes += size
        while self._waiting_bytes > self._most_waiting:
            self._waiting_bytes -= self._waiting.popleft()[2]
            self.dropped += 1
        if not self._flushing and not self._under_way and self._publisher is not None:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        link = self._publisher
        if link is None or self._under_way or not self._waiting:
            return
        by_channel: dict[str, list[Packet]] = {}
        size = 0
        while self._waiting and size < _BYTES_A_WRITE:
            one = self._waiting.popleft()
            self._under_way.append(one)
            by_channel.setdefault(one[0], []).append(one[1])
            size += one[2]
        self._waiting_bytes -= size
        commands = [
            pack(b"PUBLISH", channel.encode(), pack_publication(self._node, packets))
            for channel, packets in by_channel.items()
        ]
        link.send(b"".join(commands), len(commands), self._sent)

    def _sent(self, replies: Replies) -> None:
        under_way, self._under_way = self._under_way, []
        channels = dict.fromkeys(one[0] for one in under_way)
        refused = {
            channel: reply
            for channel, reply in zip(channels, replies, strict=True)
            if isinstance(reply, hiredis.ReplyError)
        }
        if refused and not self._refused:
            _log.warning("Redis refuses publications: %s", next(iter(refused.values())))
        self._refused = bool(refused)
        lost = sum(one[0] in refused for one in under_way) if refused else 0
        self.dropped += lost
        self.packets += len(under_way) - lost
        self.published += len(replies) - len(refused)
        if self._waiting:
            self._flush()
        elif self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _heard(self, push: list[Any]) -> None:
        kind = push[0]
        if kind == b"message":
            channel, publication = push[1].decode(), push[2]
            if sender(publication) == self._node:
                if channel == self._probe_channel:
                    self._probed(publication)
            elif channel in self._subscriptions:
                self.received += 1
                try:
                    self._on_publication(channel, publication)
                except Exception:  # noqa: BLE001 - a bug of the receiver must not end the reading
                    _log.exception("a publication on %s could not be handled", channel)
        elif kind in (b"subscribe", b"unsubscribe"):
            self._silent = False
            self._subscriptions.confirmed(push[1].decode())

    def _probe(self) -> None:
        if self._publisher is not None:
            probe = self._node + _MOMENT.pack(time.monotonic())
            self._publisher.send(pack(b"PUBLISH", self._probe_channel.encode(), probe), 1, _probe_sent)

    def _probed(self, publication: bytes) -> None:
        self.probe_seconds = time.monotonic() - _MOMENT.unpack(publication[NODE_ID_BYTES:])[0]
        self._unanswered = 0
        if not self._probe_returned.done():
            self._probe_returned.set_result(None)

    async def _run(self, first: asyncio.Future[None]) -> None:
        wait = _SHORTEST_WAIT
        while True:
            began = time.monotonic()
            try:
                await self._connect()
                if not first.done():
                    first.set_result(None)
                self._tell_restored()
                await self._watch()
            except RedisAway as error:
                if not self._behind:
                    _log.warning("publications are lost until Redis is back: %s", error.cause)
            finally:
                self._disconnect()
            self._behind = True
            wait = _SHORTEST_WAIT if time.monotonic() - began > _STEADY else min(2 * wait, _LONGEST_WAIT)
            await asyncio.sleep(random.uniform(wait / 2, wait))

    async def _connect(self) -> None:
        name = "looprooms-" + self._node.hex()
        self._subscriber = await open_link(self._url, on_push=self._heard, name=name, within=self._timeout)
        self._publisher = await open_link(self._url, on_push=_ignored, name=name, within=self._timeout)
        within = self._deaf_after * self._probe_every
        await self._until(self._subscriptions.attach(self._subscriber), within, "subscribing took too long")
        self._probe_returned = self._loop.create_future()
        self._probe()
        await self._until(self._probe_returned, within, "the first probe did not come back")
        self._restored = True
        if self._waiting:
            self._flush()

    def _tell_restored(self) -> None:
        if self._behind:
            self._behind = False
            self.reconnects += 1
            _log.warning("publications go through Redis again")
            self._call_restored()

    def _call_restored(self) -> None:
        try:
            self._on_restored()
        except Exception:  # noqa: BLE001 - a bug of the receiver must not end the watching
            _log.exception("coming back after a loss could not be handled")

    def _confirmed_late(self, confirmed: asyncio.Future[bool]) -> None:
        if confirmed.result() and self._restored and not self._behind:
            self._behind = True
            self._loop.call_soon(self._tell_late)

    def _tell_late(self) -> None:
        """Tell of all that were confirmed late in this turn; a link that was lost meanwhile is told of when it is back."""
        if self._restored:
            self._behind = False
            self._call_restored()

    async def _watch(self) -> None:
        """Probe until the links are lost or deaf. Ticks are counted, not seconds: a loop that stood still is not deaf."""
        while self._unanswered < self._deaf_after:
            self._unanswered += 1
            self._probe()
            done, _ = await asyncio.wait(
                self._lost(), timeout=self._probe_every, return_when=asyncio.FIRST_COMPLETED
            )
            if done:
                raise RedisAway("the connection was lost")
        raise RedisAway(f"no probe has come back for {self._deaf_after * self._probe_every:g} s")

    async def _until(self, moment: asyncio.Future[None], seconds: float, too_late: str) -> None:
        lost = self._lost()
        await asyncio.wait({moment, *lost}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not moment.done():
            raise RedisAway("the connection was lost" if any(one.done() for one in lost) else too_late)

    def _lost(self) -> set[asyncio.Future[None]]:
        return {link.lost for link in (self._subscriber, self._publisher) if link is not None}

    def _disconnect(self) -> None:
        for link in (self._subscriber, self._publisher):
            if link is not None:
                link.close()
        self._subscriber = self._publisher = None
        self._subscriptions.detach()
        self._restored = False
        self._unanswered = 0
        again = [one for one in (*self._under_way, *self._waiting) if one[1].kind is not Kind.PASSING]
        self.dropped += len(self._under_way) + len(self._waiting) - len(again)
        self._under_way = []
        self._waiting = deque(again)
        self._waiting_bytes = sum(one[2] for one in again)


def _ignored(push: list[Any]) -> None:
    """Nothing is pushed to a link that subscribes to nothing."""


def _probe_sent(replies: Replies) -> None:
    """That a probe was accepted says nothing: it has to come back."""
