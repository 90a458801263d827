"""How much one connection may ask for: a token bucket for commands, and patience for those who don't listen."""

from __future__ import annotations

from typing import Final

PATIENCE: Final = 200
"""Refusals in a row, none of them heeded, after which a connection is closed. A client that waits for `retry_after` once in
that time starts anew; a loop without a pause is gone within some milliseconds of CPU."""


class Bucket:
    """`rate` commands a second on the long run, `burst` at once. Time is loop time in seconds."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens", "refusals")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._at = now
        self.refusals = 0

    def take(self, now: float) -> float:
        """Take one token; return 0.0, or the seconds to wait when there is none."""
        tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if tokens >= 1.0:
            self._tokens = tokens - 1.0
            if self.refusals:
                self.refusals -= 1
            return 0.0
        self._tokens = tokens
        self.refusals += 1
        return (1.0 - tokens) / self._rate

    @property
    def exhausted(self) -> bool:
        """Whether the peer has been refused so often that there is no use in answering."""
        return self.refusals > PATIENCE
