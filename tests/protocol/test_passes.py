"""Offers and passes on the wire."""

from __future__ import annotations

import msgspec
import pytest

from protocol.codec import JSON
from protocol.passes import OfferRoom, PassChanged
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import Room
from tests.protocol.messages import sample


@pytest.mark.parametrize("cents", [0, -1, 1.5, "100", 100_000_001])
def test_prices_are_whole_cents(cents: object) -> None:
    """Nothing else is a price."""
    wire = {"type": "room.offer", "id": 1, "room": "a", "month_cents": cents}
    with pytest.raises(Refused) as refused:
        JSON.decode_command(msgspec.json.encode(wire))
    assert (refused.value.code, refused.value.path) == (ErrorCode.INVALID, "$.month_cents")
    assert OfferRoom("a", month_cents=100).session_cents is None


def test_a_pass_that_is_gone_has_no_end() -> None:
    """What is not there is not written."""
    event = msgspec.structs.replace(sample(PassChanged), until=None)
    assert "until" not in msgspec.json.decode(JSON.encode(event))


@pytest.mark.parametrize(
    ("month", "session", "exclusive"),
    [(None, None, False), (1, None, True), (None, 1, True), (1, 1, True)],
)
def test_a_price_makes_a_room_exclusive(month: int | None, session: int | None, exclusive: bool) -> None:
    """Either of the two."""
    room = msgspec.structs.replace(sample(Room), month_cents=month, session_cents=session)
    assert room.exclusive is exclusive
