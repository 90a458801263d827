"""What a command about comments may say."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from protocol.comments import MAX_TEXT, AddComment, ListComments
from protocol.envelope import VybeId
from tests.protocol.wires import read, refused_field

VYBE = str(UUID(int=1))


def add(**fields: Any) -> dict[str, Any]:
    """Return the fields of a comment that is to be added."""
    return {"type": "comment.add", "id": 1, "vybe": VYBE, "text": "x", "key": "k", **fields}


def test_text_is_bounded() -> None:
    """A comment has a thousand characters at most."""
    assert read(**add(text="🧘" * MAX_TEXT)).text == "🧘" * MAX_TEXT
    assert refused_field(**add(text="x" * (MAX_TEXT + 1))) == "$.text"
    assert refused_field(type="comment.edit", comment=VYBE, text="x" * (MAX_TEXT + 1)) == "$.text"


def test_what_is_refused() -> None:
    """A vybe is named by its id, and each comment has its key."""
    for field, value in (("vybe", "calm"), ("key", "\n"), ("key", "é")):
        assert refused_field(**add(**{field: value})) == f"$.{field}"


def test_nothing_else_can_be_set() -> None:
    """Who says it, and where it stands, are not read from a client."""
    command = read(**add(author={"id": VYBE}, offset=9, comment=VYBE))
    assert command == AddComment(id=1, vybe=VybeId(UUID(int=1)), text="x", key="k")


def test_pages_are_bounded() -> None:
    """Fifty at a time unless it is said otherwise, a hundred at most, before an offset that there can be."""
    assert read(type="comment.list", vybe=VYBE) == ListComments(vybe=VybeId(UUID(int=1)), limit=50)
    for limit in (0, 101):
        assert refused_field(type="comment.list", vybe=VYBE, limit=limit) == "$.limit"
    assert refused_field(type="comment.list", vybe=VYBE, before=-1) == "$.before"
