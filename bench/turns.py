"""Taking turns with others on a machine: a lock that is held while something is measured, and only then."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

lock_option = click.option(
    "--lock",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Hold this file's lock during each measurement, so that others on the machine can wait (flock).",
)


@contextmanager
def holding(lock: Path | None) -> Iterator[None]:
    """Hold the lock of a file until the block ends; without a file do nothing."""
    if lock is None:
        yield
        return
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
