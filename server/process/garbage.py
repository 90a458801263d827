"""Python's garbage collector, kept from stopping a node that is full of people.

A full collection looks at every object that is alive: with 10,000 connections it stops the node for 230 ms, and while they
were arriving seven such stops took a quarter of all CPU (and found nothing: what a connection leaves behind is freed by its
reference counts). So

- what the start made is set aside and never looked at again (``gc.freeze``);
- young objects are collected as ever, a millisecond at a time;
- a full collection is made when there is little to look at, and at least every `LONGEST` seconds, in case something does
  leave cycles behind.

Pauses are counted, because a pause that nobody measures comes back.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from typing import Any, Final

EVERY: Final = 60.0
"""Seconds between two looks at how much is alive."""
LONGEST: Final = 3600.0
"""Seconds after which a full collection is made, whatever it takes."""
LITTLE: Final = 1.3
"""Times the memory blocks of the start: up to that a full collection takes some milliseconds."""
_YOUNG: Final = 2000
"""Objects made until the youngest are collected; Python's own 700 is for short programs."""
_MIDDLE: Final = 10
_NEVER: Final = 1_000_000


class Garbage:
    """The collector of this process, from `start` on. Times are in seconds."""

    def __init__(self) -> None:
        self.collections = 0
        self.seconds = 0.0
        self.worst = 0.0
        self._began = 0.0
        self._baseline = 0
        self._collected_at = 0.0

    def start(self) -> None:
        """Set aside what is there, and collect by our own rules from now on."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)
        gc.callbacks.append(self._note)
        self._baseline = sys.getallocatedblocks()
        self._collected_at = time.monotonic()

    def stop(self) -> None:
        """Leave the collector as Python has it."""
        gc.callbacks.remove(self._note)
        gc.set_threshold(700, 10, 10)
        gc.unfreeze()

    def look(self, now: float) -> bool:
        """Make a full collection if it is cheap now, or due; say whether it was made."""
        if sys.getallocatedblocks() > LITTLE * self._baseline and now - self._collected_at < LONGEST:
            return False
        gc.collect()
        self._collected_at = now
        return True

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await asyncio.sleep(EVERY)
            self.look(time.monotonic())

    def _note(self, phase: str, _: dict[str, Any]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
            return
        pause = time.perf_counter() - self._began
        self.collections += 1
        self.seconds += pause
        self.worst = max(self.worst, pause)
