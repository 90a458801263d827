"""MP4 and M4A: boxes in boxes (ISO/IEC 14496-12).

What a player needs is on a list; every other box becomes a free one full of zeros, which every player skips. So the offsets in
the file, of which the sample tables are full, stay right. That takes away `udta` and `meta`, where phones and cameras write
where they were, `uuid` with XMP, and tracks that are neither pictures nor sound nor subtitles, with their samples: some cameras
keep a second-by-second journey in one. Times of creation become zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from server.containers.source import Container, Patch, Source, Span, Unreadable

_TOP: Final = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"moof", b"mfra", b"sidx", b"ssix", b"pdin"})
_EMPTIED: Final = frozenset({b"free", b"skip", b"wide", b"meta", b"udta", b"uuid", b"emsg", b"prft"})
_KEPT: Final = {
    b"moov": frozenset({b"mvhd", b"trak", b"mvex"}),
    b"trak": frozenset({b"tkhd", b"edts", b"mdia", b"tref"}),
    b"mdia": frozenset({b"mdhd", b"hdlr", b"minf", b"elng"}),
    b"minf": frozenset({b"vmhd", b"smhd", b"hmhd", b"sthd", b"nmhd", b"dinf", b"stbl"}),
}
_DATED: Final = frozenset({b"mvhd", b"tkhd", b"mdhd"})
_SHOWN: Final = frozenset({b"vide", b"soun", b"sbtl", b"subt", b"text", b"clcp"})
_MOST_SAMPLES: Final = 200_000


class _Box(Struct, frozen=True):
    kind: bytes
    start: int
    body: int
    end: int


def read(source: Source) -> Container:
    """Read a file that was said to be MP4. Raises `Unreadable`."""
    first = next(_boxes(source, 0, source.size))
    if first.kind != b"ftyp" or source.at(first.body, 4) == b"qt  ":
        raise Unreadable
    return _Reading(source).read()


def _boxes(source: Source, start: int, end: int) -> Iterator[_Box]:
    """Yield the boxes that fill a part of the file, to its last byte."""
    while start < end:
        source.part()
        size, body = source.number(start, 4), start + 8
        kind = source.at(start + 4, 4)
        if size == 1:
            size, body = source.number(start + 8, 8), start + 16
        elif size == 0 and end == source.size:
            size = end - start
        if start + size > end or start + size < body:
            raise Unreadable
        yield _Box(kind, start, body, start + size)
        start += size


class _Reading:
    """One file while it is read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._found = Container(video=False)
        self._handlers: set[bytes] = set()
        self._hidden: list[_Box] = []
        self._media: list[_Box] = []

    def read(self) -> Container:
        """Look at all of it."""
        moov: _Box | None = None
        fragmented = False
        for box in _boxes(self._source, 0, self._source.size):
            if box.kind in _EMPTIED:
                self._empty(box)
            elif box.kind not in _TOP:
                raise Unreadable
            elif box.kind == b"moov":
                if moov is not None:
                    raise Unreadable
                moov = box
                self._look(box)
            elif box.kind == b"mdat":
                self._media.append(box)
            fragmented = fragmented or box.kind == b"moof"
        if moov is None or not self._media or not self._handlers & {b"vide", b"soun"}:
            raise Unreadable
        if self._hidden and fragmented:
            raise Unreadable  # where the samples of such a track are stands in every fragment
        for track in self._hidden:
            self._hide(track)
        found = self._found
        found.video = b"vide" in self._handlers
        found.opening = moov.end if moov.start < self._media[0].start else self._media[0].body
        found.closing = moov.start if moov.start > self._media[0].start else None
        return found

    def _look(self, parent: _Box) -> None:
        for box in _boxes(self._source, parent.body, parent.end):
            if box.kind not in _KEPT[parent.kind]:
                self._empty(box)
            elif box.kind == b"trak":
                self._track(box)
            elif box.kind in _KEPT:
                self._look(box)
            elif box.kind in _DATED:
                self._undate(box)

    def _track(self, track: _Box) -> None:
        handler = self._inside(track, b"mdia", b"hdlr")
        kind = self._source.at(handler.body + 8, 4)
        if kind in _SHOWN:
            self._handlers.add(kind)
            self._look(track)
        else:
            self._hidden.append(track)

    def _inside(self, box: _Box, *path: bytes) -> _Box:
        for kind in path:
            found = [one for one in _boxes(self._source, box.body, box.end) if one.kind == kind]
            if len(found) != 1:
                raise Unreadable
            box = found[0]
        return box

    def _empty(self, box: _Box) -> None:
        self._found.patches.append(Patch(box.start + 4, b"free"))
        self._found.spans.append(Span(box.body, box.end))

    def _undate(self, box: _Box) -> None:
        """Take the times of creation and change away, and read how long the whole plays."""
        wide = self._source.at(box.body, 1) == b"\x01"
        times = 16 if wide else 8
        if box.body + 4 + times > box.end:
            raise Unreadable
        self._found.spans.append(Span(box.body + 4, box.body + 4 + times))
        if box.kind == b"mvhd":
            scale = self._source.number(box.body + 4 + times, 4)
            length = self._source.number(box.body + 8 + times, 8 if wide else 4)
            unknown = length == (1 << (64 if wide else 32)) - 1
            if scale and length and not unknown:
                self._found.duration_ms = length * 1000 // scale

    def _hide(self, track: _Box) -> None:
        """Take a track away, and its samples out of the media."""
        table = self._inside(track, b"mdia", b"minf", b"stbl")
        parts = {box.kind: box for box in _boxes(self._source, table.body, table.end)}
        for start, length in self._samples(parts):
            if not any(box.body <= start <= start + length <= box.end for box in self._media):
                raise Unreadable
            self._found.spans.append(Span(start, start + length))
        self._empty(track)

    def _samples(self, parts: dict[bytes, _Box]) -> Iterator[tuple[int, int]]:
        """Yield where the chunks of a track are, and how long each is."""
        sizes, spread = parts.get(b"stsz"), parts.get(b"stsc")
        wide = b"co64" in parts
        chunks = parts.get(b"co64" if wide else b"stco")
        if sizes is None or spread is None or chunks is None:
            raise Unreadable
        same, count = self._source.number(sizes.body + 4, 4), self._source.number(sizes.body + 8, 4)
        rows = self._source.number(spread.body + 4, 4)
        places = self._source.number(chunks.body + 4, 4)
        if max(count, rows, places) > _MOST_SAMPLES:
            raise Unreadable
        steps = [
            (
                self._source.number(spread.body + 8 + 12 * row, 4),
                self._source.number(spread.body + 12 + 12 * row, 4),
            )
            for row in range(rows)
        ]
        sample = step = 0
        for place in range(places):
            while step + 1 < rows and steps[step + 1][0] <= place + 1:
                step += 1
            each = steps[step][1] if rows else 0
            following = min(count, sample + each)
            length = sum(
                same or self._source.number(sizes.body + 12 + 4 * one, 4) for one in range(sample, following)
            )
            width = 8 if wide else 4
            yield self._source.number(chunks.body + 8 + width * place, width), length
            sample = following
        if sample < count:
            raise Unreadable
