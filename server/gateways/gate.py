"""The way to a service outside: each call has a deadline, few are under way, a breaker spares the rest, and all are counted.

Who hangs costs `seconds` and one of `TOGETHER` places, nobody else anything: those who find all places and the queue taken are
told so at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from protocol.refusals import Refused
from server.gateways.breaker import Breaker

_LOGGER = logging.getLogger("looprooms.outside")

TOGETHER: Final = 8
"""Calls under way at a time."""
WAITING: Final = 64
"""Calls that may wait for a place; the next is told to come again."""

AnswerT = TypeVar("AnswerT")


class Unanswered(Exception):  # noqa: N818 - it says what became of it
    """The service does not answer, or not sensibly. `reason` is logged: nothing personal; `after` is in seconds."""

    def __init__(self, reason: str, *, after: float = 1.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


class Gate:
    """Of one service, which is called `name` where people read it. `clock` is in seconds."""

    def __init__(self, name: str, clock: Callable[[], float], *, seconds: float) -> None:
        self._name = name
        self.seconds = seconds
        self._places = asyncio.Semaphore(TOGETHER)
        self._waiting = 0
        self.breaker = Breaker(name, clock)
        self.outcomes: Counter[str] = Counter(answered=0, failed=0, spared=0)
        """What became of calls: ``answered``, ``failed``, or ``spared`` because it was left alone or had enough to do."""

    async def ask(self, call: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """Make a call, which raises `Unanswered` when there is no answer to speak of. Raises `Refused` (unavailable).

        Whatever else it raises is no word about the service.
        """
        try:
            if self._waiting >= WAITING:
                raise self.breaker.refused()
            self.breaker.ask()
        except Refused:
            self.outcomes["spared"] += 1
            raise
        self._waiting += 1
        outcome, told = self.breaker.left, ""
        try:
            async with asyncio.timeout(self.seconds), self._places:
                answer = await call()
            outcome, told = self.breaker.worked, "answered"
        except (TimeoutError, Unanswered) as error:
            outcome, told = self.breaker.failed, "failed"
            unanswered = error if isinstance(error, Unanswered) else Unanswered(f"within {self.seconds:g} s")
            _LOGGER.warning("%s does not answer: %s", self._name, unanswered.reason)
            raise self.breaker.refused(unanswered.after) from None
        finally:
            self._waiting -= 1
            outcome()
            if told:
                self.outcomes[told] += 1
        return answer
