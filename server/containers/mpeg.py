"""MP3: frames after one another, from the first to the last byte. What stands before and after them are tags: zeros are left."""

from __future__ import annotations

from typing import Final

from server.containers.source import Container, Patch, Source, Span, Unreadable

_KBITS: Final = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_RATES: Final = (44100, 48000, 32000)
_LEAST_FRAMES: Final = 3
_TRAILING: Final = 8
"""One part in so many of a file may stand behind its last frame."""


def read(source: Source) -> Container:
    """Read a file that was said to be MP3. Raises `Unreadable`."""
    found = Container(video=False)
    start = _tags(source, found)
    found.opening = first = start
    frames, milliseconds = 0, 0.0
    while (frame := _frame(source, start)) is not None:
        source.part()
        length, duration = frame
        frames += 1
        milliseconds += duration
        start += length
    end = min(start, source.size)
    if frames < _LEAST_FRAMES or (source.size - end) * _TRAILING > source.size - first:
        raise Unreadable
    if end < source.size:
        found.spans.append(Span(end, source.size))
    found.duration_ms = int(milliseconds)
    return found


def _tags(source: Source, found: Container) -> int:
    """Empty the tags at the beginning; return where they end."""
    start = 0
    while source.at(start, 3) == b"ID3":
        source.part()
        size = 0
        for byte in source.at(start + 6, 4):
            if byte > 127:
                raise Unreadable
            size = size << 7 | byte
        end = start + 10 + size
        if end > source.size:
            raise Unreadable
        found.patches.append(Patch(start + 5, b"\0"))  # no flags: nothing but padding follows
        found.spans.append(Span(start + 10, end))
        start = end
    return start


def _frame(source: Source, start: int) -> tuple[int, float] | None:
    """Return how many bytes the frame has that begins there, and how many milliseconds; None where there is none."""
    if start + 4 > source.size:
        return None
    head = source.number(start, 4)
    version, layer = head >> 19 & 3, head >> 17 & 3
    bits, rate, padding = head >> 12 & 15, head >> 10 & 3, head >> 9 & 1
    if head >> 21 != 0x7FF or version == 1 or layer != 1 or bits in (0, 15) or rate == 3:
        return None
    newest = version == 3
    hertz = _RATES[rate] >> (0 if newest else 1 if version == 2 else 2)
    samples = 1152 if newest else 576
    kbits = _KBITS[0 if newest else 1][bits]
    return samples // 8 * kbits * 1000 // hertz + padding, samples * 1000 / hertz
