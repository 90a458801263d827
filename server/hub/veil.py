"""What one connection does not see of a room: whoever is hidden from it, and what those say whom its person has muted.

Most connections have no veil and share the same bytes. Who has one is written to apart (`server.hub.fanout`), and what nobody
behind the veil is named in is still the same bytes. So a packet is read only in rooms where somebody has a veil, once in a
turn, and made anew once for all who see the same of it: nothing about a veil travels between nodes.

Whoever is hidden is known by whom others see: by their id, and by their pseudonym in this room. What they say has its offset in
the history of the room like everything else, so it is there, as a line of somebody who has left for good: without text, and
without author; a comment, as one that was removed. Totals are everyone's, whoever is behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
from msgspec import Struct

from protocol.chat import ChatLine, ChatRemoval, ChatRevision, Line
from protocol.codec import JSON, MSGPACK
from protocol.comments import CommentEntry, CommentRemoval, CommentRevision
from protocol.envelope import NOBODY, Event, Person, UserId
from protocol.presence import RoomPulse, RoomState
from storage.redis.publications import Kind, Packet

Naming = ChatLine | ChatRevision | ChatRemoval | CommentEntry | CommentRevision | RoomPulse
"""Events that may name people."""

_SILENT = frozenset({Kind.PASSING, Kind.CHANGE})
_NOBODY: frozenset[UserId] = frozenset()

_decode: Callable[[bytes], Naming] = msgspec.json.Decoder(Naming).decode


class Veil(Struct, frozen=True):
    """Who is not seen in one room, and who is not heard there: all of those, and whoever is muted."""

    hidden: frozenset[UserId]
    unheard: frozenset[UserId]

    def people(self, people: Iterable[Person]) -> list[Person]:
        """Leave out whoever is hidden."""
        return [person for person in people if person.id not in self.hidden]

    def line(self, line: Line) -> Line:
        """Return a line, or what stands in its place."""
        return withheld(line) if line.author.id in self.unheard else line

    def state(self, state: RoomState) -> RoomState:
        """Return the state of the room without whoever is hidden."""
        return msgspec.structs.replace(
            state, members=self.people(state.members), typing=self.people(state.typing)
        )

    def event(self, event: Naming) -> Event | None:
        """Return an event without whoever is hidden; None when nothing is left of it."""
        if isinstance(event, ChatLine):
            return ChatLine(room=event.room, offset=event.offset, line=self.line(event.line))
        if isinstance(event, ChatRevision):
            line = event.line
            return ChatRemoval(
                room=event.room, offset=event.offset, line=line.id, of=line.offset, departed=True
            )
        if isinstance(event, ChatRemoval):
            return event
        if isinstance(event, CommentEntry | CommentRevision):
            comment = event.comment
            return CommentRemoval(vybe=event.vybe, offset=event.offset, comment=comment.id, of=comment.offset)
        return self._pulse(event)

    def _pulse(self, pulse: RoomPulse) -> RoomPulse | None:
        seen = msgspec.structs.replace(
            pulse,
            joins=self.people(pulse.joins),
            leaves=[user for user in pulse.leaves if user not in self.hidden],
            typing=None if pulse.typing is None else self.people(pulse.typing),
            reactors=[reactor for reactor in pulse.reactors if reactor.person.id not in self.hidden],
            state=None if pulse.state is None else self.state(pulse.state),
        )
        return None if seen == RoomPulse(room=pulse.room) else seen


def withheld(line: Line) -> Line:
    """Return what stands in the place of a line that somebody is not to read."""
    return Line(id=line.id, offset=line.offset, author=NOBODY, text="", sent_at=line.sent_at, removed=True)


class Sight:
    """The packets of one turn, as they are seen through veils."""

    __slots__ = ("_events", "_named", "_packets", "_seen")

    def __init__(self, packets: Sequence[Packet]) -> None:
        self._packets = packets
        self._events: list[Naming | None] = [_read(packet) for packet in packets]
        self._named = [_NOBODY if event is None else named(event) for event in self._events]
        self._seen: dict[tuple[frozenset[UserId], ...], Sequence[Packet]] = {}

    def through(self, veil: Veil) -> Sequence[Packet]:
        """Return what is seen: the packets themselves, when they name nobody behind the veil."""
        behind = tuple(
            people & (veil.hidden if isinstance(event, RoomPulse) else veil.unheard)
            for event, people in zip(self._events, self._named, strict=True)
        )
        if not any(behind):
            return self._packets
        seen = self._seen.get(behind)
        if seen is None:
            seen = self._seen[behind] = self._veiled(behind)
        return seen

    def _veiled(self, behind: Sequence[frozenset[UserId]]) -> list[Packet]:
        seen = []
        for packet, event, people in zip(self._packets, self._events, behind, strict=True):
            if event is None or not people:
                seen.append(packet)
            elif (left := Veil(people, people).event(event)) is not None:
                seen.append(Packet(packet.kind, packet.offset, JSON.encode(left), MSGPACK.encode(left)))
        return seen


def named(event: Naming) -> frozenset[UserId]:
    """Return whom an event names, as others see them."""
    if isinstance(event, ChatLine | ChatRevision):
        return frozenset((event.line.author.id,))
    if isinstance(event, CommentEntry | CommentRevision):
        return frozenset((event.comment.author.id,))
    if isinstance(event, ChatRemoval):
        return _NOBODY
    people = {person.id for person in (*event.joins, *(event.typing or ()))}
    people.update(event.leaves, (reactor.person.id for reactor in event.reactors))
    if (state := event.state) is not None:
        people.update(person.id for person in (*state.members, *state.typing))
    return frozenset(people)


def _read(packet: Packet) -> Naming | None:
    """Read an event. What a newer node has sent that this one cannot read names nobody, as far as it knows."""
    if packet.kind in _SILENT:
        return None
    try:
        return _decode(packet.json)
    except msgspec.MsgspecError:
        return None
