"""What a command about vybes may say."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from protocol.codec import JSON
from protocol.envelope import Person, UserId, VybeId
from protocol.vybes import MAX_TEXT, ListVybes, PostVybe, Privacy, Vybe, VybeKind, VybePosted
from tests.protocol.wires import read, refused_field

VYBE = str(UUID(int=1))


def post(**fields: Any) -> dict[str, Any]:
    """Return the fields of a vybe that is to be posted."""
    return {
        "type": "vybe.post",
        "id": 1,
        "kind": "MILESTONE",
        "privacy": "PUBLIC",
        "text": "x",
        "key": "k",
        **fields,
    }


def test_text_is_bounded() -> None:
    """A vybe has four thousand characters at most, however it comes to be; that it says something is looked at later."""
    for text in ("", "🧘" * MAX_TEXT):
        assert read(**post(text=text)).text == text
    long = "x" * (MAX_TEXT + 1)
    assert refused_field(**post(text=long)) == "$.text"
    assert refused_field(type="vybe.edit", vybe=VYBE, text=long) == "$.text"
    assert refused_field(type="vybe.share", vybe=VYBE, privacy="PUBLIC", key="k", text=long) == "$.text"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "RANT"),
        ("privacy", "SECRET"),
        ("key", ""),
        ("key", "a b"),
        ("looproom", "no/room"),
        ("text", 7),
    ],
)
def test_what_is_refused(field: str, value: object) -> None:
    """There are five kinds and four ways to share them; what is none of them is refused with its field."""
    assert refused_field(**post(**{field: value})) == f"$.{field}"


def test_nothing_else_can_be_set() -> None:
    """Whose vybe it is, its id and its totals are not read from a client."""
    command = read(**post(author={"id": VYBE}, reactions={"HEART": 9}, posted_at=1, pseudonym=VYBE))
    assert command == PostVybe(id=1, kind=VybeKind.MILESTONE, privacy=Privacy.PUBLIC, text="x", key="k")


def test_pages_are_bounded() -> None:
    """Twenty at a time unless it is said otherwise, fifty at most."""
    author = str(UUID(int=2))
    assert read(type="vybe.list", author=author) == ListVybes(author=UserId(UUID(int=2)))
    for limit in (0, 51):
        assert refused_field(type="vybe.list", author=author, limit=limit) == "$.limit"
        assert refused_field(type="feed.list", limit=limit) == "$.limit"


def test_a_vybe_as_it_travels() -> None:
    """What a vybe does not have is not written."""
    vybe = Vybe(
        id=VybeId(UUID(int=1)),
        author=Person(id=UserId(UUID(int=2)), name="Ada"),
        kind=VybeKind.REFLECTION,
        privacy=Privacy.PRIVATE,
        text="x",
        posted_at=1,
    )
    wire = JSON.encode(VybePosted(id=1, vybe=vybe))
    for absent in (b"shared", b"looproom", b"edited_at", b"reactions", b"mine", b"comments"):
        assert absent not in wire
    assert JSON.decode_reply(wire) == VybePosted(id=1, vybe=vybe)
