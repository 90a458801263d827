"""Who is let in when many come at once: sessions are admitted at a measured rate, those who come back first.

A node that starts, or the one that is left when another stops, may be asked for thousands of sessions in a second. A
session that is new costs reads and a snapshot; one that resumes is cheap, because its rooms are in memory and only what it
missed is sent. Each kind has a rate of its own, and a new session also waits for the resumes before it.

A plain object: it only says how long to wait (generic cell rate algorithm, one number of state per kind).
"""

from __future__ import annotations

from typing import Final

MOST_WAIT: Final = 4.0
"""Seconds that a hello is kept waiting; past it the client is told to come back later."""


class Admission:
    """At most `new` new sessions and `resumes` resuming ones a second, each with `burst` seconds' worth at once."""

    def __init__(self, new: float, resumes: float, burst: float = 0.5) -> None:
        self._new_gap = 1.0 / new
        self._resume_gap = 1.0 / resumes
        self._burst = burst
        self._new_due = 0.0
        self._resume_due = 0.0
        self.admitted = 0
        self.resumed = 0
        self.refused = 0

    def ask(self, now: float, *, resuming: bool) -> float | None:
        """Return the seconds to wait before this session may begin; None when it must come back another time."""
        earliest = now - self._burst
        due = max(self._resume_due, earliest)
        if not resuming:
            due = max(self._new_due, due)
        wait = max(0.0, due - now)
        if wait > MOST_WAIT:
            self.refused += 1
            return None
        if resuming:
            self._resume_due = due + self._resume_gap
            self.resumed += 1
        else:
            self._new_due = due + self._new_gap
            self.admitted += 1
        return wait
