"""What the replay keeps of lines that were changed: their present form, in whatever order changes come and are read."""

from __future__ import annotations

from server.hub.replay import Replay
from storage.redis.publications import Kind, Packet


def line(offset: int, text: str) -> Packet:
    """Return a line."""
    return Packet(Kind.LINE, offset, b"line " + text.encode(), b"LINE " + text.encode())


def change(offset: int, of: int, text: str) -> Packet:
    """Return a change of the line at `of`."""
    new = text.encode()
    return Packet(
        Kind.DURABLE, offset, b"change " + new, b"CHANGE " + new, of, b"line " + new, b"LINE " + new
    )


class Room:
    """A replay, and how often it asked for the new form of a change."""

    def __init__(self, window: int = 100) -> None:
        self.asked = 0
        self.replay = Replay(window, renew=self._renew)

    def _renew(self, old: Packet, newest: Packet) -> Packet:
        self.asked += 1
        return Packet(old.kind, old.offset, newest.json, newest.msgpack)

    def told(self, offset: int = 0) -> list[tuple[int, bytes, bytes]]:
        """Return what somebody is told who comes back with `offset`."""
        missed = self.replay.since(offset)
        assert missed is not None
        return [(packet.offset, packet.json, packet.msgpack) for packet in missed]


EXPECTED = [
    (1, b"line c", b"LINE c"),
    (2, b"line x", b"LINE x"),
    (3, b"change c", b"CHANGE c"),
    (4, b"change c", b"CHANGE c"),
]
EVENTS = [line(1, "a"), line(2, "x"), change(3, 1, "b"), change(4, 1, "c")]


def test_changed_as_it_happens() -> None:
    """The line and every change of it are replayed as the newest change says."""
    room = Room()
    room.replay.begin(0, [])
    for event in EVENTS:
        room.replay.offer(event)
    assert room.told() == EXPECTED


def test_changed_before_the_room_was_opened() -> None:
    """What was read when the room was opened is changed by what comes afterwards, the changes among it too."""
    room = Room()
    room.replay.begin(3, [line(1, "b"), line(2, "x"), change(3, 1, "b")])
    room.replay.offer(change(4, 1, "c"))
    assert room.told() == EXPECTED


def test_changed_while_older_events_were_read() -> None:
    """Older events that were read before a change, and join on after it, have its form."""
    room = Room()
    room.replay.begin(3, [])
    room.replay.offer(change(4, 1, "c"))
    room.replay.prepend([line(1, "b"), line(2, "x"), change(3, 1, "b")])
    assert room.told() == EXPECTED


def test_older_events_that_hold_a_change() -> None:
    """A later change finds its line, and the changes before it, in what was added at the old end."""
    room = Room()
    room.replay.begin(3, [])
    room.replay.prepend([line(1, "b"), line(2, "x"), change(3, 1, "b")])
    room.replay.offer(change(4, 1, "c"))
    assert room.told() == EXPECTED


def test_a_change_that_has_left_the_window() -> None:
    """A line that is changed again after its former change was let go is replayed as it is now; nothing else is touched."""
    room = Room(window=2)
    room.replay.begin(0, [])
    for event in [*EVENTS[:3], line(4, "y"), line(5, "z"), change(6, 1, "d"), change(7, 4, "e")]:
        room.replay.offer(event)
    assert room.told(5) == [(6, b"change d", b"CHANGE d"), (7, b"change e", b"CHANGE e")]
    assert room.replay.since(4) is None


def test_a_line_that_is_edited_all_the_time() -> None:
    """A thousand edits cost nothing while nobody comes back; whoever does is told the last of them a thousand times."""
    room = Room(window=1000)
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
    room = Room()
    room.replay = Replay(100, 100, renew=room._renew)
    room.replay.begin(0, [])
    for event in (line(1, "a"), change(2, 1, "x" * 18), line(3, "b")):
        room.replay.offer(event)
    assert [packet.offset for packet in room.replay.packets] == [3]
