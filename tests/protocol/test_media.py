"""What is told of media."""

from __future__ import annotations

from protocol.codec import JSON
from protocol.envelope import PersonEvent
from protocol.media import AvatarChanged, MediaType, RoomMedia
from server import containers
from server.gateways import pictures
from tests.protocol.messages import sample


def test_a_picture_is_told_to_its_person() -> None:
    """It is durable: whoever was away hears of it; and no picture is told, too."""
    assert issubclass(AvatarChanged, PersonEvent)
    assert JSON.encode(AvatarChanged(person_offset=3)) == b'{"type":"person.avatar","person_offset":3}'


def test_what_a_room_shows_is_told_as_a_whole() -> None:
    """Who hears it needs nothing that was told before."""
    assert set(RoomMedia.__struct_fields__) == {"room", "thumbnail", "content_url", "duration_seconds"}
    told = sample(RoomMedia)
    assert JSON.decode_reply(JSON.encode(told)) == told


def test_what_is_said_to_be_taken_is() -> None:
    """Each media type of the contract has what reads it, and nothing else has."""
    assert {one.value for one in MediaType} == {*pictures.TYPES, *containers.TYPES}
