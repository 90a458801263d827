"""The whole contract in one place: every message of every domain, and the names of the subprotocols."""

from __future__ import annotations

from typing import Any, Union, get_args

import msgspec

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
from protocol.envelope import Answer, Command, Error, Event

JSON_SUBPROTOCOL = "looprooms.v1+json"
MSGPACK_SUBPROTOCOL = "looprooms.v1+msgpack"

AnyCommand = Union[  # noqa: UP007
    session.Commands,
    rooms.Commands,
    presence.Commands,
    chat.Commands,
    reactions.Commands,
    subscriptions.Commands,
    passes.Commands,
    moderation.Commands,
    notifications.Commands,
    people.Commands,
    relations.Commands,
    vybes.Commands,
    comments.Commands,
    feed.Commands,
]
AnyAnswer = Union[  # noqa: UP007
    session.Answers,
    rooms.Answers,
    presence.Answers,
    chat.Answers,
    reactions.Answers,
    subscriptions.Answers,
    passes.Answers,
    moderation.Answers,
    notifications.Answers,
    people.Answers,
    relations.Answers,
    vybes.Answers,
    comments.Answers,
    feed.Answers,
    Error,
]
AnyEvent = Union[  # noqa: UP007
    session.Events,
    rooms.Events,
    presence.Events,
    chat.Events,
    subscriptions.Events,
    passes.Events,
    moderation.Events,
    notifications.Events,
    people.Events,
    relations.Events,
    media.Events,
    vybes.Events,
    comments.Events,
    feed.Events,
]
AnyReply = Union[AnyAnswer, AnyEvent]  # noqa: UP007

COMMANDS: tuple[type[Command[Any]], ...] = get_args(AnyCommand)
ANSWERS: tuple[type[Answer], ...] = get_args(AnyAnswer)
EVENTS: tuple[type[Event], ...] = get_args(AnyEvent)


def tag_of(message: type[msgspec.Struct]) -> str:
    """Return the ``type`` of a message class on the wire, such as ``chat.send``."""
    return str(message.__struct_config__.tag)


def json_schema() -> dict[str, Any]:
    """Return one JSON Schema (2020-12) with every message under ``$defs``; clients generate their types from it."""
    _, components = msgspec.json.schema_components(
        (AnyCommand, AnyAnswer, AnyEvent), ref_template="#/$defs/{name}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "VYBE LOOPROOMS, version 1",
        "$defs": components,
    }
