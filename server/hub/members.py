"""Who is connected to this node, and which of them are in which room."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

from protocol.envelope import RoomId, SessionId, UserId
from server.hub.replay import Replay
from server.hub.veil import Veil
from storage.redis.publications import Packet

if TYPE_CHECKING:
    from server.hub.connection import Connection


class Dialect(IntEnum):
    """Which bytes a connection is sent: its subprotocol, and whether it negotiated compression."""

    JSON = 0
    JSON_DEFLATED = 1
    MSGPACK = 2
    MSGPACK_DEFLATED = 3


Write = Callable[[bytes], None]
_KeyT = TypeVar("_KeyT")


class Room:
    """One looproom on this node: the connections in it and the newest of its events.

    `audience` is what the fan-out loop runs over. It is rebuilt when somebody came, left, fell behind or caught up, and
    never changes while it is read.
    """

    __slots__ = ("_audience", "connections", "id", "pending", "replay")

    def __init__(self, room: RoomId, replay: Replay) -> None:
        self.id = room
        self.replay = replay
        self.connections: set[Connection] = set()
        self.pending: list[Packet] = []
        self._audience: Audience | None = None

    def __repr__(self) -> str:
        return f"<Room {self.id} {len(self.connections)} connections, at {self.replay.last}>"

    def changed(self) -> None:
        """Note that the audience is no longer what it was."""
        self._audience = None

    @property
    def audience(self) -> Audience:
        """Who is to be written to, and how."""
        if self._audience is None:
            self._audience = Audience(self)
        return self._audience

    @property
    def framed(self) -> int:
        """The offset of the newest event that is on its way to those who are here; later ones are pending."""
        return (
            min((packet.offset for packet in self.pending if packet.offset), default=self.replay.last + 1) - 1
        )


class Audience:
    """The connections of a room, sorted by how they are written to."""

    __slots__ = ("elsewhere_too", "lagging", "veiled", "writes")

    def __init__(self, room: Room) -> None:
        writes: defaultdict[Dialect, list[Write]] = defaultdict(list)
        self.elsewhere_too: list[Connection] = []
        """In more than one room: their frames of a turn are joined over the rooms."""
        self.lagging: list[Connection] = []
        """Do not take all that is said as it is said."""
        self.veiled: list[tuple[Connection, Veil]] = []
        """Do not see everyone: what they are sent is looked through first."""
        for connection in room.connections:
            if connection.outbox is not None or (connection.backlog and room in connection.backlog):
                self.lagging.append(connection)
            elif connection.veils and (veil := connection.veil(room)) is not None:
                self.veiled.append((connection, veil))
            elif len(connection.rooms) > 1:
                self.elsewhere_too.append(connection)
            else:
                writes[connection.dialect].append(connection.write)
        self.writes = list(writes.items())
        """For each dialect the bound write of every transport: the hot loop touches nothing else."""


class Members:
    """Every connection of this node, by session and by user, and the rooms that have one."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.rooms: dict[RoomId, Room] = {}
        self._by_session: defaultdict[SessionId, set[Connection]] = defaultdict(set)
        self._by_user: defaultdict[UserId, set[Connection]] = defaultdict(set)

    def signed_in(self, connection: Connection) -> None:
        """Register the session of a connection."""
        session = connection.session
        assert session is not None
        self._by_session[session.id].add(connection)
        self._by_user[session.user_id].add(connection)

    def gone(self, connection: Connection) -> None:
        """Forget a connection, apart from its rooms."""
        self.connections.discard(connection)
        if (session := connection.session) is not None:
            _discard(self._by_session, session.id, connection)
            _discard(self._by_user, session.user_id, connection)

    def of_session(self, session: SessionId) -> list[Connection]:
        """Return the connections of one session."""
        return list(self._by_session.get(session, ()))

    def of_user(self, user: UserId) -> list[Connection]:
        """Return the connections of one user."""
        return list(self._by_user.get(user, ()))

    def has_user(self, user: UserId) -> bool:
        """Say whether a user has a connection here."""
        return user in self._by_user

    def sessions(self) -> list[SessionId]:
        """Return every session that has a connection here."""
        return list(self._by_session)

    def enter(self, connection: Connection, room: Room) -> None:
        """Add a connection to a room's audience."""
        room.connections.add(connection)
        connection.rooms[room.id] = room
        self._up_to_date(connection, room)
        self._changed(connection)

    def leave(self, connection: Connection, room: Room) -> None:
        """Take a connection out of a room's audience."""
        room.connections.discard(connection)
        connection.rooms.pop(room.id, None)
        if connection.veils:
            connection.veils.pop(room.id, None)
        room.changed()
        self._up_to_date(connection, room)
        self._changed(connection)

    def _up_to_date(self, connection: Connection, room: Room) -> None:
        if connection.backlog is not None:
            connection.backlog.forget(room)

    def _changed(self, connection: Connection) -> None:
        for room in connection.rooms.values():
            room.changed()


def _discard(index: dict[_KeyT, set[Connection]], key: _KeyT, connection: Connection) -> None:
    if (members := index.get(key)) is not None:
        members.discard(connection)
        if not members:
            del index[key]
