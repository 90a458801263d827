"""What the first message, and those about one's session, may say."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from protocol.client.traffic import HELLO_BYTES
from protocol.codec import JSON
from protocol.envelope import RoomId
from protocol.session import Hello, Ping, Position, Seen
from tests.protocol.wires import read, refused_field

ROOM = str(UUID(int=1))
POSITION = {"room": ROOM, "epoch": "e", "offset": 1}


def hello(**fields: Any) -> dict[str, Any]:
    """Return the fields of a hello."""
    return {"type": "hello", "id": 1, "token": "t", **fields}


def test_tokens() -> None:
    """A token is there, and is no book."""
    for token in ("", "t" * 4097):
        assert refused_field(**hello(token=token)) == "$.token"
        assert refused_field(type="token.refresh", token=token) == "$.token"
    assert refused_field(type="hello", id=1) == "$"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"offset": -1}, "$.resume[0].offset"),
        ({"offset": 2**63}, "$.resume[0].offset"),
        ({"offset": "1"}, "$.resume[0].offset"),
        ({"offset": 1.5}, "$.resume[0].offset"),
        ({"epoch": "e" * 129}, "$.resume[0].epoch"),
        ({"epoch": None}, "$.resume[0].epoch"),
        ({"room": "no room"}, "$.resume[0].room"),
    ],
)
def test_positions(change: dict[str, Any], path: str) -> None:
    """A position is one that there can be; the largest offset is still one."""
    assert refused_field(**hello(resume=[{**POSITION, **change}])).replace("[...]", "[0]") == path  # type: ignore[union-attr] # a path it is
    largest = read(**hello(resume=[{**POSITION, "offset": 2**63 - 1}]))
    assert largest == Hello(id=1, token="t", resume=[Position(room=ROOM, epoch="e", offset=2**63 - 1)])


def test_how_many() -> None:
    """Sixty-four rooms at most are named at once."""
    assert refused_field(**hello(resume=[POSITION] * 65)) == "$.resume"
    assert len(read(**hello(resume=[POSITION] * 64)).resume) == 64
    seen = {"room": ROOM, "offset": 1}
    assert refused_field(type="session.ping", seen=[seen] * 65) == "$.seen"
    assert read(type="session.ping", seen=[seen]) == Ping(seen=[Seen(room=RoomId(UUID(int=1)), offset=1)])


def test_a_hello_with_a_few_dozen_rooms_fits() -> None:
    """A usual token and twenty positions are less than the four kilobytes that a hello may have."""
    position = Position(room=ROOM, epoch="6f0c1d2e3a4b5c6d-1-0123456789ab", offset=2**40)
    assert len(JSON.encode(Hello(token="t" * 600, resume=[position] * 20))) < HELLO_BYTES


def test_ids() -> None:
    """An id is a number that JavaScript can hold exactly."""
    assert read(**hello(id=2**53 - 1)).id == 2**53 - 1
    for number in (2**53, -1, "1", 1.5):
        assert refused_field(**hello(id=number)) == "$.id"
