"""The loop: all frames of one turn joined, one write of the same bytes per socket.

While busy, gather: events that come while a turn is under way wait in their rooms, and the next turn carries all of them. A
frame is built at most once per dialect that someone in the room speaks (four at most), before the loop; inside the loop
there is one call per socket and nothing else: no encoding, no await, no task, no object per receiver.

A room of thousands would hold up everyone else's commands and heartbeats while it is written to, so a turn stops after
`SLICE` writes, lets the loop go round a few times, and goes on. A room is framed when its turn has come and not before:
what is said in it while others are written to goes along.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from protocol.codec import BINARY, TEXT
from protocol.frames import deflated_frame, server_frame
from server.hub.members import Dialect, Room, Write
from server.hub.veil import Sight, Veil
from storage.redis.publications import Packet

if TYPE_CHECKING:
    from server.hub.connection import Connection

SLICE = 500
"""Writes in one turn of the loop: about 4 ms. Measured with 1,000 in a room at 400 messages/s: slices of 200 cost 10 % more
CPU per delivery, without slices the 99th percentile of an answer is twice as high."""

BREATHS = 2
"""Rounds of the loop between two slices. A command takes several (it is read, committed, answered), and would wait for a whole
slice in each. Measured with 100 rooms of 100 at 20 lines/s: the median of an answer fell from 74 to 23 ms and that of an
arrival from 148 to 82 ms, for the same CPU; five rounds brought no more."""


def frames(packets: Sequence[Packet], dialect: Dialect) -> bytes:
    """Return the websocket frames of `packets` in one dialect, joined."""
    if dialect is Dialect.JSON:
        return b"".join([server_frame(TEXT, packet.json) for packet in packets])
    if dialect is Dialect.MSGPACK:
        return b"".join([server_frame(BINARY, packet.msgpack) for packet in packets])
    if dialect is Dialect.JSON_DEFLATED:
        return b"".join([deflated_frame(TEXT, packet.json) for packet in packets])
    return b"".join([deflated_frame(BINARY, packet.msgpack) for packet in packets])


class Fanout:
    """Carries events to everyone in their rooms. Owns the turns; knows no domain."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._dirty: deque[Room] = deque()
        self._writes: deque[tuple[bytes, Sequence[Write]]] = deque()
        self._scheduled = False
        self.deliveries = 0
        self.turns = 0
        self.closed = 0

    def add(self, room: Room, packets: Sequence[Packet]) -> None:
        """Deliver `packets` to everyone who is in `room` now, at the next turn."""
        if not room.connections:
            return
        if not room.pending:
            self._dirty.append(room)
        room.pending.extend(packets)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.turn)

    def settle(self, room: Room) -> None:
        """Put what is pending for `room` on its way now: whoever enters next is not to get what its snapshot has."""
        if room.pending:
            self._write(sys.maxsize)  # what was framed before goes out before
            self._dirty.remove(room)
            self._frame([room])

    def hurry(self, connection: Connection) -> None:
        """Write to one connection what is framed for it and not written yet: what it is told next comes after that."""
        write = connection.write
        for _ in range(len(self._writes)):
            data, writes = self._writes.popleft()
            if write in writes:
                write(data)
                writes = [other for other in writes if other != write]
            self._writes.append((data, writes))

    def turn(self) -> None:
        """Write one slice. It schedules itself as long as there is something to write."""
        self.turns += 1
        try:
            left = self._write(SLICE)
            if left and self._dirty:
                self._frame(self._next_rooms(left))
                self._write(left)
        finally:  # a bug in one room's turn is not to be the last turn of all
            if self._writes or self._dirty:
                self._loop.call_soon(self._breathe, BREATHS)
            else:
                self._scheduled = False

    def _breathe(self, left: int) -> None:
        """Let the loop go round `left` more times before the next slice."""
        if left:
            self._loop.call_soon(self._breathe, left - 1)
        else:
            self.turn()

    def _next_rooms(self, most: int) -> list[Room]:
        """Take rooms in their order until they have `most` connections; the others go on gathering meanwhile."""
        rooms: list[Room] = []
        while self._dirty and most > 0:
            room = self._dirty.popleft()
            most -= len(room.connections)
            rooms.append(room)
        return rooms

    def _write(self, left: int) -> int:
        """Do at most `left` of the writes that are framed; return how many more may be done."""
        while self._writes and left > 0:
            data, writes = self._writes.popleft()
            if len(writes) > left:
                self._writes.appendleft((data, writes[left:]))
                writes = writes[:left]
            left -= len(writes)
            for write in writes:
                try:
                    write(data)
                except (
                    RuntimeError
                ):  # this transport was closed since the audience was made; free of cost when not
                    self.closed += 1
        return left

    def _frame(self, rooms: Sequence[Room]) -> None:
        joined: dict[Connection, list[bytes]] = {}
        for room in rooms:
            self._frame_room(room, joined)
        for connection, parts in joined.items():
            self._writes.append((b"".join(parts), (connection.write,)))

    def _frame_room(self, room: Room, joined: dict[Connection, list[bytes]]) -> None:
        packets, room.pending = room.pending, []
        audience = room.audience
        built: dict[Dialect, bytes] = {}
        for dialect, writes in audience.writes:
            built[dialect] = frames(packets, dialect)
            self._writes.append((built[dialect], writes))
        for connection in audience.elsewhere_too:
            if connection.dialect not in built:
                built[connection.dialect] = frames(packets, connection.dialect)
            joined.setdefault(connection, []).append(built[connection.dialect])
        if audience.veiled:
            self._frame_veiled(audience.veiled, packets, joined)
        for connection in audience.lagging:
            connection.hold(room, packets)
        self.deliveries += len(packets) * len(room.connections)

    def _frame_veiled(
        self,
        veiled: Sequence[tuple[Connection, Veil]],
        packets: Sequence[Packet],
        joined: dict[Connection, list[bytes]],
    ) -> None:
        sight = Sight(packets)
        built: dict[tuple[int, Dialect], bytes] = {}
        for connection, veil in veiled:
            seen = sight.through(veil)  # it keeps what it returns, so an identity stands for one thing
            key = id(seen), connection.dialect
            if key not in built:
                built[key] = frames(seen, connection.dialect)
            if built[key]:
                joined.setdefault(connection, []).append(built[key])
