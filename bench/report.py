"""One page for any number of runs: what was asked, what came out, how it is spread, and how the runs compare.

The page is one file without anything from elsewhere: no script, no font, no picture. It can be shown, printed and sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from bench.machine import machine_line
from bench.peers.compare import OURS, OURS_DURABLE
from bench.plots import COLOURS, distribution, drawn
from bench.result import LESS, MORE, Curve, Figure, Result, Table, read, shown_value

_STYLE = Path(__file__).with_name("report.css")

_FIRST: Mapping[str, Sequence[str]] = {
    "fanout": ("deliveries", "latency p99", "CPU per delivery, server", "missing"),
    "chat": ("lines carried", "arrival p99", "answer p99", "missing"),
    "reactions": ("reactions", "answer p99", "frames per person", "people with wrong totals"),
    "presence": ("changes", "frames per person", "join p99", "people with a wrong count"),
    "connects": ("welcomed per second", "welcome p99", "CPU per connect, server", "turned away"),
    "storm": ("everyone back after", "back p99", "missed", "twice"),
    "idle": ("connections", "memory per connection", "share of a core, server", "still there at the end"),
    "http": ("answers", "/me p95", "CPU per request, server", "refused"),
    "mix": ("commands", "arrival p99", "line answered p99", "missed"),
    "peers": tuple(f"most deliveries, {name}" for name in (OURS, OURS_DURABLE)),
    "capacity": tuple(f"nodes, {people} people" for people in ("10,000", "100,000", "1,000,000")),
    "soak": ("memory grows by", "arrival p99", "missed", "twice"),
}
"""The figures that stand at the top, in large."""
_TOP = 4


def page(results: Mapping[str, Result]) -> str:
    """Return the page for results by their names. Results of one scenario are compared, in the order given."""
    groups: dict[str, dict[str, Result]] = {}
    for name, result in results.items():
        groups.setdefault(result.scenario, {})[name] = result
    newest = max(result.at for result in results.values())
    machines = sorted({machine_line(result.machine) for result in results.values()})
    contents = "".join(f'<a href="#{escape(scenario)}">{escape(scenario)}</a>' for scenario in groups)
    sections = "".join(_section(scenario, runs) for scenario, runs in groups.items())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>VYBE LOOPROOMS, measured</title><style>{_STYLE.read_text('utf-8')}</style></head><body>"
        f"<header><h1>VYBE LOOPROOMS, <em>measured</em></h1><nav>{contents}</nav></header><main>{sections}</main>"
        f"<footer><p>{len(results)} run{'s' * (len(results) != 1)}, the newest of {escape(newest)}.</p>"
        f"{''.join(f'<p>{escape(line)}</p>' for line in machines)}</footer></body></html>\n"
    )


def write_page(files: Sequence[Path], to: Path) -> None:
    """Read results and write their page. Raises `Unexpected` for what is no result."""
    names = unique_names(files)
    text = page({name: read(file) for name, file in zip(names, files, strict=True)})
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(text, "utf-8")


def unique_names(files: Sequence[Path]) -> list[str]:
    """Return a name for each file: its own without the ending, with its folder where two are equal."""
    stems = [file.stem for file in files]
    return [
        stem if stems.count(stem) == 1 else f"{file.parent.name}/{stem}"
        for file, stem in zip(files, stems, strict=True)
    ]


def _section(scenario: str, runs: Mapping[str, Result]) -> str:
    first = next(iter(runs.values()))
    name, _, question = first.asks.partition(": ")
    parts = [
        f'<section id="{escape(scenario)}"><h2>{escape(name)}</h2>',
        f'<p class="question">{escape(question[:1].upper() + question[1:])}</p>' if question else "",
    ]
    if len(runs) == 1:
        parts.append(_run(first, with_table=True))
    else:
        parts.append(_comparison(runs))
        parts.append(_overlaid(runs))
        parts += [
            f"<details><summary>{escape(label)}: {escape(one.title)}</summary>{_run(one, with_table=True)}</details>"
            for label, one in runs.items()
        ]
    return "".join([*parts, "</section>"])


def _run(result: Result, *, with_table: bool) -> str:
    parts = [f'<p class="title">{escape(result.title)}</p>']
    parts += [f'<p class="caution">Caution: {escape(caution)}.</p>' for caution in result.cautions]
    parts.append(_heroes(result))
    pictures = [
        ("Latency by percentile", distribution("Latency by percentile", _named(result.curves)))
    ] * bool(result.curves)
    pictures += [(plot.title, drawn(plot)) for plot in result.plots]
    legends = [list(_named(result.curves))] * bool(result.curves)
    legends += [[] if plot.bars else list(plot.lines) for plot in result.plots]
    parts.append(_pictures(pictures, legends))
    parts += [_table(table) for table in result.tables]
    if with_table and result.figures:
        rows = [[figure.name, shown_value(figure)] for figure in result.figures]
        parts.append(_folded("All figures", _table(Table("", ["figure", "value"], rows))))
    facts = {"at": result.at, "command": result.command, **result.conditions}
    rows = [[name, value] for name, value in facts.items()] + [["note", note] for note in result.notes]
    parts.append(_folded("How it was measured", _table(Table("", ["", ""], rows), plain=True)))
    return "".join(parts)


def _heroes(result: Result) -> str:
    figures = {figure.name: figure for figure in result.figures}
    names = [name for name in _FIRST.get(result.scenario, ()) if name in figures] or list(figures)[:_TOP]
    tiles = []
    for name in names:
        number, _, unit = shown_value(figures[name]).partition(" ")
        tiles.append(
            f"<div><dt>{escape(name)}</dt><dd>{escape(number)}<small> {escape(unit)}</small></dd></div>"
        )
    return f'<dl class="heroes">{"".join(tiles)}</dl>' if tiles else ""


def _comparison(runs: Mapping[str, Result]) -> str:
    """Return a table of the telling figures, a column for each run, and what changed from the first to the last."""
    by_run = [{figure.name: figure for figure in result.figures} for result in runs.values()]
    names = dict.fromkeys(
        figure.name for figures in by_run for figure in figures.values() if _telling(figure)
    )
    head = "".join(f"<th>{escape(label)}</th>" for label in runs)
    rows = []
    for name in names:
        found = [figures.get(name) for figures in by_run]
        cells = "".join(f"<td>{escape(shown_value(one)) if one else '-'}</td>" for one in found)
        rows.append(f"<tr><th>{escape(name)}</th>{cells}{_change(found[0], found[-1])}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr><th></th>{head}<th>change</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _telling(figure: Figure) -> bool:
    """Whether a figure says how good a run was, or was not. The others are among all figures of a run."""
    if figure.name.startswith("sent late") or figure.name.endswith((" p90", " p99.9")):
        return False
    return bool(figure.better) or not figure.unit


def _change(first: Figure | None, last: Figure | None) -> str:
    if first is None or last is None or not first.value:
        return '<td class="same"></td>'
    change = last.value / first.value - 1
    kind = "same"
    if last.better in (MORE, LESS) and abs(change) >= 0.02:
        kind = "good" if (change > 0) == (last.better == MORE) else "bad"
    return f'<td class="{kind}">{change:+.1%}</td>'


def _overlaid(runs: Mapping[str, Result]) -> str:
    """Return the distributions of all runs in one picture for each thing that was timed."""
    curves: dict[str, dict[str, Curve]] = {}
    for label, result in runs.items():
        for one in result.curves:
            curves.setdefault(one.name, {})[label] = one
    shared = {name: found for name, found in curves.items() if len(found) > 1}
    pictures = [
        (f"{name} by percentile", distribution(f"{name} by percentile", found))
        for name, found in shared.items()
    ]
    return _pictures(pictures, [list(found) for found in shared.values()])


def _pictures(pictures: Sequence[tuple[str, str]], legends: Sequence[Sequence[str]]) -> str:
    figures = []
    for (title, svg), names in zip(pictures, legends, strict=True):
        keys = "".join(
            f'<span class="key key-{number % COLOURS + 1}">{escape(name)}</span>'
            for number, name in enumerate(names)
        )
        legend = f'<div class="keys">{keys}</div>' if keys else ""
        figures.append(f"<figure><figcaption>{escape(title)}</figcaption>{legend}{svg}</figure>")
    return f'<div class="pictures">{"".join(figures)}</div>' if figures else ""


def _table(table: Table, *, plain: bool = False) -> str:
    head = (
        ""
        if plain
        else f"<thead><tr>{''.join(f'<th>{escape(name)}</th>' for name in table.columns)}</tr></thead>"
    )
    rows = "".join(f"<tr><th>{escape(row[0])}</th>{''.join(map(_cell, row[1:]))}</tr>" for row in table.rows)
    title = f"<h3>{escape(table.title)}</h3>" if table.title else ""
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    kind = ' class="facts"' if plain else ""
    return f'{title}<div class="scroll"><table{kind}>{head}<tbody>{rows}</tbody></table></div>{note}'


def _cell(text: str) -> str:
    kind = ' class="words"' if text[:1].isalpha() else ""
    return f"<td{kind}>{escape(text)}</td>"


def _folded(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _named(curves: Sequence[Curve]) -> dict[str, Curve]:
    return {curve.name: curve for curve in curves if curve.count}
