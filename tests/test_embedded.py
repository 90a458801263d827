"""The private servers' folder and their lives: claimed once, started, watched, stopped, and never left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import embedded as module
from storage.embedded import SOCKET_PATH_BYTES, DataFolder, Server, StartError, run_to_end, running
from tests.waiting import until

ROOT = Path(__file__).parents[1]


class Sleeper(Server):
    """A server that writes its pid when it is ready, and then sleeps: as much of one as its life needs."""

    name = "The sleeper"
    stop_signals = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, data: DataFolder, script: str = "exec sleep 1000") -> None:
        super().__init__(data, data.path / "sleeper")
        self.script = script
        self.answers = True

    async def prepare(self) -> None:
        """Make its folder."""
        self.data.part(self.home.name)

    def command(self) -> list[str]:
        """Return the program and its arguments."""
        return ["/bin/sh", "-c", f"echo $$ > {self.home}/pid; {self.script}"]

    def is_ready(self, pid: int) -> bool:
        """Say whether it has written its pid."""
        return self.answers and self.leftover() == pid

    def leftover(self) -> int | None:
        """Return the pid that it wrote."""
        try:
            return int((self.home / "pid").read_text("ascii"))
        except (OSError, ValueError):
            return None


def sleep() -> subprocess.Popen[bytes]:
    """Start a program that is none of ours."""
    return subprocess.Popen(["/bin/sleep", "1000"])


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder in memory whose path is short."""
    path = Path(tempfile.mkdtemp(prefix="lr-", dir="/dev/shm"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def data(folder: Path) -> Iterator[DataFolder]:
    """Give a data folder that is claimed."""
    claimed = DataFolder.claim(folder / "data")
    yield claimed
    claimed.release()


# The folder.


def test_claim(folder: Path) -> None:
    """A folder is made with those above it; whoever has it is named to the next one, until it is let go."""
    path = folder / "deep" / "data"
    claimed = DataFolder.claim(path)
    with pytest.raises(StartError) as refusal:
        DataFolder.claim(path)
    assert str(refusal.value) == (
        f"The data folder {path} is in use by another server, process {os.getpid()}; "
        "stop that one, or name another folder with --data-dir."
    )
    claimed.release()
    DataFolder.claim(path).release()


def test_claimed_by_another_process(data: DataFolder) -> None:
    """A second server in another process says whose it is, and starts nothing."""
    second = subprocess.run(
        [sys.executable, "-m", "tests.parent", str(data.path), "valkey"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (second.returncode, second.stdout) == (2, "")
    assert f"in use by another server, process {os.getpid()};" in second.stderr
    assert len(second.stderr.splitlines()) == 1


def test_a_folder_that_cannot_be(folder: Path) -> None:
    """Where no folder can be made or written is one sentence."""
    (folder / "file").write_text("")
    for path in (folder / "file" / "data", Path("/proc/nothing/data")):
        with pytest.raises(StartError, match=r"^The data folder .* can't be written: .*\.$"):
            DataFolder.claim(path)


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that takes no more is one sentence, and is not kept."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(StartError, match=r"can't be written: No space left on device\.$"):
            DataFolder.claim(folder / "data")
    DataFolder.claim(folder / "data").release()


def test_parts(data: DataFolder) -> None:
    """A part of the folder can be entered by the servers' account alone, however often it is asked for."""
    part = data.part("part")
    assert data.part("part") == part
    found = part.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, data.account[0])
    (data.path / "file").write_text("")
    with pytest.raises(StartError, match="can't be written"):
        data.part("file/part")


def test_a_part_of_somebody_else(data: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root can't take a folder over."""
    (data.path / "part").mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.setattr(data, "account", (4711, 4711))
    with pytest.raises(StartError, match="belongs to another user"):
        data.part("part")


def test_sockets(data: DataFolder) -> None:
    """Sockets are inside, where their path is short enough."""
    assert data.sockets() == data.sockets() == data.path / "run"


def test_sockets_of_a_deep_folder(folder: Path) -> None:
    """A folder that is too deep for a socket gets a short one, always the same, which goes with it."""
    path = folder / ("deep" * 25) / "data"
    claimed = DataFolder.claim(path)
    sockets = claimed.sockets()
    assert len(os.fsencode(sockets / ".s.PGSQL.5432")) <= SOCKET_PATH_BYTES
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    claimed.release()
    assert not sockets.exists()
    again = DataFolder.claim(path)
    assert again.sockets() == sockets
    again.release()


def test_sockets_where_somebody_waits(folder: Path) -> None:
    """A short folder that others may enter, or that is none, is not trusted: another one is made."""
    path = folder / ("deep" * 25) / "data"
    first = DataFolder.claim(path)
    expected = first.sockets()
    first.release()
    expected.mkdir(0o755)
    claimed = DataFolder.claim(path)
    assert claimed.sockets() != expected
    claimed.release()
    expected.rmdir()
    expected.symlink_to(folder)
    claimed = DataFolder.claim(path)
    assert claimed.sockets() != expected
    claimed.release()
    expected.unlink()


# A server's life.


async def test_start_and_stop(data: DataFolder) -> None:
    """A server is there when `start` returns, and gone when `stop` does, by the gentlest signal that works."""
    server = Sleeper(data)
    await server.stop()
    await server.start()
    pid = server.pid
    assert pid is not None
    assert running(pid)
    await server.stop()
    assert not running(pid)
    assert server.pid is None
    assert server._process is not None
    assert server._process.returncode == -signal.SIGTERM
    await server.stop()


async def test_stop_one_that_does_not_want_to(data: DataFolder) -> None:
    """A server that does not heed a signal gets the next one, at last the one that nobody can refuse."""
    server = Sleeper(data, "trap '' TERM INT; while :; do sleep 0.01; done")
    await server.start()
    await server.stop(patience=0.1)
    assert server._process is not None
    assert server._process.returncode == -signal.SIGKILL


async def test_one_that_ends_at_once(data: DataFolder) -> None:
    """A server that ends instead of answering says why."""
    script = "echo starting; echo 'FATAL: no such thing' >&2; echo bye; exit 3"
    server = Sleeper(data, script)
    server.answers = False
    with pytest.raises(StartError) as refusal:
        await server.start()
    assert str(refusal.value) == f"The sleeper did not start: FATAL: no such thing (see {server.log})"
    server.log.unlink()
    assert server.complaint() == f"it said nothing (see {server.log})"


async def test_one_that_does_not_answer(data: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that runs and does not answer is waited for, but not for ever."""
    monkeypatch.setattr(module, "_START_SECONDS", 0.1)
    server = Sleeper(data)
    server.answers = False
    with pytest.raises(StartError, match="did not answer within 0 s"):
        await server.start()
    await server.stop()


async def test_started_by_a_thread(data: DataFolder) -> None:
    """Only the main thread starts servers: they die with the thread that does."""
    server = Sleeper(data)
    errors = []

    def launch() -> None:
        try:
            server.launch()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=launch)
    thread.start()
    thread.join()
    assert len(errors) == 1


async def test_kept_running(data: DataFolder, caplog: pytest.LogCaptureFixture) -> None:
    """A server that dies is started again, and that is told; one that is stopped is not."""
    server = Sleeper(data)
    await server.start()
    keeping = asyncio.create_task(server.keep())
    for _ in range(2):
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda pid=pid: server.pid not in (None, pid) and server.is_ready(server.pid or 0))  # type: ignore[misc] # a default binds it
    await server.stop()
    await keeping
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "The sleeper is back"
    ] * 2


async def test_kept_trying(data: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that can't be started is tried again after longer and longer waits, until it can."""
    monkeypatch.setattr(module, "_RESTART_SECONDS", (0.01, 0.02))
    server = Sleeper(data)
    await server.start()
    assert server.pid is not None
    server.script, server.answers = f"echo tried >> {server.home}/tries; exit 1", False
    keeping = asyncio.create_task(server.keep())
    os.kill(server.pid, signal.SIGKILL)
    tries = server.home / "tries"
    await until(lambda: tries.exists() and len(tries.read_text().splitlines()) >= 4)
    server.script, server.answers = "exec sleep 1000", True
    await until(lambda: server.is_ready(server.pid or 0))
    await server.stop()
    await keeping


async def test_a_leftover_is_stopped_first(data: DataFolder) -> None:
    """A server that an earlier process left behind is stopped before the next one starts."""
    earlier = Sleeper(data, f"while :; do sleep 0.01; done # {data.path}")
    await earlier.start()
    pid = earlier.pid
    assert pid is not None
    later = Sleeper(data)
    await later.start()
    assert not running(pid)
    assert (earlier.pid, later.pid != pid) == (None, True)
    await later.stop()


async def test_a_number_of_another_program(data: DataFolder) -> None:
    """A pid that was written down and belongs to another program by now is left alone."""
    other = sleep()
    try:
        server = Sleeper(data)
        await server.prepare()
        for pid in (other.pid, os.getpid(), 2**22 + 1):
            (server.home / "pid").write_text(str(pid), "ascii")
            (server.home / "pid").chmod(0o666)
            await server.start()
            await server.stop()
            server._stopping = False
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


async def test_log(data: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a server says is appended to its log, which only we can read; a large one is put aside at a start."""
    server = Sleeper(data, "echo hello; exec sleep 1000")
    for _ in range(2):
        await server.start()
        await until(lambda: server.log.read_text().endswith("hello\n"))
        await server.stop()
    assert server.log.read_text() == "hello\n" * 2
    assert stat.S_IMODE(server.log.stat().st_mode) == 0o600
    monkeypatch.setattr(module, "_LOG_BYTES", 5)
    await server.start()
    await until(lambda: server.log.exists() and server.log.read_text() == "hello\n")
    await server.stop()
    assert server.log.with_suffix(".log.1").read_text() == "hello\n" * 2


# Programs that end by themselves.


async def test_run_to_end(folder: Path) -> None:
    """A program's status and all that it said, in the order in which it said it."""
    assert await run_to_end(["/bin/sh", "-c", "echo a; echo b >&2; pwd; exit 3"], folder) == (
        3,
        f"a\nb\n{folder}\n",
    )


async def test_run_to_end_is_cancelled(folder: Path) -> None:
    """A program whose caller gives up is killed."""
    task = asyncio.create_task(run_to_end(["/bin/sh", "-c", "echo $$ > pid; exec sleep 1000"], folder))
    await until(lambda: (folder / "pid").exists() and (folder / "pid").read_text().strip())
    pid = int((folder / "pid").read_text())
    assert running(pid)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not running(pid)


def test_running() -> None:
    """A process runs until it has ended, also while nobody has collected it; a number without a process does not."""
    child = sleep()
    assert running(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not running(child.pid)
    child.wait()
    assert not running(2**22 + 1)


def test_no_setpriv(data: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the program that starts servers as somebody else it is said which package has it."""
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(StartError, match="of the package util-linux"):
        Sleeper(data).launcher([Path("/bin/sh")], None)


def test_started_as_oneself(data: DataFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root starts servers as who they are, and they still die with this process."""
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert Sleeper(data).launcher([Path("/bin/sh")], signal.SIGINT)[1:] == ["--pdeathsig=INT", "--"]
