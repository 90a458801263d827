"""How far a run is: bars on a terminal when the bench extra is installed, nothing at all anywhere else.

Progress goes to stderr and results to stdout, so a pipe never sees a bar.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]


class Progress:
    """Shows what is being done. `shown` defaults to whether stderr is a terminal and `rich` is installed."""

    def __init__(self, *, shown: bool | None = None) -> None:
        if shown is None:
            shown = sys.stderr.isatty() and importlib.util.find_spec("rich") is not None
        self._shown = shown

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Advance]:
        """Show a bar until the block ends; what is given is called with how many are ready."""
        if not self._shown:
            yield lambda _: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(what, total=total)
            yield lambda ready: bars.update(task, completed=ready)

    @contextmanager
    def lasting(self, what: str, seconds: float) -> Iterator[Callable[[object], None]]:
        """Show a bar that fills with time, in seconds; what is given is to be called now and then, with anything."""
        start = time.monotonic()
        with self.counting(what, max(1, round(seconds))) as advance:
            yield lambda _: advance(round(time.monotonic() - start))
