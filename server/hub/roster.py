"""Who is in one room, by person: the union of what each node says of its own people.

Several tabs, devices and nodes of one person are one person. A node numbers its changes without gaps, so that one who missed a
change sees it, and reads all that the node has written (where nothing is missing). Applied twice, late or in another order,
the changes of a node lead to the same end, as long as what is asked for is read again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator
from collections.abc import Set as AbstractSet
from typing import Final

from msgspec import Struct

from protocol.envelope import Person, UserId
from protocol.presence import Confidence
from storage.presence import Entry, Shift

HELD: Final = 64
"""Changes kept of a node while what it has written is read again; past that, the oldest go and it is read once more."""

UNREAD: Final = -1
"""The sequence of a node of which nothing is known but that it has somebody here."""


SAME_ORDER_SECONDS: Final = 1.0
"""How long a large room is listed in one order before it is sorted again: sorting 10,000 people takes 5 ms."""

LARGE: Final = 500
"""People above whom that matters."""


class Page(Struct, frozen=True):
    """Some of those who are here, in the order of their ids; `more` says whether others follow."""

    online: int
    members: list[Person]
    more: bool


class _Part:
    """What one other node says."""

    __slots__ = ("entries", "held", "sequence")

    def __init__(self) -> None:
        self.sequence = UNREAD
        self.entries: dict[UserId, Entry] = {}
        self.held: dict[int, Shift] = {}


class Roster:
    """The people of one room, as this node sees them.

    `touch` is called before a person is there, no longer there or renamed, with what they were until then (None if not here).
    """

    def __init__(self, touch: Callable[[UserId, Person | None], None]) -> None:
        self.people: dict[UserId, Person] = {}
        self.own: dict[UserId, Entry] = {}
        self._writing: dict[UserId, float] = {}
        self._touch = touch
        self._parts: dict[bytes, _Part] = {}
        self._levels: dict[UserId, int] = {}
        self._level_sum = 0
        self._sorted: list[Person] = []
        self._sorted_at = float("-inf")

    # What is true now (`server.hub.pulse.View`).

    @property
    def typing(self) -> Iterator[Person]:
        """Everyone here who is writing, in the order in which they began."""
        return (self.people[user] for user in self._writing if user in self.people)

    @property
    def confidence(self) -> Confidence:
        """The mean of the levels of those who have set one."""
        count = len(self._levels)
        return Confidence(mean=round(self._level_sum / count, 2) if count else 0.0, count=count)

    def entry(self, user: UserId) -> Entry | None:
        """Return what counts of a person: of all nodes' entries the one whose level was set last; None if not here."""
        best = self.own.get(user)
        for part in self._parts.values():
            entry = part.entries.get(user)
            if entry is not None and (best is None or _rank(entry) > _rank(best)):
                best = entry
        return best

    def page(self, after: UserId | None, limit: int, now: float) -> Page:
        """Return up to `limit` of those who are here, after the id `after`. A large room may lag by a second."""
        people = self.people
        if len(people) <= LARGE or now - self._sorted_at >= SAME_ORDER_SECONDS:
            self._sorted = sorted(people.values(), key=_number)
            self._sorted_at = now
        start = 0 if after is None else bisect_right(self._sorted, after.int, key=_number)
        members = [person for person in self._sorted[start : start + limit] if person.id in people]
        return Page(len(people), members, more=bool(members) and start + limit < len(self._sorted))

    # This node's own people.

    def put(self, entry: Entry) -> None:
        """Add a person of this node, or change what is known of them."""
        self.own[entry.person.id] = entry
        self._settle(entry.person.id)

    def remove(self, user: UserId) -> None:
        """Remove a person of this node."""
        del self.own[user]
        self._settle(user)

    # Other nodes' people.

    @property
    def nodes(self) -> AbstractSet[bytes]:
        """The other nodes that have somebody here, as far as is known."""
        return self._parts.keys()

    def sequence(self, node: bytes) -> int:
        """Return up to where the changes of a node are known; `UNREAD` for one of which nothing is."""
        part = self._parts.get(node)
        return UNREAD if part is None else part.sequence

    def expect(self, node: bytes) -> None:
        """Note that a node has somebody here, of whom nothing is known yet."""
        self._parts.setdefault(node, _Part())

    def apply(self, shift: Shift) -> bool:
        """Take a change by another node. False when something is missing before it: read what the node has written."""
        part = self._parts.setdefault(shift.node, _Part())
        if shift.sequence <= part.sequence:
            return True
        part.held[shift.sequence] = shift
        if len(part.held) > HELD:
            del part.held[min(part.held)]
        return self._catch_up(part)

    def replace(self, node: bytes, sequence: int, entries: Collection[Entry]) -> bool:
        """Take all that a node has written. False when a change that came meanwhile shows that it must be read again."""
        part = self._parts.setdefault(node, _Part())
        if sequence >= part.sequence:
            before = part.entries
            part.sequence = sequence
            part.entries = {entry.person.id: entry for entry in entries}
            for user in before.keys() | part.entries.keys():
                if before.get(user) != part.entries.get(user):
                    self._settle(user)
        return self._catch_up(part)

    def drop(self, node: bytes) -> None:
        """Forget a node and whomever only it has."""
        part = self._parts.pop(node, None)
        if part is not None:
            for user in part.entries:
                self._settle(user)

    def _catch_up(self, part: _Part) -> bool:
        """Apply what is held and follows without a gap; say whether nothing is left."""
        if part.sequence != UNREAD:
            while (shift := part.held.pop(part.sequence + 1, None)) is not None:
                part.sequence = shift.sequence
                for user in shift.gone:
                    if part.entries.pop(user, None) is not None:
                        self._settle(user)
                for entry in shift.entries:
                    part.entries[entry.person.id] = entry
                    self._settle(entry.person.id)
            part.held = {number: shift for number, shift in part.held.items() if number > part.sequence}
            return not part.held
        return False

    # Who is writing.

    def start_writing(self, user: UserId, until: float) -> None:
        """Note that a person writes; forgotten at `until` unless noted again."""
        self._writing[user] = until

    def stop_writing(self, user: UserId) -> None:
        """Note that a person writes no longer."""
        self._writing.pop(user, None)

    @property
    def writes(self) -> bool:
        """Whether anyone writes."""
        return bool(self._writing)

    def forget_writing(self, now: float) -> bool:
        """Forget those whose time is over at `now`; say whether there was one."""
        over = [user for user, until in self._writing.items() if until <= now]
        for user in over:
            del self._writing[user]
        return bool(over)

    def _settle(self, user: UserId) -> None:
        """Make the union right for one person, after something about them has changed."""
        entry = self.entry(user)
        before = self.people.get(user)
        if entry is None:
            self._touch(user, before)
            self.people.pop(user, None)
            self._writing.pop(user, None)
        elif entry.person != before:
            self._touch(user, before)
            self.people[user] = entry.person
        level = 0 if entry is None else entry.level
        self._level_sum += level - self._levels.get(user, 0)
        if level:
            self._levels[user] = level
        else:
            self._levels.pop(user, None)


def _number(person: Person) -> int:
    return person.id.int


def _rank(entry: Entry) -> tuple[int, int, str, str]:
    """Order the entries of one person the same way on every node."""
    return entry.level_at, entry.level, entry.person.name, entry.person.avatar or ""
