"""What is ephemeral in one room: the difference between what its members were told and what is true.

While busy, gather: whatever changes between two pulses is merged, so a pulse costs the same however much happened. A join
and a leave of one person cancel; a counter that came back to where it was is not mentioned. A quiet room pulses at once, a
busy one every `interval` seconds at most, and a room that nobody touches has no timer.

A newcomer is handed the present state before the others are told of it. From that moment members know different things,
so whatever differed then is told anew by the next pulse, even if it is by then what the others knew all along.

A small room is told exact joins and leaves. A large one is told how many are online; it is large above `small_room` and small
again a tenth below it, so that a room at the limit does not change its shape all the time. Each change of shape comes with
a whole state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final, Protocol

from protocol.envelope import Person, RoomId, UserId
from protocol.presence import Confidence, RoomPulse, RoomState
from protocol.reactions import Reaction, Reactor, Tally

SAMPLE: Final = 50
"""Members named in the state of a large room: what a screen shows."""

NAMED: Final = 5
"""Reactors and writers named in one pulse: what a line of text holds."""


class View(Protocol):
    """What is true of a room now."""

    @property
    def people(self) -> Mapping[UserId, Person]:
        """Everyone who is here."""

    @property
    def typing(self) -> Iterable[Person]:
        """Everyone here who is writing, those who began first at the front."""

    @property
    def confidence(self) -> Confidence:
        """The confidence meter."""


class Total:
    """How many reactions of one kind there are, as of which revision, and what members were told."""

    __slots__ = ("mixed", "now", "revision", "told")

    def __init__(self, told: int) -> None:
        self.told = told
        self.now = told
        self.revision = -1
        self.mixed = False


class Pulse:
    """The pulse of one room. `interval` is in seconds; `small_room` is the most people of a small room.

    The caller says what changes, asks `earliest` when a pulse may go, and calls `take` then.
    """

    def __init__(self, room: RoomId, view: View, *, small_room: int, interval: float) -> None:
        self.room = room
        self.large = False
        self._view = view
        self._small_room = small_room
        self._interval = interval
        self._pulsed_at = float("-inf")
        self._reshaped = False
        self._touched: dict[UserId, Person | None] = {}
        self._mixed: set[UserId] = set()
        self._online: int | None = 0  # what was told last; None when members do not all know the same
        self._typing: list[Person] | None = []
        self._confidence: Confidence | None = Confidence(mean=0.0, count=0)
        self._totals: dict[Reaction, Total] = {}
        self._counted = False
        self._reactors: deque[Reactor] = deque(maxlen=NAMED)

    def touch(self, user: UserId, before: Person | None) -> None:
        """Note that a person came, went or was renamed; `before` is what they were until now, None if not here."""
        if not self.large and user not in self._mixed:
            self._touched.setdefault(user, before)

    def reacted(self, kind: Reaction, *, added: int, total: int, revision: int) -> None:
        """Note a commit of reactions: `added` of a kind (may be negative), and the `total` as of `revision`.

        Commits may come late or in any order: the total of the highest revision counts.
        """
        self._count(kind, total, revision, unheard=total - added)

    def counted(self, totals: Mapping[Reaction, tuple[int, int]]) -> None:
        """Note all totals, each with its revision, as they were read from where they are kept."""
        for kind, (total, revision) in totals.items():
            self._count(kind, total, revision, unheard=total)
        self._counted = True

    def _count(self, kind: Reaction, total: int, revision: int, *, unheard: int) -> None:
        known = self._totals.get(kind)
        if (
            known is None
        ):  # there were none; or, if the totals were never read, `unheard` that members must learn of
            known = self._totals[kind] = Total(0 if self._counted else unheard)
            known.mixed = not self._counted
        if revision > known.revision:
            known.now = total
            known.revision = revision

    def reactor(self, reactor: Reactor) -> None:
        """Name one who reacted; only the newest few are kept."""
        if reactor not in self._reactors:
            self._reactors.append(reactor)

    def unreactor(self, reactor: Reactor) -> None:
        """Name one no longer, because the reaction was taken back."""
        if reactor in self._reactors:
            self._reactors.remove(reactor)

    def settle(self) -> None:
        """Take for told what is true now. For a room in which nobody was told anything yet."""
        self.large = len(self._view.people) > self._small_room
        self._tell_all(pulsed_at=self._pulsed_at)

    def earliest(self, now: float) -> float:
        """Return when the next pulse may go: `now`, or later when the last one was just before."""
        return max(now, self._pulsed_at + self._interval)

    def totals(self) -> dict[Reaction, int]:
        """Return how many reactions there are by kind."""
        return {kind: total.now for kind, total in self._totals.items()}

    def state(self) -> RoomState:
        """Return what a newcomer is to know. The caller makes sure that every later pulse reaches them."""
        people = self._view.people
        if not self.large and len(people) > self._small_room:
            self._reshape(large=True)
        self._mixed.update(self._touched)
        self._touched.clear()
        if self._online != len(people):
            self._online = None
        if self._typing != self._writing():
            self._typing = None
        if self._confidence != self._view.confidence:
            self._confidence = None
        for total in self._totals.values():
            total.mixed |= total.told != total.now
        return self._state()

    def take(self, now: float) -> RoomPulse | None:
        """Return the pulse to send at `now`; None when there is nothing to tell."""
        people = self._view.people
        if not self.large and len(people) > self._small_room:
            self._reshape(large=True)
        elif self.large and len(people) <= self._small_room - self._small_room // 10:
            self._reshape(large=False)
        pulse = RoomPulse(room=self.room, reactions=self._tallies(), reactors=list(self._reactors))
        if self._reshaped:
            pulse.state = self._state()
        else:
            if self._online != len(people):
                pulse.online = len(people)
            if self._typing != (writing := self._writing()):
                pulse.typing = writing
            if self._confidence != self._view.confidence:
                pulse.confidence = self._view.confidence
            if not self.large:
                pulse.joins, pulse.leaves = self._moves()
            if pulse == RoomPulse(room=self.room):
                self._touched.clear()
                return None
        self._tell_all(pulsed_at=now)
        return pulse

    def _reshape(self, *, large: bool) -> None:
        self.large = large
        self._reshaped = True

    def _writing(self) -> list[Person]:
        return list(islice(self._view.typing, NAMED))

    def _tallies(self) -> dict[Reaction, Tally]:
        return {
            kind: Tally(added=total.now - total.told, total=total.now)
            for kind, total in self._totals.items()
            if total.mixed or total.now != total.told
        }

    def _moves(self) -> tuple[list[Person], list[UserId]]:
        people = self._view.people
        joins = []
        leaves = []
        for user, before in self._touched.items():
            person = people.get(user)
            if person is None and before is not None:
                leaves.append(user)
            elif person is not None and person != before:
                joins.append(person)
        for user in self._mixed:
            person = people.get(user)
            if person is None:
                leaves.append(user)
            else:
                joins.append(person)
        return joins, leaves

    def _state(self) -> RoomState:
        people = self._view.people
        return RoomState(
            online=len(people),
            members=list(islice(people.values(), SAMPLE)) if self.large else list(people.values()),
            complete=not self.large,
            reactions=self.totals(),
            confidence=self._view.confidence,
            typing=self._writing(),
        )

    def _tell_all(self, *, pulsed_at: float) -> None:
        self._pulsed_at = pulsed_at
        self._reshaped = False
        self._touched.clear()
        self._mixed.clear()
        self._reactors.clear()
        self._online = len(self._view.people)
        self._typing = self._writing()
        self._confidence = self._view.confidence
        for total in self._totals.values():
            total.told = total.now
            total.mixed = False
