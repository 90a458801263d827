"""The handshake: who is let in, what they are told otherwise, and which bytes they are sent."""

from __future__ import annotations

from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request

from protocol.codec import JSON, MSGPACK, Codec
from protocol.rooms import Cue
from server.hub.members import Dialect
from tests.hub.scene import Scene
from tests.transport import RecordingTransport


@pytest.mark.parametrize(
    ("codec", "deflate", "window", "dialect"),
    [
        (JSON, False, None, Dialect.JSON),
        (JSON, True, None, Dialect.JSON_DEFLATED),
        (JSON, True, 9, Dialect.JSON),
        (MSGPACK, False, None, Dialect.MSGPACK),
        (MSGPACK, True, None, Dialect.MSGPACK_DEFLATED),
        (MSGPACK, True, 11, Dialect.MSGPACK),
        (MSGPACK, True, 12, Dialect.MSGPACK_DEFLATED),
    ],
)
def test_dialects(codec: Codec, deflate: bool, window: int | None, dialect: Dialect) -> None:
    """A client is sent what it negotiated; who can't look back as far as we compress gets plain frames."""
    scene = Scene()
    peer = scene.peer(codec, deflate=deflate, window=window)
    assert peer.is_open
    assert peer.connection.dialect is dialect
    peer.connection.send(Cue(room=scene.room().id, cue="breathe in " * 50))
    assert peer.cues() == ["breathe in " * 50]
    assert (len(peer.transport.written[-1]) < 300) == (
        dialect in (Dialect.JSON_DEFLATED, Dialect.MSGPACK_DEFLATED)
    )


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ({"path": "/ws?from=here"}, 101),
        ({"path": "/other"}, 404),
        ({"host": "elsewhere"}, 400),
        ({"subprotocols": ["looprooms.v9+json"]}, 400),
        ({"headers": {"Sec-WebSocket-Key": "short"}}, 400),
        ({"headers": {"Sec-WebSocket-Version": "8"}}, 426),
        ({"headers": {"Origin": "https://looprooms.example"}}, 101),
        ({"headers": {"Origin": "https://looprooms.example.evil"}}, 403),
        ({"headers": {"Origin": "null"}}, 403),
    ],
)
def test_handshakes(how: Any, status: int) -> None:
    """Whoever does not ask rightly, at the right place and from the right page, is told so, and is gone."""
    scene = Scene()
    peer = scene.peer(**how)
    assert peer.response is not None
    assert peer.response.status_code == status
    assert peer.is_open == (status == 101)
    assert scene.hub.handshakes_refused == (status != 101)
    assert scene.hub.members.connections == ({peer.connection} if peer.is_open else set())
    if status == 426:
        assert peer.response.headers["Sec-WebSocket-Version"] == "13"


@pytest.mark.parametrize(("key", "status"), [("AAAAAAAAAAAAAAAAAAAAAA==", 101), ("short", 400)])
def test_request_that_was_read_already(key: str, status: int) -> None:
    """Whoever has read the request hands it over; it is decided about in the same way, and frames follow."""
    scene = Scene()
    peer = scene.peer()
    transport = RecordingTransport(other := scene.hub.connect(), scene.loop.loop)
    other.connection_made(transport)
    headers = Headers(
        [
            ("host", "localhost"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", key),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", JSON.name),
        ]
    )
    other.request(Request("/ws", headers))
    scene.loop.settle()
    assert transport.written[0].startswith(b"HTTP/1.1 %d " % status)
    assert transport.has_ended() == (status != 101)
    if status == 101:
        peer.client.send_text(b"a")
        data = b"".join(peer.client.data_to_send())
        other.data_received(data[:3])
        other.data_received(data[3:])
        assert scene.received == [(other, JSON.opcode, b"a")]


def test_no_subprotocol() -> None:
    """A client that offers no subprotocol at all is refused: one would have to guess what it understands."""
    peer = Scene().peer(subprotocols=[])
    assert peer.response is not None
    assert peer.response.status_code == 400


def test_draining_and_full() -> None:
    """A node that stops, or that has all the connections it was told to have, says when to try again."""
    scene = Scene(connections=1)
    first = scene.peer()
    second = scene.peer()
    assert first.is_open
    assert second.response is not None
    assert (second.response.status_code, second.response.headers["Retry-After"]) == (503, "5")
    scene.hub.draining = True
    third = scene.peer()
    assert third.response is not None
    assert (third.response.status_code, third.response.headers["Retry-After"]) == (503, "1")


def test_too_many_from_one_address() -> None:
    """Whether an address may have one more is not decided here; the answer says when to try again."""
    scene = Scene()
    asked: list[tuple[str, list[str]]] = []

    def admits(peer: str, forwarded: list[str]) -> bool:
        asked.append((peer, forwarded))
        return len(asked) == 1

    scene.hub.admits = admits
    assert scene.peer(headers={"X-Forwarded-For": "198.51.100.1"}).is_open
    refused = scene.peer()
    assert refused.response is not None
    assert (refused.response.status_code, refused.response.headers["Retry-After"]) == (429, "1")
    assert asked == [("192.0.2.7", ["198.51.100.1"]), ("192.0.2.7", [])]
