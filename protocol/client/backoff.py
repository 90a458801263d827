"""How long to wait before coming back: random, and longer each time, so that a crowd does not return as a herd."""

from __future__ import annotations

import random as randomness
from collections.abc import Callable

SHORTEST = 0.5
LONGEST = 20.0


class Backoff:
    """Full jitter (AWS Architecture Blog, 2015) above a floor: `shortest` plus anything up to a ceiling that doubles.

    `random` returns a float in [0, 1). All times are in seconds.
    """

    def __init__(
        self,
        shortest: float = SHORTEST,
        longest: float = LONGEST,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        if not 0 <= shortest <= longest:
            raise ValueError("0 <= shortest <= longest must hold")
        self.shortest = shortest
        self.longest = longest
        self.random = random

    def wait(self, attempt: int) -> float:
        """Return the seconds to wait before attempt number `attempt` (from 1), at most `longest`."""
        doublings = min(attempt - 1, 60)  # a float overflows at some 1,000, after a week without a server
        ceiling = min(self.longest, self.shortest * 2.0**doublings)
        return min(self.longest, self.shortest + ceiling * self.random())
