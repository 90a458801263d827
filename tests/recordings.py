"""Small files of sound and moving pictures, made by hand: of each container the least that is one, and what is not to be there."""

from __future__ import annotations

import struct
from typing import Final

from server.containers.ogg import checksum

GPS: Final = b"+48.8577+002.2950/"
"""Where somebody was, as phones write it."""
PAGE: Final = b"<html><script>alert(1)</script></html>"
FRAMES: Final = bytes(range(256)) * 40
"""What is played."""


# MP4.


def box(kind: bytes, *parts: bytes) -> bytes:
    """Make a box."""
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def track(handler: bytes, chunk: int, samples: list[int], *more: bytes) -> bytes:
    """Make a track whose samples are in one chunk, at that place of the file."""
    table = box(
        b"stbl",
        box(b"stsd", bytes(8)),
        box(b"stts", bytes(8)),
        box(b"stsc", struct.pack(">5I", 0, 1, 1, len(samples), 1)),
        box(b"stsz", struct.pack(f">3I{len(samples)}I", 0, 0, len(samples), *samples)),
        box(b"stco", struct.pack(">3I", 0, 1, chunk)),
    )
    dates = struct.pack(">3I", 0, 3_900_000_000, 3_900_000_000)
    media = box(
        b"mdia",
        box(b"mdhd", dates, bytes(12)),
        box(b"hdlr", bytes(8), handler, bytes(13)),
        box(b"minf", box(b"dinf"), table),
    )
    return box(b"trak", box(b"tkhd", dates, bytes(72)), media, *more)


def mp4(
    *,
    seconds: float = 20.0,
    handler: bytes = b"vide",
    journey: bool = True,
    last: bytes = b"",
    front: bool = True,
) -> bytes:
    """Make an MP4 that says in every way that it can where somebody was; with a `journey`, in a track of its own, too.

    `last` stands behind all of it; with `front` the index comes before what is played.
    """
    first = box(b"ftyp", b"isom", bytes(4), b"isommp42")
    played = FRAMES + (GPS * 3 if journey else b"")

    def index(at: int) -> bytes:
        return box(
            b"moov",
            box(
                b"mvhd",
                struct.pack(">5I", 0, 3_900_000_000, 3_900_000_000, 1000, int(seconds * 1000)),
                bytes(80),
            ),
            track(handler, at, [len(FRAMES)], box(b"udta", box(b"name", GPS))),
            track(b"meta", at + len(FRAMES), [len(GPS)] * 3) if journey else b"",
            box(b"udta", box(b"\xa9xyz", struct.pack(">HH", len(GPS), 0x15C7), GPS)),
            box(b"meta", bytes(4), box(b"ilst", GPS)),
        )

    extra = box(b"uuid", b"\xbe\x7a\xcf\xcb\x97\xa9\x42\xe8\x9c\x71\x99\x94\x91\xe3\xaf\xac", GPS) + box(
        b"free", GPS
    )
    if front:
        at = len(first) + len(index(0)) + len(extra) + 8
        return first + index(at) + extra + box(b"mdat", played) + last
    return first + extra + box(b"mdat", played) + index(len(first) + len(extra) + 8) + last


# WebM.


def element(kind: int, body: bytes, *, unknown: bool = False) -> bytes:
    """Make an element; with `unknown` it does not say how long it is."""
    name = kind.to_bytes((kind.bit_length() + 7) // 8, "big")
    size = b"\x01" + (b"\xff" * 7 if unknown else len(body).to_bytes(7, "big"))
    return name + size + body


def webm(
    *,
    seconds: float | None = 20.0,
    live: bool = False,
    video: bool = True,
    inside: bytes = b"",
    last: bytes = b"",
) -> bytes:
    """Make a WebM with tags; `live` as a browser records it, without lengths. `inside` is in the segment, `last` behind it."""
    info = (
        element(0x2AD7B1, (1_000_000).to_bytes(3, "big")) + element(0x7BA9, GPS) + element(0x4461, bytes(8))
    )
    if seconds is not None:
        info += element(0x4489, struct.pack(">d", seconds * 1000))
    tracks = element(
        0xAE, element(0xD7, b"\1") + element(0x83, b"\1" if video else b"\2") + element(0x536E, GPS)
    )
    cluster = element(0xE7, b"\0") + element(0xA3, b"\x81\0\0\x80" + FRAMES)
    body = element(0x1549A966, info) + element(0x1654AE6B, tracks) + element(0xEC, GPS)
    body += element(0x1254C367, element(0x7373, GPS * 20)) + inside
    body += element(0x1F43B675, cluster, unknown=live) * 2
    head = element(0x1A45DFA3, element(0x4286, b"\1") + element(0x4282, b"webm"))
    return head + element(0x18538067, body, unknown=live) + last


# WAV.


def wav(*, sound: bytes = FRAMES, last: bytes = b"") -> bytes:
    """Make a WAV of 1,000 bytes a second, with what recorders write beside it."""
    chunks = b"".join(
        kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
        for kind, body in (
            (b"fmt ", struct.pack("<HHIIHH", 1, 1, 500, 1000, 2, 16)),
            (b"LIST", b"INFO" + GPS + b"!"),
            (b"data", sound),
            (b"id3 ", GPS),
        )
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks + last


# MP3.


def mp3(*, frames: int = 100, front: bytes = b"", last: bytes = b"") -> bytes:
    """Make an MP3 of 26 ms a frame (44.1 kHz, 128 kbit/s), with tags at both ends."""
    tag = b"ID3\x04\0\0" + bytes((0, 0, 1, 72)) + GPS.ljust(200, b"\0")
    frame = b"\xff\xfb\x90\x00" + b"\x55" * 413
    return front + tag + frame * frames + b"TAG" + GPS.ljust(125, b"\0") + last


# Ogg.


def page(body: bytes, pieces: bytes, *, number: int, flags: int = 0, granule: int = 0) -> bytes:
    """Make a page with its checksum."""
    data = bytearray(
        b"OggS\0"
        + bytes((flags,))
        + struct.pack("<qII", granule, 7, number)
        + bytes(4)
        + bytes((len(pieces),))
    )
    data += pieces + body
    data[22:26] = checksum(data).to_bytes(4, "little")
    return bytes(data)


def ogg(*, vorbis: bool = False, seconds: int = 20, comment: int = 600, last: bytes = b"") -> bytes:
    """Make an Ogg whose comments, of about so many bytes, go over from one page to the next."""
    if vorbis:
        head = b"\x01vorbis" + struct.pack("<IBI", 0, 2, 44100) + bytes(14)
        rate = 44100
    else:
        head = b"OpusHead\x01\x02" + bytes(9)
        rate = 48000
    text = (b"LOCATION=" + GPS).ljust(comment, b".")
    tags = (b"\x03vorbis" if vorbis else b"OpusTags") + struct.pack("<I4s", 4, b"self")
    tags += struct.pack("<II", 1, len(text)) + text + (b"\1" if vorbis else b"")
    cut = len(tags) // 255 * 255
    whole = bytes([255] * (cut // 255))
    return (
        page(head, bytes((len(head),)), number=0, flags=2)
        + page(tags[:cut], whole, number=1)
        + page(tags[cut:] + FRAMES[:100], bytes((len(tags) - cut, 100)), number=2, flags=1)
        + page(FRAMES[:200], b"\xc8", number=3, flags=4, granule=rate * seconds)
        + last
    )
