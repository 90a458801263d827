"""Ogg with Opus or Vorbis (RFC 3533, 7845): pages after one another, each with a checksum.

The second packet of a stream holds comments. Their number becomes zero and their text zeros; the packet keeps its length, and the
pages that it is on get new checksums.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from server.containers.source import Container, Patch, Source, Unreadable

_OPUS: Final = (b"OpusHead", b"OpusTags")
_VORBIS: Final = (b"\x01vorbis", b"\x03vorbis")
_CONTINUED: Final = 1
_FIRST: Final = 2
_MOST_COMMENT: Final = 4194304


def _table() -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        crc = byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ (0x04C11DB7 if crc & 0x80000000 else 0)
        rows.append(crc & 0xFFFFFFFF)
    return tuple(rows)


_CRC: Final = _table()


class _Page(Struct):
    start: int
    flags: int
    granule: int
    body: int
    pieces: bytes
    end: int


def checksum(page: bytes | bytearray) -> int:
    """Return the checksum of a page whose own field of it is zero."""
    crc = 0
    for byte in page:
        crc = (crc << 8 & 0xFFFFFFFF) ^ _CRC[crc >> 24 ^ byte]
    return crc


def read(source: Source) -> Container:
    """Read a file that was said to be Ogg. Raises `Unreadable`, also for one of several streams."""
    found = Container(video=False)
    start = packets = 0
    magic, rate, last = b"", 0, 0
    serial: bytes | None = None
    comment: list[tuple[_Page, int, int]] = []
    while start < source.size:
        page = _page(source, start)
        own = source.at(start + 14, 4)
        if (start == 0) is not bool(page.flags & _FIRST) or serial not in (None, own):
            raise Unreadable
        if start == 0:
            serial = own
            magic, rate = _head(source, page)
        at = page.body
        for size in page.pieces:
            if packets == 1:
                comment.append((page, at, size))
            packets += size < 255
            at += size
        if page.granule < 1 << 63:
            last = max(last, page.granule)
        if packets == 0 or (packets == 1 and sum(size for _, _, size in comment) > _MOST_COMMENT):
            raise Unreadable
        found.opening = found.opening or (page.end if packets >= 2 else 0)
        start = page.end
    if packets < 3:
        raise Unreadable
    found.patches += _without_comments(source, magic, comment)
    found.duration_ms = last * 1000 // rate
    return found


def _page(source: Source, start: int) -> _Page:
    source.part()
    if source.at(start, 5) != b"OggS\0":
        raise Unreadable
    body = start + 27 + source.number(start + 26, 1)
    pieces = source.at(start + 27, body - start - 27)
    end = body + sum(pieces)
    if end > source.size:
        raise Unreadable
    granule = int.from_bytes(source.at(start + 6, 8), "little")
    return _Page(start, source.number(start + 5, 1), granule, body, pieces, end)


def _head(source: Source, page: _Page) -> tuple[bytes, int]:
    """Return how the packet of comments begins, and in what the granules of this stream count: parts of a second."""
    if source.at(page.body, 8) == _OPUS[0]:
        return _OPUS[1], 48000
    if source.at(page.body, 7) == _VORBIS[0]:
        rate = int.from_bytes(source.at(page.body + 12, 4), "little")
        if rate:
            return _VORBIS[1], rate
    raise Unreadable


def _without_comments(source: Source, magic: bytes, pieces: list[tuple[_Page, int, int]]) -> list[Patch]:
    packet = bytearray(b"".join(source.at(at, size) for _, at, size in pieces))
    vendor = len(magic) + 4
    text = vendor + int.from_bytes(packet[len(magic) : vendor], "little")
    if not packet.startswith(magic) or text + 4 > len(packet):
        raise Unreadable
    rest = b"\x01" if magic == _VORBIS[1] else b""
    packet[text:] = (bytes(4) + rest).ljust(len(packet) - text, b"\0")[: len(packet) - text]
    pages: dict[int, tuple[_Page, bytearray]] = {}
    done = 0
    for page, at, size in pieces:
        _, data = pages.setdefault(
            page.start, (page, bytearray(source.at(page.start, page.end - page.start)))
        )
        data[at - page.start : at - page.start + size] = packet[done : done + size]
        done += size
    patches = []
    for page, data in pages.values():
        data[22:26] = bytes(4)
        data[22:26] = checksum(data).to_bytes(4, "little")
        patches.append(Patch(page.start, bytes(data)))
    return patches
