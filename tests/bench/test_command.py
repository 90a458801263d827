"""The command line of the load testers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import msgspec
import pytest
from click.testing import CliRunner
from msgspec import Meta

from bench.__main__ import SCENARIOS, main
from bench.asking import question_options, site_options, split


def test_every_scenario_states_its_question() -> None:
    """Its help is its docstring, whose first sentence asks something."""
    for scenario in SCENARIOS:
        name = scenario.__name__.rpartition(".")[2]
        shown = CliRunner().invoke(main, [name, "--help"])
        assert shown.exit_code == 0, shown.output
        assert scenario.__doc__ is not None
        first = scenario.__doc__.split("\n\n")[0]
        assert first.rstrip().endswith("?"), name
        assert " ".join(first.split()) in " ".join(shown.output.split())


@pytest.mark.parametrize("command", ["bench", "server bench"])
def test_both_commands_are_one(command: str) -> None:
    """``looprooms bench`` is ``python -m bench``."""
    done = subprocess.run(
        [sys.executable, "-m", *command.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout.startswith("Usage: python -m bench [OPTIONS] COMMAND")
    assert all(scenario.__name__.rpartition(".")[2] in done.stdout for scenario in SCENARIOS)


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    """No traceback, and an exit code that says so."""
    done = subprocess.run(
        [sys.executable, "-m", "bench", "http", "--url", "http://127.0.0.1:1", "--data", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("It was not measured: http://127.0.0.1:1/auth/register does not answer")
    assert "Traceback" not in done.stderr


class _Question(msgspec.Struct, kw_only=True):
    event: Annotated[Literal["chat", "cue"], Meta(description="What is said.")] = "chat"
    most_people: Annotated[int, Meta(description="How many.")] = 3
    loud: Annotated[bool, Meta(description="Or not.")] = False


def test_a_field_is_an_option() -> None:
    """With its sentence, its default, its type, and its choices; the rest says which server is meant."""
    given: dict[str, Any] = {}

    @click.command(context_settings={"show_default": True})
    @question_options(_Question)
    @site_options
    def command(**options: Any) -> None:
        given["site"], given["own"] = split(options)

    arguments = "--most-people 7 --loud --set A=1 --set B=c=d --url http://a:1 --url http://b:2 --pid 5"
    done = CliRunner().invoke(command, arguments.split())
    assert done.exit_code == 0, done.output
    assert given["own"] == {"event": "chat", "most_people": 7, "loud": True}
    site = given["site"]
    assert (site.settings, site.urls, site.pids) == (
        {"A": "1", "B": "c=d"},
        ["http://a:1", "http://b:2"],
        [5],
    )
    assert CliRunner().invoke(command, ["--event", "shout"]).exit_code == 2
    assert "How many.  [default: 3]" in CliRunner().invoke(command, ["--help"]).output


def test_a_tester_that_is_ended_takes_its_servers_along(tmp_path: Path) -> None:
    """SIGTERM stops what was started; SIGKILL leaves it to the kernel."""
    script = (
        "import sys, time; from pathlib import Path; from bench.serving import running\n"
        "with running([sys.executable, '-c', 'import time; time.sleep(60)'], Path(sys.argv[1])) as process:\n"
        "    print(process.pid, flush=True); time.sleep(60)\n"
    )
    tester = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    )
    assert tester.stdout is not None
    pid = int(tester.stdout.readline())
    _wait(
        lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(sys.executable.encode())
    )  # the kernel knows
    tester.kill()
    tester.communicate()
    _wait(lambda: not _alive(pid))


def _wait(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
