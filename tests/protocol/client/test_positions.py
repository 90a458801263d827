"""Which durable event is next, again, or too early."""

from __future__ import annotations

from uuid import UUID

from protocol.client.positions import OwnPosition, Positions, Verdict
from protocol.envelope import Epoch, RoomId
from protocol.session import PersonPosition, Position, Seen

ROOM = RoomId(UUID(int=1))
OTHER = RoomId(UUID(int=2))
EPOCH = Epoch("e1")


def at(offset: int) -> Positions:
    """Stand at `offset` in ROOM."""
    positions = Positions()
    positions.enter(ROOM, EPOCH, offset)
    return positions


def test_the_next_event_moves_the_position() -> None:
    """One after the other is handed out, and only once."""
    positions = at(5)
    assert positions.take(ROOM, 6) is Verdict.NEXT
    assert positions.take(ROOM, 7) is Verdict.NEXT
    assert positions.take(ROOM, 7) is Verdict.AGAIN
    assert positions.take(ROOM, 1) is Verdict.AGAIN
    assert positions.offset(ROOM) == 7


def test_a_skipped_offset_is_too_early_and_moves_nothing() -> None:
    """After a gap the position still names what is missing."""
    positions = at(5)
    assert positions.take(ROOM, 7) is Verdict.EARLY
    assert positions.offset(ROOM) == 5
    assert positions.take(ROOM, 6) is Verdict.NEXT


def test_a_room_that_we_are_not_in_is_foreign() -> None:
    """So it is before joining and after leaving."""
    positions = at(5)
    assert positions.take(OTHER, 1) is Verdict.FOREIGN
    positions.leave(ROOM)
    positions.leave(ROOM)
    assert positions.take(ROOM, 6) is Verdict.FOREIGN
    assert list(positions) == []
    assert len(positions) == 0


def test_joining_again_keeps_the_position() -> None:
    """The events between position and snapshot are still on their way; in another epoch there are none."""
    positions = at(5)
    positions.enter(ROOM, EPOCH, 9)
    assert positions.offset(ROOM) == 5
    positions.enter(ROOM, Epoch("e2"), 3)
    assert positions.offset(ROOM) == 3
    positions.reset(ROOM, Epoch("e2"), 1)
    assert positions.offset(ROOM) == 1


def test_reaching_an_offset_counts_only_in_its_epoch() -> None:
    """A greater number in another history means nothing."""
    positions = at(5)
    assert positions.reaches(ROOM, EPOCH, 5)
    assert not positions.reaches(ROOM, EPOCH, 6)
    assert not positions.reaches(ROOM, Epoch("e2"), 1)
    assert not positions.reaches(OTHER, EPOCH, 0)


def test_positions_as_they_travel() -> None:
    """A hello names room, epoch and offset; a ping the room and offset; both at most so many."""
    positions = at(5)
    positions.enter(OTHER, EPOCH, 0)
    assert positions.resume(1) == [Position(room=str(ROOM), epoch="e1", offset=5)]
    assert positions.seen(9) == [Seen(room=ROOM, offset=5), Seen(room=OTHER, offset=0)]


def test_the_own_position_counts_from_where_the_server_said() -> None:
    """Before that no event can be judged, and no hello names a position."""
    own = OwnPosition()
    assert own.resume() is None
    assert own.take(1) is Verdict.FOREIGN
    own.reset(EPOCH, 5)
    assert [own.take(offset) for offset in (5, 6, 8)] == [Verdict.AGAIN, Verdict.NEXT, Verdict.EARLY]
    assert own.resume() == PersonPosition(epoch=EPOCH, offset=6)
    assert own.reaches(EPOCH, 6)
    assert not own.reaches(EPOCH, 7)
    assert not own.reaches(Epoch("e2"), 6)
