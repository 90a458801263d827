"""Several nodes' presence in one process, each with its own connections to one real Valkey."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from types import TracebackType
from typing import Self
from uuid import UUID

from protocol.envelope import Epoch, Person, RoomId, UserId
from protocol.presence import RoomPulse
from server.hub.subscriptions import channel_of, room_of
from server.presence import PresenceTracker
from server.settings import Settings
from storage import Stores
from storage.postgres.pool import Pool
from storage.redis.broker import Broker
from storage.redis.pool import open_redis
from storage.redis.publications import NODE_ID_BYTES, Kind, unpack
from storage.sealing import Sealer
from tests.audience import Listener
from tests.stores import SEALING_KEY

LEASE = 1.0
GRACE = 0.3


def person(number: int, name: str = "") -> Person:
    """Return the person whose id is `number`."""
    return Person(id=UserId(UUID(int=number)), name=name or f"person {number}")


class Neighbour:
    """One node, as far as presence goes. Each room that it opens has a listener, who is there from the start."""

    def __init__(
        self,
        redis_url: str,
        pool: Pool,
        *,
        small_room: int = 50,
        grace: float = GRACE,
        clock: Callable[[], float] | None = None,
    ) -> None:
        settings = Settings(
            small_room=small_room,
            presence_grace_seconds=grace,
            presence_lease_seconds=LEASE,
            pulse_seconds=0.02,
        )
        self.id = os.urandom(NODE_ID_BYTES)
        self.broker = Broker(
            redis_url,
            self.id,
            on_publication=self._received,
            on_restored=self._restored,
            timeout=0.3,
            probe_every=0.1,
        )
        self.redis = open_redis(redis_url, timeout=0.3)
        stores = Stores(pool, self.redis, self.broker, Epoch("test"), Sealer((SEALING_KEY,), bytes(32)))
        self.presence = PresenceTracker(self.id, stores, settings, emit=self._emit, clock=clock)
        self.listeners: dict[RoomId, Listener] = {}
        self.deaf = False
        """Whether publications are lost on their way to this node."""
        self.publications = 0
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self.broker.start()
        self.thaw()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            await self.freeze()
            await self.presence.aclose()
        await self.broker.aclose()
        await self.redis.aclose()

    async def open(self, *rooms: RoomId) -> None:
        """Subscribe to rooms and open them, as the hub does."""
        for room in rooms:
            await self.broker.subscribe(channel_of(room))
            await self.presence.open(room)
            self.listeners[room] = Listener(self.presence.state(room))

    def close(self, room: RoomId) -> None:
        """Close a room, as the hub does."""
        self.broker.unsubscribe(channel_of(room))
        self.presence.close(room)
        del self.listeners[room]

    def enter(self, room: RoomId, *numbers: int) -> None:
        """Let people enter, each on a connection that is the number."""
        for number in numbers:
            self.presence.enter(room, person(number), number)

    def leave(self, room: RoomId, *numbers: int) -> None:
        """Let people say that they leave."""
        for number in numbers:
            self.presence.leave(room, person(number).id, number, at_once=True)

    def drop(self, room: RoomId, *numbers: int) -> None:
        """Let people's connections break."""
        for number in numbers:
            self.presence.leave(room, person(number).id, number, at_once=False)

    def sees(self, room: RoomId, *numbers: int) -> bool:
        """Say whether exactly these people are in the room, for this node and for those whom it tells."""
        expected = {person(number).id for number in numbers}
        listener = self.listeners[room]
        here = {member.id for member in self.presence.page(room, None, 10_000).members}
        return expected == here == listener.members.keys() and listener.online == len(expected)

    def herald_wrote(self, room: RoomId) -> bool:
        """Say whether all that this node has to say of a room is written."""
        herald = self.presence.herald
        return herald.written(room) is not None and not herald.due

    def lookout_is_quiet(self) -> bool:
        """Say whether no other node's lease is missed."""
        return not self.presence.lookout.missed

    def leased(self) -> bool:
        """Say whether this node is believed."""
        return self.presence.herald.leased

    async def freeze(self) -> None:
        """Stop everything that runs by itself."""
        assert self._running is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        self._running = None

    def thaw(self) -> None:
        """Go on where `freeze` stopped."""
        self._running = asyncio.create_task(self.presence.run())

    async def die(self) -> None:
        """End without a word."""
        await self.freeze()
        await self.broker.aclose()

    def _received(self, channel: str, publication: bytes) -> None:
        if self.deaf:
            return
        self.publications += 1
        for packet in unpack(publication):
            assert packet.kind is Kind.CHANGE
            self.presence.receive(room_of(channel), packet.json)

    def _restored(self) -> None:
        self.presence.restored()

    def _emit(self, room: RoomId, pulse: RoomPulse) -> None:
        self.listeners[room].hear(pulse)
