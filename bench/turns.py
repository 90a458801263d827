"""Taking turns with others on a machine: a lock that is held while something is measured, and let go now and then.

A lock that everybody holds for a while is hard to get, so once it is there it is kept for the next measurements, too, but no
longer than it is fair.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

FAIR_SECONDS: Final = 100.0
"""After so long the lock is let go when a measurement ends. A measurement takes up to a minute."""


class Turns:
    """The lock of a file (flock); without a file everything may be done at any time."""

    def __init__(self, file: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = file
        self._clock = clock
        self._held: BinaryIO | None = None
        self._since = 0.0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold the lock until the block ends, at least."""
        if self._path is not None and self._held is None:
            self._held = self._path.open("ab")
            fcntl.flock(self._held, fcntl.LOCK_EX)
            self._since = self._clock()
        try:
            yield
        finally:
            if self._clock() - self._since > FAIR_SECONDS:
                self.release()

    def release(self) -> None:
        """Let go of the lock, if it is held: what comes takes long and is no measurement."""
        if self._held is not None:
            self._held.close()
            self._held = None


def _turns(_context: click.Context, _parameter: click.Parameter, value: Any) -> Turns:
    return Turns(value)


lock_option = click.option(
    "--lock",
    "turns",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_turns,
    help="Hold this file's lock (flock) during measurements, so that others on the machine can wait.",
)
