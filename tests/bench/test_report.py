"""Percentiles and tables."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.report import Histogram, latency_row, machine, machine_line, table, write_json


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


def test_nothing_counted_says_so() -> None:
    """A row without values is not a row of zeros."""
    assert Histogram().percentile(99) == 0.0
    assert latency_row("answer", Histogram().summary()) == ("answer", "none")


def test_a_table_has_two_columns() -> None:
    """Values stand under each other, whatever their names' lengths."""
    assert table("title", [("a", "1"), ("long", "2")]) == "title\n  a     1\n  long  2"


def test_a_result_is_kept_with_its_machine(tmp_path: Path) -> None:
    """A figure without its processor, kernel and versions can't be compared with another."""
    kept = tmp_path / "results" / "one.json"
    write_json(kept, {"machine": machine()})
    found = msgspec.json.decode(kept.read_bytes())["machine"]
    assert found["cores"] >= 1
    assert found["versions"]["msgspec"] in machine_line()
