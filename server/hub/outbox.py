"""What waits for one slow reader: classes, a byte limit, and the truth about what was left out.

While a transport takes no more, its connection has an outbox. *Must* frames (chat, state, answers) wait in it, *passing*
ones (cues) are dropped and counted, and of *latest* ones (pulses) only the room is noted: when the reader is back it gets
the room's whole state once, instead of every step that led there.

An outbox belongs to one connection and is bounded in bytes; when it is full the connection is to be closed, and its client
resumes by offset. So a slow reader never slows its room and never costs more than its limit.
"""

from __future__ import annotations

from protocol.envelope import RoomId


class Outbox:
    """Frames for one connection that can't be written now."""

    __slots__ = ("_frames", "_limit", "passing", "size", "stale")

    def __init__(self, limit: int) -> None:
        self._frames: list[bytes] = []
        self._limit = limit
        self.size = 0
        self.passing = 0
        self.stale: set[RoomId] = set()

    def must(self, frames: bytes, held: int) -> bool:
        """Keep `frames`; `held` bytes wait in the transport. False: over the limit, nothing is kept, close the connection."""
        if self.size + len(frames) + held > self._limit:
            self._frames.clear()
            self.size = 0
            return False
        self._frames.append(frames)
        self.size += len(frames)
        return True

    def drop(self) -> None:
        """Count a passing frame that is not delivered."""
        self.passing += 1

    def conflate(self, room: RoomId) -> None:
        """Note that the state of `room` changed; a caller sends the whole of it after `take`."""
        self.stale.add(room)

    def take(self) -> bytes:
        """Return what must be delivered, in order, and keep nothing of it."""
        frames, self._frames, self.size = self._frames, [], 0
        return b"".join(frames)

    def inherit(self, before: Outbox) -> None:
        """Take over what the outbox before this one has left out and told nobody."""
        self.passing += before.passing
        self.stale |= before.stale
