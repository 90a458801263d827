"""What a run found, whatever it asked: figures with their units, curves of latency, plots and tables, and what they hold for.

One form for every scenario, so that one page shows them all and any two runs of a question can be compared.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.histogram import Histogram
from bench.machine import machine
from bench.roomlog import Unexpected

_PLACES = frozenset({"--lock", "--data", "--results", "--readme", "--json", "--table", "--to"})
MORE, LESS = "more", "less"
"""What is better."""


class Figure(msgspec.Struct, omit_defaults=True):
    """One number. `better` says in which direction; empty where there is none, or where only zero is right."""

    name: str
    value: float
    unit: str = ""
    better: str = ""


class Curve(msgspec.Struct):
    """A distribution of durations: pairs of a percentile and milliseconds."""

    name: str
    count: int
    points: list[tuple[float, float]]


class Plot(msgspec.Struct, omit_defaults=True):
    """Lines over an axis; a line is a list of pairs. `bars`: each line has one value, and is a bar."""

    title: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]]
    log_x: bool = False
    log_y: bool = False
    bars: bool = False
    limit: float | None = None
    """A bar that is to be met, drawn across."""


class Table(msgspec.Struct, omit_defaults=True):
    """Rows of text. The first column names the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


class Result(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What a run found. `asks` is the scenario's question in words, `question` its parameters."""

    scenario: str
    title: str
    asks: str
    at: str
    command: str
    question: dict[str, Any]
    conditions: dict[str, str]
    machine: dict[str, Any]
    figures: list[Figure] = []
    curves: list[Curve] = []
    plots: list[Plot] = []
    tables: list[Table] = []
    notes: list[str] = []
    cautions: list[str] = []
    """Why a figure may not be what it seems."""

    def value(self, name: str) -> float:
        """Return the figure of that name. Raises `Unexpected` when there is none."""
        for figure in self.figures:
            if figure.name == name:
                return figure.value
        raise Unexpected(f"this {self.scenario} has no figure {name!r}")


def new_result(
    scenario: str, asks: str | None, title: str, question: msgspec.Struct, conditions: Mapping[str, str]
) -> Result:
    """Return a result without figures. `asks` is the docstring of a scenario, of which the first sentence is taken."""
    return Result(
        scenario=scenario,
        title=title,
        asks=" ".join((asks or "").split("\n\n", 1)[0].split()),
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        command=shlex.join(["python", "-m", "bench", *what_was_asked(sys.argv[1:])]),
        question=msgspec.to_builtins(question),
        conditions=dict(conditions),
        machine=machine(),
    )


def what_was_asked(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command without those that only say where files are: they mean nothing elsewhere."""
    asked: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in _PLACES:
            next(rest, None)
        elif argument.partition("=")[0] not in _PLACES:
            asked.append(argument)
    return asked


def curve(name: str, counts: Mapping[int, int]) -> Curve:
    """Return the distribution of a histogram."""
    histogram = Histogram(counts)
    return Curve(name, len(histogram), histogram.curve())


def latency_figures(name: str, counts: Mapping[int, int]) -> list[Figure]:
    """Return the figures of a histogram; none when it is empty."""
    summary = Histogram(counts).summary()
    if not summary["count"]:
        return []
    return [
        Figure(f"{name} {share}", value, "ms", LESS) for share, value in summary.items() if share != "count"
    ]


def read(path: Path) -> Result:
    """Read what `write` wrote. Raises `Unexpected`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Result)
    except (OSError, msgspec.MsgspecError) as error:
        raise Unexpected(f"{path} is not a result of a bench: {error}") from error


def write(path: Path, result: Result) -> None:
    """Keep a result for comparison."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


def described(result: Result) -> str:
    """Return a result as text for people."""
    rows = _folded(result.figures)
    rows += list(result.conditions.items())
    rows += [("note", note) for note in result.notes]
    rows += [("CAUTION", caution) for caution in result.cautions]
    parts = [two_columns(result.title, rows)]
    parts += [in_columns(table) for table in result.tables]
    return "\n\n".join(parts)


def _folded(figures: Sequence[Figure]) -> list[tuple[str, str]]:
    """Put the percentiles of one thing on one line."""
    rows: list[tuple[str, str]] = []
    for figure in figures:
        name, _, share = figure.name.rpartition(" ")
        shown = shown_value(figure)
        if share == "max" or (share.startswith("p") and share[1:2].isdigit()):
            if rows and rows[-1][0] == name:
                rows[-1] = (name, f"{rows[-1][1]}  {share} {shown}")
            else:
                rows.append((name, f"{share} {shown}"))
        else:
            rows.append((figure.name, shown))
    return rows


def shown_value(figure: Figure) -> str:
    """Return a figure with as many digits as one reads."""
    value = figure.value
    if value == int(value) or abs(value) >= 1000:
        text = f"{value:,.0f}"
    elif abs(value) >= 100:
        text = f"{value:,.1f}"
    else:
        text = f"{value:,.3g}" if abs(value) < 1 else f"{value:,.2f}"
    return f"{text} {figure.unit}".rstrip()


def two_columns(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """Return rows of name and value as text in two columns."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def in_columns(table: Table) -> str:
    """Return a table as text."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(table.columns))]
    text = [
        "  "
        + "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([table.title, *text, *([f"  {table.note}"] if table.note else [])])


def as_markdown(table: Table) -> str:
    """Return a table as Markdown: words to the left, figures to the right."""
    sides = [
        "---:"
        if column and all(not row[column][:1].isalpha() or len(row[column]) < 8 for row in table.rows)
        else "---"
        for column in range(len(table.columns))
    ]
    lines = [
        f"**{table.title}**",
        "",
        "| " + " | ".join(table.columns) + " |",
        "| " + " | ".join(sides) + " |",
        *("| " + " | ".join(row) + " |" for row in table.rows),
        "",
    ]
    return "\n".join([*lines, table.note, ""] if table.note else lines)
