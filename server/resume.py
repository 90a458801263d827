"""Resume: who comes back is taken to where they were, told exactly what they missed, or that this can't be done.

A client says hello with its positions: how far it has come in which rooms, and in which epoch. The cases, each with a test:

1. nothing was missed: the position is recovered, and nothing follows;
2. up to a window was missed (so many events, or as many as a room may keep in memory): exactly these follow, in order, once,
   no faster than they are read;
3. more was missed: a snapshot that says so, never a replay with a hole in it;
4. another epoch, because the database was restored or another one: a snapshot;
5. a position ahead of the room: what this node has not heard of yet is read, once; if the room doesn't reach that far, a
   snapshot;
6. no position at all (an offset that is negative, past 2^63 - 1 or no number): the hello is refused with the field that is
   wrong, and may be said again;
7. a room that is not open to this person any more, or never was: its position is answered with the error, the others are
   taken up;
8. one room under several of its names: the last of its positions counts, and the room is taken up once;
9. more rooms than one connection may be in: those too many are answered with the error, and cost nothing;
10. a store is away: nobody is put out of any room for that, the whole hello is to be said again later.

All of it holds on every node, however long the client was quiet, whatever is said meanwhile, and while its old connection is
not known to be dead: then the person is in the room twice, and nobody sees them leave.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from protocol.refusals import ErrorCode, Refused
from protocol.session import Position, Resumed
from server.hub.connection import Connection
from server.hub.identity import Session
from server.hub.members import Room
from server.rooms import Admission, admit, enter, recent_lines, seen_state, still_visible

if TYPE_CHECKING:
    from server.node import Node


class Place:
    """A position that was looked at: where it leads, or why not."""

    __slots__ = ("active", "admission", "covered", "position", "refused")

    def __init__(self, position: Position, refused: Refused | None = None) -> None:
        self.position = position
        self.active: Room | None = None
        self.admission: Admission | None = None
        self.covered = False
        self.refused = refused


async def prepare(node: Node, session: Session, positions: Sequence[Position]) -> list[Place]:
    """Look at positions: open their rooms and make sure that what was missed is in memory. Raises `Refused` (unavailable).

    What was read may be told by `take_up` in the same turn, and only then.
    """
    named = list({position.room: position for position in positions}.values())
    most = node.hub.limits.rooms
    places = await asyncio.gather(*(_look(node, session, position) for position in named[:most]))
    rooms = {place.admission.room.id: place for place in places if place.admission is not None}
    await asyncio.gather(*(_open(node, place) for place in rooms.values()))
    for place in places:
        if place.active is not None and node.hub.members.rooms.get(place.active.id) is not place.active:
            # It was closed while the others were looked at: whoever entered it would hear nothing.
            place.refused = Refused(ErrorCode.UNAVAILABLE, retry_after=1.0)
        _look_again(node, session, place)
        if place.refused is not None and place.refused.code.retryable:
            raise place.refused
    too_many = (Place(position, Refused(ErrorCode.TOO_MANY_ROOMS)) for position in named[most:])
    return [*rooms.values(), *(place for place in places if place.admission is None), *too_many]


async def _look(node: Node, session: Session, position: Position) -> Place:
    place = Place(position)
    try:
        place.admission = await admit(node, session, position.room)
    except Refused as refused:
        place.refused = refused
    return place


def _look_again(node: Node, session: Session, place: Place) -> None:
    if place.admission is not None and place.refused is None:
        try:
            still_visible(node, session, place.admission.room)
        except Refused as refused:
            place.refused = refused


async def _open(node: Node, place: Place) -> None:
    assert place.admission is not None
    position = place.position
    try:
        place.active = await node.subscriptions.open(place.admission.room.id)
        if position.epoch == node.stores.epoch:
            place.covered = await node.subscriptions.covering(place.active, position.offset)
    except Refused as refused:
        place.refused = refused


def take_up(node: Node, connection: Connection, place: Place) -> Resumed:
    """Put a connection back into a room; return what became of its position. If it is recovered, `replay` is to follow."""
    position = place.position
    if place.refused is not None or place.active is None or place.admission is None:
        refused = place.refused or Refused(ErrorCode.NOT_FOUND)
        return Resumed(room=position.room, recovered=False, error=refused.code, message=refused.message)
    active = place.active
    preview = enter(node, connection, active, place.admission)
    place.covered = place.covered and active.replay.covers(position.offset)
    return Resumed(
        room=position.room,
        id=active.id,
        recovered=place.covered,
        epoch=node.stores.epoch,
        offset=active.replay.last,
        missed=active.replay.last - position.offset if place.covered else 0,
        state=seen_state(node, connection, active),
        recent=[] if place.covered else recent_lines(active, connection),
        preview_ends_in=preview,
        you=node.faces.enter(connection, active.id),
        live=node.catalogue.newest(place.admission.room).live,
    )


def replay(connection: Connection, place: Place) -> None:
    """Send what was missed: after the welcome that says so, in the same turn."""
    if place.active is not None and place.covered and place.active.id in connection.rooms:
        connection.catch_up(place.active, place.position.offset)
