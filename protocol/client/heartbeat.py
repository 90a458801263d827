"""When to ask the server whether it is there, and when to believe that it is not.

A plain object, given the time: the server is heard at least every `interval` seconds, since it pings when it has nothing
to say. We ask once an interval as well (which tells it how far we have come), and who says nothing at all for `patience`
seconds after that is dead, whatever TCP thinks.
"""

from __future__ import annotations

from enum import Enum


class Beat(Enum):
    """What to do at a tick."""

    NOTHING = "nothing"
    ASK = "send a ping"
    DEAD = "give the connection up"


class Heartbeat:
    """The heartbeat of one connection. `jitter` in [0, 1) spreads the first beats of many clients; times are in seconds."""

    def __init__(self, *, interval: float, patience: float, now: float, jitter: float) -> None:
        self._interval = interval
        self._patience = patience
        self._asked: float | None = None
        self.due = now + interval * (0.5 + jitter / 2)
        """The moment of the next tick."""

    def tick(self, now: float, heard: float) -> Beat:
        """Judge at `now`, when anything was heard last at `heard`. The next tick is at `due`."""
        if now < self.due:
            return Beat.NOTHING
        if self._asked is None:
            self._asked = now
            self.due = now + self._patience
            return Beat.ASK
        if heard < self._asked:
            return Beat.DEAD
        self.due = max(now, self._asked + self._interval)
        self._asked = None
        return Beat.NOTHING

    def forgive(self, now: float) -> None:
        """Start over: it was us who did not listen."""
        self._asked = None
        self.due = now + self._interval
