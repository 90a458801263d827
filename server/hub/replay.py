"""The order of a room's events on this node: duplicates dropped, gaps noticed, the newest kept for those who come back.

A durable event may reach a node twice (from its own commit, through Redis, from Postgres) and in the wrong order, or not at
all. `Replay` takes them as they come and gives them out once, in order, without gaps. It does not read anything itself: it
says what is missing, and whoever owns it fetches that from Postgres and offers it like everything else.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from storage.redis.publications import Packet

Renew = Callable[[Packet, Packet], Packet]
"""Makes what an older change is replayed as, of that change (its offset) and of the newest one of the same event."""


class Replay:
    """The newest events of one room, up to `last`, without gaps; at most `window` events and `limit` bytes of them."""

    __slots__ = (
        "_ahead",
        "_bytes",
        "_changes",
        "_early",
        "_limit",
        "_renew",
        "_window",
        "duplicates",
        "gaps",
        "last",
        "packets",
    )

    def __init__(self, window: int, limit: int = 4_000_000, *, renew: Renew) -> None:
        self._window = window
        self._limit = limit
        self._renew = renew
        self._bytes = 0
        self._changes: dict[int, Packet] = {}
        self._early: dict[int, Packet] = {}
        self._ahead = 0
        self.packets: deque[Packet] = deque()
        self.last = 0
        self.gaps = 0
        self.duplicates = 0

    @property
    def first(self) -> int:
        """The offset of the oldest event that is kept; ``last + 1`` when none is."""
        return self.last - len(self.packets) + 1

    def begin(self, last: int, packets: Sequence[Packet]) -> None:
        """Start at `last`, with `packets` (without gaps, ending at `last`) as what is known from before."""
        self.packets.clear()
        self._changes.clear()
        self._bytes = 0
        self.last = last - len(packets)
        for packet in packets:
            self._accept(packet)

    def offer(self, packet: Packet) -> list[Packet]:
        """Take an event; return those that are now next in order, to be delivered at once. Often that is just this one."""
        if packet.offset != self.last + 1:
            if packet.offset <= self.last or packet.offset in self._early:
                self.duplicates += 1
            else:
                if not self._early:
                    self.gaps += 1
                if len(self._early) < self._window:  # past that they are read anew when the gap is filled
                    self._early[packet.offset] = packet
                self._ahead = max(self._ahead, packet.offset)
            return []
        ready = [packet]
        self._accept(packet)
        while self._early and (following := self._early.pop(self.last + 1, None)) is not None:
            ready.append(following)
            self._accept(following)
        return ready

    @property
    def missing(self) -> tuple[int, int] | None:
        """The first gap as (from, to), both included; None when there is none."""
        if self._early:
            return self.last + 1, min(self._early) - 1
        if self._ahead > self.last:
            return self.last + 1, self._ahead
        return None

    def covers(self, offset: int) -> bool:
        """Say whether every event after `offset` is kept here."""
        return self.first - 1 <= offset <= self.last

    def since(self, offset: int, most: int = sys.maxsize) -> list[Packet] | None:
        """Return the events after `offset`, as many as begin within `most` bytes of JSON; None when not all are kept here."""
        if not self.covers(offset):
            return None
        found: list[Packet] = []
        for index in range(len(self.packets) - (self.last - offset), len(self.packets)):
            if most <= 0:
                break
            found.append(self._renewed(index))
            most -= len(found[-1].json)
        return found

    def prepend(self, packets: Sequence[Packet]) -> None:
        """Add older events (without gaps) that end just before `first`; what does not join on, or fit in, is left out.

        While they were being read, some may have been changed by events that are here already.
        """
        for packet in reversed(packets):
            if packet.offset == self.first - 1 and len(self.packets) < self._window:
                if (change := self._changes.get(packet.offset)) is not None:
                    packet = _replaced(packet, change)
                elif packet.of in self._changes:
                    packet = _emptied(packet)
                if self._bytes + _size(packet) > self._limit:
                    return
                if packet.of:
                    self._changes.setdefault(packet.of, packet)
                self.packets.appendleft(packet)
                self._bytes += _size(packet)

    def newest(self) -> Iterator[Packet]:
        """Yield what is kept, the newest first."""
        return reversed(self.packets)

    def _accept(self, packet: Packet) -> None:
        if packet.of:
            self._change(packet)
        self.last = packet.offset
        self.packets.append(packet)
        self._bytes += _size(packet)
        while len(self.packets) > self._window or self._bytes > self._limit:
            old = self.packets.popleft()
            self._bytes -= _size(old)
            if self._changes.get(old.of) is old:
                del self._changes[old.of]

    def _change(self, change: Packet) -> None:
        """Put the new form of an edited or removed line in the place of the old one, and empty the change before this one: a
        replay never shows what was taken back.
        """
        before = self._changes.get(change.of)
        self._changes[change.of] = change
        self._put(change.of, lambda line: _replaced(line, change))
        if before is not None:
            self._put(before.offset, _emptied)

    def _put(self, offset: int, form: Callable[[Packet], Packet]) -> None:
        index = offset - self.first
        if 0 <= index < len(self.packets):
            old = self.packets[index]
            new = self.packets[index] = form(old)
            self._bytes += _size(new) - _size(old)

    def _renewed(self, index: int) -> Packet:
        """Return an event as it is replayed. A change that another followed is filled again only now: a line that is edited
        a thousand times would otherwise cost a thousand encodings at each edit.
        """
        packet = self.packets[index]
        if packet.json:
            return packet
        return self._renew(packet, self._changes[packet.of])


def _replaced(line: Packet, change: Packet) -> Packet:
    return Packet(line.kind, line.offset, change.of_json, change.of_msgpack)


def _emptied(change: Packet) -> Packet:
    return Packet(change.kind, change.offset, b"", b"", change.of)


def _size(packet: Packet) -> int:
    return len(packet.json) + len(packet.msgpack) + len(packet.of_json) + len(packet.of_msgpack)
