"""Time that a test moves: a loop that is turned by hand, and a real one in which waiting takes no time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

ResultT = TypeVar("ResultT")


class Put:
    """Something that was put off."""

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._callback = callback
        self._args = args
        self._cancelled = False

    def cancel(self) -> None:
        """Never run it."""
        self._cancelled = True

    def run(self) -> None:
        """Run it, unless it was cancelled."""
        if not self._cancelled:
            self._callback(*self._args)


class HandTurned:
    """As much of a loop as a plain object needs: what is put off runs when the test says so. It has no tasks."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._soon: list[Put] = []
        self._later: list[tuple[float, int, Put]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        """Return what the test has set."""
        return self.now

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Put:
        """Put off to the next turn."""
        put = Put(callback, args)
        self._soon.append(put)
        return put

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any) -> Put:
        """Put off by `delay` seconds."""
        return self.call_at(self.now + delay, callback, *args)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Put:
        """Put off until `when`."""
        put = Put(callback, args)
        heapq.heappush(self._later, (when, next(self._numbers), put))
        return put

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Itself, as what it stands in for."""
        return cast("asyncio.AbstractEventLoop", self)

    @property
    def waiting(self) -> int:
        """How many things wait for the next turn."""
        return len(self._soon)

    def turn(self) -> None:
        """Run what was put off to this turn, and not what that puts off to the next."""
        soon, self._soon = self._soon, []
        for put in soon:
            put.run()

    def settle(self) -> None:
        """Turn until nothing waits for the next turn."""
        while self._soon:
            self.turn()

    def advance(self, seconds: float) -> None:
        """Let time pass, and run each thing that is due at its time."""
        until = self.now + seconds
        while self._later and self._later[0][0] <= until:
            when, _, put = heapq.heappop(self._later)
            self.now = max(self.now, when)
            put.run()
            self.settle()
        self.now = until


class Timeless(asyncio.SelectorEventLoop):
    """A real loop without sockets in which nobody waits: when there is nothing to do, it is already later."""

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        """Return a time that moves only while everyone waits."""
        return self._now

    def jump(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds


class _Jump(selectors.SelectSelector):
    """Looks at no socket, and lets time pass instead of waiting."""

    def __init__(self, loop: Timeless) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everyone waits for something that never comes"
        self._loop.jump(timeout)
        return []


def in_no_time(running: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run something that waits, without waiting."""
    with asyncio.Runner(loop_factory=Timeless) as runner:
        return runner.run(running)
