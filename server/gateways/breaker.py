"""A breaker: after some failures in a row a service outside is not asked for a while, so that nobody waits for it in vain.

A plain object: `ask` before a call, then `worked` or `failed`. While it is open nothing is asked; after `pause` seconds one
call may try, and its outcome decides. Each failed try makes the pause longer, up to `longest`.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.refusals import ErrorCode, Refused


class Breaker:
    """Of one service. `clock` and the pauses are in seconds."""

    def __init__(
        self,
        name: str,
        clock: Callable[[], float],
        *,
        failures: int = 3,
        pause: float = 2.0,
        longest: float = 30.0,
    ) -> None:
        self._name = name
        self._clock = clock
        self._most = failures
        self._shortest = pause
        self._longest = longest
        self._failures = 0
        self._pause = pause
        self._opens_at = 0.0
        self._trying = False

    @property
    def open(self) -> bool:
        """Whether nothing is asked now."""
        return self._failures >= self._most

    def ask(self) -> None:
        """Raise `Refused` (unavailable) unless a call may be made; if it may, tell the outcome afterwards."""
        if not self.open:
            return
        wait = self._opens_at - self._clock()
        if wait > 0 or self._trying:
            raise self.refused(max(wait, 1.0))
        self._trying = True

    def worked(self) -> None:
        """Take note that the service answered."""
        self._failures = 0
        self._pause = self._shortest
        self._trying = False

    def failed(self) -> None:
        """Take note that it did not."""
        self._failures += 1
        if self._trying:
            self._pause = min(self._longest, self._pause * 2)
        self._trying = False
        if self.open:
            self._opens_at = self._clock() + self._pause

    def left(self) -> None:
        """Take note that the caller went away before there was an outcome."""
        self._trying = False

    def refused(self, after: float = 1.0) -> Refused:
        """Return how it is said that the service does not answer."""
        message = f"{self._name} does not answer. Try again in a while."
        return Refused(ErrorCode.UNAVAILABLE, message, retry_after=round(after, 1))
