"""Relations: who is a friend, who is followed, muted or blocked.

A block hides two people from each other, wherever they might meet, at once; neither of them is told of it. A mute hides what
somebody says from who muted them, and nothing else.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from protocol.envelope import Person, PersonEvent


class Friendship(StrEnum):
    """How far you two are. `SENT`: you have asked; `RECEIVED`: they have."""

    NONE = "NONE"
    SENT = "SENT"
    RECEIVED = "RECEIVED"
    FRIENDS = "FRIENDS"


class Relation(Struct, omit_defaults=True, kw_only=True):
    """How you stand to somebody. Whom you blocked or muted under a pseudonym is nobody else here: `person` is the pseudonym."""

    person: Person
    friendship: Friendship = Friendship.NONE
    following: bool = False
    muted: bool = False
    blocked: bool = False


class RelationChange(PersonEvent, tag="relation.change", kw_only=True):
    """You stand to somebody like this from now on: they have asked you, have accepted, are no friend any more, or you have
    changed it on another device. It replaces what was told of the same `person` before.
    """

    relation: Relation


Events = RelationChange
