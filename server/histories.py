"""Where the durable events of a room are read from: of a looproom its chat, of a vybe that is open what is said about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from protocol.envelope import RoomId
from server.hub.subscriptions import History
from storage.redis.publications import Packet


class Following(History, Protocol):
    """A history that knows which rooms are its own."""

    def follows(self, room: RoomId) -> bool:
        """Say whether a room is one of its own."""
        ...


class Histories:
    """The hub's `History` of all rooms: `special` knows its own, all others are `usual`."""

    def __init__(self, usual: History, special: Following) -> None:
        self._usual = usual
        self._special = special

    def of(self, room: RoomId) -> History:
        """Return the history of a room."""
        return self._special if self._special.follows(room) else self._usual

    async def begin(self, room: RoomId) -> tuple[int, list[Packet]]:
        """See `server.hub.subscriptions.History`."""
        return await self.of(room).begin(room)

    async def between(self, room: RoomId, first: int, last: int) -> list[Packet]:
        """See `server.hub.subscriptions.History`."""
        return await self.of(room).between(room, first, last)

    async def positions(self, rooms: Sequence[RoomId]) -> dict[RoomId, int]:
        """See `server.hub.subscriptions.History`."""
        special = [room for room in rooms if self._special.follows(room)]
        usual = [room for room in rooms if not self._special.follows(room)]
        found = await self._usual.positions(usual) if usual else {}
        return {**found, **(await self._special.positions(special))} if special else found

    def renewed(self, room: RoomId, old: Packet, change: Packet) -> Packet:
        """See `server.hub.subscriptions.History`."""
        return self.of(room).renewed(room, old, change)
