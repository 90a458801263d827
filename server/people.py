"""People as others see them: under their own name, or, anonymous, under a pseudonym in each room.

`Faces` knows as whom each connection is seen in each of its rooms. When somebody becomes anonymous in a room that they are in,
nobody shall see one person leave and another one come: so the one who was seen stays for a random while and leaves then,
and the other comes after a random while of its own, or when they first do something.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Final
from uuid import UUID

from protocol.envelope import Person, RoomId, UserId
from protocol.people import SetAnonymity, Switched
from server.hub.connection import Connection
from server.hub.dispatch import Call, handles
from server.hub.identity import Session
from server.limits import check
from server.presence import PresenceTracker
from storage import people
from storage.pseudonyms import pseudonym
from storage.redis.limits import Limit
from storage.sealing import BrokenSeal, Sealer

SWITCHES: Final = Limit("switches", burst=10, rate=1 / 60)
"""Switches of a person into anonymous mode and out of it."""

BEHIND: Final = "presence.behind"
"""Where it is sealed who is behind a pseudonym; the row is the pseudonym."""


class Faces:
    """As whom the connections of one node are seen. `shuffle` is in seconds: within it, who switched leaves and comes."""

    def __init__(
        self,
        sealer: Sealer,
        presence: PresenceTracker,
        loop: asyncio.AbstractEventLoop,
        *,
        shuffle: float,
        draw: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._sealer = sealer
        self._presence = presence
        self._loop = loop
        self._shuffle = shuffle
        self._draw = draw
        self._awaited: defaultdict[Connection, set[RoomId]] = defaultdict(set)
        """Rooms in which who somebody is now has not come yet."""
        self._staying: defaultdict[UserId, set[_Stay]] = defaultdict(set)
        """Who somebody was, and has not left yet."""

    def pseudonym(self, room: RoomId, user: UserId) -> Person:
        """See `server.hub.identity.Masks`."""
        return pseudonym(self._sealer, room, user)

    def enter(self, connection: Connection, room: RoomId) -> Person:
        """Note that a connection has entered a room, or is in it still; return as whom it is seen there."""
        session = _session(connection)
        face = session.faces.get(room)
        if face is None:
            face = session.faces[room] = session.face(room)
        if room not in self._awaited.get(connection, ()):
            self._presence.enter(room, face, connection, self._behind(session, face))
        return face

    def leave(self, connection: Connection, room: RoomId, *, at_once: bool) -> None:
        """Note that a connection has left a room."""
        face = _session(connection).faces.pop(room, None)
        self._come(connection, room)
        if face is not None:
            self._presence.leave(room, face.id, connection, at_once=at_once)

    def act(self, connection: Connection, room: RoomId) -> Person:
        """Return as whom a connection does something in a room that it is in: from now on they are there."""
        session = _session(connection)
        face = session.faces[room]
        if self._come(connection, room):
            self._presence.enter(room, face, connection, self._behind(session, face))
        return face

    def who(self, room: RoomId, face: UserId) -> UserId | None:
        """Return who is in a room under a pseudonym, on whatever node. None: nobody, as far as this node knows."""
        sealed = self._presence.behind(room, face)
        try:
            return UserId(UUID(self._sealer.open(BEHIND, face, sealed))) if sealed else None
        except BrokenSeal:  # by a node that has another key already
            return None

    def _behind(self, session: Session, face: Person) -> bytes:
        return b"" if face.id == session.user_id else self._sealer.seal(BEHIND, face.id, str(session.user_id))

    def reconsider(self, connection: Connection) -> None:
        """Let a connection be seen as its session says, in all its rooms."""
        session = _session(connection)
        for room, before in list(session.faces.items()):
            face = session.face(room)
            if face.id == before.id:  # the same person looks another way, which is no secret
                if face != before:
                    session.faces[room] = face
                    if room not in self._awaited.get(connection, ()):
                        self._presence.enter(room, face, connection)
            else:
                session.faces[room] = face
                self._stay(connection, room, before)
                self._awaited[connection].add(room)
                self._loop.call_later(self._draw(0, self._shuffle), self._appear, connection, room, face)

    def forget(self, user: UserId) -> None:
        """Let nobody stay who was this person: they have left for good."""
        for stay in self._staying.pop(user, set()):
            stay.timer.cancel()
            self._presence.leave(stay.room, stay.person.id, stay, at_once=True)

    def _stay(self, connection: Connection, room: RoomId, person: Person) -> None:
        """Put something in the place of a connection that is somebody else now, for a while."""
        if self._come(connection, room):
            return  # who they were had not come yet, and never will
        session = _session(connection)
        user = session.user_id
        stay = _Stay(room, person)
        self._presence.enter(room, person, stay, self._behind(session, person))
        self._presence.leave(room, person.id, connection, at_once=True)
        self._staying[user].add(stay)
        stay.timer = self._loop.call_later(self._draw(0, self._shuffle), self._go, user, stay)

    def _go(self, user: UserId, stay: _Stay) -> None:
        self._presence.leave(stay.room, stay.person.id, stay, at_once=True)
        staying = self._staying[user]
        staying.discard(stay)
        if not staying:
            del self._staying[user]

    def _appear(self, connection: Connection, room: RoomId, face: Person) -> None:
        if connection.session is None:
            return
        now = connection.session.faces.get(room)
        if now is not None and now.id == face.id:
            self.act(connection, room)

    def _come(self, connection: Connection, room: RoomId) -> bool:
        """Say whether somebody was awaited in a room, and wait no longer."""
        awaited = self._awaited.get(connection)
        if awaited is None or room not in awaited:
            return False
        awaited.discard(room)
        if not awaited:
            del self._awaited[connection]
        return True


class _Stay:
    """Somebody who is seen in a room for a while yet, in place of a connection."""

    __slots__ = ("person", "room", "timer")

    timer: asyncio.TimerHandle

    def __init__(self, room: RoomId, person: Person) -> None:
        self.room = room
        self.person = person


def _session(connection: Connection) -> Session:
    assert connection.session is not None
    return connection.session


@handles(SetAnonymity)
async def set_anonymity(call: Call, command: SetAnonymity) -> Switched:
    """Be anonymous, or be oneself again: at once here, and on other nodes when they hear of it."""
    check(await call.node.quotas.take(SWITCHES, str(call.session.user_id)))
    told = await people.set_anonymity(call.node.stores.pool, call.session.user_id, on=command.on)
    for one in told:
        for connection in call.node.hub.members.of_user(call.session.user_id):
            session = connection.session
            if session is not None and session.as_of < one.packet.offset:  # else it knows of a later switch
                session.as_of = one.packet.offset
                session.anonymous = command.on
                call.node.faces.reconsider(connection)
    call.node.person_events.publish(told)
    return Switched(id=command.id, anonymous=command.on)
