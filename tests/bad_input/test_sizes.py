"""Too much at once: ten megabytes of text in every shape, and as much as fits into each field that takes text."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Iterator
from typing import Any

import msgspec
import msgspec.inspect as mi
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from protocol.contract import COMMANDS, JSON_SUBPROTOCOL, tag_of
from protocol.refusals import ErrorCode
from protocol.session import Hello
from tests.nodes.raw import Message
from tests.protocol.messages import sample
from tests.standing import Room, Standing
from tests.visitors import bystander, visit

MESSAGE_BYTES = 65536
"""The largest message of a client."""
FILLERS = {
    "letters": "x",
    "marks": "\u0301",
    "overrides": "\u202e",
    "emoji": "\U0001f9d8",
    "controls": "\x07",
    "quotes": '"',
    "braces": "{",
}


async def test_ten_megabytes_in_a_frame(nodes: Standing, room: Room) -> None:
    """It is cut off at its header: close code 1009, and nothing of it is kept."""
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor", room.id)
        visitor.connection.send(
            {"type": "chat.send", "id": 5, "room": room.slug, "key": "k", "text": "x" * 10_000_000}
        )
        assert (await visitor.connection.gone).code == 1009
    assert (
        await nodes.pool.fetchval("select max(length(text)) from chat_lines where room_id = $1", room.id)
        < 100
    )


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_ten_megabytes_in_fragments(nodes: Standing, room: Room, compression: str | None) -> None:
    """Neither fragments nor compression carry more than a message may have."""
    text = "x" * 10_000_000
    async with (
        bystander(nodes.north, room.id),
        connect(
            nodes.north.url, subprotocols=[Subprotocol(JSON_SUBPROTOCOL)], compression=compression
        ) as socket,
    ):
        token = await nodes.north.token("visitor")
        await socket.send(msgspec.json.encode({"type": "hello", "id": 1, "token": token}).decode())
        await socket.recv()
        with contextlib.suppress(ConnectionClosed):
            await socket.send(text[start : start + 60_000] for start in range(0, len(text), 60_000))
        await socket.wait_closed()
        assert socket.close_code == 1009


async def test_a_bomb(nodes: Standing, room: Room) -> None:
    """A frame of some kilobytes that inflates to ten megabytes is cut off while it inflates."""
    deflate = zlib.compressobj(wbits=-15)
    bomb = deflate.compress(b"x" * 10_000_000) + deflate.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < MESSAGE_BYTES
    async with (
        bystander(nodes.north, room.id),
        connect(nodes.north.url, subprotocols=[Subprotocol(JSON_SUBPROTOCOL)]) as socket,
    ):
        token = await nodes.north.token("visitor")
        await socket.send(msgspec.json.encode({"type": "hello", "id": 1, "token": token}).decode())
        await socket.recv()
        header = bytes([0xC1, 0xFE]) + len(bomb[:-4]).to_bytes(2, "big") + bytes(4)
        socket.transport.write(header + bomb[:-4])
        await socket.wait_closed()
        assert socket.close_code == 1009


def texts(kind: mi.Type, path: str = "$") -> Iterator[tuple[str, tuple[str | int, ...]]]:
    """Yield the places of a message that take text: the path that an error names, and the way to it."""
    match kind:
        case mi.StructType(fields=fields):
            for field in fields:
                for inner, way in texts(field.type, f"{path}.{field.encode_name}"):
                    yield inner, (field.encode_name, *way)
        case mi.ListType(item_type=item):
            for inner, way in texts(item, f"{path}[...]"):
                yield inner, (0, *way)
        case mi.UnionType(types=types):
            for one in types:
                yield from texts(one, path)
        case mi.StrType() | mi.EnumType() | mi.UUIDType():
            yield path, ()


def filled(message: Any, way: tuple[str | int, ...], character: str) -> bytes:
    """Encode a message whose text at a place is as long as the message may be."""
    wire: Any = msgspec.json.decode(msgspec.json.encode(message))
    place = wire
    for step in way[:-1]:
        place = place[step]
    place[way[-1]] = ""
    empty = len(msgspec.json.encode(wire))
    place[way[-1]] = character
    place[way[-1]] = character * ((MESSAGE_BYTES - empty) // (len(msgspec.json.encode(wire)) - empty))
    return msgspec.json.encode(wire)


PLACES = [
    (command, path, way)
    for command in COMMANDS
    if command is not Hello
    for path, way in texts(mi.type_info(command))
]


@pytest.mark.parametrize(
    ("command", "path", "way"), PLACES, ids=[f"{tag_of(command)} {path}" for command, path, _ in PLACES]
)
async def test_64_kib_of_anything(
    nodes: Standing, room: Room, command: type[Any], path: str, way: tuple[str | int, ...]
) -> None:
    """Any field that takes text refuses more than it holds, whatever it is made of, and says which field it was."""
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor", room.id)
        message = sample(command)
        message.id = 2**40
        for character in FILLERS.values():
            payload = filled(message, way, character)
            assert MESSAGE_BYTES - 16 < len(payload) <= MESSAGE_BYTES
            answer = await visitor.error(payload)
            named = re.sub(r"\[\d+\]", "[...]", answer["path"])
            assert (answer["code"], named, answer["id"]) == (ErrorCode.INVALID, path, 2**40)
            assert len(answer["message"]) < 300
        await visitor.settle()


async def test_a_message_as_large_as_allowed(nodes: Standing, room: Room) -> None:
    """64 KiB are read; a byte more is the end."""
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor", room.id)
        ping: Message = {"type": "session.ping", "id": 5, "more": ""}
        room_for_more = MESSAGE_BYTES - len(msgspec.json.encode(ping))
        assert (await visitor.call("session.ping", more="x" * room_for_more))["type"] == "session.ponged"
        visitor.connection.frame(0x1, msgspec.json.encode({**ping, "more": "x" * (room_for_more + 1)}))
        assert (await visitor.connection.gone).code == 1009
