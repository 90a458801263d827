"""The line editor and the terminal of ``looprooms join``."""

from __future__ import annotations

import pytest

from server.terminal.line import LineEditor


def typed(*keys: str) -> LineEditor:
    """Type keys into a new editor, in separate reads."""
    editor = LineEditor()
    for key in keys:
        assert editor.feed(key) == []
    return editor


def test_a_line_is_finished_by_enter() -> None:
    """Several lines may come in one read; what follows stays unfinished."""
    editor = LineEditor()
    assert editor.feed("hello\nyou\rand") == ["hello", "you"]
    assert editor.text == "and"


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ("abc\x7f", "ab"),
        ("abc\x15x", "x"),
        ("one two  \x17", "one "),
        ("ac\x1b[Db", "abc"),
        ("ac\x1b[D\x1b[D\x1b[D\x1b[Cb", "abc"),
        ("bc\x01a\x05d", "abcd"),
        ("bc\x1b[Ha\x1b[Fd", "abcd"),
        ("abc\x01\x1b[3~", "bc"),
        ("abc\x01\x04", "bc"),
        ("abcd\x1b[D\x1b[D\x0b", "ab"),
        ("a\tb\x00\x07\x1b[99~c", "a bc"),
        ("日本\x7f", "日"),
    ],
)
def test_keys_that_edit(keys: str, text: str) -> None:
    """What people's fingers know works; keys that mean nothing here do nothing."""
    assert typed(keys).text == text


def test_a_key_that_arrives_in_pieces() -> None:
    """An arrow key is three characters, which a slow line delivers one by one."""
    assert typed("ac", "\x1b", "[", "D", "b").text == "abc"


def test_earlier_lines_come_back() -> None:
    """Arrow up and down walk through what was said; the unfinished line is not lost."""
    editor = LineEditor()
    editor.feed("one\ntwo\ntwo\nthr")
    walk = []
    for key in ("\x1b[A", "\x1bOA", "\x1b[A", "\x1b[B", "\x1bOB", "\x1b[B"):
        editor.feed(key)
        walk.append(editor.text)
    assert walk == ["two", "one", "one", "two", "thr", "thr"]


def test_the_end_of_the_input() -> None:
    """Ctrl-D ends on an empty line only."""
    assert not typed("a\x04").ended
    assert typed("a\x7f\x04").ended


def test_what_is_drawn_fits_in_one_row() -> None:
    """A long line shows the part around the cursor, and the cursor goes back to its place."""
    editor = typed("abcdefghij")
    assert editor.drawn("> ", 80) == "\r\x1b[K> abcdefghij"
    assert editor.drawn("> ", 9) == "\r\x1b[K> fghij"
    editor.feed("\x1b[D\x1b[D")
    assert editor.drawn("> ", 80) == "\r\x1b[K> abcdefghij\x1b[2D"
    assert typed("日本語").drawn("> ", 8) == "\r\x1b[K> 本語"
