"""Close codes: a code answers one question, come back or not."""

from __future__ import annotations

import pytest

from protocol.closing import CloseCode, fitting, reconnects


@pytest.mark.parametrize("code", CloseCode, ids=lambda code: code.name)
def test_ranges(code: CloseCode) -> None:
    """Ours are 4000 to 4999, and which half a code is in is what a client does."""
    assert 4000 <= code <= 4999
    assert reconnects(code) == (code < 4500)


@pytest.mark.parametrize("code", CloseCode, ids=lambda code: code.name)
def test_meanings(code: CloseCode) -> None:
    """Each has a sentence for people that fits into a close frame, which holds 125 bytes and 2 are the code."""
    assert code.meaning.endswith(".")
    assert len(code.meaning.encode()) <= 123


def test_each_has_its_number() -> None:
    """No two codes share a number: an enum would silently make one the alias of the other."""
    assert len(CloseCode.__members__) == len(set(CloseCode))


@pytest.mark.parametrize("code", [1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015, 4000, 4499])
def test_accidents_of_the_way(code: int) -> None:
    """What may be different the next time is worth another try."""
    assert reconnects(code)


@pytest.mark.parametrize("code", [1000, 1002, 1003, 1007, 1009, 1010, 4500, 4999, 5000])
def test_what_would_happen_again(code: int) -> None:
    """Done, or refused for the bytes or the person: the same would happen again."""
    assert not reconnects(code)


def test_reasons_fit() -> None:
    """A reason that is too long for its frame is cut, and never within a character."""
    assert fitting("Out.") == "Out."
    assert fitting("ä" * 100) == "ä" * 61
