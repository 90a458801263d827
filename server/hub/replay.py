"""The order of a room's events on this node: duplicates dropped, gaps noticed, the newest kept for those who come back.

A durable event may reach a node twice (from its own commit, through Redis, from Postgres) and in the wrong order, or not at
all. `Replay` takes them as they come and gives them out once, in order, without gaps. It does not read anything itself: it
says what is missing, and whoever owns it fetches that from Postgres and offers it like everything else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from storage.redis.publications import Packet


class Replay:
    """The newest events of one room, up to `last`, without gaps; at most `window` events and `limit` bytes of them."""

    __slots__ = ("_bytes", "_early", "_limit", "_window", "duplicates", "gaps", "last", "packets")

    def __init__(self, window: int, limit: int = 4_000_000) -> None:
        self._window = window
        self._limit = limit
        self._bytes = 0
        self._early: dict[int, Packet] = {}
        self.packets: deque[Packet] = deque()
        self.last = 0
        self.gaps = 0
        self.duplicates = 0

    @property
    def first(self) -> int:
        """The offset of the oldest event that is kept; ``last + 1`` when none is."""
        return self.last - len(self.packets) + 1

    def begin(self, last: int, packets: Iterable[Packet]) -> None:
        """Start at `last`, with `packets` (without gaps, ending at `last`) as what is known from before."""
        self.last = last
        self.packets.clear()
        self._bytes = 0
        for packet in packets:
            self._keep(packet)

    def offer(self, packet: Packet) -> list[Packet]:
        """Take an event; return those that are now next in order, to be delivered at once. Often that is just this one."""
        if packet.offset != self.last + 1:
            if packet.offset <= self.last or packet.offset in self._early:
                self.duplicates += 1
            elif len(self._early) < self._window:  # past that they are read anew when the gap is filled
                if not self._early:
                    self.gaps += 1
                self._early[packet.offset] = packet
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
        if not self._early:
            return None
        return self.last + 1, min(self._early) - 1

    def since(self, offset: int) -> list[Packet] | None:
        """Return the events after `offset`, or None when not all of them are kept here."""
        if offset < self.first - 1 or offset > self.last:
            return None
        missed = self.last - offset
        return [self.packets[index] for index in range(len(self.packets) - missed, len(self.packets))]

    def prepend(self, packets: list[Packet]) -> None:
        """Add older events (without gaps) that end just before `first`; what does not join on is left out."""
        for packet in reversed(packets):
            if packet.offset == self.first - 1 and len(self.packets) < self._window:
                self.packets.appendleft(packet)
                self._bytes += len(packet.json) + len(packet.msgpack)

    def newest(self) -> Iterator[Packet]:
        """Yield what is kept, the newest first."""
        return reversed(self.packets)

    def _accept(self, packet: Packet) -> None:
        if packet.of:
            self._replace(packet)
        self.last = packet.offset
        self._keep(packet)

    def _keep(self, packet: Packet) -> None:
        self.packets.append(packet)
        self._bytes += len(packet.json) + len(packet.msgpack)
        while len(self.packets) > self._window or self._bytes > self._limit:
            old = self.packets.popleft()
            self._bytes -= len(old.json) + len(old.msgpack)

    def _replace(self, packet: Packet) -> None:
        """Put an edited or removed line's new form in the place of the old one: a replay never shows what was taken back."""
        index = packet.of - self.first
        if 0 <= index < len(self.packets):
            old = self.packets[index]
            self.packets[index] = Packet(old.kind, old.offset, packet.of_json, packet.of_msgpack)
            self._bytes += len(packet.of_json) + len(packet.of_msgpack) - len(old.json) - len(old.msgpack)
