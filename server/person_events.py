"""What happened to a person: carried to all their connections on this node, in order, without gaps, once.

It is what `server.hub.subscriptions` does for rooms, for one person at a time and without a memory: who comes back is
rare enough to be asked for in Postgres, once for all who wait. A node hears a person's channel while one of their
connections is here. Coming is: subscribe, then read where the person stands, then merge what came meanwhile. A loss is
found by a hole before the next event, by comparing positions every `CHECK_SECONDS`, and at once after the broker was away.

An event that changes what sessions may do (`Kind.SESSION`) makes the node read those again: `changed` is called.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from protocol.envelope import UserId
from protocol.refusals import Refused
from server.hub.hub import Hub
from storage import person_events
from storage.person_events import Told
from storage.postgres.gather import Gather
from storage.postgres.pool import Pool
from storage.redis.broker import Broker
from storage.redis.publications import NODE_ID_BYTES, Kind, Packet, unpack

_LOGGER = logging.getLogger("looprooms.person_events")

PATIENCE: Final = 0.1
"""Seconds that a hole may fill itself."""
CHECK_SECONDS: Final = 3.0
LONGEST_COMMIT: Final = 30.0
"""An event is as old as its transaction, so a look at the newest ones goes back by more than any transaction lasts."""
LINGER_SECONDS: Final = 10.0
"""How long somebody's channel is heard after their last connection: people come back."""
STORM_PAUSE: Final = 0.03

_PREFIX: Final = "lr:person:{"


def channel_of(user: UserId) -> str:
    """Return the name of a person's channel."""
    return f"{_PREFIX}{user}}}"


def is_channel(channel: str) -> bool:
    """Say whether a channel is a person's."""
    return channel.startswith(_PREFIX)


class Feed:
    """Where one person stands on this node: everything up to `last` was delivered here."""

    __slots__ = ("early", "last", "left_at", "opening", "passed")

    def __init__(self) -> None:
        self.last = -1
        """-1 until it is known."""
        self.early: dict[int, Packet] | None = None
        self.opening = 0
        """Connections that are about to come."""
        self.passed: list[Packet] = []
        """What was delivered while connections were about to come, who have not got it."""
        self.left_at: float | None = None

    def begin(self, last: int) -> list[Packet]:
        """Start at `last` unless that is done; return what came early and is next now."""
        if self.last < 0:
            self.last = last
        return self._following()

    def offer(self, packet: Packet) -> list[Packet]:
        """Take an event; return those that are now next in order."""
        if packet.offset <= self.last:
            return []
        self.early = self.early or {}
        self.early[packet.offset] = packet
        return [] if self.last < 0 else self._following()

    def _following(self) -> list[Packet]:
        ready: list[Packet] = []
        while self.early and (packet := self.early.pop(self.last + 1, None)) is not None:
            self.last += 1
            ready.append(packet)
        if self.early:
            self.early = {offset: packet for offset, packet in self.early.items() if offset > self.last}
        self.early = self.early or None
        return ready


class PersonEvents:
    """The events of everyone who is connected to this node. `window` is how many one who comes back can be sent."""

    def __init__(
        self, hub: Hub, broker: Broker, pool: Pool, *, window: int, changed: Callable[[UserId], None]
    ) -> None:
        self._hub = hub
        self._broker = broker
        self._pool = pool
        self._window = window
        self._changed = changed
        self._feeds: dict[UserId, Feed] = {}
        self._gather: Gather[tuple[UserId, int], list[Packet]] = Gather(self._read, pause=STORM_PAUSE)
        self._behind: set[UserId] = set()
        self._healing: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._checked_at = hub.clock()
        self.healed = 0
        """Events that were read from Postgres because no publication brought them."""

    def __len__(self) -> int:
        """Count the persons whose channels are heard."""
        return len(self._feeds)

    @contextmanager
    def opening(self, user: UserId) -> Iterator[tuple[Feed, asyncio.Future[bool]]]:
        """Hear a person's channel, before their position is read; what comes inside the block is in `Feed.passed`.

        The future is Redis' word that the channel is heard: whoever reads the position waits for it first, with those of others.
        """
        feed = self._feeds.setdefault(user, Feed())
        feed.opening += 1
        feed.left_at = None
        try:
            yield feed, self._broker.hear(channel_of(user))
        finally:
            feed.opening -= 1
            if not feed.opening:
                feed.passed.clear()

    async def since(self, user: UserId, offset: int) -> list[Packet]:
        """Return the stored events after `offset`, in order, at most a window of them. Raises `Refused`."""
        return await self._gather.ask((user, offset))

    def within(self, offset: int, last: int) -> bool:
        """Say whether one who stands at `offset` can be sent everything up to `last`."""
        return 0 <= last - offset <= self._window

    async def catch_up(self, user: UserId, feed: Feed, last: int) -> None:
        """Begin at `last`, or bring a feed that has not heard of it there. Raises `Refused`."""
        self._deliver(user, feed, feed.begin(last))
        while (before := feed.last) < last:
            self.take(user, await self.since(user, before))
            if feed.last == before:  # what leads there was forgotten long ago
                feed.last = last

    def publish(self, told: Iterable[Told]) -> None:
        """Deliver committed events here, and through Redis wherever else the person is."""
        for one in told:
            self._broker.publish(channel_of(one.user), one.packet)
            self.take(one.user, (one.packet,))

    def received(self, channel: str, publication: bytes) -> None:
        """Take a publication of another node."""
        try:
            user = UserId(UUID(channel[len(_PREFIX) : -1]))
            packets = list(unpack(publication))
        except ValueError:
            _LOGGER.warning("a publication on %s cannot be read", channel)
            return
        self.take(user, packets)

    def take(self, user: UserId, packets: Sequence[Packet]) -> None:
        """Take stored events from wherever they come, and deliver what is next in order."""
        feed = self._feeds.get(user)
        if feed is None:
            return
        for packet in packets:
            self._deliver(user, feed, feed.offer(packet))
        if feed.early is not None and feed.last >= 0:
            self._heal(user)

    def _deliver(self, user: UserId, feed: Feed, packets: list[Packet]) -> None:
        if not packets:
            return
        if feed.opening:
            feed.passed += packets
        for connection in self._hub.members.of_user(user):
            connection.replay(packets)
        if any(packet.kind is Kind.SESSION for packet in packets):
            self._changed(user)

    async def _read(self, asked: Sequence[tuple[UserId, int]]) -> Sequence[list[Packet] | Exception]:
        positions: dict[UserId, int] = {}
        for user, offset in asked:
            positions[user] = min(offset, positions.get(user, offset))
        found = await person_events.since(self._pool, positions, self._window)
        return [[packet for packet in found[user] if packet.offset > offset] for user, offset in asked]

    # Healing.

    def _heal(self, user: UserId) -> None:
        self._behind.add(user)
        if self._healing is None or self._healing.done():
            self._healing = self._hub.loop.create_task(self._fill())

    async def _fill(self) -> None:
        await asyncio.sleep(PATIENCE)
        while self._behind:
            behind, self._behind = self._behind, set()
            positions = {user: feed.last for user in behind if (feed := self._feeds.get(user)) is not None}
            try:
                found = await person_events.since(self._pool, positions, self._window)
            except Refused:
                self._behind |= behind
                await asyncio.sleep(0.5)
                continue
            for user, packets in found.items():
                self._filled(user, packets)

    def _filled(self, user: UserId, packets: list[Packet]) -> None:
        feed = self._feeds.get(user)
        if feed is None:
            return
        before = feed.last
        for packet in packets:
            self._deliver(user, feed, feed.offer(packet))
        self.healed += feed.last - before
        if feed.early is not None and feed.last > before:
            self._behind.add(user)  # more is missing than one read brings
        elif feed.early is not None:
            feed.early = None  # nothing leads there: the person, or old events, are gone

    async def check(self) -> None:
        """Find those who are behind: in one statement, whose cost is that of what happened and not of who is here."""
        now = self._hub.clock()
        if self._feeds:
            last = await person_events.recent(self._pool, now - self._checked_at + LONGEST_COMMIT)
            for user, offset in last.items():
                feed = self._feeds.get(user)
                if feed is not None and 0 <= feed.last < offset:
                    self._heal(user)
        self._checked_at = now

    def restored(self) -> None:
        """Look for losses now: the broker was away."""
        self._checking = self._hub.loop.create_task(self._check_quietly())

    async def run(self) -> None:
        """Check and close, for ever."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            self._close_idle()
            await self._check_quietly()

    async def _check_quietly(self) -> None:
        try:
            await self.check()
        except Refused:
            _LOGGER.warning("positions of persons could not be compared: Postgres is out of reach")

    def _close_idle(self) -> None:
        now = self._hub.clock()
        for user, feed in list(self._feeds.items()):
            if feed.opening or self._hub.members.has_user(user):
                feed.left_at = None
            elif feed.left_at is None:
                feed.left_at = now
            elif now - feed.left_at >= LINGER_SECONDS:
                del self._feeds[user]
                self._broker.unsubscribe(channel_of(user))

    async def aclose(self) -> None:
        """Stop healing."""
        for task in (self._healing, self._checking):
            if task is not None:
                task.cancel()


async def publish_once(redis_url: str, told: Iterable[Told]) -> None:
    """Publish committed events from a process that is no node. Where Redis is away, nodes find them by looking."""
    broker = Broker(
        redis_url,
        os.urandom(NODE_ID_BYTES),
        on_publication=lambda _channel, _publication: None,
        on_restored=lambda: None,
    )
    await broker.start()
    for one in told:
        broker.publish(channel_of(one.user), one.packet)
    await broker.aclose()
