"""A token bucket, with the time in the test's hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.hub.limits import PATIENCE, Bucket


def test_burst_then_rate() -> None:
    """A burst goes at once, then one a tenth of a second; the wait that is told is the wait."""
    bucket = Bucket(rate=10.0, burst=3.0, now=5.0)
    assert [bucket.take(5.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(5.0) == pytest.approx(0.1)
    assert bucket.take(5.05) == pytest.approx(0.05)
    assert bucket.take(5.11) == 0.0
    assert bucket.take(5.12) > 0.0


def test_rest_fills_the_bucket() -> None:
    """However long nothing is taken, no more than the burst is there."""
    bucket = Bucket(rate=10.0, burst=3.0, now=0.0)
    assert [bucket.take(1000.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(1000.0) > 0.0


def test_patience() -> None:
    """Only a peer that heeds no refusal is given up."""
    bucket = Bucket(rate=10.0, burst=1.0, now=0.0)
    bucket.take(0.0)
    for _ in range(PATIENCE):
        assert bucket.take(0.0) > 0.0
    assert not bucket.exhausted
    bucket.take(0.0)
    assert bucket.exhausted


def test_patience_comes_back() -> None:
    """Each command that was waited for makes good one refusal."""
    bucket = Bucket(rate=10.0, burst=1.0, now=0.0)
    bucket.take(0.0)
    for number in range(1, 2 * PATIENCE):
        assert bucket.take(float(number)) == 0.0
        assert bucket.take(float(number)) > 0.0
    assert bucket.refusals <= 1


@given(st.lists(st.floats(0.0, 2.0), max_size=100), st.floats(0.5, 50.0), st.floats(1.0, 20.0))
def test_never_more_than_it_says(pauses: list[float], rate: float, burst: float) -> None:
    """In no stretch of time is more taken than the burst and what the rate gives; who waits as told is let through."""
    bucket = Bucket(rate, burst, 0.0)
    now = 0.0
    for taken, pause in enumerate(pauses, 1):
        now += pause
        wait = bucket.take(now)
        if wait:
            now += wait * 1.000001 + 1e-9
            assert bucket.take(now) == 0.0
        assert taken <= burst + rate * now + 1e-6
