"""Server frames as bytes, read back by zlib alone and by the client of the `websockets` library."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, OPEN, Protocol
from websockets.uri import parse_uri
from websockets.utils import accept_key

from protocol.frames import COMPRESS_FROM, WINDOW_BITS, deflated_frame, server_frame

LENGTHS = [0, 1, 125, 126, 127, COMPRESS_FROM - 1, COMPRESS_FROM, 4096, 65535, 65536, 200_000]
PAYLOADS = st.binary(max_size=700) | st.binary(min_size=1, max_size=20).map(lambda word: word * 100)


def received(data: bytes, window: int | None = None) -> list[Frame]:
    """Return the frames that a client of the library reads; `window` is that of its deflate extension, if it has one."""
    client = Protocol(CLIENT, state=OPEN, max_size=None)
    if window is not None:
        extension = PerMessageDeflate(
            remote_no_context_takeover=True,
            local_no_context_takeover=True,
            remote_max_window_bits=window,
            local_max_window_bits=15,
        )
        client.extensions = [extension]
    client.receive_data(data)
    assert client.parser_exc is None
    frames = client.events_received()
    assert all(isinstance(frame, Frame) for frame in frames)
    return [frame for frame in frames if isinstance(frame, Frame)]


def body(frame: bytes) -> bytes:
    """Cut the header off (RFC 6455, section 5.2)."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize("length", LENGTHS)
def test_plain(length: int, opcode: Opcode) -> None:
    """At every border of the length's encoding a plain frame is one whole message."""
    payload = b"x" * length
    assert received(server_frame(opcode, payload)) == [Frame(opcode, payload)]


@pytest.mark.parametrize("window", [WINDOW_BITS, 15])
@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_deflated(length: int, noise: bool, window: int) -> None:
    """A deflated frame is the message for any client whose window is large enough, however badly it compresses."""
    payload = random.Random(length).randbytes(length) if noise else b"looproom " * (length // 9)
    assert received(deflated_frame(Opcode.TEXT, payload), window) == [Frame(Opcode.TEXT, payload)]


@settings(max_examples=300)
@given(st.lists(st.tuples(st.booleans(), PAYLOADS), max_size=6))
def test_many_in_one_write(messages: list[tuple[bool, bytes]]) -> None:
    """Frames of both kinds, one after the other in any mixture, are read as the messages that they are."""
    data = b"".join(
        (deflated_frame if deflate else server_frame)(2, payload) for deflate, payload in messages
    )
    assert [frame.data for frame in received(data, 15)] == [payload for _, payload in messages]


@given(st.binary(min_size=COMPRESS_FROM, max_size=5000))
def test_zlib_alone_reads_it(payload: bytes) -> None:
    """The payload is a raw deflate stream from which the last four bytes were cut (RFC 7692, section 7.2.1)."""
    data = body(deflated_frame(1, payload)) + b"\x00\x00\xff\xff"
    assert zlib.decompressobj(wbits=-WINDOW_BITS).decompress(data) == payload


def test_no_context_is_kept() -> None:
    """The same message is the same bytes each time, so that one frame serves everyone."""
    payload = b"the same thing " * 100
    first = deflated_frame(1, payload)
    deflated_frame(1, b"something else " * 100)
    assert deflated_frame(1, payload) == first
    assert len(first) < len(payload) / 10


def test_small_frames_are_not_compressed() -> None:
    """Below the border a frame is plain, whoever asks."""
    for length in (0, 1, COMPRESS_FROM - 1):
        assert deflated_frame(1, b"x" * length) == server_frame(1, b"x" * length)
    assert deflated_frame(1, b"x" * COMPRESS_FROM)[0] & 0x40


def test_a_smaller_window_cannot_read_it() -> None:
    """What `WINDOW_BITS` warns of is real: a client that keeps less than the compressor looks back fails."""
    frame = deflated_frame(1, random.Random(1).randbytes(3000) * 60)
    client = Protocol(CLIENT, state=OPEN)
    small = PerMessageDeflate(
        remote_no_context_takeover=True,
        local_no_context_takeover=True,
        remote_max_window_bits=9,
        local_max_window_bits=15,
    )
    client.extensions = [small]
    client.receive_data(frame)
    assert client.parser_exc is not None


def test_a_client_that_shook_hands() -> None:
    """A client that negotiated the extension by a real handshake reads plain and deflated frames."""
    client = ClientProtocol(parse_uri("ws://localhost/ws"), extensions=[ClientPerMessageDeflateFactory()])
    client.send_request(client.connect())
    request = b"".join(client.data_to_send())
    key = next(
        line.split(b": ")[1] for line in request.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key")
    )
    client.receive_data(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_key(key.decode()).encode() + b"\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n\r\n"
    )
    payload = b'{"type":"chat.line"}' * 50
    client.receive_data(server_frame(1, payload) + deflated_frame(1, payload))
    assert [event.data for event in client.events_received() if isinstance(event, Frame)] == [
        payload,
        payload,
    ]
