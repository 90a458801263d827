"""What a chat command may say."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from protocol.chat import MAX_TEXT, ChatLine, Line, RecallChat, SendChat
from protocol.codec import JSON
from protocol.envelope import LineId, Person, RoomId, UserId
from tests.protocol.wires import read, refused_field

LINE = str(UUID(int=1))


def send(**fields: Any) -> dict[str, Any]:
    """Return the fields of a line that is to be said."""
    return {"type": "chat.send", "id": 1, "room": "calm", "text": "hello", "key": "k", **fields}


def test_text_is_bounded() -> None:
    """A line has two thousand characters at most, of whatever size; that it says something is looked at later."""
    for text in ("", "x" * MAX_TEXT, "🧘" * MAX_TEXT):
        assert read(**send(text=text)).text == text
    assert refused_field(**send(text="x" * (MAX_TEXT + 1))) == "$.text"
    assert refused_field(type="chat.edit", room="calm", line=LINE, text="x" * (MAX_TEXT + 1)) == "$.text"


@pytest.mark.parametrize("key", ["", "a" * 65, "a b", "a\n", "é", "\x7f"])
def test_keys(key: str) -> None:
    """A key is 1 to 64 visible ASCII characters; anything else would be two keys to somebody."""
    assert refused_field(**send(key=key)) == "$.key"


def test_a_key_is_needed() -> None:
    """What creates something says which thing it creates."""
    without = send()
    del without["key"]
    assert refused_field(**without) == "$"
    assert read(**send(key="!~" * 32)).key == "!~" * 32


def test_history_is_asked_for_in_pieces() -> None:
    """Fifty lines unless it is said otherwise, two hundred at most, before an offset that there can be."""
    assert read(type="chat.history", room="calm") == RecallChat(room="calm", limit=50)
    for limit in (0, 201, -1):
        assert refused_field(type="chat.history", room="calm", limit=limit) == "$.limit"
    assert refused_field(type="chat.history", room="calm", before=-1) == "$.before"


def test_a_line_as_it_travels() -> None:
    """What a line does not have is not written: most lines were never edited."""
    line = Line(
        id=LineId(UUID(int=1)),
        offset=7,
        author=Person(id=UserId(UUID(int=2)), name="Ada"),
        text="hello",
        sent_at=1,
    )
    wire = JSON.encode(ChatLine(RoomId(UUID(int=3)), 7, line))
    assert b"edited_at" not in wire
    assert b"removed" not in wire
    assert b"avatar" not in wire
    assert JSON.decode_reply(wire) == ChatLine(RoomId(UUID(int=3)), 7, line)


def test_no_author_can_be_set() -> None:
    """Who says something is known from the session: what a client says of it is not even read."""
    assert read(**send(author={"id": LINE, "name": "somebody else"}, offset=9)) == SendChat(
        id=1, room="calm", text="hello", key="k"
    )
