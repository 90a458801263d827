"""How far a run is: on a terminal, and nowhere else."""

from __future__ import annotations

import sys

import pytest

from bench.progress import Progress


def test_without_a_terminal_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe sees results and nothing else."""
    with Progress().counting("accounts", 3) as ready:
        ready(2)
    with Progress(shown=False).lasting("idle", 1.0) as tick:
        tick(None)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_there_is_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, with what is counted."""
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with Progress(shown=True).counting("accounts", 3) as ready:
        ready(3)
    out, err = capsys.readouterr()
    assert out == ""
    assert "accounts" in err
    assert "3/3" in err


def test_a_terminal_without_rich_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is not needed to measure."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with Progress().counting("accounts", 3) as ready:
        ready(3)
