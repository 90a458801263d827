"""What travels on a Redis channel: records behind a routing header, so that a node never parses what it only passes on.

A publication is the id of the node that sent it (8 bytes) and one or more records. A record is a header and up to four
payloads: the event as JSON and as MessagePack and, where the event replaces an older one in the replay (a line that was
edited or removed), that older event's new form in both encodings.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum

from msgspec import Struct

NODE_ID_BYTES = 8

_HEADER = struct.Struct("!BqqIIII")


class Kind(IntEnum):
    """What a record is, as far as routing needs to know."""

    LINE = 1
    """A durable event that is a chat line: kept for replay and shown in snapshots."""
    DURABLE = 2
    """Any other durable event: kept for replay."""
    PASSING = 3
    """Delivered now or never."""
    CHANGE = 4
    """Something ephemeral that nodes merge into their pulses; for nodes, not for clients."""
    PULSE = 5
    """Made by a node for its own members, never published; the newest state of a room is enough."""
    SESSION = 6
    """A durable event of a person that changes what their sessions may do: nodes read those again."""


class Packet(Struct, gc=False):
    """One encoded event. `offset` is 0 unless it is durable; `of` is the offset of the older event that it replaces, or 0."""

    kind: Kind
    offset: int
    json: bytes
    msgpack: bytes
    of: int = 0
    of_json: bytes = b""
    of_msgpack: bytes = b""


def pack(node: bytes, packets: Iterable[Packet]) -> bytes:
    """Return one publication by `node` (8 bytes)."""
    parts = [node]
    for p in packets:
        sizes = len(p.json), len(p.msgpack), len(p.of_json), len(p.of_msgpack)
        parts += (_HEADER.pack(p.kind, p.offset, p.of, *sizes), p.json, p.msgpack, p.of_json, p.of_msgpack)
    return b"".join(parts)


def sender(publication: bytes) -> bytes:
    """Return the id of the node that sent `publication`."""
    return publication[:NODE_ID_BYTES]


def unpack(publication: bytes) -> Iterator[Packet]:
    """Yield the packets of a publication. Raises `ValueError` when it is cut short or is of an unknown kind."""
    at = NODE_ID_BYTES
    end = len(publication)
    while at < end:
        if at + _HEADER.size > end:
            raise ValueError("a publication ends inside a header")
        kind, offset, of, *sizes = _HEADER.unpack_from(publication, at)
        at += _HEADER.size
        payloads = []
        for size in sizes:
            payloads.append(publication[at : at + size])
            at += size
        if at > end:
            raise ValueError("a publication ends inside a payload")
        json, msgpack, of_json, of_msgpack = payloads
        yield Packet(Kind(kind), offset, json, msgpack, of, of_json, of_msgpack)
