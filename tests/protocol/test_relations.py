"""Relations on the wire."""

from __future__ import annotations

import json
from uuid import UUID

from protocol.codec import JSON
from protocol.envelope import Person, UserId
from protocol.relations import Friendship, Relation, RelationChange

ADA = Person(id=UserId(UUID(int=1)), name="Ada")


def test_strangers() -> None:
    """Of somebody who is nothing to one, nothing is said but who they are."""
    wire = json.loads(JSON.encode(RelationChange(relation=Relation(person=ADA), person_offset=3)))
    assert wire == {
        "type": "relation.change",
        "person_offset": 3,
        "relation": {"person": {"id": str(ADA.id), "name": "Ada"}},
    }


def test_a_friend() -> None:
    """What they are is."""
    relation = Relation(person=ADA, friendship=Friendship.FRIENDS, muted=True)
    wire = json.loads(JSON.encode(RelationChange(relation=relation)))
    assert (wire["relation"]["friendship"], wire["relation"]["muted"]) == ("FRIENDS", True)
