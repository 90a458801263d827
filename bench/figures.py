"""Figures: every question that this server is measured by, in one command, kept with the code and told in the README.

Each run starts a server of its own, with the server on the first core and testers and stores on the second (two workers or
nodes share both), and is kept as a file. What is there already from this commit or another stays unless it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench import (
    bars,
    capacity,
    connects,
    fanout,
    growth,
    http,
    idle,
    reactions,
    start,
    storm,
)
from bench.bars import SOCKET_IO
from bench.costs import costs_from
from bench.ground import Ground, Site, opened
from bench.machine import machine_line
from bench.peers import compare
from bench.progress import Progress
from bench.result import Result, as_markdown, read, write
from bench.roomlog import Unexpected
from bench.turns import Turns

HEADING: Final = "## Figures"
COMMAND: Final = "python -m bench figures"

Run = Callable[[Site, Turns], Result]


def _of(scenario: Callable[[Ground], Result], people: int, *, workers: int = 1, nodes: int = 1) -> Run:
    """Return a run of a scenario for so many people, on a server of its own.

    They have their accounts before the clock runs. With more than one process the kernel divides the cores.
    """

    def run(site: Site, turns: Turns) -> Result:
        pin = site.pin and workers == nodes == 1
        chosen = msgspec.structs.replace(site, workers=workers, nodes=nodes, pin=pin)
        with opened(chosen) as ground:
            if not ground.knows(people):
                turns.release()
            ground.people(people)
            with turns.taken():
                return scenario(ground)

    return run


def _fanout(question: fanout.Question, *, workers: int = 1, nodes: int = 1) -> Run:
    return _of(lambda ground: fanout.ask(question, ground), question.members, workers=workers, nodes=nodes)


def _start(site: Site, turns: Turns) -> Result:
    with turns.taken():
        return start.ask(start.Question(), msgspec.structs.replace(site, pin=False))


RUNS: Final[Mapping[str, Run]] = {
    "cue-400": _fanout(fanout.Question(event="cue", rate=400)),
    "cue-2000": _fanout(fanout.Question(event="cue", rate=2000)),
    "chat-50": _fanout(fanout.Question(rate=50)),
    "chat-400": _fanout(fanout.Question(rate=400)),
    "small-rooms": _fanout(fanout.Question(members=10, rooms=20, rate=20, authors=2)),
    "rooms": _fanout(fanout.Question(members=100, rooms=100, rate=20, authors=2)),
    "line-to-9000": _fanout(fanout.Question(members=9000, rate=5, sample=50)),
    "line-to-9000-workers": _fanout(fanout.Question(members=9000, rate=5, sample=50), workers=2),
    "nodes": _fanout(fanout.Question(members=2000, rate=400, sample=40), nodes=2),
    "nodes-apart": _fanout(
        fanout.Question(event="cue", members=1000, rooms=2, rate=400, sample=40, apart=True), nodes=2
    ),
    "reactions": _of(lambda ground: reactions.ask(reactions.Question(), ground), 1000),
    "connects": _of(lambda ground: connects.ask(connects.Question(rate=0, connections=10_000), ground), 1000),
    "storm": _of(lambda ground: storm.ask(storm.Question(), ground), 5050, workers=2),
    "idle": _of(lambda ground: idle.ask(idle.Question(), ground), 10_000),
    "http": _of(lambda ground: http.ask(http.Question(), ground), 50, workers=2),
    "start": _start,
    "peers": lambda site, turns: compare.ask(compare.Question(), site, turns),
    "peers-9000": lambda site, turns: compare.ask(
        compare.Question(members=9000, rates="5", only="the floor", ours=False), site, turns
    ),
    "peers-rooms": lambda site, turns: compare.ask(
        compare.Question(members=100, rooms=100, rates="20,50,100", authors=2, only=SOCKET_IO), site, turns
    ),
    "growth": lambda site, turns: growth.ask(growth.Question(), site, turns),
}
"""What is run, by the name of the file that keeps it."""


def ask(names: Sequence[str], site: Site, turns: Turns, folder: Path, tell: Callable[[str], None]) -> None:
    """Do the runs of these names, or all that are not kept yet when there are none, and keep each; `tell` what happens."""
    unknown = [name for name in names if name not in RUNS]
    if unknown:
        raise Unexpected(f"there is no run {unknown[0]!r}; the runs are {', '.join(RUNS)}")
    pinned = msgspec.structs.replace(site, pin=(os.cpu_count() or 1) > 1, stores="testers")
    chosen = names or [name for name in RUNS if not (folder / f"{name}.json").exists()]
    with Progress().counting("runs", len(chosen)) as ready:
        for number, name in enumerate(chosen, 1):
            try:
                write(folder / f"{name}.json", RUNS[name](pinned, turns))
            except Unexpected as unexpected:
                tell(f"{name} was not measured: {unexpected}")
            ready(number)


def kept(folder: Path) -> dict[str, Result]:
    """Return the results in a folder, in the order of the runs, others after them."""
    files = {file.stem: file for file in sorted(folder.glob("*.json"))}
    order = [name for name in RUNS if name in files] + [name for name in files if name not in RUNS]
    return {name: read(files[name]) for name in order}


def plan(results: Mapping[str, Result]) -> Result | None:
    """Return the plan of capacity that these results make; None when they are not enough."""
    try:
        return capacity.ask(capacity.Question(), costs_from(results))
    except Unexpected:
        return None


def section(results: Mapping[str, Result], planned: Result | None) -> str:
    """Return the section of the README."""
    newest = max((result.at for result in results.values()), default="")[:10]
    parts = [
        HEADING,
        "",
        f"Measured on {newest} by `{COMMAND}`, which anyone can repeat; each run is kept in `bench/results` with its machine,",
        "versions and commit, and `python -m bench report bench/results/*.json` makes a page of them.",
        f"The machine: {machines(results)}.",
        "",
        as_markdown(bars.table(results)),
    ]
    if "peers" in results:
        found = results["peers"]
        parts += [
            "### Beside others",
            "",
            f"`python -m bench peers --pin --stores testers`, {found.at[:10]}. {found.asks}",
            "",
        ]
        parts += [as_markdown(table) for table in found.tables]
        parts += [f"{note}." for note in found.notes]
        parts += [f"Caution: {caution}." for caution in found.cautions]
        parts.append("")
    if planned is not None:
        parts += [
            "### For how many",
            "",
            "`python -m bench capacity`; its assumptions are options of the command.",
            "",
        ]
        parts.append(as_markdown(planned.tables[0]))
    return "\n".join(parts).rstrip() + "\n"


def machines(results: Mapping[str, Result]) -> str:
    """Return the machine of the results, without what changes from run to run."""
    machine = next(iter(results.values())).machine if results else {}
    if not machine:
        return machine_line()
    return f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}"


def into_readme(text: str, new: str) -> str:
    """Return a README with its section of figures replaced, or put at its end."""
    start_at = text.find(f"\n{HEADING}\n")
    if start_at < 0:
        return text.rstrip("\n") + "\n\n" + new
    end = text.find("\n## ", start_at + 1)
    rest = text[end + 1 :] if end >= 0 else ""
    return text[: start_at + 1] + new + ("\n" + rest if rest else "")
