"""Secrets of the embedded run: made once, readable by their owner alone."""

from __future__ import annotations

import stat
from pathlib import Path

from server.environment import load
from server.keys import kept, new_key
from server.tokens import Tokens


def test_a_secret_is_made_once(tmp_path: Path) -> None:
    """The second time it is the first one's, and only its owner can read it."""
    file = tmp_path / "secret"
    assert kept(file, lambda: "one") == (["one"], True)
    assert kept(file, lambda: "two") == (["one"], False)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_crash_in_the_middle_is_no_secret(tmp_path: Path) -> None:
    """An empty file and a half-written one beside it are made anew."""
    file = tmp_path / "secret"
    file.write_text("")
    file.with_suffix(".new").write_text("half")
    assert kept(file, lambda: "whole") == (["whole"], True)


def test_a_new_key_is_one(tmp_path: Path) -> None:
    """It is taken by the settings, signs, and is another one each time."""
    key = new_key()
    settings = load({"LOOPROOMS_SIGNING_KEYS": key}, folder=tmp_path).settings
    assert len(Tokens(settings).successors("any")) == 1
    assert new_key() != key
