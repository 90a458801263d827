"""Ranges of a file (RFC 9110, section 14): what part of it a request wants.

A header that makes no sense is as if it was not there, as the standard says; so is one with more than `MOST` ranges, which no
player sends and whose answer would only cost.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from msgspec import Struct

from protocol.refusals import ErrorCode, Refused

MOST: Final = 4
_LONGEST: Final = 200
_ONE: Final = re.compile(r"(\d{1,18})?-(\d{1,18})?", re.ASCII)


class Range(Struct, frozen=True):
    """The bytes from `start` to before `end`."""

    start: int
    end: int

    def __len__(self) -> int:
        """Count them."""
        return self.end - self.start

    def content_range(self, size: int) -> str:
        """Return how it is told, of a file of `size` bytes."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


def ranges_of(header: str | None, size: int) -> list[Range] | None:
    """Return the ranges that are wanted of a file, in their order; None: all of it. Raises `Refused` (range_refused) for none.

    Ranges that overlap are not what they are for, and get all of it.
    """
    unit, _, text = (header or "").partition("=")
    if unit.strip().lower() != "bytes" or len(text) > _LONGEST:
        return None
    parts = text.split(",")
    if len(parts) > MOST:
        return None
    found: list[Range] = []
    for part in parts:
        match = _ONE.fullmatch(part.strip())
        if match is None or match[0] == "-":
            return None
        first, last = match[1], match[2]
        if first is None:
            start, end = max(0, size - int(last)), size
        else:
            start, end = int(first), size if last is None else min(size, int(last) + 1)
            if last is not None and int(last) < start:
                return None
        if start < end:
            found.append(Range(start, end))
    if not found:
        raise Refused(ErrorCode.RANGE_REFUSED)
    ordered = sorted(found, key=lambda one: one.start)
    if any(one.end > other.start for one, other in pairwise(ordered)):
        return None
    return found
