"""WebM: elements in elements (EBML, RFC 8794; Matroska, RFC 9559).

What a player needs is on a list. Tags, attachments, chapters, the title and the date become void elements full of zeros, of the
same length, so that nothing moves. An element that is on neither list, and anything behind the segment, is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from server.containers.source import Container, Patch, Source, Span, Unreadable

_HEAD: Final = 0x1A45DFA3
_DOCUMENT: Final = 0x4282
_SEGMENT: Final = 0x18538067
_INFO: Final = 0x1549A966
_TRACKS: Final = 0x1654AE6B
_CLUSTER: Final = 0x1F43B675
_VOID: Final = 0xEC
_IN_SEGMENT: Final = frozenset({0x114D9B74, _INFO, _TRACKS, _CLUSTER, 0x1C53BB6B, 0xBF})
_EMPTIED: Final = frozenset({0x1254C367, 0x1941A469, 0x1043A770, _VOID})
_IN_CLUSTER: Final = frozenset({0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0x5854, 0xBF, _VOID})
_SCALE: Final = 0x2AD7B1
_DURATION: Final = 0x4489
_TOLD: Final = frozenset({0x7BA9, 0x4461, 0x73A4, 0x7384})
"""In the info: title, date, and ids of the segment and its file name."""
_TRACK: Final = 0xAE
_KIND: Final = 0x83
_NAME: Final = 0x536E
_VIDEO: Final = 1


class _Element(Struct, frozen=True):
    kind: int
    start: int
    body: int
    end: int | None
    """None where it ends with what can't be in it, or with the file."""


def read(source: Source) -> Container:
    """Read a file that was said to be WebM. Raises `Unreadable`."""
    head, segment = _element(source, 0), None
    if head.kind != _HEAD or head.end is None:
        raise Unreadable
    kinds = [
        source.at(one.body, _end(one) - one.body) for one in _inside(source, head) if one.kind == _DOCUMENT
    ]
    if kinds != [b"webm"]:
        raise Unreadable
    start = head.end
    found = Container(video=False)
    while segment is None:
        element = _element(source, start)
        if element.kind == _VOID:
            _empty(found, element)
        elif element.kind == _SEGMENT:
            segment = element
        else:
            raise Unreadable
        start = element.end or source.size
    if (segment.end or source.size) != source.size:
        raise Unreadable
    _segment(source, segment, found)
    return found


def _segment(source: Source, segment: _Element, found: Container) -> None:
    tracks = 0
    start = segment.body
    while start < source.size:
        element = _element(source, start)
        if element.kind in _EMPTIED:
            _empty(found, element)
        elif element.kind not in _IN_SEGMENT:
            raise Unreadable
        elif element.kind == _INFO:
            _info(source, element, found)
        elif element.kind == _TRACKS:
            tracks += _tracks(source, element, found)
        elif element.kind == _CLUSTER:
            found.opening = found.opening or element.start
        start = element.end if element.end is not None else _end_of_cluster(source, element)
    if not tracks or not found.opening:
        raise Unreadable


def _info(source: Source, info: _Element, found: Container) -> None:
    scale, ticks = 1_000_000, 0.0
    for element in _inside(source, info):
        length = _end(element) - element.body
        if element.kind in _TOLD or element.kind == _VOID:
            _empty(found, element)
        elif element.kind == _SCALE and length <= 8:
            scale = source.number(element.body, length)
        elif element.kind == _DURATION and length in (4, 8):
            (ticks,) = struct.unpack(">f" if length == 4 else ">d", source.at(element.body, length))
    if 0 < ticks * scale < 1e18:
        found.duration_ms = int(ticks * scale / 1e6)


def _tracks(source: Source, tracks: _Element, found: Container) -> int:
    count = 0
    for track in _inside(source, tracks):
        if track.kind != _TRACK:
            continue
        count += 1
        for element in _inside(source, track):
            if element.kind == _KIND:
                found.video = found.video or source.number(element.body, 1) == _VIDEO
            elif element.kind == _NAME:
                _empty(found, element)
    return count


def _end_of_cluster(source: Source, cluster: _Element) -> int:
    """Find where a cluster ends that does not say it, as a browser records it: before what can't be in it."""
    if cluster.kind != _CLUSTER:
        raise Unreadable
    start = cluster.body
    while start < source.size:
        element = _element(source, start)
        if element.kind not in _IN_CLUSTER:
            return start
        start = _end(element)
    return start


def _element(source: Source, start: int) -> _Element:
    source.part()
    kind, body = _number(source, start, most=4, marked=True)
    size, body = _number(source, body, most=8, marked=False)
    if size == -1:
        return _Element(kind, start, body, None)
    if body + size > source.size:
        raise Unreadable
    return _Element(kind, start, body, body + size)


def _inside(source: Source, parent: _Element) -> Iterator[_Element]:
    start, end = parent.body, _end(parent)
    while start < end:
        element = _element(source, start)
        if _end(element) > end:
            raise Unreadable
        yield element
        start = _end(element)


def _end(element: _Element) -> int:
    if element.end is None:
        raise Unreadable
    return element.end


def _number(source: Source, start: int, *, most: int, marked: bool) -> tuple[int, int]:
    """Read a number of variable length, with its length marker or without; return it, -1 for none, and where it ends."""
    first = source.number(start, 1)
    length = 9 - first.bit_length()
    if length > most:
        raise Unreadable
    number = source.number(start, length)
    if not marked:
        number -= 1 << (7 * length)
        if number == (1 << (7 * length)) - 1:
            number = -1
    return number, start + length


def _empty(found: Container, element: _Element) -> None:
    """Make a void element of it, of the same length."""
    length = _end(element) - element.start
    if length <= 128:
        head = bytes((_VOID, 0x80 | (length - 2)))
    else:
        head = bytes((_VOID, 0x01)) + (length - 9).to_bytes(7, "big")
    found.spans.append(Span(element.start, _end(element)))
    found.patches.append(Patch(element.start, head))
