"""The hub of one node: its connections, its rooms, and the machine that moves bytes between them."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct
from websockets.frames import Opcode
from websockets.typing import Origin

from protocol.closing import CloseCode
from protocol.codec import JSON, MSGPACK
from protocol.envelope import Event, RoomId
from server.hub.connection import Connection
from server.hub.fanout import Fanout
from server.hub.intake import Intake
from server.hub.members import Members, Room
from server.hub.veil import Veil
from server.hub.wheel import Wheel
from storage.redis.publications import Kind, Packet


class Limits(Struct, frozen=True, kw_only=True):
    """What a connection may cost. Times are in seconds, sizes in bytes."""

    heartbeat: float
    heartbeat_timeout: float
    hello_timeout: float
    slow_close: float
    message_bytes: int
    outbox_bytes: int
    commands_rate: float
    commands_burst: float
    rooms: int
    connections: int
    origins: Sequence[Origin | re.Pattern[str] | None] | None
    hosts: frozenset[str]
    person_connections: int = 100
    """Connections that one person may have at this node."""
    write_high: int = 65536
    """Bytes in a transport from which on its connection counts as slow."""

    def answers_to(self, host_headers: list[str]) -> bool:
        """Say whether a request with these Host headers is meant for this server (exactly one; port left aside)."""
        if len(host_headers) != 1:
            return False
        name = host_headers[0].lower()
        name = name.partition("]")[0] + "]" if name.startswith("[") else name.partition(":")[0]
        return name in self.hosts or "*" in self.hosts


class Left(Protocol):
    """Told when a connection is no longer in a room; `at_once` when it said so itself."""

    def __call__(self, connection: Connection, room: Room, *, at_once: bool) -> None:
        """See above."""
        ...


class Hub:
    """Everything that connections share. The domains plug in through `receive`, `left` and `refresh`."""

    def __init__(self, limits: Limits, loop: asyncio.AbstractEventLoop) -> None:
        self.limits = limits
        self.loop = loop
        self.clock: Callable[[], float] = loop.time
        self.members = Members()
        self.fanout = Fanout(loop)
        self.intake = Intake(loop)
        self.wheel = Wheel(loop.time)
        self.draining = False
        self.closes: Counter[CloseCode] = Counter()
        self.handshakes_refused = 0
        self.shed_passing = 0
        self.shed_latest = 0
        self.server_state: Any = None
        """Uvicorn's, so that its count of connections includes ours."""
        self.receive: Callable[[Connection, Opcode, bytes], None]
        """Takes a whole message of a connection."""
        self.left: Left
        self.admits: Callable[[str, list[str]], bool] = lambda _peer, _forwarded: True
        """Says whether a handshake goes on: asked with the peer's address, and what proxies say of whom they forward for."""
        self.refresh: Callable[[Connection, RoomId], None]
        """Sends the whole ephemeral state of a room to a connection that has missed some of it."""

    def connect(self, **uvicorn: Any) -> Connection:
        """Make a connection: what uvicorn calls as its websocket class."""
        self.server_state = uvicorn.get("server_state", self.server_state)
        return Connection(self)

    def enter(self, connection: Connection, room: Room) -> None:
        """Put a connection into a room: it gets every event after those that are already on their way."""
        self.fanout.settle(room)
        if connection in room.connections:  # it joins again: what its new snapshot has must come before it
            self.fanout.hurry(connection)
        self.members.enter(connection, room)

    def leave(self, connection: Connection, room: Room, *, at_once: bool) -> None:
        """Take a connection out of a room: nothing of it comes afterwards. Nothing happens when it is not in it."""
        if connection in room.connections:
            if connection.open:
                self.fanout.hurry(connection)
            self.members.leave(connection, room)
            self.left(connection, room, at_once=at_once)

    def veil(self, connection: Connection, room: Room, veil: Veil | None) -> bool:
        """Let a connection see a room through `veil` from now on; say whether it has seen it otherwise until now.

        What is framed for it already goes out first; then, if it is in the room, it is sent the whole ephemeral state.
        """
        if connection.veil(room) == veil:
            return False
        veils = connection.veils = connection.veils or {}
        if veil is None:
            del veils[room.id]
        else:
            veils[room.id] = veil
        if connection in room.connections:
            room.changed()
            self.fanout.settle(room)
            self.fanout.hurry(connection)
            self.refresh(connection, room.id)
        return True

    def tell(self, room: Room, event: Event, kind: Kind) -> Packet:
        """Encode an event once, deliver it to everyone in `room` here, and return it for other nodes."""
        packet = Packet(kind, 0, JSON.encode(event), MSGPACK.encode(event))
        self.fanout.add(room, (packet,))
        return packet
