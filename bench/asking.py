"""From a scenario's question to options of the command line: each field of the question is one, with its own sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import click
import msgspec
from msgspec import Meta

from bench.ground import Site

DATA = ".looprooms/bench"

Command = Callable[..., None]


def question_options(question: type[msgspec.Struct]) -> Callable[[Command], Command]:
    """Give a command an option for each field of `question`, in their order."""
    hints = get_type_hints(question, include_extras=True)

    def decorate(command: Command) -> Command:
        for field in reversed(msgspec.structs.fields(question)):
            hint = hints[field.name]
            meta = next(part for part in hint.__metadata__ if isinstance(part, Meta))
            command = click.option(
                "--" + field.name.replace("_", "-"),
                field.name,
                default=field.default,
                help=meta.description,
                **_kind(hint.__origin__),
            )(command)
        return command

    return decorate


def _kind(hint: Any) -> dict[str, Any]:
    if get_origin(hint) is Literal:
        return {"type": click.Choice(get_args(hint))}
    if hint is bool:
        return {"is_flag": True}
    return {"type": hint}


_SITE: Sequence[Callable[[Command], Command]] = (
    click.option(
        "--url",
        "urls",
        multiple=True,
        help="A server that runs already, as http://host:port; repeated for nodes.",
    ),
    click.option("--pid", "pids", type=int, multiple=True, help="Its process, to read its cost."),
    click.option("--host-account", default="", help="EMAIL:PASSWORD of a host, who gives the cues."),
    click.option("--nodes", default=1, help="Servers to start on shared stores, each with a port."),
    click.option("--workers", default=1, help="Processes of each server that is started."),
    click.option("--pin", is_flag=True, help="The server on the first core, the testers on the second."),
    click.option(
        "--stores",
        type=click.Choice(["free", "server", "testers"]),
        default="free",
        help="Core of the stores.",
    ),
    click.option("--encoding", type=click.Choice(["json", "msgpack"]), default="json", help="Subprotocol."),
    click.option(
        "--set", "settings", multiple=True, help="NAME=VALUE of a setting of the server that is started."
    ),
    click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=False),
        default=DATA,
        help="Folder of the servers that the tester starts. Kept, so that the next run finds its accounts.",
    ),
)
_SITE_NAMES = frozenset(
    {
        "urls",
        "pids",
        "host_account",
        "nodes",
        "workers",
        "pin",
        "stores",
        "encoding",
        "settings",
        "data",
    }
)

kept_option = click.option(
    "--json", "kept", type=click.Path(path_type=Path, dir_okay=False), help="Keep the result in this file."
)
data_option = _SITE[-1]


def site_options(command: Command) -> Command:
    """Give a command the options that say which server is tested."""
    for option in reversed(_SITE):
        command = option(command)
    return command


def split(options: dict[str, Any]) -> tuple[Site, dict[str, Any]]:
    """Divide what was given into the site and the question's own fields."""
    site = {name: value for name, value in options.items() if name in _SITE_NAMES}
    settings = dict(pair.partition("=")[::2] for pair in site.pop("settings"))
    urls, pids = list(site.pop("urls")), list(site.pop("pids"))
    own = {name: value for name, value in options.items() if name not in _SITE_NAMES}
    return Site(**site, urls=urls, pids=pids, settings=settings), own
