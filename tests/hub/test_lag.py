"""How far screens are behind: the worst lately of each room, and of them the worst few."""

from __future__ import annotations

from uuid import UUID

from protocol.envelope import RoomId
from server.hub.lag import REMEMBERED_SECONDS, Lags

ONE, TWO, THREE = (RoomId(UUID(int=number)) for number in (1, 2, 3))


def test_the_worst_counts() -> None:
    """Of all reports of a room the worst counts; nobody is ahead of a room."""
    lags = Lags()
    for behind in (3, 7, 5):
        lags.report(ONE, behind, now=0.0)
    lags.report(TWO, -2, now=0.0)
    assert lags.worst(1.0, 10) == [(ONE, 7), (TWO, 0)]


def test_only_the_worst_rooms() -> None:
    """As many rooms as are asked for, the worst first."""
    lags = Lags()
    for room, behind in ((ONE, 1), (TWO, 9), (THREE, 5)):
        lags.report(room, behind, now=0.0)
    assert lags.worst(0.0, 2) == [(TWO, 9), (THREE, 5)]
    assert lags.worst(0.0, 0) == []


def test_old_reports_are_forgotten() -> None:
    """A report counts for a minute; a smaller one replaces it afterwards, and so does the same again at once."""
    lags = Lags()
    lags.report(ONE, 9, now=0.0)
    lags.report(TWO, 9, now=0.0)
    lags.report(TWO, 9, now=30.0)
    lags.report(ONE, 2, now=REMEMBERED_SECONDS + 1)
    assert lags.worst(REMEMBERED_SECONDS + 1, 10) == [(TWO, 9), (ONE, 2)]
    assert lags.worst(31 + REMEMBERED_SECONDS, 10) == [(ONE, 2)]
    assert lags.worst(10 * REMEMBERED_SECONDS, 10) == []


def test_a_minute_is_a_minute() -> None:
    """Until its last moment a report stands against a smaller one, and is told; after that it is neither."""
    lags = Lags()
    lags.report(ONE, 9, now=100.0)
    lags.report(ONE, 2, now=100.0 + REMEMBERED_SECONDS)
    assert lags.worst(100.0 + REMEMBERED_SECONDS, 1) == [(ONE, 9)]
    lags.report(ONE, 2, now=100.5 + REMEMBERED_SECONDS)
    assert lags.worst(100.5 + REMEMBERED_SECONDS, 1) == [(ONE, 2)]
