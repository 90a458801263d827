"""The order of a room's events: any arrival gives each once, in order, and says what is missing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.hub.replay import Replay
from storage.redis.publications import Kind, Packet


def event(offset: int, size: int = 1) -> Packet:
    """Return the event at `offset`: `size` bytes in each encoding."""
    return Packet(Kind.LINE, offset, b"j" * size, b"m" * size)


def line(offset: int, text: str) -> Packet:
    """Return a line."""
    return Packet(Kind.LINE, offset, b"line " + text.encode(), b"LINE " + text.encode())


def change(offset: int, of: int, text: str) -> Packet:
    """Return a change of the line at `of`."""
    new = text.encode()
    return Packet(
        Kind.DURABLE, offset, b"change " + new, b"CHANGE " + new, of, b"line " + new, b"LINE " + new
    )


def renewed(old: Packet, newest: Packet) -> Packet:
    """Return an older change in the form of the newest one."""
    return Packet(old.kind, old.offset, newest.json, newest.msgpack)


def offsets(packets: list[Packet] | None) -> list[int] | None:
    """Return the offsets of packets."""
    return None if packets is None else [packet.offset for packet in packets]


def replay_of(first: int, last: int, window: int = 100, limit: int = 4_000_000) -> Replay:
    """Return a replay that keeps the events from `first` to `last`."""
    replay = Replay(window, limit, renew=renewed)
    replay.begin(last, [event(offset) for offset in range(first, last + 1)])
    return replay


def test_in_order() -> None:
    """What comes in order goes out at once."""
    replay = replay_of(1, 0)
    assert [offsets(replay.offer(event(offset))) for offset in (1, 2, 3)] == [[1], [2], [3]]
    assert (replay.last, replay.first, replay.gaps, replay.duplicates, replay.missing) == (3, 1, 0, 0, None)


def test_twice() -> None:
    """What comes again is dropped, delivered already or not."""
    replay = replay_of(1, 2)
    assert replay.offer(event(2)) == replay.offer(event(1)) == []
    assert replay.offer(event(4)) == replay.offer(event(4)) == []
    assert offsets(replay.offer(event(3))) == [3, 4]
    assert replay.duplicates == 3


def test_gap() -> None:
    """What comes too early waits; what is missing is named, the first gap first; filled, all goes out in order."""
    replay = replay_of(1, 10)
    for offset in (13, 15, 14):
        assert replay.offer(event(offset)) == []
    assert replay.gaps == 1
    assert replay.missing == (11, 12)
    assert offsets(replay.offer(event(11))) == [11]
    assert replay.missing == (12, 12)
    assert replay.offer(event(17)) == []
    assert offsets(replay.offer(event(12))) == [12, 13, 14, 15]
    assert replay.missing == (16, 16)
    assert offsets(replay.offer(event(16))) == [16, 17]
    assert (replay.last, replay.gaps) == (17, 1)
    assert replay.missing is None


def test_early_ones_are_bounded() -> None:
    """No more than a window of early events waits; the others are missing when the gap is filled, and are read again."""
    replay = replay_of(1, 0, window=3)
    for offset in (3, 4, 5, 6, 7):
        replay.offer(event(offset))
    assert offsets(replay.offer(event(1))) == [1]
    assert offsets(replay.offer(event(2))) == [2, 3, 4, 5]
    assert replay.missing == (6, 7)
    assert offsets(replay.offer(event(6))) == [6]
    assert offsets(replay.offer(event(7))) == [7]
    assert replay.gaps == 1
    assert replay.missing is None


def test_window() -> None:
    """The newest are kept, as many as the window has, and as many bytes as the limit allows."""
    replay = replay_of(1, 5, window=3)
    assert offsets(list(replay.packets)) == [3, 4, 5]
    replay.offer(event(6))
    assert (replay.first, replay.last) == (4, 6)
    heavy = Replay(100, 10, renew=renewed)
    for offset in range(1, 6):
        heavy.offer(event(offset, size=2))
    assert offsets(list(heavy.packets)) == [4, 5]
    heavy.offer(event(6, size=100))
    assert (list(heavy.packets), heavy.first, heavy.last) == ([], 7, 6)


def test_since() -> None:
    """Exactly what was missed, or None when not all of it is kept; nobody has seen what is not there yet."""
    replay = replay_of(4, 8)
    assert offsets(replay.since(8)) == []
    assert offsets(replay.since(6)) == [7, 8]
    assert offsets(replay.since(3)) == [4, 5, 6, 7, 8]
    assert replay.since(2) is replay.since(9) is None
    empty = replay_of(1, 0)
    assert (empty.since(0), empty.since(1)) == ([], None)


def test_since_in_pieces() -> None:
    """As many as begin within so many bytes: one at least, and none too many."""
    replay = replay_of(1, 0)
    for offset in range(1, 6):
        replay.offer(event(offset, size=10))
    pieces = {most: offsets(replay.since(1, most)) for most in (0, 1, 10, 11, 25, 1000)}
    assert pieces == {0: [], 1: [2], 10: [2], 11: [2, 3], 25: [2, 3, 4], 1000: [2, 3, 4, 5]}


def test_prepend() -> None:
    """Older events join on without gaps, up to the window and the limit; what does not join on is left out."""
    replay = replay_of(7, 9, window=6)
    replay.prepend([event(offset) for offset in (1, 2)])
    assert replay.first == 7
    replay.prepend([event(offset) for offset in range(1, 8)])
    assert (replay.first, replay.last) == (4, 9)
    heavy = replay_of(7, 9, limit=10)
    heavy.prepend([event(offset, size=2) for offset in range(1, 7)])
    assert offsets(list(heavy.packets)) == [6, 7, 8, 9]


def test_newest() -> None:
    """The newest first, for whoever wants only some."""
    assert offsets(list(replay_of(2, 4).newest())) == [4, 3, 2]


def test_begin_anew() -> None:
    """Begun again, nothing of before is left."""
    replay = replay_of(1, 9)
    replay.begin(20, [event(20)])
    assert (replay.first, replay.last, offsets(list(replay.packets))) == (20, 20, [20])
    heavy = replay_of(1, 4, limit=10)
    heavy.begin(8, [event(offset) for offset in range(4, 9)])
    assert offsets(list(heavy.packets)) == [4, 5, 6, 7, 8]


@given(
    st.integers(1, 30),
    st.integers(0, 5),
    st.integers(1, 40),
    st.randoms(use_true_random=False),
)
def test_any_arrival(count: int, start: int, window: int, chance: object) -> None:
    """Whatever is lost, late or doubled: each goes out once, in order, and what is named as missing heals it."""
    arrivals = [offset for offset in range(start + 1, start + count + 1) for _ in range(2)]
    chance.shuffle(arrivals)  # type: ignore[attr-defined] # hypothesis' own Random
    arrivals = arrivals[: len(arrivals) * 2 // 3]
    replay = Replay(window, renew=renewed)
    replay.begin(start, [])
    out: list[int] = []
    for offset in arrivals:
        out += offsets(replay.offer(event(offset))) or []
    while (gap := replay.missing) is not None:
        assert gap[0] == replay.last + 1 <= gap[1]
        for offset in range(gap[0], gap[1] + 1):
            out += offsets(replay.offer(event(offset))) or []
    for offset in range(replay.last + 1, start + count + 1):
        out += offsets(replay.offer(event(offset))) or []
    assert out == list(range(start + 1, start + count + 1))
    assert offsets(list(replay.packets)) == out[-window:]
    for seen in range(start + count + 1):
        missed = offsets(replay.since(seen))
        assert missed == (out[seen - start :] if seen >= replay.first - 1 else None)


# What was taken back.


class Changed:
    """A replay, and how often it asked for the new form of a change."""

    def __init__(self, window: int = 100) -> None:
        self.asked = 0
        self.replay = Replay(window, renew=self._renew)

    def _renew(self, old: Packet, newest: Packet) -> Packet:
        self.asked += 1
        return renewed(old, newest)

    def told(self, offset: int = 0) -> list[tuple[int, bytes, bytes]]:
        """Return what somebody is told who comes back with `offset`."""
        missed = self.replay.since(offset)
        assert missed is not None
        return [(packet.offset, packet.json, packet.msgpack) for packet in missed]


AS_IT_IS_NOW = [
    (1, b"line c", b"LINE c"),
    (2, b"line x", b"LINE x"),
    (3, b"change c", b"CHANGE c"),
    (4, b"change c", b"CHANGE c"),
]
EVENTS = [line(1, "a"), line(2, "x"), change(3, 1, "b"), change(4, 1, "c")]


def test_changed_as_it_happens() -> None:
    """The line and every change of it are replayed as the newest change says."""
    room = Changed()
    room.replay.begin(0, [])
    for packet in EVENTS:
        room.replay.offer(packet)
    assert room.told() == AS_IT_IS_NOW


def test_changed_before_the_room_was_opened() -> None:
    """What was read when the room was opened is changed by what comes afterwards, the changes among it too."""
    room = Changed()
    room.replay.begin(3, [line(1, "b"), line(2, "x"), change(3, 1, "b")])
    room.replay.offer(change(4, 1, "c"))
    assert room.told() == AS_IT_IS_NOW


def test_changed_while_older_events_were_read() -> None:
    """Older events that were read before a change, and join on after it, have its form."""
    room = Changed()
    room.replay.begin(3, [])
    room.replay.offer(change(4, 1, "c"))
    room.replay.prepend([line(1, "b"), line(2, "x"), change(3, 1, "b")])
    assert room.told() == AS_IT_IS_NOW


def test_older_events_that_hold_a_change() -> None:
    """A later change finds its line, and the changes before it, in what was added at the old end."""
    room = Changed()
    room.replay.begin(3, [])
    room.replay.prepend([line(1, "b"), line(2, "x"), change(3, 1, "b")])
    room.replay.offer(change(4, 1, "c"))
    assert room.told() == AS_IT_IS_NOW


def test_a_change_that_has_left_the_window() -> None:
    """A line that is changed again after its former change was let go is replayed as it is now; nothing else is touched."""
    room = Changed(window=2)
    room.replay.begin(0, [])
    for packet in [*EVENTS[:3], line(4, "y"), line(5, "z"), change(6, 1, "d"), change(7, 4, "e")]:
        room.replay.offer(packet)
    assert room.told(5) == [(6, b"change d", b"CHANGE d"), (7, b"change e", b"CHANGE e")]
    assert room.replay.since(4) is None


def test_a_line_that_is_edited_all_the_time() -> None:
    """A thousand edits cost nothing while nobody comes back; whoever does is told the last of them a thousand times."""
    room = Changed(window=1000)
    room.replay.begin(1, [line(1, "a")])
    for offset in range(2, 1001):
        room.replay.offer(change(offset, 1, f"edit {offset}"))
    assert room.asked == 0
    told = room.told()
    assert {json for _, json, _ in told} == {b"line edit 1000", b"change edit 1000"}
    assert [offset for offset, _, _ in told] == list(range(1, 1001))
    assert room.asked == 998


def test_the_limit_counts_every_form() -> None:
    """What is kept for the sake of a change counts towards the bytes that a room may hold."""
    replay = Replay(100, 100, renew=renewed)
    for packet in (line(1, "a"), change(2, 1, "x" * 18), line(3, "b")):
        replay.offer(packet)
    assert offsets(list(replay.packets)) == [3]


def test_what_a_change_replaces_counts_no_more() -> None:
    """However often a line is changed, only its newest form and the newest change weigh anything."""
    replay = Replay(100, 150, renew=renewed)
    replay.offer(line(1, "a" * 20))
    for offset in range(2, 30):
        replay.offer(change(offset, 1, "b"))
    assert offsets(list(replay.packets)) == list(range(1, 30))


def test_older_events_up_to_the_limit() -> None:
    """What was changed is counted as it is now, and what does not fit in leaves no trace."""
    replay = Replay(100, 100, renew=renewed)
    replay.begin(3, [])
    replay.offer(change(4, 1, "x" * 10))
    replay.prepend([line(1, "a"), line(2, "y"), change(3, 2, "z" * 10)])
    assert offsets(list(replay.packets)) == [4]
    replay.prepend([line(3, "w")])
    assert offsets(list(replay.packets)) == [3, 4]
    replay.offer(change(5, 2, "v"))
    assert offsets(replay.since(4)) == [5]
