"""The client's frames, held against the server's side of the `websockets` library."""

from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from bench.wire import client_frame, frames, opening_request
from protocol.contract import JSON_SUBPROTOCOL
from protocol.frames import server_frame

SIZES = [0, 1, 125, 126, 65535, 65536, 100_000]


def test_what_is_sent_is_understood() -> None:
    """The library accepts the opening request and reads every size of frame as it was meant."""
    server = ServerProtocol(subprotocols=[JSON_SUBPROTOCOL], max_size=None)  # type: ignore[list-item] # NewType of str
    server.receive_data(opening_request("127.0.0.1", 8000, JSON_SUBPROTOCOL))
    (request,) = server.events_received()
    assert isinstance(request, Request)
    server.send_response(server.accept(request))
    assert server.handshake_exc is None
    for size in SIZES:
        server.receive_data(client_frame(Opcode.TEXT, b"x" * size))
    found = server.events_received()
    assert [len(frame.data) for frame in found if isinstance(frame, Frame)] == SIZES


@pytest.mark.parametrize("cut", [1, 2, 3, 9, 130])
def test_only_whole_frames_are_found(cut: int) -> None:
    """Frames of every size are found where they lie; one that has not wholly come is left for later."""
    whole = b"".join(server_frame(Opcode.BINARY, b"x" * size) for size in SIZES)
    places = list(frames(whole))
    assert [place.end - place.payload for place in places] == SIZES
    assert places[-1].end == len(whole)
    begun = whole + server_frame(Opcode.TEXT, b"y" * 200)[:cut]
    assert list(frames(begun)) == places
