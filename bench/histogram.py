"""Percentiles: counts of durations in buckets of equal relative width, which add up over processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

_SUB_BITS = 7

NAMED: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
"""The percentiles that a summary has."""
_CURVE: Final = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999)


class Histogram:
    """Counts of durations in nanoseconds, in buckets that are at most 0.8 % wide, as HDR histograms have them.

    `counts` is a plain mapping, so that histograms of several processes are added by adding their counts.
    """

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: Counter[int] = Counter(counts or {})

    def __len__(self) -> int:
        return self.counts.total()

    def add(self, nanoseconds: int, count: int = 1) -> None:
        """Count a duration; a negative one (clocks of two cores) counts as none."""
        value = max(0, nanoseconds)
        shift = max(0, value.bit_length() - _SUB_BITS - 1)
        self.counts[shift << (_SUB_BITS + 1) | value >> shift] += count

    def update(self, other: Mapping[int, int]) -> None:
        """Add the counts of another histogram."""
        self.counts.update(other)

    def percentile(self, share: float) -> float:
        """Return the duration in seconds below which `share` percent lie; 0.0 when nothing was counted."""
        return self.percentiles([share])[0]

    def percentiles(self, shares: list[float]) -> list[float]:
        """Return the durations in seconds for ascending `shares` in percent, in one pass."""
        wanted = [len(self) * share / 100 for share in shares]
        found: list[float] = []
        seen = 0
        for key in sorted(self.counts, key=_middle):
            seen += self.counts[key]
            while len(found) < len(wanted) and seen >= wanted[len(found)]:
                found.append(_middle(key) / 1e9)
        return found + [0.0] * (len(wanted) - len(found))

    def summary(self) -> dict[str, float]:
        """Return the usual percentiles in milliseconds."""
        values = self.percentiles(list(NAMED.values()))
        return {
            "count": len(self),
            **{name: round(value * 1000, 3) for name, value in zip(NAMED, values, strict=True)},
        }

    def curve(self) -> list[tuple[float, float]]:
        """Return pairs of a percentile and its duration in milliseconds, as far as there are values to tell them apart."""
        shares = [share for share in _CURVE if round(len(self) * (100 - share)) >= 100] + [100.0]
        values = self.percentiles(shares)
        return [(share, round(value * 1000, 3)) for share, value in zip(shares, values, strict=True)]


def _middle(key: int) -> float:
    shift, value = key >> (_SUB_BITS + 1), key & ((1 << (_SUB_BITS + 1)) - 1)
    return (value << shift) + ((1 << shift) - 1) / 2
