"""A file that is read in places, and what is found in it. Whatever can't be read as it should raises `Unreadable`."""

from __future__ import annotations

import os
from typing import Final

from msgspec import Struct

MOST_PARTS: Final = 400_000
"""Parts of a file that are looked at. An hour of the smallest frames of MP3 has 140,000."""
_WINDOW: Final = 65536
_ZEROS: Final = bytes(_WINDOW)


class Unreadable(Exception):  # noqa: N818 - it says what the file is
    """The file is not what it was said to be, or is broken, or holds something else beside it."""


class Span(Struct, frozen=True):
    """Bytes of a file that are to become zeros: from `start` to before `end`."""

    start: int
    end: int


class Patch(Struct, frozen=True):
    """Bytes of a file that are to become these."""

    start: int
    data: bytes


class Container(Struct, kw_only=True):
    """What a file is, and what is to go from it; no byte changes its place by that.

    `opening` is how many bytes at the beginning a player needs before it can play anything, `closing` from where on it needs the
    end for the same reason. `video` says whether it has pictures.
    """

    video: bool
    duration_ms: int | None = None
    opening: int = 0
    closing: int | None = None
    spans: list[Span] = []
    patches: list[Patch] = []

    @property
    def changes(self) -> bool:
        """Whether anything is to go."""
        return bool(self.spans or self.patches)

    def clear(self, descriptor: int) -> None:
        """Let it go: write zeros and patches into the file, which is open for writing."""
        for span in self.spans:
            for start in range(span.start, span.end, _WINDOW):
                os.pwrite(descriptor, _ZEROS[: span.end - start], start)
        for patch in self.patches:
            os.pwrite(descriptor, patch.data, patch.start)


class Source:
    """Reads a file here and there, a window at a time: most parts of one are next to each other, and small."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self._from = 0
        self._window = b""
        self._parts = 0

    def part(self) -> None:
        """Note that one more part is looked at. Raises `Unreadable` for a file that has more than any that is meant well."""
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise Unreadable

    def at(self, start: int, length: int) -> bytes:
        """Return `length` bytes (not many) from `start` on. Raises `Unreadable` where the file has no such place."""
        if start < 0 or start + length > self.size:
            raise Unreadable
        if not self._from <= start <= start + length <= self._from + len(self._window):
            self._from = start
            self._window = os.pread(self._descriptor, max(length, _WINDOW), start)
        found = self._window[start - self._from : start - self._from + length]
        if len(found) != length:
            raise Unreadable
        return found

    def number(self, start: int, length: int) -> int:
        """Return the number that stands there, its highest byte first."""
        return int.from_bytes(self.at(start, length), "big")
