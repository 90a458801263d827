"""Plots: values stand where they belong, and what is drawn is whole."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from bench.plots import Scale, bars, distribution, drawn, linear_ticks, log_ticks, shown
from bench.result import Curve, Plot

_SVG = "{http://www.w3.org/2000/svg}"


def test_a_scale_maps_its_ends_to_the_ends() -> None:
    """Linear: the middle is in the middle. Logarithmic: the geometric middle is."""
    linear = Scale(0, 10, 100, 200)
    assert [linear(value) for value in (0, 5, 10)] == [100, 150, 200]
    log = Scale(1, 100, 200, 100, log=True)
    assert [log(value) for value in (1, 10, 100)] == [200, 150, 100]
    assert log(0) == 200


def test_a_scale_of_one_value_is_still_a_scale() -> None:
    """A single run, or a line of zeros, divides by nothing."""
    assert Scale(0, 0, 0, 100)(0) == 0
    assert Scale(7, 7, 0, 100)(7) == 0
    assert Scale(5, 5, 0, 100, log=True)(5) == 0


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-5, 5, [-4, -2, 0, 2, 4]),
        (0, 12_000, [0, 2_500, 5_000, 7_500, 10_000]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    """As a person would write them on an axis."""
    assert linear_ticks(low, high) == expected


def test_ticks_of_a_logarithmic_axis() -> None:
    """Powers of ten, with 2 and 5 between when there are few."""
    assert log_ticks(1, 100) == [1, 2, 5, 10, 20, 50, 100]
    assert log_ticks(0.01, 1e5) == pytest.approx([0.01, 0.1, 1, 10, 100, 1e3, 1e4, 1e5])
    assert [shown(value) for value in (0.5, 1000, 20_000, 2.5e6)] == ["0.5", "1,000", "20k", "2.5M"]


def test_every_value_is_drawn_and_told() -> None:
    """Two lines and a limit: a path and a point with its sentence for each, whatever the names are made of."""
    plot = Plot(
        "A <title>", "people & rooms", "ms", {"a & b": [(1, 2), (3, 4)], "c": [(2, 9)]}, log_y=True, limit=5
    )
    tree = ET.fromstring(drawn(plot))
    titles = [title.text for title in tree.iter(f"{_SVG}title")]
    assert titles == ["A <title>", "a & b: 2 ms at 1", "a & b: 4 ms at 3", "c: 9 ms at 2"]
    assert len(tree.findall(f"{_SVG}path[@class='limit']")) == 1
    places = [float(circle.attrib["cy"]) for circle in tree.iter(f"{_SVG}circle")]
    assert places[0] > places[1] > places[2]  # more is higher


def test_bars_are_as_long_as_their_values() -> None:
    """Half the value, half the bar; our own stands out."""
    tree = ET.fromstring(bars({"ws <1>": 100, "VYBE LOOPROOMS": 200}, "deliveries", "/s"))
    found = tree.findall(f"{_SVG}rect")
    assert float(found[0].attrib["width"]) == pytest.approx(float(found[1].attrib["width"]) / 2)
    assert [rect.attrib["class"] for rect in found] == ["bar", "bar ours"]


def test_a_distribution_gives_each_nine_the_same_room() -> None:
    """From 90 % to 99 % is as far as from 99 % to 99.9 %, and the greatest of a thousand values is as far as 99.9 %."""
    curve = Curve("latency", 1000, [(90.0, 1.0), (99.0, 2.0), (99.9, 3.0), (100.0, 4.0)])
    tree = ET.fromstring(distribution("latency", {"one": curve}))
    places = [float(circle.attrib["cx"]) for circle in tree.iter(f"{_SVG}circle")]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.1)
    assert places[3] == places[2]
    ticks = [text.text for text in tree.findall(f"{_SVG}text[@class='tick']")]
    assert ticks[-3:] == ["90 %", "99 %", "99.9 %"]


def test_nothing_is_a_picture_too() -> None:
    """A plot without lines and one without points are well-formed."""
    nothing: list[dict[str, list[tuple[float, float]]]] = [{}, {"none": []}]
    for lines in nothing:
        ET.fromstring(drawn(Plot("empty", "x", "y", lines)))
    ET.fromstring(bars({}, "empty", "/s"))
    ET.fromstring(distribution("empty", {}))
