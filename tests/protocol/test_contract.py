"""What every command has in common: its bounds hold, and what a newer client adds does no harm."""

from __future__ import annotations

from typing import Any

import msgspec
import msgspec.inspect as mi
import pytest
from msgspec import Struct

from protocol.codec import JSON
from protocol.contract import ANSWERS, COMMANDS, EVENTS, json_schema, tag_of
from protocol.envelope import Answer, Command, Event
from tests.protocol.messages import sample
from tests.protocol.wires import read, refused_field


def wire_of(message: type[Struct]) -> dict[str, Any]:
    """Return the fields of a command as they travel."""
    fields: dict[str, Any] = msgspec.json.decode(JSON.encode(sample(message)))
    return fields


def past(kind: mi.Type, right: Any) -> list[Any]:
    """Return values just past the bounds of a field; `right` is one within."""
    match kind:
        case mi.Metadata(type=described):
            return past(described, right)
        case mi.UnionType(types=types):
            return [value for one in types for value in past(one, right)]
        case mi.StrType(min_length=least, max_length=most):
            return [*(["x" * (most + 1)] if most else []), *([""] if least else [])]
        case mi.IntType(ge=least, le=most):
            return [*([least - 1] if least is not None else []), *([most + 1] if most is not None else [])]
        case mi.ListType(max_length=int(most)):
            return [[*right * (most + 1)]]
        case _:
            return []


BOUNDED = [
    pytest.param(command, field.encode_name, value, id=f"{tag_of(command)}.{field.encode_name}-{number}")
    for command in COMMANDS
    for field in mi.type_info(command).fields  # type: ignore[attr-defined] # a struct's
    for number, value in enumerate(past(field.type, wire_of(command)[field.encode_name]))
]


@pytest.mark.parametrize(("command", "field", "value"), BOUNDED)
def test_bounds(command: type[Struct], field: str, value: Any) -> None:
    """A value just past the bound of a field is refused, and the field is named."""
    path = refused_field(**{**wire_of(command), field: value})
    assert path is not None
    assert path.startswith(f"$.{field}")


@pytest.mark.parametrize("command", COMMANDS, ids=tag_of)
def test_a_newer_client(command: type[Struct]) -> None:
    """A field that this version does not know is passed over."""
    wire = wire_of(command)
    assert read(**wire, sparkle={"new": [1]}) == read(**wire)


@pytest.mark.parametrize("command", COMMANDS, ids=tag_of)
def test_names(command: type[Struct]) -> None:
    """A command is named as its domain and what is done, in lower case, or as one of the two words of the beginning."""
    domain, _, verb = tag_of(command).partition(".")
    assert domain.isalpha()
    assert domain.islower()
    assert verb.replace("_", "").isalpha() or tag_of(command) == "hello"


def test_three_shapes() -> None:
    """Every message is a command, an answer or an event, and no two have one name."""
    for shape, messages in ((Command, COMMANDS), (Answer, ANSWERS), (Event, EVENTS)):
        assert all(issubclass(message, shape) or tag_of(message) == "error" for message in messages)
    tags = [tag_of(message) for message in (*COMMANDS, *ANSWERS, *EVENTS)]
    assert len(tags) == len(set(tags))


def test_schema() -> None:
    """The schema says what it is a schema of, and knows the bounds."""
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$defs"]["SendChat"]["properties"]["text"] == {"type": "string", "maxLength": 2000}
