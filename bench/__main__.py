"""``python -m bench SCENARIO``: put one question to a server, print the answer, keep it as JSON if asked to."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import uvloop

from bench import commits, fanout
from bench.accounts import Accounts, address
from bench.lobby import find_seats
from bench.report import machine_line, write_json
from bench.roomlog import Unexpected
from bench.serving import Target, serving

DATA = ".looprooms/bench"
CORES = {"server": {0}, "testers": {1}}

json_option = click.option(
    "--json", "kept", type=click.Path(path_type=Path, dir_okay=False), help="Keep the result in this file."
)
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    default=DATA,
    show_default=True,
    help="Folder of the servers that the tester starts. Kept, so that the next run finds its accounts.",
)


@click.group(context_settings={"show_default": True})
def main() -> None:
    """Measure the server from outside. Each scenario says what it answers."""


@main.command("fanout", help=fanout.__doc__)
@click.option("--event", type=click.Choice(["chat", "cue"]), default="chat", help="Durable or passing.")
@click.option("--members", default=1000, help="People in each room, authors included.")
@click.option("--rooms", default=1, help="Looprooms.")
@click.option("--rate", default=400.0, help="Events a second in each room.")
@click.option("--seconds", default=10.0, help="Length of the measured span.")
@click.option("--warmup", default=2.0, help="Seconds of the same load before it.")
@click.option("--authors", default=32, help="Connections that speak in each room.")
@click.option("--size", default=60, help="Characters of a text.")
@click.option("--encoding", type=click.Choice(["json", "msgpack"]), default="json", help="Subprotocol.")
@click.option("--clients", default=1, help="Processes of listeners.")
@click.option("--sample", default=20, help="One in so many listeners has its latencies taken.")
@click.option("--pin", is_flag=True, help="The server on the first core, the testers on the second.")
@click.option(
    "--stores", type=click.Choice(["free", "server", "testers"]), default="free", help="Core of the stores."
)
@click.option("--url", help="A server that runs already, as http://host:port.")
@click.option("--pid", type=int, help="Its process, to read its cost.")
@click.option("--host-account", default="", help="EMAIL:PASSWORD of the rooms' host, who gives the cues.")
@data_option
@json_option
def fanout_command(
    *,
    pin: bool,
    stores: str,
    url: str | None,
    pid: int | None,
    host_account: str,
    encoding: str,
    data: Path,
    kept: Path | None,
    **asked: Any,
) -> None:
    question = fanout.Question(**asked, subprotocol=f"looprooms.v1+{encoding}")
    with _target(url, pid, data, pin=pin, stores=stores) as target:
        seats = find_seats(
            target.url,
            Accounts(target.url, data / "accounts.json"),
            rooms=question.rooms,
            members=question.members,
            authors=question.authors,
            host=_credentials(host_account) if question.event == "cue" else None,
            progress=_progress("accounts ready"),
        )
        host, port = address(target.url)
        team = fanout.Team(
            fanout.plans(
                question,
                host=host,
                port=port,
                members=seats.listeners,
                authors=seats.authors,
                cores=CORES["testers"] if pin else None,
            )
        )
        try:
            figures = fanout.measure(question, team, target.pid)
        finally:
            team.dismiss()
    conditions = {
        "cores": f"server {CORES['server']}, testers {CORES['testers']}, stores {stores}"
        if pin
        else "not pinned",
        "settings": " ".join(f"{name}={value}" for name, value in target.settings.items()) or "its own",
        "machine": machine_line(),
    }
    click.echo(fanout.described(question, figures, conditions))
    if kept is not None:
        write_json(kept, fanout.result(question, figures, conditions))


@main.command("commits", help=commits.__doc__)
@click.option("--people", default=500, help="People who react or write at the same time.")
@click.option("--connections", default=50, help="Connections to Postgres for one statement each.")
@click.option("--seconds", default=2.0, help="Length of each round of each way.")
@click.option("--rounds", default=3, help="Rounds; the figure is their median.")
@click.option("--database-url", help="A Postgres to use, in a database that may be filled.")
@data_option
@json_option
def commits_command(database_url: str | None, data: Path, kept: Path | None, **asked: Any) -> None:
    question = commits.Question(**asked)
    ways = uvloop.run(commits.ask(question, data / "commits", database_url))
    click.echo(commits.described(question, ways))
    click.echo(machine_line())
    if kept is not None:
        write_json(kept, commits.result(question, ways))


@contextmanager
def _target(url: str | None, pid: int | None, data: Path, *, pin: bool, stores: str) -> Iterator[Target]:
    data.mkdir(parents=True, exist_ok=True)
    if url is not None:
        yield Target(url, pid, {})
        return
    store_cores: Mapping[str, set[int] | None] = {
        "free": set(range(os.cpu_count() or 1)),
        "server": CORES["server"],
        "testers": CORES["testers"],
    }
    with serving(
        data, cores=CORES["server"] if pin else None, store_cores=store_cores[stores] if pin else None
    ) as target:
        yield target


def _credentials(account: str) -> tuple[str, str]:
    email, _, password = account.partition(":")
    return email, password


def _progress(what: str) -> Callable[[int], None]:
    """Return what shows a count on a terminal, and nothing elsewhere."""

    def show(count: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{count:,} {what} ", nl=False, err=True)

    return show


if __name__ == "__main__":
    try:
        main(prog_name="python -m bench")
    except Unexpected as unexpected:
        click.echo(f"It was not measured: {unexpected}.", err=True)
        sys.exit(1)
