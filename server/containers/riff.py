"""WAV: chunks after one another (RIFF). What is neither format nor sound becomes a chunk of zeros that nobody reads."""

from __future__ import annotations

from typing import Final

from server.containers.source import Container, Patch, Source, Span, Unreadable

_KEPT: Final = frozenset({b"fmt ", b"fact", b"data"})


def read(source: Source) -> Container:
    """Read a file that was said to be WAV. Raises `Unreadable`, also for one that goes on behind its end."""
    if source.at(0, 4) != b"RIFF" or source.at(8, 4) != b"WAVE" or _size(source, 4) + 8 != source.size:
        raise Unreadable
    found = Container(video=False)
    rate = sound = 0
    start = 12
    while start < source.size:
        source.part()
        kind, body = source.at(start, 4), start + 8
        end = body + _size(source, start + 4)
        if end > source.size:
            raise Unreadable
        if kind not in _KEPT:
            found.patches.append(Patch(start, b"JUNK"))
            found.spans.append(Span(body, end))
        elif kind == b"fmt ":
            rate = _size(source, body + 8)
        elif kind == b"data":
            sound = end - body
            found.opening = found.opening or body
        start = end + (end - body) % 2
    if not rate or not sound:
        raise Unreadable
    found.duration_ms = sound * 1000 // rate
    return found


def _size(source: Source, start: int) -> int:
    return int.from_bytes(source.at(start, 4), "little")
