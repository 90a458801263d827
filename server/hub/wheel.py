"""One timer for every deadline of every connection.

Ten thousand connections with a timer each would be ten thousand entries in the loop's heap, moved at every frame. Here a
connection stands in one slot of a wheel; when the slot comes up it looks for itself what is due and says when to look
next. Hearing from a peer costs an assignment and no timer work at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import ceil
from typing import Protocol

_LOGGER = logging.getLogger("looprooms.wheel")

TICK = 0.25
"""Seconds between two looks: how late a deadline may be noticed."""

RETRY = 5.0
"""Seconds after which a thing whose deadline failed, by a bug, is asked again."""


class Watched(Protocol):
    """What has deadlines. `slot` belongs to the wheel; it starts as 0."""

    slot: int

    def on_deadline(self, now: float) -> float | None:
        """Do what is due at `now`; return when to be asked next (loop time, seconds), or None for never."""


class Wheel:
    """Asks each watched thing when its time has come. `clock` is the loop's time in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._slots: dict[int, dict[Watched, None]] = {}
        self._at = int(clock() / TICK)
        self._timer: asyncio.TimerHandle | None = None
        self.lag = 0.0
        """How late the loop came to a tick lately, in seconds: the worst, fading away."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Turn by itself from now on, until `stop`."""
        due = self._clock() + TICK

        def tick() -> None:
            nonlocal due
            now = self._clock()
            self.lag = max(now - due, self.lag * 0.9)
            due = now + TICK
            self._timer = loop.call_at(due, tick)
            self.turn()

        self._timer = loop.call_at(due, tick)

    def stop(self) -> None:
        """Turn no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def watch(self, thing: Watched, at: float) -> None:
        """Ask `thing` at `at` or, if it is to be asked earlier already, then."""
        slot = max(ceil(at / TICK), self._at + 1)
        if thing.slot > self._at and thing.slot <= slot:
            return
        self.forget(thing)
        thing.slot = slot
        self._slots.setdefault(slot, {})[thing] = None

    def forget(self, thing: Watched) -> None:
        """Never ask `thing` again, unless it is watched anew; and keep nothing of it.

        A slot that kept it would keep thousands of connections that are gone, for half a minute, while people come and go.
        """
        if (slot := self._slots.get(thing.slot)) is not None:
            slot.pop(thing, None)
        thing.slot = 0

    def turn(self) -> None:
        """Ask everything whose time has come. The clock may have jumped over many slots."""
        now = self._clock()
        until = int(now / TICK)
        if until - self._at > len(self._slots):
            due = sorted(slot for slot in self._slots if slot <= until)
        else:
            due = [slot for slot in range(self._at + 1, until + 1) if slot in self._slots]
        self._at = until
        for slot in due:
            for thing in self._slots.pop(slot):
                if thing.slot != slot:  # it was moved, or forgotten, by one that was asked before it
                    continue
                thing.slot = 0
                try:
                    again = thing.on_deadline(now)
                except Exception:  # the others of this slot are not to lose their deadlines by it
                    _LOGGER.exception("a deadline failed")
                    again = now + RETRY
                if again is not None:
                    self.watch(thing, again)
