"""Commands as a client may write them, right and wrong, in both encodings."""

from __future__ import annotations

from typing import Any

import msgspec

from protocol.codec import JSON, MSGPACK, Unreadable


def read(**fields: Any) -> Any:
    """Read a command from its fields, as JSON and as MessagePack: the same comes of both."""
    wire = {name.rstrip("_"): value for name, value in fields.items()}
    command = JSON.decode_command(msgspec.json.encode(wire))
    assert command == MSGPACK.decode_command(msgspec.msgpack.encode(wire))
    return command


def refused_field(**fields: Any) -> str | None:
    """Return the path of the field that a command is refused for, the same in both encodings."""
    wire = {name.rstrip("_"): value for name, value in fields.items()}
    paths = []
    for codec, data in ((JSON, msgspec.json.encode(wire)), (MSGPACK, msgspec.msgpack.encode(wire))):
        try:
            codec.decode_command(data)
        except Unreadable as unreadable:
            paths.append(unreadable.path)
        else:
            raise AssertionError(f"{codec.name} takes {wire}")
    assert paths[0] == paths[1]
    return paths[0]
