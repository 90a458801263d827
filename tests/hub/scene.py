"""A hub whose loop is turned by hand, its guests, and a record of what it hands to those who plug into it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from websockets.frames import Opcode
from websockets.typing import Origin

from protocol.codec import JSON, MSGPACK, Codec
from protocol.envelope import Person, RoomId, SessionId, UserId
from protocol.rooms import Cue
from server.hub.connection import Connection
from server.hub.hub import Hub, Limits
from server.hub.identity import Session
from server.hub.members import Room
from server.hub.replay import Replay
from storage.redis.publications import Kind, Packet
from tests.clocks import HandTurned
from tests.transport import Peer

LIMITS = {
    "heartbeat": 25.0,
    "heartbeat_timeout": 10.0,
    "hello_timeout": 5.0,
    "slow_close": 8.0,
    "message_bytes": 65536,
    "outbox_bytes": 100_000,
    "commands_rate": 20.0,
    "commands_burst": 40.0,
    "rooms": 16,
    "connections": 10_000,
    "origins": [Origin("https://looprooms.example"), None],
    "hosts": frozenset({"localhost"}),
}


def session_of(number: int, *, expires_in: float = 3600.0, now: float = 1000.0, **who: str) -> Session:
    """Return a session of the person whose id is `number`."""
    return Session(
        SessionId(UUID(int=number + 1_000_000)),
        Person(id=UserId(UUID(int=number)), name=f"person {number}"),
        role=who.get("role", "MEMBER"),
        tier=who.get("tier", "FREE"),
        expires_at=now + expires_in,
    )


def packet(text: str, kind: Kind = Kind.LINE, offset: int = 0) -> Packet:
    """Return an event of any kind; clients read it as a cue."""
    cue = Cue(room=RoomId(UUID(int=1)), cue=text)
    return Packet(kind, offset, JSON.encode(cue), MSGPACK.encode(cue))


class Guest(Peer):
    """A peer of a hub's connection."""

    def __init__(self, scene: Scene, connection: Connection, **how: Any) -> None:
        super().__init__(connection, scene.loop.loop, **how)
        self.connection = connection
        self._loop = scene.loop

    def feed(self, data: bytes) -> None:
        """Give the server raw bytes, and let it do at once what it puts off."""
        super().feed(data)
        self._loop.settle()

    def lag(self, held: int = 0) -> None:
        """Let the transport take no more, as asyncio says it."""
        self.transport.held = held
        self.connection.pause_writing()

    def catch_up(self) -> None:
        """Let the transport take all it has."""
        self.transport.held = 0
        self.connection.resume_writing()

    def cues(self) -> list[str]:
        """Return the cues that came since the last time."""
        return [message.cue for message in self.take()]


class Scene:
    """The hub, and what it has handed out."""

    def __init__(self, **limits: object) -> None:
        self.loop = HandTurned()
        self.hub = Hub(Limits(**{**LIMITS, **limits}), self.loop.loop)  # type: ignore[arg-type] # the test's own
        self.received: list[tuple[Connection, int, bytes]] = []
        self.left: list[tuple[Connection, Room, bool]] = []
        self.refreshed: list[tuple[Connection, RoomId]] = []
        self.hub.receive = self._receive
        self.hub.left = self._left
        self.hub.refresh = self._refresh
        self.hub.wheel.start(self.loop.loop)
        self._people = 0

    def stranger(self) -> Guest:
        """Let somebody connect and say nothing."""
        guest = Guest(self, self.hub.connect())
        guest.connection.connection_made(guest.transport)
        return guest

    def peer(self, codec: Codec = JSON, **how: Any) -> Guest:
        """Let somebody shake hands."""
        return Guest(self, self.hub.connect(), codec=codec, **how).open()

    def guest(self, *rooms: Room, codec: Codec = JSON, deflate: bool = False, **how: Any) -> Guest:
        """Let somebody in who has said hello, and into rooms."""
        self._people += 1
        guest = self.peer(codec, deflate=deflate)
        guest.connection.session = session_of(self._people, now=self.loop.now, **how)
        self.hub.members.signed_in(guest.connection)
        for room in rooms:
            self.hub.enter(guest.connection, room)
        return guest

    def room(self, number: int = 1) -> Room:
        """Return an active room."""
        room_id = RoomId(UUID(int=number))
        return self.hub.members.rooms.setdefault(
            room_id, Room(room_id, Replay(100, renew=lambda old, _newest: old))
        )

    def _receive(self, connection: Connection, opcode: Opcode, data: bytes) -> None:
        self.received.append((connection, opcode, data))

    def _left(self, connection: Connection, room: Room, *, at_once: bool) -> None:
        self.left.append((connection, room, at_once))

    def _refresh(self, connection: Connection, room: RoomId) -> None:
        self.refreshed.append((connection, room))
