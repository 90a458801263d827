"""The lock that is held while something is measured."""

from __future__ import annotations

import fcntl
from pathlib import Path

from bench.turns import FAIR_SECONDS, Turns


def _is_free(file: Path) -> bool:
    with file.open("ab") as other:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_a_lock_is_kept_for_the_next_measurement_but_not_for_long(tmp_path: Path) -> None:
    """It is held in a block and after it, until the fair time is over; then the end of a block lets it go."""
    now = 0.0
    file = tmp_path / "lock"
    turns = Turns(file, lambda: now)
    with turns.taken():
        assert not _is_free(file)
    assert not _is_free(file)
    now = FAIR_SECONDS + 1
    with turns.taken():
        assert not _is_free(file)
    assert _is_free(file)
    with turns.taken():
        assert not _is_free(file)
    turns.release()
    assert _is_free(file)


def test_without_a_file_there_is_nothing_to_wait_for() -> None:
    """Most machines are one's own."""
    turns = Turns(None)
    with turns.taken():
        turns.release()
