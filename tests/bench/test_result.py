"""What is kept of a run, and what is printed of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.histogram import Histogram
from bench.machine import machine, machine_line
from bench.result import (
    Figure,
    Table,
    curve,
    described,
    in_columns,
    latency_figures,
    new_result,
    read,
    two_columns,
    what_was_asked,
    write,
)
from bench.roomlog import Unexpected


class _Question(msgspec.Struct):
    members: int = 3


def test_a_result_is_kept_whole(tmp_path: Path) -> None:
    """What was written is what is read: figures, curves, and the machine, without which no two figures compare."""
    histogram = Histogram()
    histogram.add(5_000_000, 200)
    result = new_result("fanout", "Fan-out: how many?\n\nMore.", "a title", _Question(), {"server": "one"})
    result.figures = [Figure("deliveries", 10, "/s", "more"), *latency_figures("latency", histogram.counts)]
    result.curves = [curve("latency", histogram.counts)]
    write(tmp_path / "results" / "one.json", result)
    found = read(tmp_path / "results" / "one.json")
    assert found == result
    assert (found.asks, found.question, found.value("deliveries")) == (
        "Fan-out: how many?",
        {"members": 3},
        10,
    )
    assert found.machine["cores"] >= 1
    assert found.machine["versions"]["msgspec"] in machine_line(found.machine)


def test_what_is_no_result_is_one_sentence(tmp_path: Path) -> None:
    """Neither a missing file nor another JSON is a traceback, and a missing figure names itself."""
    with pytest.raises(Unexpected, match="is not a result"):
        read(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(Unexpected, match="is not a result"):
        read(tmp_path / "other.json")
    with pytest.raises(Unexpected, match="no figure 'speed'"):
        new_result("chat", None, "", _Question(), {}).value("speed")


def test_percentiles_of_one_thing_stand_on_one_line() -> None:
    """People read a row of percentiles, machines a figure each; a caution is not overlooked."""
    result = new_result("fanout", None, "a title", _Question(), {"server": "one"})
    result.figures = [
        Figure("deliveries", 399760, "/s"),
        Figure("latency p50", 4.5, "ms"),
        Figure("latency p99", 1234.5, "ms"),
        Figure("missing", 0),
    ]
    result.cautions = ["a tester was busy"]
    lines = described(result).splitlines()
    assert lines[1:4] == [
        "  deliveries  399,760 /s",
        "  latency     p50 4.50 ms  p99 1,234 ms",
        "  missing     0",
    ]
    assert lines[-1] == "  CAUTION     a tester was busy"


def test_an_empty_histogram_has_no_figures() -> None:
    """A row without values is not a row of zeros."""
    assert latency_figures("answer", {}) == []


def test_columns_stand_under_each_other() -> None:
    """Names to the left, numbers to the right."""
    assert two_columns("title", [("a", "1"), ("long", "2")]) == "title\n  a     1\n  long  2"
    table = Table("title", ["peer", "us"], [["ours", "1.0"], ["another", "12.5"]], note="a note")
    assert in_columns(table) == "title\n  peer       us\n  ours      1.0\n  another  12.5\n  a note"


def test_this_machine_is_known() -> None:
    """The commit is part of it."""
    assert machine()["commit"]


def test_a_command_is_kept_without_its_places() -> None:
    """What was asked can be asked elsewhere; where files were means nothing there."""
    given = ["figures", "idle", "--lock", "/x/y", "--data=/x", "--rate", "5", "--json", "out.json"]
    assert what_was_asked(given) == ["figures", "idle", "--rate", "5"]
