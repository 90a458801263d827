"""A process that runs embedded servers until it is killed, for tests of what is left of them then.

python -m tests.parent FOLDER postgres valkey
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.embedded import DataFolder, Server, StartError
from storage.postgres.embedded import SETTINGS, EmbeddedPostgres
from storage.redis.embedded import EmbeddedValkey

ROOT = Path(__file__).parents[1]
QUICK = {**SETTINGS, "fsync": "off", "shared_buffers": "16MB"}
"""Commits survive the death of Postgres, though not that of the machine."""


def server(name: str, data: DataFolder) -> Server:
    """Make a server by its name."""
    return EmbeddedPostgres(data, QUICK, durable=False) if name == "postgres" else EmbeddedValkey(data)


@contextmanager
def parent(folder: Path, name: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start such a process with one server; give it, and the pid of its server, when that answers."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.parent", str(folder), name], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


async def run(folder: Path, names: list[str]) -> None:
    """Start, tell the pids in one line, and stay."""
    servers = [server(name, data) for data in [DataFolder.claim(folder)] for name in names]
    for one in servers:
        await one.start()
    sys.stdout.write(" ".join(str(one.pid) for one in servers) + "\n")
    sys.stdout.flush()
    await asyncio.gather(*(one.keep() for one in servers))


def main() -> int:
    """Run; a sentence and 2 when that can't be."""
    try:
        asyncio.run(run(Path(sys.argv[1]), sys.argv[2:]))
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
