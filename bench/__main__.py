"""``python -m bench SCENARIO``: put one question to a server, print the answer, keep it as JSON if asked to."""

from __future__ import annotations

import inspect
import signal
import sys
from pathlib import Path
from typing import Any

import click
import uvloop

from bench import (
    capacity,
    chat,
    commits,
    connects,
    fanout,
    feed,
    figures,
    growth,
    http,
    idle,
    mix,
    notify,
    overload,
    peers,
    presence,
    reactions,
    slow,
    soak,
    start,
    storm,
)
from bench.asking import data_option, kept_option, question_options, site_options, split
from bench.costs import costs_from
from bench.ground import opened
from bench.peers import compare
from bench.report import write_page
from bench.result import Result, described, read, write
from bench.roomlog import Unexpected
from bench.turns import Turns, lock_option

SCENARIOS = (
    fanout,
    chat,
    reactions,
    presence,
    feed,
    connects,
    storm,
    idle,
    http,
    mix,
    notify,
    overload,
    slow,
    soak,
)
"""Modules with a `Question` and an ``ask(question, ground)``; the docstring of each is its question in words."""

RESULTS = Path(__file__).with_name("results")
"""Results that are kept with the code."""


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Measure the server from outside. Each scenario says what it answers."""


def _add(scenario: Any) -> None:
    def command(*, kept: Path | None, **options: Any) -> None:
        site, own = split(options)
        with opened(site) as ground:
            _tell(scenario.ask(scenario.Question(**own), ground), kept)

    name = scenario.__name__.rpartition(".")[2]
    decorated = question_options(scenario.Question)(site_options(kept_option(command)))
    main.command(name, help=inspect.cleandoc(scenario.__doc__))(decorated)


for _scenario in SCENARIOS:
    _add(_scenario)


@main.command("commits", help=commits.__doc__)
@question_options(commits.Question)
@click.option("--database-url", help="A Postgres to use, in a database that may be filled.")
@data_option
@kept_option
def commits_command(database_url: str | None, data: Path, kept: Path | None, **asked: Any) -> None:
    question = commits.Question(**asked)
    ways = uvloop.run(commits.ask(question, data / "commits", database_url))
    _tell(commits.result(question, ways), kept)


@main.command("peers", help=inspect.cleandoc(peers.__doc__ or ""))
@question_options(compare.Question)
@site_options
@lock_option
@click.option(
    "--table",
    "to",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the tables here, as Markdown.",
)
@kept_option
def peers_command(*, turns: Turns, to: Path | None, kept: Path | None, **options: Any) -> None:
    site, own = split(options)
    result = compare.ask(compare.Question(**own), site, turns)
    _tell(result, kept)
    if to is not None:
        to.write_text(compare.markdown(result), "utf-8")


@main.command("start", help=inspect.cleandoc(start.__doc__ or ""))
@question_options(start.Question)
@site_options
@kept_option
def start_command(*, kept: Path | None, **options: Any) -> None:
    site, own = split(options)
    _tell(start.ask(start.Question(**own), site), kept)


@main.command("figures", help=inspect.cleandoc(figures.__doc__ or ""))
@click.argument("names", nargs=-1)
@site_options
@lock_option
@click.option(
    "--results",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=RESULTS,
    help="Folder of the results.",
)
@click.option(
    "--readme",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Replace the section of figures in this file.",
)
def figures_command(
    *, names: tuple[str, ...], turns: Turns, folder: Path, readme: Path | None, **options: Any
) -> None:
    site, _ = split(options)
    figures.ask(names, site, turns, folder, lambda said: click.echo(said, err=True))
    results = figures.kept(folder)
    planned = figures.plan(results)
    if planned is not None:
        write(folder / "capacity.json", planned)
    text = figures.section({name: one for name, one in results.items() if name != "capacity"}, planned)
    click.echo(text)
    if readme is not None:
        readme.write_text(figures.into_readme(readme.read_text("utf-8"), text), "utf-8")


@main.command("growth", help=inspect.cleandoc(growth.__doc__ or ""))
@question_options(growth.Question)
@site_options
@lock_option
@kept_option
def growth_command(*, turns: Turns, kept: Path | None, **options: Any) -> None:
    site, own = split(options)
    _tell(growth.ask(growth.Question(**own), site, turns), kept)


@main.command("capacity", help=inspect.cleandoc(capacity.__doc__ or ""))
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@question_options(capacity.Question)
@kept_option
def capacity_command(*, files: tuple[Path, ...], kept: Path | None, **own: Any) -> None:
    chosen = files or sorted(RESULTS.glob("*.json"))
    costs = costs_from({file.stem: read(file) for file in chosen})
    _tell(capacity.ask(capacity.Question(**own), costs), kept)


@main.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
@click.option(
    "--to", type=click.Path(path_type=Path, dir_okay=False), default="bench.html", help="The page to write."
)
def report(files: tuple[Path, ...], to: Path) -> None:
    """Make one page of the results in FILES, and compare those of one scenario in the order given."""
    write_page(files, to)
    click.echo(f"{to}: {len(files)} run{'s' * (len(files) != 1)}")


def _tell(result: Result, kept: Path | None) -> None:
    click.echo(described(result))
    if kept is not None:
        write(kept, result)


def run() -> int:
    """Run the command line; return the exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what was started is stopped
    try:
        main(prog_name="python -m bench", standalone_mode=True)
    except Unexpected as unexpected:
        click.echo(f"It was not measured: {unexpected}.", err=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
