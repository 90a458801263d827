"""What waits for a slow reader: kept in order up to a limit, counted, or only noted."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from protocol.envelope import RoomId
from server.hub.outbox import Outbox

ROOM, OTHER = RoomId(UUID(int=1)), RoomId(UUID(int=2))


def test_must() -> None:
    """What must be delivered comes out once, in order, and makes room for more."""
    outbox = Outbox(10)
    assert outbox.must(b"abcd", 0)
    assert outbox.must(b"efghij", 0)
    assert outbox.take() == b"abcdefghij"
    assert (outbox.take(), outbox.size) == (b"", 0)
    assert outbox.must(b"k" * 10, 0)


def test_limit() -> None:
    """The byte past the limit is one too many, those in the transport counted; then nothing is kept."""
    outbox = Outbox(10)
    assert outbox.must(b"abcd", 6)
    assert not outbox.must(b"e", 6)
    assert (outbox.take(), outbox.size) == (b"", 0)
    assert not Outbox(10).must(b"", 11)


def test_passing_and_latest() -> None:
    """Passing frames are only counted; of states only the room is noted, however often it changes."""
    outbox = Outbox(0)
    for room in (ROOM, OTHER, ROOM):
        outbox.drop()
        outbox.conflate(room)
    assert (outbox.passing, outbox.stale) == (3, {ROOM, OTHER})
    assert (outbox.take(), outbox.size) == (b"", 0)


def test_inherit() -> None:
    """What was left out before and not told yet is told together with what is left out now."""
    before, now = Outbox(10), Outbox(10)
    for outbox, rooms in ((before, (ROOM,)), (before, (OTHER,)), (now, (OTHER,))):
        outbox.drop()
        for room in rooms:
            outbox.conflate(room)
    now.inherit(before)
    assert (now.passing, now.stale) == (3, {ROOM, OTHER})


@given(st.integers(0, 100), st.lists(st.binary(max_size=30) | st.none(), max_size=20), st.integers(0, 50))
def test_never_more_than_the_limit(limit: int, steps: list[bytes | None], held: int) -> None:
    """Whatever comes, at most the limit waits, and what is taken is what was accepted since the last time."""
    outbox = Outbox(limit)
    accepted = b""
    for step in steps:
        if step is None:
            assert outbox.take() == accepted
            accepted = b""
            continue
        fits = len(accepted) + len(step) + held <= limit
        assert outbox.must(step, held) == fits
        accepted = accepted + step if fits else b""
        assert outbox.size == len(accepted) <= limit
    assert outbox.take() == accepted
