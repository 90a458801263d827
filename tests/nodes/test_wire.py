"""What RFC 6455 forbids, and what it allows and nobody would bear, against a real server: each gets its answer, and a bystander
notices nothing. The groups are those of the Autobahn|Testsuite, which `make autobahn` runs where it can.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

import msgspec
import pytest

from protocol.closing import CloseCode
from tests.nodes import cluster as clusters
from tests.nodes.cluster import Account, Cluster, Memory, NodeProcess
from tests.nodes.wire import (
    BINARY,
    CLOSE,
    CONT,
    DEFLATE,
    PING,
    PONG,
    RSV1,
    TEXT,
    Frame,
    Wire,
    bomb,
    deflated,
    dial,
    frame,
    handshake,
    resident,
)

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(60)]

LIMIT = 65536
"""Bytes of a message, after inflation."""
MANY_FRAGMENTS = 64
WITH_DEFLATE = handshake().replace(b"\r\n\r\n", f"\r\n{DEFLATE}\r\n".encode())


@pytest.fixture(scope="module")
async def standing(memory: Memory) -> AsyncIterator[tuple[Cluster, NodeProcess]]:
    """Start one node for all of these, and see in the end that nothing they did was a bug."""
    async with clusters.cluster(memory) as cluster:
        (node,) = await cluster.start(1)
        yield cluster, node
        assert node.alive
        assert cluster.complaints() == []
        assert await node.metric("looprooms_bugs_total") == 0


@pytest.fixture(scope="module")
async def account(standing: tuple[Cluster, NodeProcess]) -> Account:
    """Give somebody who is signed in."""
    (somebody,) = await standing[0].accounts(["somebody"])
    return somebody


@pytest.fixture
def node(standing: tuple[Cluster, NodeProcess]) -> NodeProcess:
    """Give the node."""
    return standing[1]


@pytest.fixture
async def wire(node: NodeProcess) -> AsyncIterator[Wire]:
    """Give a connection that has not said hello."""
    async with dial(node.port) as wire, asyncio.timeout(20):
        assert await wire.upgrade() == 101
        yield wire


@pytest.fixture
async def known(node: NodeProcess, account: Account) -> AsyncIterator[Wire]:
    """Give a connection that has said hello, with compression."""
    async with dial(node.port) as wire, asyncio.timeout(20):
        assert await wire.upgrade(WITH_DEFLATE) == 101
        wire.say(type="hello", id=1, token=account.token)
        assert (await wire.message())["type"] == "welcome"
        yield wire


def padded(size: int) -> bytes:
    """Return a message of so many bytes that is a command: a ping, with room to spare."""
    message = msgspec.json.encode({"type": "session.ping", "id": 7, "x": ""})
    return message[:-2] + b"y" * (size - len(message)) + message[-2:]


def pieces(message: bytes, count: int) -> list[bytes]:
    """Cut a message into frames."""
    step = -(-len(message) // count)
    parts = [message[at : at + step] for at in range(0, len(message), step)]
    return [
        frame(CONT if number else TEXT, part, fin=number == len(parts) - 1)
        for number, part in enumerate(parts)
    ]


async def expect(wire: Wire, code: int, before: list[Frame] | None = None) -> str:
    """Read to the end: what came before, then a close with `code`. Returns its reason."""
    came, close = await wire.end()
    assert close is not None, f"no close frame after {came}"
    assert close[0] == code
    if before is not None:
        assert came == before
    return close[1]


# 1, 10: framing.


@pytest.mark.parametrize("size", [40, 125, 126, 127, 128, 4095, 4096, 4097, 65535, LIMIT])
async def test_every_size_of_a_message(known: Wire, size: int) -> None:
    """Whatever the length of a message, and the form in which its frame tells it, it is heard."""
    for data in ([frame(TEXT, padded(size))], pieces(padded(size), 2), pieces(padded(size), MANY_FRAGMENTS)):
        known.send(*data)
        assert (await known.message())["type"] == "session.ponged"


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1])
@pytest.mark.parametrize(
    "how", ["plain", "fragmented", "deflated", "deflated and fragmented", "many fragments"]
)
async def test_the_limit_of_a_message(known: Wire, size: int, how: str) -> None:
    """A message has at most 64 KiB after inflation, in however many frames: one byte more closes with 1009."""
    message = padded(size)
    pressed = deflated(message)
    middle = len(pressed) // 2
    known.send(
        {
            "plain": frame(TEXT, message),
            "fragmented": b"".join(pieces(message, 3)),
            "many fragments": b"".join(pieces(message, MANY_FRAGMENTS)),
            "deflated": frame(TEXT, pressed, rsv=RSV1),
            "deflated and fragmented": frame(TEXT, pressed[:middle], fin=False, rsv=RSV1)
            + frame(CONT, pressed[middle:]),
        }[how]
    )
    if size <= LIMIT:
        assert (await known.message())["type"] == "session.ponged"
    else:
        await expect(known, 1009, [])


async def test_hello_is_small(wire: Wire) -> None:
    """Before hello 4 KiB are the limit, and whoever sends more has not understood."""
    wire.send(frame(TEXT, padded(4097)))
    await expect(wire, CloseCode.BAD_HELLO, [])


async def test_a_frame_without_a_mask(known: Wire) -> None:
    """A client's frame must be masked."""
    known.send(frame(TEXT, padded(40), masked=False))
    await expect(known, 1002, [])


async def test_a_length_that_is_no_length(known: Wire) -> None:
    """A frame that announces 2^63 bytes is closed at its head, not when they have come."""
    known.send(struct.pack("!BBQ", 0x81, 0xFF, 1 << 63) + b"\0\0\0\0")
    await expect(known, 1009, [])


async def test_one_byte_a_segment(node: NodeProcess, account: Account) -> None:
    """The same bytes, each in a segment of its own, get the same answers: handshake, hello, a ping, a message in fragments, a close."""
    async with dial(node.port) as wire, asyncio.timeout(20):
        await wire.drip(WITH_DEFLATE)
        assert (await wire.head())[0] == 101
        await wire.drip(frame(TEXT, msgspec.json.encode({"type": "hello", "id": 1, "token": account.token})))
        assert (await wire.message())["type"] == "welcome"
        await wire.drip(frame(PING, b"life") + b"".join(pieces(padded(60), 3)))
        assert await wire.read() == (PONG, b"life")
        assert (await wire.message())["type"] == "session.ponged"
        await wire.drip(frame(TEXT, deflated(padded(60)), rsv=RSV1))
        assert (await wire.message())["type"] == "session.ponged"
        await wire.drip(frame(CLOSE, b"\x03\xe8"))
        assert await wire.end() == ([], (1000, ""))


# 2: pings and pongs.


async def test_pings_are_answered(known: Wire) -> None:
    """Each ping, empty or full, has its pong, in order; before the answers to what came after it; a pong nobody asked for is nothing."""
    known.send(frame(PONG, b"unasked"), frame(PING), frame(PING, b"a" * 125), frame(TEXT, padded(40)))
    assert [await known.read(), await known.read()] == [(PONG, b""), (PONG, b"a" * 125)]
    assert (await known.message())["type"] == "session.ponged"


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
async def test_control_frames_are_small_and_whole(node: NodeProcess, opcode: int) -> None:
    """A control frame of 126 bytes, and one in fragments, are protocol errors."""
    for data in (frame(opcode, b"a" * 126), frame(opcode, b"a", fin=False)):
        async with dial(node.port) as wire, asyncio.timeout(20):
            assert await wire.upgrade() == 101
            wire.send(data)
            await expect(wire, 1002, [])


async def test_a_ping_between_fragments(known: Wire) -> None:
    """A ping may come in the middle of a message, and is answered there."""
    first, second = pieces(padded(60), 2)
    known.send(first, frame(PING, b"now"))
    assert await known.read() == (PONG, b"now")
    known.send(second)
    assert (await known.message())["type"] == "session.ponged"


# 3, 4: reserved bits and opcodes.


@pytest.mark.parametrize("rsv", [0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70])
@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, CLOSE])
async def test_reserved_bits(wire: Wire, rsv: int, opcode: int) -> None:
    """Without an extension that means something by them, reserved bits are a protocol error."""
    wire.send(frame(opcode, b"", rsv=rsv))
    await expect(wire, 1002, [])


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
async def test_reserved_opcodes(known: Wire, opcode: int) -> None:
    """A frame of an unknown kind is a protocol error; what came before it is answered."""
    known.send(frame(TEXT, padded(40)), frame(opcode, b"x"))
    assert (await known.message())["type"] == "session.ponged"
    await expect(known, 1002, [])


# 5: fragmentation.


@pytest.mark.parametrize(
    "data",
    [
        frame(CONT, b"x"),
        frame(CONT, b"x", fin=False),
        frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"),
        frame(BINARY, b"x", fin=False) + frame(TEXT, b"y", fin=False),
    ],
)
async def test_fragments_of_nothing(wire: Wire, data: bytes) -> None:
    """A fragment without a beginning, and a beginning within a message, are protocol errors."""
    wire.send(data)
    await expect(wire, 1002, [])


async def test_empty_fragments(wire: Wire) -> None:
    """A message may have 64 fragments, empty or not: at the next one the connection is closed with 1009."""
    wire.send(frame(TEXT, fin=False), frame(CONT, fin=False) * MANY_FRAGMENTS)
    assert "64 fragments" in await expect(wire, 1009, [])


# 6: UTF-8.


@pytest.mark.parametrize(
    "text",
    [
        b"\xff",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",  # a surrogate
        b"\xf4\x90\x80\x80",  # past U+10FFFF
        b"\xc0\xaf",  # overlong
        b"\xe2\x82",  # cut
    ],
)
@pytest.mark.parametrize("how", ["whole", "fragments", "deflated"])
async def test_text_that_is_none(known: Wire, text: bytes, how: str) -> None:
    """A text message that is no UTF-8 is closed with 1007, when it is whole."""
    known.send(
        {
            "whole": frame(TEXT, text),
            "fragments": frame(TEXT, text[:1], fin=False) + frame(CONT, text[1:]),
            "deflated": frame(TEXT, deflated(text), rsv=RSV1),
        }[how]
    )
    await expect(known, 1007, [])


async def test_a_character_across_fragments(known: Wire) -> None:
    """A fragment may end within a character."""
    message = msgspec.json.encode({"type": "session.ping", "id": 7, "x": "𐍈"})
    cut = message.index(b"\xf0") + 2
    known.send(frame(TEXT, message[:cut], fin=False), frame(CONT, message[cut:]))
    assert (await known.message())["type"] == "session.ponged"


# 7: closing.


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1009, 1011, 1012, 3000, 3999, 4000, 4999])
async def test_a_close_is_answered(wire: Wire, code: int) -> None:
    """A close with a code that may be sent gets the same code back, and the connection ends."""
    wire.send(frame(CLOSE, struct.pack("!H", code) + b"bye"))
    assert await wire.end() == ([], (code, "bye"))


async def test_a_close_without_a_code(wire: Wire) -> None:
    """It gets one without a code back."""
    wire.send(frame(CLOSE))
    assert await wire.end() == ([], (1005, ""))


@pytest.mark.parametrize(
    "payload",
    [
        b"\x03",
        *(struct.pack("!H", code) for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000)),
        b"\xff\xff",
        b"\x03\xe8\xff",
    ],
)
async def test_a_close_that_may_not_be_sent(wire: Wire, payload: bytes) -> None:
    """Half a code, a code that is nobody's, and a reason that is no UTF-8 are answered 1002 (1007 for the reason)."""
    wire.send(frame(CLOSE, payload))
    _, close = await wire.end()
    assert close is not None
    assert close[0] == (1007 if payload == b"\x03\xe8\xff" else 1002)


async def test_nothing_is_heard_after_a_close(known: Wire) -> None:
    """What comes after a close frame has no effect and no answer."""
    known.send(frame(TEXT, padded(40)), frame(CLOSE, b"\x03\xe8"), frame(TEXT, padded(40)), frame(PING))
    came, close = await known.end()
    assert [msgspec.json.decode(payload)["type"] for _, payload in came] == ["session.ponged"]
    assert close == (1000, "")


async def test_a_reason_is_cut_at_a_character(node: NodeProcess, account: Account) -> None:
    """Our own reasons fit into a close frame, and are text whatever they were cut from."""
    async with dial(node.port) as wire, asyncio.timeout(20):
        assert await wire.upgrade() == 101
        wire.say(type="hello", id=1, token=account.token + "é" * 50)
        _, close = await wire.end()
        assert close is not None
        assert close[0] == CloseCode.TOKEN_REFUSED
        assert 0 < len(close[1].encode()) <= 123


# 12: compression.


async def test_deflated_both_ways(known: Wire) -> None:
    """A deflated message is understood, and so is a plain one between two of them; what we send can be inflated alone."""
    for _ in range(3):
        known.send(frame(TEXT, deflated(padded(1000)), rsv=RSV1), frame(TEXT, padded(40)))
        assert (await known.message())["type"] == "session.ponged"
        assert (await known.message())["type"] == "session.ponged"


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"\xff\xff\xff\xff", rsv=RSV1),
        frame(CONT, b"", rsv=RSV1),
        frame(PING, b"", rsv=RSV1),
        frame(TEXT, b"x", fin=False) + frame(CONT, b"y", rsv=RSV1),
    ],
)
async def test_deflate_that_is_none(known: Wire, data: bytes) -> None:
    """Bytes that can't be inflated, and the bit of compression where it means nothing, are protocol errors."""
    known.send(data)
    await expect(known, 1002, [])


async def test_a_bomb(node: NodeProcess, known: Wire) -> None:
    """A megabyte that would inflate to a gigabyte is closed with 1009 as soon as 64 KiB have come out of it."""
    data = frame(TEXT, bomb(1 << 30), rsv=RSV1)
    before = resident(node.pid)
    known.send(data)
    await expect(known, 1009, [])
    assert resident(node.pid) - before < 2 << 20


async def test_a_bomb_in_fragments(node: NodeProcess, known: Wire) -> None:
    """The same in fragments that are each small enough."""
    data, step = bomb(1 << 26), 2048
    parts = [data[at : at + step] for at in range(0, len(data), step)]
    known.send(
        frame(TEXT, parts[0], fin=False, rsv=RSV1), *(frame(CONT, part, fin=False) for part in parts[1:])
    )
    await expect(known, 1009, [])


# The handshake.


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (handshake(drop=["Sec-WebSocket-Key"]), 400),
        (handshake(Sec_WebSocket_Key="c2hvcnQ="), 400),
        (handshake(Sec_WebSocket_Key="not base64 at all!!!"), 400),
        (handshake(Sec_WebSocket_Version="8"), 426),
        (handshake(drop=["Sec-WebSocket-Version"]), 426),
        (handshake(version="1.0"), 400),
        (handshake(drop=["Host"]), 400),
        (handshake(Host="evil.example"), 400),
        (handshake().replace(b"Host: 127.0.0.1", b"Host: 127.0.0.1\r\nHost: localhost"), 400),
        (handshake(drop=["Sec-WebSocket-Protocol"]), 400),
        (handshake(Sec_WebSocket_Protocol="chat"), 400),
        (handshake(method="POST"), 405),
        (handshake(path="/elsewhere"), 404),
        (handshake(Origin="https://evil.example"), 403),
        (handshake(Origin="null"), 403),
        (handshake(Origin="http://127.0.0.1.evil.example"), 403),
    ],
)
async def test_a_bad_handshake(node: NodeProcess, request_: bytes, status: int) -> None:
    """Each is refused as what it is: never a websocket, never an error of ours."""
    async with dial(node.port) as wire, asyncio.timeout(20):
        wire.send(request_)
        found, head = await wire.head()
        assert found == status
        if status == 426:
            assert b"\r\nsec-websocket-version: 13\r\n" in head.lower()


@pytest.mark.parametrize("drop", ["Upgrade", "Connection"])
async def test_no_upgrade(node: NodeProcess, drop: str) -> None:
    """A request for the path of the websocket that does not ask for one is a request for nothing."""
    async with dial(node.port) as wire, asyncio.timeout(20):
        assert await wire.upgrade(handshake(drop=[drop])) in (400, 404)


# Floods.


async def test_pings_of_one_who_never_reads(node: NodeProcess, wire: Wire) -> None:
    """Whoever sends pings without end and reads no pong is closed, and cut off when they go on; it costs no memory."""
    wire.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's transport has it
    before, sent = resident(node.pid), 0
    pings = frame(PING, b"a" * 125) * 500
    with contextlib.suppress(ConnectionError):
        while sent < 300 << 20:
            wire.send(pings)
            sent += len(pings)
            await wire.writer.drain()
    assert sent < 100 << 20
    assert resident(node.pid) - before < 2 << 20
