"""Messages that are none: each gets one error that says what is wrong, the connection goes on, and nobody else notices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from protocol.contract import MSGPACK_SUBPROTOCOL
from protocol.refusals import ErrorCode
from tests.hosting import Host
from tests.nodes.raw import Message
from tests.standing import Room, Standing
from tests.visitors import BINARY, bystander, visit

MALFORMED: Message = {
    "type": "error",
    "code": ErrorCode.MALFORMED,
    "message": "Send one message per frame, encoded as the negotiated subprotocol says.",
}
UNKNOWN: Message = {
    "type": "error",
    "code": ErrorCode.UNKNOWN_TYPE,
    "message": "Use a message type of this protocol version; see the documents.",
    "path": "$.type",
}


def invalid(path: str, problem: str, **more: int) -> Message:
    """Return the error that names a field."""
    return {
        "type": "error",
        "code": ErrorCode.INVALID,
        "message": f"{problem} (at {path}).",
        "path": path,
        **more,
    }


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        pytest.param(b"hello", MALFORMED, id="a word"),
        pytest.param(b"", MALFORMED, id="nothing"),
        pytest.param(b"{", MALFORMED, id="half an object"),
        pytest.param(b'{"type":"session.ping","id":5}' * 2, MALFORMED, id="two messages in a frame"),
        pytest.param(b"NaN", MALFORMED, id="not a number"),
        pytest.param(b'\xef\xbb\xbf{"type":"session.ping","id":5}', MALFORMED, id="a byte order mark"),
        pytest.param(b'{"type":"chat.send","id":5,"text":"\\ud800"}', MALFORMED, id="half a character"),
        pytest.param(b"[]", invalid("$", "Expected `object`, got `array`"), id="an array"),
        pytest.param(b"null", invalid("$", "Expected `object`, got `null`"), id="null"),
        pytest.param(b'"chat.send"', invalid("$", "Expected `object`, got `str`"), id="a string"),
    ],
)
async def test_not_a_message(nodes: Standing, room: Room, payload: bytes, expected: Message) -> None:
    """What can't be read as one JSON object is answered without an id, since none was found."""
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor", room.id)
        assert await visitor.error(payload) == expected
        await visitor.settle()


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"{}", UNKNOWN),
        (b'{"id":5}', {**UNKNOWN, "id": 5}),
        (b'{"type":"chat.sned","id":5}', {**UNKNOWN, "id": 5}),
        (b'{"type":"CHAT.SEND","id":5}', {**UNKNOWN, "id": 5}),
        (b'{"type":"chat.sent","id":5}', {**UNKNOWN, "id": 5}),
        (b'{"type":"chat.line","id":5}', {**UNKNOWN, "id": 5}),
        (b'{"type":null,"id":5}', {**UNKNOWN, "id": 5}),
        (b'{"type":7,"id":5}', {**UNKNOWN, "id": 5}),
        (b'{"type":["chat.send"],"id":5}', {**UNKNOWN, "id": 5}),
        (b'{"type":"__class__","id":5}', {**UNKNOWN, "id": 5}),
    ],
)
async def test_unknown_type(nodes: Standing, room: Room, payload: bytes, expected: Message) -> None:
    """A type that is no command is answered with the command's id."""
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor", room.id)
        assert await visitor.error(payload) == expected
        await visitor.settle()


@pytest.mark.parametrize(
    ("fields", "path", "problem"),
    [
        ('"type":"room.get"', "$", "Object missing required field `room`"),
        ('"type":"room.get","room":7', "$.room", "Expected `str`, got `int`"),
        ('"type":"room.get","room":"calm","room":7', "$.room", "Expected `str`, got `int`"),
        ('"type":"chat.send","room":"x","text":["x"],"key":"k"', "$.text", "Expected `str`, got `array`"),
        ('"type":"chat.send","room":"x","text":null,"key":"k"', "$.text", "Expected `str`, got `null`"),
        ('"type":"chat.remove","room":"x","line":"x"', "$.line", "Invalid UUID"),
        ('"type":"typing.set","room":"x","typing":"yes"', "$.typing", "Expected `bool`, got `str`"),
        ('"type":"confidence.set","room":"x","level":7.5', "$.level", "Expected `int`, got `float`"),
        ('"type":"confidence.set","room":"x","level":1e400', "$.level", "Number out of range"),
        ('"type":"reaction.add","reaction":"HATE","target":{}', "$.reaction", "Invalid enum value 'HATE'"),
        (
            '"type":"reaction.add","reaction":"HEART","target":[]',
            "$.target",
            "Expected `object`, got `array`",
        ),
    ],
)
async def test_wrong_types(nodes: Standing, room: Room, fields: str, path: str, problem: str) -> None:
    """A field of another type is named, with the command's id."""
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor", room.id)
        answer = await visitor.error(f'{{"id":5,{fields}}}'.encode())
        assert answer == invalid(path, problem, id=5)
        await visitor.settle()


@pytest.mark.parametrize(
    ("number", "problem"),
    [
        ("-1", "Expected `int` >= 0"),
        ("9007199254740992", "Expected `int` <= 9007199254740991"),
        ('"5"', "Expected `int`, got `str`"),
        ("5.0", "Expected `int`, got `float`"),
        ("null", "Expected `int`, got `null`"),
    ],
)
async def test_an_id_that_is_none(nodes: Standing, room: Room, number: str, problem: str) -> None:
    """It is not repeated in the error, which names it."""
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor", room.id)
        answer = await visitor.error(f'{{"type":"session.ping","id":{number}}}'.encode())
        assert answer == invalid("$.id", problem)
        await visitor.settle()


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        pytest.param(b"[" * 60_000, invalid("$", "Expected `object`, got `array`"), id="arrays alone"),
        pytest.param(b'{"a":' * 10_000 + b"1" + b"}" * 10_000, MALFORMED, id="objects"),
        pytest.param(
            b'{"type":"session.ping","id":5,"more":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
            MALFORMED,
            id="in a field that nobody knows",
        ),
        pytest.param(
            b'{"type":"room.get","id":5,"room":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
            invalid("$.room", "Expected `str`, got `array`"),
            id="in a field that is known",
        ),
    ],
)
async def test_deep_nesting(nodes: Standing, room: Room, payload: bytes, expected: Message) -> None:
    """Tens of thousands of levels are an error like any other."""
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor", room.id)
        assert await visitor.error(payload) == expected
        await visitor.settle()


async def test_invalid_utf8(nodes: Standing, room: Room) -> None:
    """In a text frame the standard demands an end: close code 1007 (RFC 6455, section 8.1)."""
    async with bystander(nodes.north, room.id):
        for payload in (b'{"type":"session.ping","id":5,"x":"\xff"}', b"\xc3", b"\xed\xa0\x80"):
            visitor = await visit(nodes.north, "visitor", room.id)
            visitor.connection.frame(0x1, payload)
            assert (await visitor.connection.gone).code == 1007


async def test_the_wrong_kind_of_frame(nodes: Standing, room: Room) -> None:
    """JSON in a binary frame is not what was negotiated."""
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor", room.id)
        assert await visitor.error(b'{"type":"session.ping","id":5}', BINARY) == MALFORMED
        await visitor.settle()


async def test_unknown_room(nodes: Standing, room: Room) -> None:
    """A room that is not there can't be looked at, entered, left or spoken in."""
    not_found = {"type": "error", "code": ErrorCode.NOT_FOUND, "message": ErrorCode.NOT_FOUND.advice}
    not_in = {"type": "error", "code": ErrorCode.NOT_IN_ROOM, "message": ErrorCode.NOT_IN_ROOM.advice}
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor", room.id)
        for name in ("no-such-room", str(uuid4()), "0", "-" * 64):
            for command, fields, expected in (
                ("room.get", {}, not_found),
                ("room.join", {}, not_found),
                ("room.leave", {}, not_in),
                ("chat.send", {"text": "x", "key": "k"}, not_in),
                ("chat.history", {}, not_in),
                ("typing.set", {"typing": True}, not_in),
                ("presence.list", {}, not_in),
            ):
                answer = await visitor.call(command, room=name, **fields)
                assert answer == {**expected, "id": answer["id"]}


# The same in the other subprotocol, in which text and structure can be broken in other ways.


@asynccontextmanager
async def packed(host: Host) -> AsyncIterator[ClientConnection]:
    """Connect with MessagePack, and say hello."""
    subprotocols = [Subprotocol(MSGPACK_SUBPROTOCOL)]
    async with connect(host.url, subprotocols=subprotocols, compression=None, ping_interval=None) as socket:
        await socket.send(
            msgspec.msgpack.encode({"type": "hello", "id": 1, "token": await host.token("packed")})
        )
        assert (await reply(socket))["type"] == "welcome"
        yield socket


async def reply(socket: ClientConnection) -> Any:
    """Return the next message."""
    return msgspec.msgpack.decode(await socket.recv(decode=False))


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        pytest.param(b"", MALFORMED, id="nothing"),
        pytest.param(b"\xc1", MALFORMED, id="a byte that means nothing"),
        pytest.param(b"\x82\xa4type", MALFORMED, id="half a map"),
        pytest.param(b"\xdf\xff\xff\xff\xff", MALFORMED, id="a map of four billion entries"),
        pytest.param(
            b"\xdd\xff\xff\xff\xff", invalid("$", "Expected `object`, got `array`"), id="a huge array"
        ),
        pytest.param(b"\x81\xa4type\xac\xff\xffssion.ping", MALFORMED, id="no UTF-8 in the type"),
        pytest.param(
            msgspec.msgpack.encode({"type": "chat.send", "id": 5, "room": "x", "key": "k"}).replace(
                b"\x84", b"\x85", 1
            )
            + b"\xa4text\xa1\xff",
            MALFORMED,
            id="no UTF-8 in a text",
        ),
        pytest.param(b"\x81\xa1a" * 20_000 + b"\x01", MALFORMED, id="deep nesting"),
        pytest.param(
            b"\x81" + b"\x91" * 60_000,
            invalid("$", "Expected `str`, got `array`"),
            id="a key that is nested deeply",
        ),
        pytest.param(b"\x81\x05\x06", invalid("$", "Expected `str`, got `int`"), id="a number as a key"),
        pytest.param(b"\x81\xa4type\xc7\x01\x05x", UNKNOWN, id="an extension as a type"),
        pytest.param(
            msgspec.msgpack.encode({"type": "chat.sned", "id": 5}), {**UNKNOWN, "id": 5}, id="unknown type"
        ),
        pytest.param(
            msgspec.msgpack.encode({"type": "room.get", "id": 5, "room": b"x"}),
            invalid("$.room", "Expected `str`, got `bytes`", id=5),
            id="bytes for a text",
        ),
    ],
)
async def test_in_messagepack(nodes: Standing, room: Room, payload: bytes, expected: Message) -> None:
    """Bytes that are no command in MessagePack get one error, too, and the connection goes on."""
    async with bystander(nodes.north, room.id), packed(nodes.north) as socket:
        await socket.send(payload)
        assert await reply(socket) == expected
        await socket.send(msgspec.msgpack.encode({"type": "session.ping", "id": 9}))
        assert (await reply(socket))["type"] == "session.ponged"


async def test_the_wrong_kind_of_frame_in_messagepack(nodes: Standing, room: Room) -> None:
    """A text frame is not what was negotiated, be it JSON or not."""
    async with bystander(nodes.north, room.id), packed(nodes.north) as socket:
        await socket.send('{"type": "session.ping", "id": 5}')
        assert await reply(socket) == MALFORMED
