"""`looprooms` as its user runs it: a process of its own, in an empty folder, with nothing in its environment but what is said."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.embedded import running
from tests.nodes.cluster import free_port
from tests.waiting import wait_for

ROOT = Path(__file__).parent.parent
PATIENCE = 30.0
"""Seconds until what must happen counts as not happening."""


def looprooms(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in `folder`."""
    return subprocess.run(
        [sys.executable, "-m", "server", *arguments],
        cwd=folder,
        env=_environment(environment),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


class Served:
    """A server that was started with `looprooms serve`."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._log = folder / "said"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server", "serve", "--port", str(self.port), *arguments],
                cwd=folder,
                env=_environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        """All that it wrote so far."""
        return self._log.read_text("utf-8")

    def ready(self) -> None:
        """Wait until it says so."""
        wait_for(lambda: "is ready" in self.said or self.process.poll() is not None, PATIENCE)
        assert self.process.poll() is None, self.said

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Ask it over HTTP."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def workers(self) -> list[int]:
        """Return its workers that are there now; one may end while we look."""
        found = []
        for pid in self.family():
            with contextlib.suppress(OSError):
                if b"worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def family(self) -> list[int]:
        """Return the processes whose command line names this server's folder or that are its children."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and running(int(entry.name)):
                try:
                    line = (entry / "cmdline").read_bytes()
                    parent = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
                except OSError:
                    continue
                if os.fsencode(self.folder) in line or parent == self.process.pid:
                    found.append(int(entry.name))
        return found

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextmanager
def a_folder() -> Iterator[Path]:
    """Make an empty folder with a short path, which whoever the stores run as may pass through."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="lr-", dir=memory if memory.is_dir() else None))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def served(folder: Path, *arguments: str, **environment: str) -> Iterator[Served]:
    """Start a server in `folder` and wait until it is ready; whatever is left of it at the end is killed."""
    server = Served(folder, *arguments, **environment)
    try:
        server.ready()
        yield server
    finally:
        family = server.family()
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        until = time.monotonic() + PATIENCE
        while any(map(running, family)) and time.monotonic() < until:
            time.sleep(0.01)


def demo_password(server: Served) -> str:
    """Read the password of the demo people from what the server says."""
    match = re.search(r"password (\S+)", server.said)
    assert match is not None
    return match[1]


def _environment(chosen: dict[str, str]) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **chosen}
