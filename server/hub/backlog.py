"""What one connection has still to be sent of the past of its rooms: from their memory, no faster than it is read.

Who comes back may have missed a megabyte. Written at once it would wait in the transport, once for each of the thousands who
come back together, and whoever reads it at the speed of a telephone would count as slow. So no more is written than the
transport takes; what a room says meanwhile waits in its memory, where it is anyway, and the connection is with the others
again when it has come to the present. If it reads more slowly than its room speaks, memory forgets before it has read; then
it must come back, for a snapshot.

A plain object: whoever owns the connection writes what it gives out.
"""

from __future__ import annotations

from typing import Final

from server.hub.members import Room
from storage.redis.publications import Packet

PIECE: Final = 32768
"""Bytes of events (as JSON) that are written at once: half of what makes a transport pause."""


class Backlog:
    """Rooms, and how far a connection has been sent each of them."""

    __slots__ = ("_sent",)

    def __init__(self) -> None:
        self._sent: dict[Room, int] = {}

    def __len__(self) -> int:
        """Count the rooms."""
        return len(self._sent)

    def __contains__(self, room: object) -> bool:
        """Say whether the events of a room are to be taken from its memory."""
        return room in self._sent

    def begin(self, room: Room, offset: int) -> None:
        """Send what a room says after `offset` from its memory, from now on."""
        self._sent[room] = offset
        room.changed()

    def forget(self, room: Room) -> None:
        """Leave a room to others: the connection is up to date, has left it, or has a new snapshot of it."""
        if self._sent.pop(room, None) is not None:
            room.changed()

    def take(self) -> tuple[Room, list[Packet]] | None:
        """Return one of the rooms and what is to be sent next of it, and forget the room if that is all. None: it can't be had."""
        room, offset = next(iter(self._sent.items()))
        packets = room.replay.since(offset, PIECE)
        if packets is None:
            return None
        present = room.framed  # what comes after that goes to everyone who is not in a backlog
        packets = [packet for packet in packets if packet.offset <= present]
        if packets:
            self._sent[room] = offset = packets[-1].offset
        if offset >= present:
            self.forget(room)
        return room, packets
