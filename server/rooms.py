"""Rooms: who may see and enter a looproom, the snapshot that one gets, previews, and a host's cues."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from protocol.chat import ChatLine, Line
from protocol.envelope import RoomId, RoomRef
from protocol.media import RoomMedia
from protocol.presence import RoomState
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import (
    Cue,
    CueSent,
    Departure,
    GetRoom,
    JoinRoom,
    LeaveRoom,
    ListRooms,
    Room,
    RoomFound,
    RoomJoined,
    RoomLeft,
    RoomsListed,
    RoomStatus,
    SendCue,
)
from protocol.text import normalised
from server.hub.connection import Connection
from server.hub.dispatch import Call, handles
from server.hub.identity import Session
from server.hub.members import Room as ActiveRoom
from server.previews import without_limit
from storage import rooms
from storage.postgres.gather import Gather
from storage.postgres.pool import Pool
from storage.redis.limits import Limit
from storage.redis.publications import Kind
from storage.rooms import Terms, terms_of
from storage.sealing import Sealer

if TYPE_CHECKING:
    from server.node import Node

_LOGGER = logging.getLogger("looprooms.rooms")

JOINS: Final = Limit("joins", burst=100, rate=5)
"""Rooms that a person may join: each costs a snapshot, and others see it."""
RECENT_LINES: Final = 50
STORM_PAUSE: Final = 0.03
"""Seconds between two reads of the catalogue."""
SWEEP_SECONDS: Final = 15.0
AT_ONCE: Final = 500
"""Rooms in one statement of a sweep."""
FRESH_SECONDS: Final = 1.0
"""How long a catalogue entry serves without being read again: a storm of joins is one statement a second."""

_lines = msgspec.json.Decoder(ChatLine)


class Catalogue:
    """Rooms by slug or id, read once for all who ask at the same time."""

    def __init__(self, pool: Pool, sealer: Sealer, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self._sealer = sealer
        self._clock = loop.time
        self._gather: Gather[str, Room] = Gather(self._read, pause=STORM_PAUSE)
        self._known: dict[str, tuple[float, Room]] = {}
        self._reading: dict[str, asyncio.Future[Room]] = {}
        self._newest: dict[RoomId, Room] = {}

    async def find(self, ref: RoomRef) -> Room:
        """Return a room, whatever its status. Raises `Refused` (not_found)."""
        known = self._known.get(ref)
        if known is not None and self._clock() - known[0] < FRESH_SECONDS:
            return known[1]
        reading = self._reading.get(ref)
        if reading is None:
            reading = self._reading[ref] = self._gather.submit(ref)
            reading.add_done_callback(lambda _: self._reading.pop(ref, None))
        return await asyncio.shield(reading)

    async def read(self, room: RoomId) -> Room:
        """Return a room as it is now, whatever was known of it. Raises `Refused` (not_found)."""
        self._known = {ref: known for ref, known in self._known.items() if known[1].id != room}
        self._reading.pop(str(room), None)
        return await self.find(str(room))

    def newest(self, room: Room) -> Room:
        """Return a room as it was read last: it may have changed while somebody was on their way in."""
        return self._newest.get(room.id, room)

    async def _read(self, refs: Sequence[str]) -> Sequence[Room | Exception]:
        found = await rooms.by_refs(self._pool, self._sealer, refs)
        now = self._clock()
        if len(self._known) > 10_000:
            self._known.clear()
            self._newest.clear()
        for ref, room in found.items():
            self._known[ref] = now, room
            self._newest[room.id] = room
        return [found.get(ref) or Refused(ErrorCode.NOT_FOUND) for ref in refs]


def visible(room: Room, session: Session) -> bool:
    """Say whether a person may know of a room. A draft, an archived and a restricted one are their host's alone; and where a
    block stands between the two, the host's rooms are not there.
    """
    if session.is_one(room.host, room.id) or session.moderates:
        return True
    return room.status is RoomStatus.PUBLISHED and not session.hides(room.host, room.id)


def still_visible(node: Node, session: Session, room: Room) -> Room:
    """Return a room as it was read last: it may have been withdrawn while somebody was on their way in. Raises `Refused`."""
    newest = node.catalogue.newest(room)
    if not visible(newest, session):
        raise Refused(ErrorCode.NOT_FOUND)
    return newest


class Admission(msgspec.Struct):
    """A person may enter a room; `preview` is the seconds that are left of it, None where there is no limit."""

    room: Room
    preview: float | None


async def admit(node: Node, session: Session, ref: RoomRef) -> Admission:
    """Decide whether a person may enter a room. Raises `Refused`: not_found, premium_required, pass_required."""
    return await _let_in(node, session, await _seen(node, session, ref))


async def _seen(node: Node, session: Session, ref: RoomRef) -> Room:
    room = await node.catalogue.find(ref)
    if not visible(room, session):
        raise Refused(ErrorCode.NOT_FOUND)
    return room


async def _let_in(node: Node, session: Session, room: Room) -> Admission:
    """From here on the time of a preview runs."""
    if room.exclusive and not without_limit(room, session):
        # Whoever has just been told of a pass may be faster than what is read of their session.
        await node.sessions.look_again(node.hub.members, [session.id])
    if without_limit(room, session):
        return Admission(room, None)
    return Admission(room, await node.previews.left(room, session.user_id))


def enter(node: Node, connection: Connection, active: ActiveRoom, admission: Admission) -> float | None:
    """Put a connection into a room. From here on it gets every event, so its snapshot must be taken in the same turn.

    Return the seconds that are left of its preview, None where there is no limit.
    """
    session = connection.session
    assert session is not None
    node.hub.veil(connection, active, session.veil(active.id))
    node.hub.enter(connection, active)
    node.faces.enter(connection, active.id)
    node.slugs[admission.room.slug] = active.id
    room = node.catalogue.newest(admission.room)
    node.room_watch.entered(room)
    return node.previews.enter(connection, room, admission.preview)


async def put_out(node: Node, room: RoomId) -> None:
    """Read a room that has changed anew, and take everyone out of it who may not know of it any more. Raises `Refused`."""
    found = await node.catalogue.read(room)
    active = node.hub.members.rooms.get(room)
    if active is None:
        return
    node.room_watch.settled(found)
    code = ErrorCode.NOT_FOUND
    for connection in list(active.connections):
        if connection.session is not None and not visible(found, connection.session):
            node.hub.leave(connection, active, at_once=True)
            connection.send(Departure(room=room, code=code, message=code.advice))
    node.previews.look(found, active.connections)


async def show(node: Node, room: RoomId) -> None:
    """Read a room anew that has another picture or plays something else, and tell everyone in it. Raises `Refused`."""
    found = await node.catalogue.read(room)
    active = node.hub.members.rooms.get(room)
    if active is None:
        return
    event = RoomMedia(
        room=room,
        thumbnail=found.thumbnail,
        content_url=found.content_url,
        duration_seconds=found.duration_seconds,
    )
    node.hub.tell(active, event, Kind.PASSING)
    for connection in active.connections:
        if connection.outbox is not None:  # what is passing is not kept for them, but this they must know
            connection.send(event)


class RoomWatch:
    """Finds the rooms of a node that have changed although no word of it came: Redis may be away at that moment.

    It knows the terms by which everyone is in a room. Where Postgres has others, the room is looked at by `put_out`.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._terms: dict[RoomId, Terms | None] = {}

    def entered(self, room: Room) -> None:
        """Take note that somebody has come in by these terms. Where others are in by other ones, nobody's are known."""
        terms = terms_of(room)
        if self._terms.setdefault(room.id, terms) != terms:
            self._terms[room.id] = None

    def settled(self, room: Room) -> None:
        """Take note that everyone is in a room by these terms."""
        self._terms[room.id] = terms_of(room)

    async def run(self) -> None:
        """Look at all rooms in which somebody is every `SWEEP_SECONDS`, for ever."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self._look()
            except Refused:
                _LOGGER.warning("rooms could not be read again: Postgres is out of reach")

    async def _look(self) -> None:
        active = self._node.hub.members.rooms
        self._terms = {room: known for room, known in self._terms.items() if room in active}
        wanted = list(self._terms)
        for start in range(0, len(wanted), AT_ONCE):
            found = await rooms.terms(self._node.stores.pool, wanted[start : start + AT_ONCE])
            for room, terms in found.items():
                if terms != self._terms.get(room):
                    await put_out(self._node, room)


def seen_state(node: Node, connection: Connection, active: ActiveRoom) -> RoomState:
    """Return the ephemeral state of a room, as a connection sees it. Every later pulse must reach it."""
    state = node.presence.state(active.id)
    veil = connection.veil(active)
    return state if veil is None else veil.state(state)


def recent_lines(active: ActiveRoom, connection: Connection) -> list[Line]:
    """Return the newest lines of a room from memory, as a connection sees them, oldest first."""
    veil = connection.veil(active)
    recent: list[Line] = []
    for packet in active.replay.newest():
        if packet.kind is Kind.LINE:
            line = _lines.decode(packet.json).line
            recent.append(line if veil is None else veil.line(line))
            if len(recent) == RECENT_LINES:
                break
    recent.reverse()
    return recent


@handles(ListRooms)
async def list_rooms(call: Call, command: ListRooms) -> RoomsListed:
    """Page through the published rooms."""
    stores = call.node.stores
    page = await rooms.published(
        stores.pool, stores.sealer, call.session.user_id, command.category, command.after, command.limit
    )
    return RoomsListed(id=command.id, rooms=page.rooms, next=page.rooms[-1].id if page.more else None)


@handles(GetRoom)
async def get_room(call: Call, command: GetRoom) -> RoomFound:
    """Look at one room."""
    room = await call.node.catalogue.find(command.room)
    if not visible(room, call.session):
        raise Refused(ErrorCode.NOT_FOUND)
    return RoomFound(id=command.id, room=room)


@handles(JoinRoom, alone=True, limit=JOINS)
async def join(call: Call, command: JoinRoom) -> RoomJoined:
    """Enter a room, or take a new snapshot of one that one is in."""
    node = call.node
    room = await _seen(node, call.session, command.room)
    if room.id not in call.connection.rooms and len(call.connection.rooms) >= node.hub.limits.rooms:
        raise Refused(ErrorCode.TOO_MANY_ROOMS)
    admission = await _let_in(node, call.session, room)
    active = await node.subscriptions.open(room.id)
    if not call.connection.open:
        raise Refused(ErrorCode.NOT_IN_ROOM)  # nobody hears it
    room = still_visible(node, call.session, room)
    preview = enter(node, call.connection, active, admission)
    state = seen_state(node, call.connection, active)
    return RoomJoined(
        id=command.id,
        room=room,
        epoch=node.stores.epoch,
        offset=active.replay.last,
        online=state.online,
        members=state.members,
        complete=state.complete,
        reactions=state.reactions,
        confidence=state.confidence,
        typing=state.typing,
        recent=recent_lines(active, call.connection),
        preview_ends_in=preview,
        you=node.faces.enter(call.connection, active.id),
    )


@handles(LeaveRoom, alone=True)
def leave(call: Call, command: LeaveRoom) -> RoomLeft:
    """Leave a room on this connection."""
    active = call.room(command.room)
    call.node.hub.leave(call.connection, active, at_once=True)
    return RoomLeft(id=command.id, room=active.id)


@handles(SendCue)
async def send_cue(call: Call, command: SendCue) -> CueSent:
    """Give everyone in the room a cue: the host may."""
    active = call.room(command.room)
    if not call.session.is_one((await call.node.catalogue.find(str(active.id))).host, active.id):
        raise Refused(ErrorCode.FORBIDDEN, "Only the host of a looproom gives its cues.")
    cue = normalised(command.cue)
    if not cue:
        raise Refused(ErrorCode.TEXT_EMPTY, path="$.cue")
    packet = call.node.hub.tell(active, Cue(room=active.id, cue=cue), Kind.PASSING)
    call.node.subscriptions.publish_passing(active, packet)
    return CueSent(id=command.id)
