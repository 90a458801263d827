"""The server under test: started in a process of its own with its own data folder, or one that runs already."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.accounts import address
from bench.kernel import pin
from bench.roomlog import Unexpected

START_SECONDS = 120.0
STOP_SECONDS = 30.0

RAISED: Mapping[str, str] = {
    "LOOPROOMS_COMMANDS_PER_SECOND": "100000",
    "LOOPROOMS_COMMANDS_BURST": "100000",
    "LOOPROOMS_LIMITS_FACTOR": "100000",
    "LOOPROOMS_NEW_SESSIONS_PER_SECOND": "10000",
    "LOOPROOMS_ACCESS_TOKEN_SECONDS": "86400",
}
"""Settings that a tester needs other than their defaults: a few connections speak for many people. Printed with the figures."""


class Target(msgspec.Struct, frozen=True):
    """Where the server is, and its process if its cost can be read."""

    url: str
    pid: int | None
    settings: Mapping[str, str]


@contextmanager
def serving(
    data: Path,
    *,
    cores: set[int] | None = None,
    store_cores: set[int] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Target]:
    """Run a server on a free port until the block ends. Raises `Unexpected` when it does not start.

    `cores` are the server's own, `store_cores` those of its embedded Postgres and Valkey; None leaves it to the kernel.
    """
    port = _free_port()
    changed = {**RAISED, **(settings or {})}
    data.mkdir(parents=True, exist_ok=True)
    log = data / "bench-server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "server", "serve"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={
                **os.environ,
                **changed,
                "LOOPROOMS_PORT": str(port),
                "LOOPROOMS_DATA_DIR": str(data),
                "LOOPROOMS_LOG_LEVEL": "warning",
            },
            cwd=Path(__file__).resolve().parent.parent,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, log)
        if cores is not None:
            pin(process.pid, cores, "server")
        if store_cores is not None:
            pin(process.pid, store_cores, "postgres")
            pin(process.pid, store_cores, "valkey")
        yield Target(url, process.pid, changed)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    host, port = address(url)
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            said = log.read_text(errors="replace").strip().splitlines()
            raise Unexpected(
                f"the server did not start: {said[-1] if said else 'it said nothing'} (see {log})"
            )
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    raise Unexpected(f"the server was not ready after {START_SECONDS:g} s; see {log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
