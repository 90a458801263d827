"""Long bodies: who asked for patience has it as long as enough moves, and nobody else has any."""

from __future__ import annotations

from starlette.requests import Request

from server.http.pace import EXTENSION, Pace, pace_of


def test_nobody_has_patience_unasked() -> None:
    """However much moves, a body that nobody has vouched for has its time and no more."""
    pace = Pace()
    pace.moved += 10**9
    assert not pace.kept()


def test_the_pace_is_that_since_the_last_look() -> None:
    """What came before does not count again."""
    pace = Pace()
    pace.least = 100
    pace.moved += 100
    assert pace.kept()
    pace.moved += 99
    assert not pace.kept()
    pace.moved += 200
    assert pace.kept()


def test_a_request_knows_its_pace() -> None:
    """It is the connection's own; where a server has none, it is nobody's."""
    pace = Pace()
    assert pace_of(Request({"type": "http", "extensions": {EXTENSION: {"pace": pace}}})) is pace
    assert pace_of(Request({"type": "http"})).moved == 0
