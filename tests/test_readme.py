"""What the README says is true: its tables are the code's, its commands exist, its paths are there, its example runs."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import click
import pytest

from protocol.contract import ANSWERS, COMMANDS, EVENTS, tag_of
from server.cli import main
from storage.postgres.pool import Pool
from tests import readme
from tests.hosting import hosting, make_room
from tests.redis.valkeys import Valkey
from tests.stores import database_url, pool, postgres, valkey

__all__ = ["database_url", "pool", "postgres", "valkey"]  # fixtures

ROOT = Path(__file__).parent.parent
README = readme.README.read_text("utf-8")


def test_the_tables_are_those_of_the_code() -> None:
    """Settings, error codes and close codes stand there as the code has them; `make tables` writes them."""
    assert readme.written(README) == README
    assert all(table() in README for table in readme.TABLES.values())


def test_the_make_targets_exist() -> None:
    """Whoever types what the README says gets what it promises."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:`|    )make ([a-z-]+)", README))
    assert {"run", "test", "check"} <= named
    assert named <= targets


def test_ci_calls_what_the_readme_names() -> None:
    """`.ci/run` is one of the README's commands and nothing else."""
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["make check"]
    assert "`make check`" in README


def test_the_commands_exist() -> None:
    """Every `looprooms` command that is named is one of the command line, with the options that are named; and each is named."""
    named = set(re.findall(r"looprooms ([a-z]+)\b(?=[ `])", README))
    assert named == {name for name, command in main.commands.items() if not command.hidden}
    for name, second, option in set(
        re.findall(r"looprooms ([a-z]+)(?: ([a-z]+))?[^`\n]* (--[a-z-]+)", README)
    ):
        command = main.commands[name]
        if isinstance(command, click.Group):
            command = command.commands[second]
        options = {opt for parameter in command.params for opt in parameter.opts}
        assert option in options, f"looprooms {name} {second} {option}"


def test_the_paths_exist() -> None:
    """Files and folders that are named are there."""
    paths = re.findall(r"`((?:protocol|storage|server|bench|tests)/[a-z_/.]*)`", README)
    assert len(paths) > 12
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_proofs_exist() -> None:
    """Each promise names a test that is there."""
    proofs = re.findall(r"\| `(tests/[a-z_/]+\.py)`: `(test_[a-z_]+)` \|", README)
    promises = README.partition("| promise | proved by |")[2].partition("\n\n")[0].count("\n|") - 1
    assert len(proofs) == promises > 12
    for path, name in proofs:
        assert f"def {name}(" in (ROOT / path).read_text("utf-8"), f"{path}: {name}"


@pytest.mark.parametrize("line", re.findall(r"^    [<>] (\{.*)$", README, re.MULTILINE))
def test_the_messages_of_the_example_exist(line: str) -> None:
    """A message type that is shown is one of the contract."""
    match = re.match(r'\{"type": "([a-z.]+)"', line)
    assert match is not None
    assert match[1] in {tag_of(message) for message in (*COMMANDS, *ANSWERS, *EVENTS)}


async def test_the_client_runs(database_url: str, valkey: Valkey, pool: Pool, tmp_path: Path) -> None:
    """The example, as it stands there, registers, joins, speaks and hears itself."""
    await make_room(pool, "morning-calm")
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example is not None
    async with hosting(database_url, valkey.url, pool) as host:
        url = host.url.replace("ws://", "http://").removesuffix("/ws")
        program = tmp_path / "client.py"
        program.write_text(example[1].replace("http://127.0.0.1:8000", url), "utf-8")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(program),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": str(ROOT)},
        )
        said, complaints = await process.communicate()
    assert (process.returncode, complaints.decode()) == (0, "")
    assert said.decode().splitlines() == ["1 here, 0 lines so far", "Me: hello"]
