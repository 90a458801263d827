"""The client's side of a websocket as bytes: the opening request, masked frames out, server frames in."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from typing import NamedTuple

CLOSE = 0x8
PING = 0x9
PONG = 0xA

_FIN = 0x80
_MASKED = 0x80
_NO_MASK = bytes(4)
"""A masking key of zeros leaves the payload as it is: valid, and free of cost for a tester."""


def opening_request(host: str, port: int, subprotocol: str | None, path: str = "/ws") -> bytes:
    """Return the request that asks for a websocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    asked = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n{asked}\r\n"
    ).encode()


def client_frame(opcode: int, payload: bytes) -> bytes:
    """Return a whole, masked frame."""
    length = len(payload)
    if length < 126:
        head = bytes((_FIN | opcode, _MASKED | length))
    elif length < 65536:
        head = bytes((_FIN | opcode, _MASKED | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((_FIN | opcode, _MASKED | 127)) + length.to_bytes(8, "big")
    return head + _NO_MASK + payload


class Place(NamedTuple):
    """Where a whole frame lies in the bytes that were read."""

    opcode: int
    start: int
    payload: int
    end: int


def frames(data: bytes) -> Iterator[Place]:
    """Find the whole frames at the beginning of `data`; what is after the last one is the start of a frame to come."""
    start, size = 0, len(data)
    while size - start >= 2:
        length = data[start + 1]
        payload = start + 2
        if length == 126:
            payload = start + 4
            length = int.from_bytes(data[start + 2 : payload], "big")
        elif length == 127:
            payload = start + 10
            length = int.from_bytes(data[start + 2 : payload], "big")
        end = payload + length
        if payload > size or end > size:
            return
        yield Place(data[start] & 0x0F, start, payload, end)
        start = end
