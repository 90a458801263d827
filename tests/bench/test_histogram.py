"""Percentiles."""

from __future__ import annotations

import pytest

from bench.histogram import Histogram


@pytest.mark.parametrize("value", [0, 1, 255, 256, 1000, 123_456_789, 10**12])
def test_a_value_is_kept_within_one_percent(value: int) -> None:
    """Whatever its size, a duration comes back at most 0.8 % off."""
    histogram = Histogram()
    histogram.add(value)
    assert histogram.percentile(50) * 1e9 == pytest.approx(value, rel=0.008, abs=0.5)


def test_percentiles_are_those_of_the_sorted_values() -> None:
    """Of 1 to 1,000 ms the median is 500, the 99th percentile 990, the greatest 1,000."""
    histogram = Histogram()
    for milliseconds in range(1000, 0, -1):
        histogram.add(milliseconds * 1_000_000)
    summary = histogram.summary()
    assert summary["count"] == 1000
    found = [summary[name] for name in ("p50", "p90", "p99", "max")]
    assert found == pytest.approx([500, 900, 990, 1000], rel=0.008)


def test_histograms_of_two_processes_are_one() -> None:
    """Counts are added; a clock that runs behind counts as no time at all."""
    one, other = Histogram(), Histogram()
    one.add(5)
    other.add(-3)
    other.update(one.counts)
    assert len(other) == 2
    assert other.percentile(50) == 0.0


def test_a_curve_ends_where_values_no_longer_tell_percentiles_apart() -> None:
    """Of a thousand values the 99.9th percentile is one value, the 99.99th would be none: the curve ends with the greatest."""
    histogram = Histogram()
    for milliseconds in range(1, 1001):
        histogram.add(milliseconds * 1_000_000)
    curve = dict(histogram.curve())
    assert curve[50.0] == pytest.approx(500, rel=0.008)
    assert curve[100.0] == pytest.approx(1000, rel=0.008)
    assert sorted(curve)[-2:] == [99.9, 100.0]


def test_nothing_counted_is_nothing() -> None:
    """No value, no percentile."""
    assert Histogram().percentile(99) == 0.0
    assert Histogram().summary()["count"] == 0
