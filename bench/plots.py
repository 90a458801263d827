"""Plots as SVG, by a few functions of our own: lines, bars, and distributions on the axis that shows their tails.

Colours are classes (``line-1`` and so on), so that the page decides about them, in light and in dark. Whatever is drawn has a
``title``, which a browser shows under the pointer and a screen reader reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Final

from bench.result import Curve, Plot

Points = Sequence[tuple[float, float]]

WIDTH: Final = 640
HEIGHT: Final = 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 46
COLOURS: Final = 8
_TAIL: Final = (50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
"""Percentiles that are written on the axis of a distribution."""
_MOST_DOTS: Final = 60
"""Points of a line that are still drawn as such."""
_BAR_HEIGHT, _BAR_GAP, _BAR_LEFT = 26, 8, 210


class Scale:
    """From values to places on a line of pixels, linear or logarithmic."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False) -> None:
        if log:
            low = max(low, 1e-6)
            high = max(high, low * 10)
        elif high <= low:
            high = low + 1
        self.low, self.high = low, high
        self._start, self._end = start, end
        self._log = log

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        if self._log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self._start + share * (self._end - self._start), 2)

    def ticks(self) -> list[float]:
        """Return the values to write on the axis: round ones, not too many."""
        if not self._log:
            return linear_ticks(self.low, self.high)
        return log_ticks(self.low, self.high)


def linear_ticks(low: float, high: float) -> list[float]:
    """Return some five round values between `low` and `high`."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten between `low` and `high`, with 2 and 5 between them when there are few."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [10.0**power for power in decades]
    if len(found) <= 4:
        found = [value * factor for value in found for factor in (1, 2, 5)]
    return [value for value in found if low * 0.999 <= value <= high * 1.001]


def shown(value: float) -> str:
    """Write a value of an axis in few characters."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    if abs(value) >= 10_000:
        return f"{value / 1e3:g}k"
    return f"{value:,.10g}"


def drawn(plot: Plot) -> str:
    """Return the SVG of a plot."""
    if plot.bars:
        return bars({name: points[0][1] for name, points in plot.lines.items() if points}, plot.title, plot.y)
    return _lines(plot.title, plot.lines, plot)


def distribution(title: str, curves: Mapping[str, Curve]) -> str:
    """Return the SVG of distributions of latency: the tail gets as much room as the rest, as HDR histograms are drawn."""
    lines = {
        name: [(_tail(share, curve.count), max(value, 1e-3)) for share, value in curve.points]
        for name, curve in curves.items()
    }
    furthest = max((x for points in lines.values() for x, _ in points), default=1.0)
    ticks = {_tail(share): f"{share:g} %" for share in _TAIL if _tail(share) <= furthest + 1e-9}
    plot = Plot(title, "percentile", "ms", lines, log_y=True)
    return _lines(title, lines, plot, x_ticks=ticks, x_shown=_percentile)


def _tail(share: float, count: int = 0) -> float:
    """Return the place of a percentile: each further nine is one step. The greatest of `count` values has the last place."""
    if share >= 100:
        return math.log10(max(10, count))
    return -math.log10(1 - share / 100)


def _percentile(place: float) -> str:
    return f"{100 * (1 - 10**-place):.6g} %"


def _lines(
    title: str,
    lines: Mapping[str, Points],
    plot: Plot,
    *,
    x_ticks: Mapping[float, str] | None = None,
    x_shown: Callable[[float], str] = shown,
) -> str:
    xs = [x for points in lines.values() for x, _ in points] or [0.0]
    ys = [y for points in lines.values() for _, y in points] or [0.0]
    if plot.limit is not None:
        ys.append(plot.limit)
    right, floor = WIDTH - _RIGHT, HEIGHT - _BOTTOM
    x = Scale(min(xs), max(xs), _LEFT, right, log=plot.log_x)
    lowest = min(ys) * 0.8 if plot.log_y else min(0.0, *ys)
    y = Scale(lowest, max(ys) * (1.3 if plot.log_y else 1.05), floor, _TOP, log=plot.log_y)
    parts = []
    for value in y.ticks():
        parts.append(f'<path class="grid" d="M{_LEFT} {y(value)}H{right}"/>')
        parts.append(
            f'<text class="tick" x="{_LEFT - 8}" y="{y(value) + 4}" text-anchor="end">{shown(value)}</text>'
        )
    for value, text in (x_ticks or {value: shown(value) for value in x.ticks()}).items():
        parts.append(f'<path class="grid" d="M{x(value)} {_TOP}V{floor}"/>')
        parts.append(f'<text class="tick" x="{x(value)}" y="{floor + 18}" text-anchor="middle">{text}</text>')
    if plot.limit is not None:
        parts.append(f'<path class="limit" d="M{_LEFT} {y(plot.limit)}H{right}"/>')
        parts.append(
            f'<text class="limit-text" x="{right}" y="{y(plot.limit) - 6}" text-anchor="end">'
            f"{shown(plot.limit)} {escape(plot.y)}</text>"
        )
    for number, (name, points) in enumerate(lines.items()):
        colour = f"line-{number % COLOURS + 1}"
        path = "L".join(f"{x(one)} {y(other)}" for one, other in points)
        if path:
            parts.append(f'<path class="line {colour}" d="M{path}"/>')
        if len(points) > _MOST_DOTS:
            continue
        parts += [
            f'<circle class="dot {colour}" cx="{x(one)}" cy="{y(other)}" r="3">'
            f"<title>{escape(name)}: {other:,.6g} {escape(plot.y)} at {x_shown(one)}</title></circle>"
            for one, other in points
        ]
    middle = (_LEFT + right) / 2
    parts.append(
        f'<text class="axis" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(plot.x)}</text>'
    )
    parts.append(
        f'<text class="axis" transform="translate(14 {(_TOP + floor) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(plot.y)}</text>"
    )
    return _svg(title, WIDTH, HEIGHT, parts)


def bars(values: Mapping[str, float], title: str, unit: str, *, ours: str = "LOOPROOMS") -> str:
    """Return the SVG of horizontal bars in the order given; those whose name has `ours` in it stand out."""
    height = len(values) * (_BAR_HEIGHT + _BAR_GAP) + _BAR_GAP
    most = max([*values.values(), 1e-9])
    room = WIDTH - _BAR_LEFT - 110
    parts = []
    for number, (name, value) in enumerate(values.items()):
        top = _BAR_GAP + number * (_BAR_HEIGHT + _BAR_GAP)
        length = max(1.5, round(value / most * room, 1))
        kind = "bar ours" if ours in name else "bar"
        middle = top + _BAR_HEIGHT / 2 + 5
        parts.append(
            f'<text class="bar-name" x="{_BAR_LEFT - 10}" y="{middle}" text-anchor="end">{escape(name)}</text>'
        )
        parts.append(
            f'<rect class="{kind}" x="{_BAR_LEFT}" y="{top}" width="{length}" height="{_BAR_HEIGHT}" rx="4">'
            f"<title>{escape(name)}: {value:,.6g} {escape(unit)}</title></rect>"
        )
        figure = f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"
        parts.append(
            f'<text class="bar-value" x="{_BAR_LEFT + length + 8}" y="{middle}">{figure} {escape(unit)}</text>'
        )
    return _svg(title, WIDTH, height, parts)


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )
