"""What every message is made of, and how messages may grow."""

from __future__ import annotations

import re

import msgspec
import pytest

from protocol.contract import ANSWERS, COMMANDS, EVENTS, tag_of
from protocol.envelope import Answer, Command, Error, Event
from tests.protocol.messages import MESSAGES

EVERY = pytest.mark.parametrize("message", MESSAGES, ids=tag_of)


@EVERY
def test_names(message: type[msgspec.Struct]) -> None:
    """A message is named domain.word; only what opens a session and what refuses are single words."""
    assert re.fullmatch(r"[a-z]+\.[a-z]+|hello|welcome|error", tag_of(message))
    assert message.__struct_config__.tag_field == "type"


@EVERY
def test_every_message_says_what_it_is(message: type[msgspec.Struct]) -> None:
    """The documents are made of docstrings, so none may be missing."""
    assert message.__doc__
    assert message.__doc__.strip().endswith((".", "?"))


def test_shapes() -> None:
    """Commands and answers carry an id, events never do; an error may not know which command it is about."""
    for message in MESSAGES:
        assert ("id" in message.__struct_fields__) == (message not in EVENTS)
        assert [issubclass(message, shape) for shape in (Command, Answer, Event)] == [
            message in COMMANDS,
            message in ANSWERS and tag_of(message) != "error",
            message in EVENTS,
        ]


def test_each_has_its_name() -> None:
    """No two messages of one direction share a name."""
    for direction in (COMMANDS, (*ANSWERS, *EVENTS)):
        assert len({tag_of(message) for message in direction}) == len(direction)


@EVERY
def test_unknown_fields_are_ignored(message: type[msgspec.Struct]) -> None:
    """A reader of today takes what a writer of tomorrow adds."""
    assert not message.__struct_config__.forbid_unknown_fields


def test_defaults_are_not_written() -> None:
    """A field that holds its default costs nothing on the wire."""
    assert (
        msgspec.json.encode(Error(code="busy", message="Wait."))
        == b'{"type":"error","code":"busy","message":"Wait."}'
    )
