"""What a command about presence may say, and what a pulse leaves out."""

from __future__ import annotations

from uuid import UUID

import pytest

from protocol.codec import JSON
from protocol.envelope import RoomId
from protocol.presence import RoomPulse, SetConfidence
from tests.protocol.wires import read, refused_field


@pytest.mark.parametrize("level", [0, 11, -1, 5.5, "5", None])
def test_levels(level: object) -> None:
    """The confidence meter goes from 1 to 10, in whole steps."""
    assert refused_field(type="confidence.set", room="calm", level=level) == "$.level"
    for right in (1, 10):
        assert read(type="confidence.set", room="calm", level=right) == SetConfidence(
            room="calm", level=right
        )


def test_pages() -> None:
    """Who is here comes in pages of two hundred at most."""
    assert read(type="presence.list", room="calm").limit == 100
    for limit in (0, 201):
        assert refused_field(type="presence.list", room="calm", limit=limit) == "$.limit"


def test_typing_is_said() -> None:
    """Whether one writes or not has to be said."""
    assert refused_field(type="typing.set", room="calm") == "$"
    assert refused_field(type="typing.set", room="calm", typing="yes") == "$.typing"


def test_a_pulse_says_only_what_changed() -> None:
    """What did not change is not written; a typing list that is empty now is."""
    room = RoomId(UUID(int=1))
    assert (
        JSON.encode(RoomPulse(room=room, online=3))
        == b'{"type":"room.pulse","room":"%s","online":3}' % str(room).encode()
    )
    assert b'"typing":[]' in JSON.encode(RoomPulse(room=room, typing=[]))
