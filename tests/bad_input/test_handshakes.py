"""Doors that stay closed: hosts and origins that are not ours, handshakes that are none, and frames against the standard."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from tests.hosting import Host
from tests.standing import Room, Standing
from tests.visitors import bystander, visit

GOOD = {
    "Host": "127.0.0.1",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Protocol": "looprooms.v1+json",
}
_HEADERS = {
    "named": "Host",
    "origin": "Origin",
    "key": "Sec-WebSocket-Key",
    "version": "Sec-WebSocket-Version",
    "protocol": "Sec-WebSocket-Protocol",
}


async def knock(
    host: Host, line: str = "GET /ws HTTP/1.1", more: str | None = None, **changes: str | None
) -> tuple[int, str]:
    """Ask for a websocket with some headers changed (None: left out); return the status and what else was said."""
    headers = GOOD | {_HEADERS[name]: value for name, value in changes.items()}
    lines = [line, *(f"{name}: {value}" for name, value in headers.items() if value is not None)]
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(host.url).port)
    try:
        writer.write(("\r\n".join(lines) + f"\r\n{more or ''}\r\n").encode("latin-1"))
        async with asyncio.timeout(5):
            answer = (await reader.readuntil(b"\r\n\r\n")).decode()
        return int(answer.split()[1]), answer
    finally:
        writer.transport.abort()


async def test_the_door_opens(nodes: Standing) -> None:
    """With nothing wrong the same request is answered with 101; so each refusal below is for what is wrong."""
    assert (await knock(nodes.north))[0] == 101
    port = urlsplit(nodes.north.url).port
    assert (await knock(nodes.north, named=f"localhost:{port}"))[0] == 101
    assert (await knock(nodes.north, named=f"[::1]:{port}"))[0] == 101


@pytest.mark.parametrize(
    "name", ["evil.example", "127.0.0.1.evil.example", "evil.example:127.0.0.1", "", "127.0.0.2", "*", None]
)
async def test_a_host_that_is_not_ours(nodes: Standing, room: Room, name: str | None) -> None:
    """A name that this server does not answer to, or none, is a bad request."""
    async with bystander(nodes.north, room.id):
        assert (await knock(nodes.north, named=name))[0] == 400


async def test_two_hosts(nodes: Standing, room: Room) -> None:
    """Of two names none counts, even if both are ours."""
    async with bystander(nodes.north, room.id):
        assert (await knock(nodes.north, more="Host: 127.0.0.1\r\n"))[0] == 400


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "",
        "http://127.0.0.1:8000.evil.example",
        "http://127.0.0.1",
        "https://127.0.0.1:8000",
        "HTTP://127.0.0.1:8000/",
        "http://127.0.0.1:8000, http://evil.example",
    ],
)
async def test_an_origin_that_is_not_allowed(nodes: Standing, room: Room, origin: str) -> None:
    """A page of another origin is refused before the upgrade."""
    async with bystander(nodes.north, room.id):
        assert (await knock(nodes.north, origin=origin))[0] == 403


@pytest.mark.parametrize(
    ("status", "line", "changes"),
    [
        (400, "GET /ws HTTP/1.1", {"key": None}),
        (400, "GET /ws HTTP/1.1", {"key": "c2hvcnQ="}),
        (400, "GET /ws HTTP/1.1", {"protocol": None}),
        (400, "GET /ws HTTP/1.1", {"protocol": "looprooms.v2+json"}),
        (400, "GET /ws HTTP/1.1", {"protocol": "LOOPROOMS.V1+JSON"}),
        (426, "GET /ws HTTP/1.1", {"version": "8"}),
        (404, "GET /ws/ HTTP/1.1", {}),
        (404, "GET / HTTP/1.1", {}),
    ],
)
async def test_a_handshake_that_is_none(
    nodes: Standing, room: Room, status: int, line: str, changes: dict[str, str | None]
) -> None:
    """No key, a short one, no subprotocol that we know, an old version, another path: told by the status, never 101 or 500."""
    async with bystander(nodes.north, room.id):
        found, answer = await knock(nodes.north, line, **changes)
        assert found == status
        if status == 426:
            assert "Sec-WebSocket-Version: 13" in answer


@pytest.mark.parametrize(
    ("code", "frame"),
    [
        pytest.param(1002, b"\x81\x02{}", id="no mask"),
        pytest.param(1002, b"\x89\x00", id="a ping without a mask"),
        pytest.param(1002, b"\xf1\x82\0\0\0\0{}", id="reserved bits"),
        pytest.param(1002, b"\x83\x82\0\0\0\0{}", id="an opcode that means nothing"),
        pytest.param(1002, b"\x80\x82\0\0\0\0{}", id="a continuation of nothing"),
        pytest.param(1002, b"\x09\x80\0\0\0\0", id="a ping in fragments"),
        pytest.param(1002, b"\x89\xfe\x00\x7e\0\0\0\0" + b"x" * 126, id="a ping that is too long"),
        pytest.param(1002, b"\x88\x81\0\0\0\0x", id="half a close code"),
    ],
)
async def test_frames_against_the_standard(nodes: Standing, room: Room, code: int, frame: bytes) -> None:
    """A wrong mask, and whatever else RFC 6455 forbids, ends the connection with the standard's code."""
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor", room.id)
        visitor.connection.transport.write(frame)
        assert (await visitor.connection.gone).code == code
