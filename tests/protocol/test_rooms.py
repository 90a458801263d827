"""What a command about looprooms may say."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from protocol.envelope import Person, RoomId, UserId
from protocol.rooms import ContentKind, JoinRoom, ListRooms, Room
from tests.protocol.wires import read, refused_field


@pytest.mark.parametrize("ref", ["calm", "Calm-2", "a" * 64, "0191d5a0-0000-7000-8000-000000000001"])
def test_rooms_by_slug_or_id(ref: str) -> None:
    """A looproom is named by its slug or its id."""
    assert read(type="room.join", room=ref) == JoinRoom(room=ref)


@pytest.mark.parametrize("ref", ["", "a" * 65, "a b", "a/b", "calm\n", "ä", "..", "%"])
def test_what_is_no_room(ref: str) -> None:
    """Anything else is refused before it reaches a statement."""
    for kind in ("room.join", "room.leave", "room.get"):
        assert refused_field(type=kind, room=ref) == "$.room"


def test_pages() -> None:
    """The catalogue comes in pages of a hundred at most; a category is a slug."""
    assert read(type="room.list") == ListRooms(limit=20)
    for limit in (0, 101):
        assert refused_field(type="room.list", limit=limit) == "$.limit"
    assert refused_field(type="room.list", category="Recovery!") == "$.category"
    assert refused_field(type="room.list", after="calm") == "$.after"


def test_cues() -> None:
    """A cue is a short line."""
    assert read(type="cue.send", room="calm", cue="x" * 200).cue == "x" * 200
    for cue in ("", "x" * 201):
        assert refused_field(type="cue.send", room="calm", cue=cue) == "$.cue"


@pytest.mark.parametrize(
    ("prices", "exclusive"), [({}, False), ({"month_cents": 500}, True), ({"session_cents": 0}, True)]
)
def test_exclusive(prices: Any, exclusive: bool) -> None:
    """A looproom that has a price of its own is exclusive, whichever of the two it is."""
    room = Room(
        id=RoomId(UUID(int=1)),
        slug="calm",
        title="Calm",
        description="",
        category="meditation",
        host=Person(id=UserId(UUID(int=2)), name="Bo"),
        content=ContentKind.AUDIO,
        **prices,
    )
    assert room.exclusive == exclusive
