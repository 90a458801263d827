"""The contract as a whole: samples that must be understood for ever, and the schema that clients are generated from.

`tests/wire/v1.json` has one sample of each message as it was when it was first released. A message that is not in it yet is
recorded by the run that finds it missing, and the run fails once: look at the new sample in the diff, and commit it.
"""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from protocol import (
    chat,
    comments,
    feed,
    media,
    moderation,
    notifications,
    passes,
    people,
    presence,
    reactions,
    relations,
    rooms,
    session,
    subscriptions,
    vybes,
)
from protocol.codec import JSON, MSGPACK
from protocol.contract import (
    ANSWERS,
    COMMANDS,
    EVENTS,
    JSON_SUBPROTOCOL,
    MSGPACK_SUBPROTOCOL,
    AnyReply,
    json_schema,
    tag_of,
)
from protocol.envelope import Error
from tests.protocol.messages import sample

WIRE = Path(__file__).parent / "wire" / "v1.json"
RECORDED: dict[str, dict[str, Any]] = json.loads(WIRE.read_text()) if WIRE.exists() else {}
DIRECTIONS = {"commands": COMMANDS, "replies": (*ANSWERS, *EVENTS)}
DOMAINS = (
    session,
    rooms,
    presence,
    chat,
    reactions,
    subscriptions,
    passes,
    moderation,
    notifications,
    people,
    relations,
    media,
    vybes,
    comments,
    feed,
)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_message_is_recorded(direction: str) -> None:
    """A new message has its sample from the first release on."""
    recorded = RECORDED.setdefault(direction, {})
    missing = [message for message in DIRECTIONS[direction] if tag_of(message) not in recorded]
    for message in missing:
        recorded[tag_of(message)] = json.loads(JSON.encode(sample(message)))
    if missing:
        WIRE.parent.mkdir(exist_ok=True)
        WIRE.write_text(json.dumps(RECORDED, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    assert missing == [], "recorded now: look at the difference in tests/wire, and run again"


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_every_recorded_message_is_understood(direction: str) -> None:
    """What was ever written is still read, in both encodings, and no word of it is lost."""
    for tag, wire in RECORDED[direction].items():
        for codec, data in ((JSON, msgspec.json.encode(wire)), (MSGPACK, msgspec.msgpack.encode(wire))):
            message: Any = codec.decode_command(data) if direction == "commands" else codec.decode_reply(data)
            assert tag_of(type(message)) == tag
            assert json.loads(JSON.encode(message)) == wire


def test_every_domain_is_part_of_it() -> None:
    """What a domain's module lists is in the contract, and nothing else is, but for `Error`."""
    listed = {
        message for domain in DOMAINS for name in ("Commands", "Answers") for message in _listed(domain, name)
    }
    events = {message for domain in DOMAINS for message in _listed(domain, "Events")}
    assert {*COMMANDS, *ANSWERS} - {Error} == listed
    assert set(EVENTS) == events
    assert set(get_args(AnyReply)) == {*ANSWERS, *EVENTS}


def test_every_durable_event_has_a_replay_test() -> None:
    """A client that follows a room's durable events knows what a newcomer is shown: for each type there is a test of it."""
    durable = {event.__name__ for event in EVENTS if {"room", "offset"} <= set(event.__struct_fields__)}
    tested = {
        call.args[0].id
        for file in Path(__file__).parent.rglob("test_*.py")
        for call in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "assert_replay_reaches"
        and isinstance(call.args[0], ast.Name)
    }
    assert durable - tested == set(), "write a test with tests.replay.assert_replay_reaches"


def test_subprotocols_name_the_version() -> None:
    """A client that asks for another version is not answered by this one."""
    assert (JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL) == ("looprooms.v1+json", "looprooms.v1+msgpack")
    assert (JSON.name, MSGPACK.name) == (JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL)


def test_the_schema_is_whole() -> None:
    """Every message is in the JSON Schema with its type as a constant, and every reference leads somewhere."""
    schema = json_schema()
    definitions = schema["$defs"]
    for message in (*COMMANDS, *ANSWERS, *EVENTS):
        definition = definitions[message.__name__]
        assert definition["properties"]["type"] == {"enum": [tag_of(message)]}
        assert definition["description"]
    references = re.findall(r'"\$ref": "#/\$defs/([^"]+)"', json.dumps(schema))
    assert set(references) <= set(definitions)
    json.dumps(schema)


def _listed(domain: Any, name: str) -> tuple[type[msgspec.Struct], ...]:
    union = getattr(domain, name, None)
    return () if union is None else get_args(union) or (union,)
