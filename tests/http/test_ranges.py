"""What part of a file a request wants."""

from __future__ import annotations

import re

import pytest

from protocol.refusals import ErrorCode, Refused
from server.http import ranges
from server.http.ranges import MOST, Range, ranges_of

SIZE = 1000


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None),
        ("", None),
        ("bytes=0-", [(0, 1000)]),
        ("bytes=0-0", [(0, 1)]),
        ("Bytes=10-19", [(10, 20)]),
        ("bytes=990-2000", [(990, 1000)]),
        ("bytes=-10", [(990, 1000)]),
        ("bytes=-5000", [(0, 1000)]),
        ("bytes=0-1, 5-6", [(0, 2), (5, 7)]),
        ("bytes=5-6,0-1", [(5, 7), (0, 2)]),
        ("bytes=0-1,2000-", [(0, 2)]),
        ("bytes=0-10,5-20", None),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=", None),
        ("bytes=a-b", None),
        ("bytes=١-٢", None),
        ("lines=0-1", None),
        ("bytes=0-1," * 20, None),
        ("bytes=" + "9" * 30 + "-", None),
    ],
)
def test_what_is_wanted(header: str | None, wanted: list[tuple[int, int]] | None) -> None:
    """A header that makes sense names parts; one that makes none, or asks for too much, is as if it was not there."""
    expected = None if wanted is None else [Range(start, end) for start, end in wanted]
    assert ranges_of(header, SIZE) == expected


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=2000-3000", "bytes=-0"])
def test_what_is_not_there(header: str) -> None:
    """A part that the file does not have is refused."""
    with pytest.raises(Refused) as refused:
        ranges_of(header, SIZE)
    assert refused.value.code is ErrorCode.RANGE_REFUSED


def test_ten_thousand_ranges_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are asked for, at most a few are read."""

    class Counting:
        calls = 0
        pattern = re.compile(r"(\d+)?-(\d+)?")

        def fullmatch(self, text: str) -> re.Match[str] | None:
            self.calls += 1
            return self.pattern.fullmatch(text)

    counting = Counting()
    monkeypatch.setattr(ranges, "_ONE", counting)
    assert ranges_of("bytes=" + ",".join(f"{at}-{at}" for at in range(0, 20000, 2)), 100_000) is None
    assert counting.calls == 0
    assert ranges_of("bytes=" + ",".join(f"{at}-{at}" for at in range(0, 2 * MOST, 2)), SIZE) is not None
    assert counting.calls == MOST


def test_how_a_part_is_told() -> None:
    """The last byte is told, not the one behind it."""
    assert Range(10, 20).content_range(SIZE) == "bytes 10-19/1000"
    assert len(Range(10, 20)) == 10
