"""Presence: who is here, who is writing, how confident the room feels, and the pulse that carries what is ephemeral.

Nothing here is ever replayed. The state is in the snapshot that a join returns; every change comes in a `RoomPulse`.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from protocol.envelope import Answer, Command, Event, Person, RoomId, RoomRef, UserId
from protocol.reactions import Reaction, Reactor, Tally

Level = Annotated[int, Meta(ge=1, le=10)]
"""How confident a person feels, 1 to 10."""


class Confidence(Struct, kw_only=True):
    """The confidence meter: the mean of the levels of the `count` people here who have set one. No people, mean 0."""

    mean: float
    count: int


class RoomState(Struct, omit_defaults=True, kw_only=True):
    """Everything ephemeral of a room at one moment.

    `online` counts people, not connections. `members` is everyone in a small room and a sample in a large one
    (`complete` says which). `reactions` has the totals of the kinds that were ever given.
    """

    online: int
    members: list[Person]
    complete: bool = True
    reactions: dict[Reaction, int] = {}
    confidence: Confidence
    typing: list[Person] = []


class RoomPulse(Event, tag="room.pulse"):
    """All that changed in a room since the last pulse, and nothing else.

    `online`, `typing` and `confidence` replace what was known. `joins` and `leaves` are exact in a small room and left
    out in a large one; they may name someone whom your snapshot already has or no longer has, or who has a new name.
    `reactions` has how many of a kind were added (may be negative) and the new total, which is what counts; `reactors` are
    a few of those who reacted. `state`, when present, replaces everything that was known: it is sent when a room becomes
    large or small, and after frames were shed.
    """

    room: RoomId
    online: int | None = None
    joins: list[Person] = []
    leaves: list[UserId] = []
    typing: list[Person] | None = None
    confidence: Confidence | None = None
    reactions: dict[Reaction, Tally] = {}
    reactors: list[Reactor] = []
    state: RoomState | None = None


class PresenceListed(Answer, tag="presence.listed"):
    """One page of who is here, by id; `next` is the `after` of the following one, absent on the last."""

    online: int
    members: list[Person]
    next: UserId | None = None


class ListPresence(Command[PresenceListed], tag="presence.list"):
    """Who is in a room that you are in."""

    room: RoomRef
    after: UserId | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 100


class TypingNoted(Answer, tag="typing.noted"):
    """Noted."""


class SetTyping(Command[TypingNoted], tag="typing.set"):
    """You are writing, or no longer. Forgotten by itself after 6 s, so send it again every 3 s while writing."""

    room: RoomRef
    typing: bool


class ConfidenceNoted(Answer, tag="confidence.noted"):
    """Noted; `confidence` is the room's, with yours in it."""

    confidence: Confidence


class SetConfidence(Command[ConfidenceNoted], tag="confidence.set"):
    """Move your level on the room's confidence meter. It counts while you are in the room."""

    room: RoomRef
    level: Level


Commands = ListPresence | SetTyping | SetConfidence
Answers = PresenceListed | TypingNoted | ConfidenceNoted
Events = RoomPulse
