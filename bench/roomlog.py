"""What a room said, kept once and verified by everyone in it.

Everyone in a room who speaks the same subprotocol is sent the same bytes. So a tester need not parse what each of a thousand
members receives: the first one to receive something appends it here, where it is read once, and for all others it is a
comparison of memory (11 KB in 0.2 us). A member's position in this log says exactly which events it has.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right

import msgspec


class Unexpected(Exception):  # noqa: N818 - what the server sent, not an error of the tester
    """The server did something that a scenario has no place for."""


class Heard(msgspec.Struct, frozen=True):
    """What everyone in a room is sent: the `mark` (number and moment) of an event that is counted, the offset of a durable one."""

    mark: tuple[int, int] | None = None
    offset: int | None = None
    pulse: bool = False


def marked(number: int, due: int, size: int) -> str:
    """Return a text of `size` characters that carries its number and its moment (monotonic nanoseconds)."""
    return f"{number} {due} ".ljust(size, ".")


def mark_in(text: str) -> tuple[int, int]:
    """Return the number and the moment that a text carries. Raises `Unexpected` when somebody else speaks in the room."""
    try:
        number, due = text.split(" ", 2)[:2]
        return int(number), int(due)
    except ValueError:
        raise Unexpected(f"somebody else speaks in this room: {text[:60]!r}") from None


class RoomLog:
    """The frames of one room since the start of the measurement, and the events that are counted among them."""

    def __init__(self) -> None:
        self.said = bytearray()
        self.first_offset = 0
        self.last_offset = 0
        self.disorder = 0
        """Durable events whose offset was not the next one."""
        self.pulses = 0
        self._frame_ends = array("Q")
        self._ends = array("Q")
        self._dues = array("q")
        self._numbers: set[int] = set()

    def __len__(self) -> int:
        return len(self._ends)

    def has(self, heard: Heard) -> bool:
        """Say whether a counted event is here already."""
        return heard.mark is not None and heard.mark[0] in self._numbers

    def append(self, frame: bytes, heard: Heard) -> None:
        """Add a frame that nobody else had received yet."""
        self.said += frame
        end = len(self.said)
        self._frame_ends.append(end)
        self.pulses += heard.pulse
        if heard.offset is not None:
            if self.last_offset and heard.offset != self.last_offset + 1:
                self.disorder += 1
            self.first_offset = self.first_offset or heard.offset
            self.last_offset = heard.offset
        if heard.mark is not None:
            self._numbers.add(heard.mark[0])
            self._ends.append(end)
            self._dues.append(heard.mark[1])

    def boundary(self, position: int) -> int:
        """Return where the frame begins in which `position` lies."""
        index = bisect_right(self._frame_ends, position)
        return self._frame_ends[index - 1] if index else 0

    def counted(self, position: int) -> int:
        """Return how many counted events end at or before `position`."""
        return bisect_right(self._ends, position)

    def due(self, index: int) -> int:
        """Return the moment of a counted event."""
        return self._dues[index]
