"""What a room's members did and saw, and whether all of it can be true of one ordered history without gaps.

A plain object: writers and readers report as things happen, afterwards `History.violations` compares what was acknowledged,
what is stored and what each reader was shown. A key names one line; writers never use one for two lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from msgspec import Struct


class Fault(StrEnum):
    """A way in which the promises were broken."""

    LOST = "an acknowledged line is not stored"
    MISPLACED = "a line is stored at another offset than was acknowledged"
    TWICE_STORED = "one key is stored more than once"
    HOLE = "the stored offsets have a hole"
    UNDONE_REFUSAL = "a line that was refused for good is stored"
    UNKNOWN = "a line is stored that nobody sent"
    SKIPPED = "a reader was not shown an event, and not told so"
    SEEN_TWICE = "a reader was shown an event twice"
    REVERSED = "a snapshot took a reader back"
    PHANTOM = "a reader was shown a line that is not stored there"
    BEHIND = "a reader was not shown the newest events"
    DISORDER = "a line sent after another was acknowledged stands before it"


class Violation(Struct, frozen=True):
    """One broken promise, and where."""

    fault: Fault
    where: str

    def __str__(self) -> str:
        return f"{self.fault}: {self.where}"


class Sent(Struct):
    """What became of one key. Times are in seconds of one clock."""

    writer: str
    at: float
    offset: int | None = None
    acknowledged_at: float = 0.0
    refused: bool = False


class Seen(Struct):
    """One thing that a reader was shown: a line, or (without a key) a position that it was put on."""

    offset: int
    key: str | None


class History:
    """Collects reports. Keys that are neither acknowledged nor refused have an unknown outcome: stored once, or not at all."""

    def __init__(self) -> None:
        self.sent_lines: dict[str, Sent] = {}
        self.seen: dict[str, list[Seen]] = {}
        self.finished: set[str] = set()
        self.acknowledgements = 0
        self.snapshots = 0
        self.resumes = 0
        self._conflicting: list[Violation] = []

    def sent(self, writer: str, key: str, at: float) -> None:
        """Note the first sending of a key; further ones change nothing."""
        self.sent_lines.setdefault(key, Sent(writer, at))

    def acknowledged(self, key: str, offset: int, at: float) -> None:
        """Note an answer to a key. All answers to one key must name one offset."""
        line = self.sent_lines[key]
        if line.offset is None:
            line.offset = offset
            line.acknowledged_at = at
            self.acknowledgements += 1
        elif line.offset != offset:
            self._conflicting.append(Violation(Fault.MISPLACED, f"{key} at {line.offset} and at {offset}"))

    def refused(self, key: str) -> None:
        """Note that a key was refused at its first sending: it must never be stored."""
        self.sent_lines[key].refused = True

    def placed(self, reader: str, offset: int) -> None:
        """Note that a reader joined, or was given a snapshot, that reaches `offset`."""
        seen = self.seen.setdefault(reader, [])
        self.snapshots += bool(seen)
        seen.append(Seen(offset, None))

    def resumed(self, reader: str) -> None:
        """Note that a reader came back with its position and was promised a replay."""
        self.resumes += reader in self.seen

    def saw(self, reader: str, offset: int, key: str) -> None:
        """Note a line in the order in which the reader was shown it."""
        self.seen[reader].append(Seen(offset, key))

    def position(self, reader: str) -> int:
        """Return how far a reader has come."""
        return self.seen[reader][-1].offset

    def finish(self, reader: str) -> None:
        """Note that a reader stayed to the end, so that it must have seen the newest event."""
        self.finished.add(reader)

    def violations(self, stored: Sequence[tuple[int, str]]) -> list[Violation]:
        """Compare with what is stored: (offset, key) in the order of offsets."""
        found = list(self._conflicting)
        found += self._of_storage(stored)
        keys = dict(stored)
        last = stored[-1][0] if stored else 0
        for reader, seen in self.seen.items():
            found += _of_reader(reader, seen, keys)
            if reader in self.finished and seen[-1].offset != last:
                found.append(Violation(Fault.BEHIND, f"{reader} at {seen[-1].offset} of {last}"))
        found += self._of_order()
        return found

    def _of_storage(self, stored: Sequence[tuple[int, str]]) -> list[Violation]:
        found: list[Violation] = []
        offsets: dict[str, int] = {}
        for expected, (offset, _) in enumerate(stored, 1):
            if offset != expected:
                found.append(Violation(Fault.HOLE, f"{offset} stands where {expected} belongs"))
                break
        for offset, key in stored:
            if key in offsets:
                found.append(Violation(Fault.TWICE_STORED, f"{key} at {offsets[key]} and {offset}"))
            elif key not in self.sent_lines:
                found.append(Violation(Fault.UNKNOWN, f"{key} at {offset}"))
            elif self.sent_lines[key].refused:
                found.append(Violation(Fault.UNDONE_REFUSAL, f"{key} at {offset}"))
            offsets.setdefault(key, offset)
        for key, line in self.sent_lines.items():
            if line.offset is None:
                continue
            if key not in offsets:
                found.append(Violation(Fault.LOST, f"{key}, acknowledged at {line.offset}"))
            elif offsets[key] != line.offset:
                found.append(Violation(Fault.MISPLACED, f"{key} at {offsets[key]}, not at {line.offset}"))
        return found

    def _of_order(self) -> list[Violation]:
        """Sweep over time: a line that is sent must come after all that were acknowledged before."""
        lines = [(key, line) for key, line in self.sent_lines.items() if line.offset is not None]
        by_answer = sorted(lines, key=lambda pair: pair[1].acknowledged_at)
        found: list[Violation] = []
        newest, newest_key, answered = 0, "", 0
        for key, line in sorted(lines, key=lambda pair: pair[1].at):
            while answered < len(by_answer) and by_answer[answered][1].acknowledged_at < line.at:
                earlier_key, earlier = by_answer[answered]
                answered += 1
                if (earlier.offset or 0) > newest:
                    newest, newest_key = earlier.offset or 0, earlier_key
            if (line.offset or 0) < newest:
                found.append(
                    Violation(Fault.DISORDER, f"{key} at {line.offset} after {newest_key} at {newest}")
                )
        return found


def _of_reader(reader: str, seen: Sequence[Seen], stored: dict[int, str]) -> list[Violation]:
    found: list[Violation] = []
    position: int | None = None
    for one in seen:
        if one.key is None:
            if position is not None and one.offset < position:
                found.append(Violation(Fault.REVERSED, f"{reader} from {position} to {one.offset}"))
        elif position is None or one.offset > position + 1:
            found.append(Violation(Fault.SKIPPED, f"{reader} from {position} to {one.offset}"))
        elif one.offset <= position:
            found.append(Violation(Fault.SEEN_TWICE, f"{reader} was shown {one.offset} at {position}"))
        if one.key is not None and stored.get(one.offset) != one.key:
            found.append(
                Violation(
                    Fault.PHANTOM, f"{reader} was shown {one.key} at {one.offset}: {stored.get(one.offset)}"
                )
            )
        position = one.offset
    return found
