"""Server frames as bytes (RFC 6455, section 5.2; compressed ones by RFC 7692, without context takeover).

A frame built here is the same for every receiver that speaks the same subprotocol, which is what makes a fan-out cheap:
built once, written to all. That is also why compression keeps no context from one message to the next.
"""

from __future__ import annotations

import struct
import zlib

_FIN = 0x80
_RSV1 = 0x40
_LENGTH_16 = struct.Struct("!BBH").pack
_LENGTH_64 = struct.Struct("!BBQ").pack

WINDOW_BITS = 12
"""A compressor looks back 4 KiB: more helps no message of ours. Who can only take a smaller window gets plain frames."""

COMPRESS_FROM = 256
"""Bytes of payload from which a frame is compressed: below, deflate costs more CPU than it saves on the wire."""


def server_frame(opcode: int, payload: bytes) -> bytes:
    """Return a whole, unmasked data frame."""
    return _header(_FIN | opcode, len(payload)) + payload


def deflated_frame(opcode: int, payload: bytes) -> bytes:
    """Return a whole, unmasked data frame whose payload is compressed (RFC 7692, section 7.2.1).

    A receiver must have negotiated permessage-deflate with ``server_no_context_takeover`` and, if any, with a
    ``server_max_window_bits`` of at least `WINDOW_BITS`.
    """
    if len(payload) < COMPRESS_FROM:
        return server_frame(opcode, payload)
    deflate = zlib.compressobj(level=1, wbits=-WINDOW_BITS)
    data = deflate.compress(payload) + deflate.flush(zlib.Z_SYNC_FLUSH)
    data = data[:-4]
    return _header(_FIN | _RSV1 | opcode, len(data)) + data


def _header(first: int, length: int) -> bytes:
    if length < 126:
        return bytes((first, length))
    if length < 65536:
        return _LENGTH_16(first, 126, length)
    return _LENGTH_64(first, 127, length)
