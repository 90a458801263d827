"""Reactions: eight kinds, all positive; one of each kind per person and target, whatever is sent."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from msgspec import Struct

from protocol.envelope import Answer, Command, Person


class Reaction(StrEnum):
    """There is no negative one."""

    HEART = "HEART"
    CLAP = "CLAP"
    FIRE = "FIRE"
    PEACE = "PEACE"
    INSPIRE = "INSPIRE"
    STRENGTH = "STRENGTH"
    GRATITUDE = "GRATITUDE"
    MINDFUL = "MINDFUL"


class TargetKind(StrEnum):
    """What can be reacted to."""

    LOOPROOM = "looproom"
    VYBE = "vybe"
    COMMENT = "comment"


class Target(Struct, frozen=True, kw_only=True):
    """What is reacted to."""

    kind: TargetKind
    id: UUID


class Tally(Struct, kw_only=True):
    """How many of a kind were added since the last pulse (may be negative), and how many there are now."""

    added: int
    total: int


class Reactor(Struct, kw_only=True):
    """One of those who reacted."""

    person: Person
    reaction: Reaction


class ReactionAdded(Answer, tag="reaction.added"):
    """Committed. `added` is false when it was there already; `counts` are the target's totals by kind."""

    added: bool
    counts: dict[Reaction, int]


class AddReaction(Command[ReactionAdded], tag="reaction.add"):
    """React to a looproom that you are in, a vybe or a comment."""

    target: Target
    reaction: Reaction


class ReactionRemoved(Answer, tag="reaction.removed"):
    """Committed. `removed` is false when there was none; `counts` are the target's totals by kind."""

    removed: bool
    counts: dict[Reaction, int]


class RemoveReaction(Command[ReactionRemoved], tag="reaction.remove"):
    """Take your reaction back."""

    target: Target
    reaction: Reaction


Commands = AddReaction | RemoveReaction
Answers = ReactionAdded | ReactionRemoved
