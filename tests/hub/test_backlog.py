"""The backlog: pieces of a room's memory, in order and once, until the connection is where everyone else is."""

from __future__ import annotations

from uuid import uuid4

from protocol.envelope import RoomId
from server.hub.backlog import PIECE, Backlog
from server.hub.members import Room
from server.hub.replay import Replay
from storage.redis.publications import Kind, Packet

SIZE = PIECE // 4


def event(offset: int, size: int = SIZE) -> Packet:
    """Return an event of a size."""
    return Packet(Kind.LINE, offset, b"x" * size, b"x" * size)


def room(last: int, window: int = 1000) -> Room:
    """Return a room that keeps its newest events."""
    replay = Replay(window, 10**9, renew=lambda old, _: old)
    replay.begin(last, [event(offset) for offset in range(max(1, last - window + 1), last + 1)])
    return Room(RoomId(uuid4()), replay)


def taken(backlog: Backlog) -> list[int]:
    """Take one piece; return its offsets."""
    piece = backlog.take()
    assert piece is not None
    return [packet.offset for packet in piece[1]]


def test_piece_by_piece() -> None:
    """Everything after the offset, a piece at a time, in order; with the last piece the room is forgotten."""
    one, backlog = room(10), Backlog()
    backlog.begin(one, 1)
    assert one in backlog
    assert [taken(backlog) for _ in range(2)] == [[2, 3, 4, 5], [6, 7, 8, 9]]
    assert one in backlog
    assert taken(backlog) == [10]
    assert one not in backlog
    assert len(backlog) == 0


def test_nothing_is_missed() -> None:
    """Whoever has everything is with the others after the first look."""
    one, backlog = room(10), Backlog()
    backlog.begin(one, 10)
    assert taken(backlog) == []
    assert one not in backlog


def test_an_event_that_is_larger_than_a_piece() -> None:
    """It is a piece of its own."""
    one, backlog = room(0), Backlog()
    for offset in (1, 2):
        one.replay.offer(event(offset, 10 * PIECE))
    backlog.begin(one, 0)
    assert (taken(backlog), taken(backlog), len(backlog)) == ([1], [2], 0)


def test_what_is_said_meanwhile() -> None:
    """It comes after the past; what waits for the next turn of the fan-out is left to that."""
    one, backlog = room(4), Backlog()
    backlog.begin(one, 0)
    assert taken(backlog) == [1, 2, 3, 4]  # the last piece: from here on the fan-out has it
    backlog.begin(one, 1)
    for offset in (5, 6, 7):
        one.replay.offer(event(offset))
    one.pending = [event(7)]
    assert one.framed == 6
    assert taken(backlog) == [2, 3, 4, 5]
    assert taken(backlog) == [6]
    assert len(backlog) == 0
    one.pending = []
    assert one.framed == 7


def test_what_is_passing_does_not_count() -> None:
    """A pulse that waits for its turn has no place in the order."""
    one = room(4)
    one.pending = [Packet(Kind.PULSE, 0, b"x", b"x")]
    assert one.framed == 4


def test_memory_forgets_first() -> None:
    """When what is to be sent next is not kept any more, that is said."""
    one, backlog = room(10, window=10), Backlog()
    backlog.begin(one, 0)
    assert taken(backlog) == [1, 2, 3, 4]
    for offset in range(11, 16):
        one.replay.offer(event(offset))
    assert backlog.take() is None


def test_rooms_one_after_the_other() -> None:
    """Several rooms are brought to the present in the order in which they came; one that was left is not told of."""
    first, second, third = room(5), room(2), room(1)
    backlog = Backlog()
    for one in (first, second, third):
        backlog.begin(one, 0)
    assert len(backlog) == 3
    assert taken(backlog) == [1, 2, 3, 4]
    backlog.forget(second)
    backlog.forget(second)
    assert (taken(backlog), taken(backlog), len(backlog)) == ([5], [1], 0)


def test_the_audience_is_made_anew() -> None:
    """With its beginning and its end a connection changes the way in which it is written to."""
    one, backlog = room(2), Backlog()
    before = one.audience
    backlog.begin(one, 0)
    assert (during := one.audience) is not before
    taken(backlog)
    assert one.audience is not during
