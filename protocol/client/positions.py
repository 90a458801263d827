"""How far this client has come in each of its rooms and in its own person's events: which one is next, again, or too early.

A plain object: positions in, verdicts out.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

import msgspec

from protocol.envelope import Epoch, Offset, RoomId
from protocol.session import PersonPosition, Position, Seen


class Place(msgspec.Struct):
    """What is known of a durable event that only a newer client could read: its place in a room, or among the person's."""

    room: RoomId | None = None
    offset: Offset | None = None
    person_offset: Offset | None = None


class Verdict(Enum):
    """What a durable event is to one who stands at a position."""

    NEXT = "the one that follows: hand it out"
    AGAIN = "seen before: drop it"
    EARLY = "something before it is missing: drop it and resume"
    FOREIGN = "of a room that this client is not in: drop it"


class Positions:
    """The position in each room: everything up to `offset` of `epoch` has been handed out."""

    def __init__(self) -> None:
        self._offsets: dict[RoomId, Offset] = {}
        self._epochs: dict[RoomId, Epoch] = {}

    def __contains__(self, room: object) -> bool:
        return room in self._offsets

    def __iter__(self) -> Iterator[RoomId]:
        return iter(self._offsets)

    def __len__(self) -> int:
        return len(self._offsets)

    def offset(self, room: RoomId) -> Offset:
        """Return the offset of the last event handed out in `room`, which must be one of ours."""
        return self._offsets[room]

    def enter(self, room: RoomId, epoch: Epoch, offset: Offset) -> None:
        """Start at a join's snapshot. Who was in the room already stays where they were: the events still come."""
        if self._epochs.get(room) != epoch:
            self.reset(room, epoch, offset)

    def reset(self, room: RoomId, epoch: Epoch, offset: Offset) -> None:
        """Go on from `offset` of `epoch`, whatever was before."""
        self._epochs[room] = epoch
        self._offsets[room] = offset

    def reaches(self, room: RoomId, epoch: Epoch, offset: Offset) -> bool:
        """Say whether everything up to `offset` of `epoch` has been handed out already."""
        return self._epochs.get(room) == epoch and self._offsets[room] >= offset

    def leave(self, room: RoomId) -> None:
        """Forget the room, if it was one of ours."""
        self._offsets.pop(room, None)
        self._epochs.pop(room, None)

    def take(self, room: RoomId, offset: Offset) -> Verdict:
        """Judge a durable event. On `Verdict.NEXT` the position has moved to it: hand the event out now."""
        known = self._offsets.get(room)
        if known is None:
            return Verdict.FOREIGN
        if offset == known + 1:
            self._offsets[room] = offset
            return Verdict.NEXT
        return Verdict.AGAIN if offset <= known else Verdict.EARLY

    def resume(self, most: int) -> list[Position]:
        """Return at most `most` positions for a hello."""
        rooms = list(self._offsets)[:most]
        return [Position(room=str(r), epoch=self._epochs[r], offset=self._offsets[r]) for r in rooms]

    def seen(self, most: int) -> list[Seen]:
        """Return at most `most` positions for a ping."""
        return [Seen(room=room, offset=self._offsets[room]) for room in list(self._offsets)[:most]]


class OwnPosition:
    """The position in the person's own events. `epoch` is None until a server has told where they stand."""

    def __init__(self) -> None:
        self.epoch: Epoch | None = None
        self.offset: Offset = 0

    def reset(self, epoch: Epoch, offset: Offset) -> None:
        """Go on from `offset` of `epoch`, whatever was before."""
        self.epoch = epoch
        self.offset = offset

    def reaches(self, epoch: Epoch, offset: Offset) -> bool:
        """Say whether everything up to `offset` of `epoch` has been handed out already."""
        return self.epoch == epoch and self.offset >= offset

    def take(self, offset: Offset) -> Verdict:
        """Judge an event. On `Verdict.NEXT` the position has moved to it: hand the event out now."""
        if self.epoch is None:
            return Verdict.FOREIGN
        if offset == self.offset + 1:
            self.offset = offset
            return Verdict.NEXT
        return Verdict.AGAIN if offset <= self.offset else Verdict.EARLY

    def resume(self) -> PersonPosition | None:
        """Return the position for a hello."""
        return None if self.epoch is None else PersonPosition(epoch=self.epoch, offset=self.offset)
