"""The server under test: started in processes of its own with its own data folder, or one that runs already."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import msgspec

from bench.accounts import address
from bench.kernel import pin
from bench.roomlog import Unexpected

START_SECONDS = 120.0
STOP_SECONDS = 45.0

RAISED: Mapping[str, str] = {
    "LOOPROOMS_COMMANDS_PER_SECOND": "100000",
    "LOOPROOMS_COMMANDS_BURST": "100000",
    "LOOPROOMS_LIMITS_FACTOR": "100000",
    "LOOPROOMS_MAX_CONNECTIONS_PER_PERSON": "100000",
    "LOOPROOMS_NEW_SESSIONS_PER_SECOND": "10000",
    "LOOPROOMS_ACCESS_TOKEN_SECONDS": "86400",
    "LOOPROOMS_DRAIN_SECONDS": "0",
}
"""Settings that a tester needs other than their defaults: a few connections speak for many people. Printed with the figures."""


class Target(msgspec.Struct, frozen=True):
    """Where the server is, one address a node, and the nodes' processes if their cost can be read.

    `data` is the folder of a server that was started here.
    """

    urls: list[str]
    pids: list[int]
    settings: Mapping[str, str]
    data: Path | None = None


@contextmanager
def serving(
    data: Path,
    *,
    nodes: int = 1,
    workers: int = 1,
    cores: set[int] | None = None,
    store_cores: set[int] | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Target]:
    """Run a server until the block ends. Raises `Unexpected` when it does not start.

    Each of the `nodes` has a port of its own and `workers` processes; the first one brings the stores. `cores` are the
    server's own, `store_cores` those of its embedded Postgres and Valkey; None leaves it to the kernel.
    """
    changed = {**RAISED, **(settings or {})}
    if workers > 1:
        changed["LOOPROOMS_WORKERS"] = str(workers)
    data.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        first, url = stack.enter_context(_node(data, "bench-server", changed))
        targets = [(first, url)]
        for number in range(2, nodes + 1):
            shared = {**changed, **_stores_of(data), "LOOPROOMS_DATA_DIR": str(data / f"node-{number}")}
            targets.append(stack.enter_context(_node(data, f"bench-node-{number}", shared)))
        if cores is not None:
            for pid, _ in targets:
                pin(pid, cores, "server")
        if store_cores is not None:
            pin(first, store_cores, "postgres")
            pin(first, store_cores, "valkey")
        yield Target([url for _, url in targets], [pid for pid, _ in targets], changed, data)


@contextmanager
def _node(data: Path, name: str, settings: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    port = free_port()
    command = [sys.executable, "-m", "server", "serve"]
    environment = {
        "LOOPROOMS_DATA_DIR": str(data),
        **settings,
        "LOOPROOMS_PORT": str(port),
        "LOOPROOMS_LOG_LEVEL": "warning",
    }
    log = data / f"{name}.log"
    with running(command, log, environment=environment) as process:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, log)
        yield process.pid, url


def _stores_of(data: Path) -> dict[str, str]:
    """Return the settings with which another node shares the embedded stores and all keys of the first."""
    keys = {
        f"LOOPROOMS_{file.stem.upper()}_KEYS": ",".join(file.read_text("ascii").split())
        for file in data.glob("*.keys")
    }
    sockets = store_sockets(data)
    return {
        **keys,
        "DATABASE_URL": database_url(data),
        "REDIS_URL": f"unix://{quote(str(sockets / 'valkey.sock'))}?db=0",
    }


def store_sockets(data: Path) -> Path:
    """Return the folder of the sockets of the embedded stores, as Postgres wrote it down. Raises `Unexpected`."""
    try:
        return Path((data / "postgres" / "postmaster.pid").read_text().splitlines()[4])
    except (OSError, IndexError) as error:
        raise Unexpected(f"there is no embedded Postgres in {data}") from error


def database_url(data: Path) -> str:
    """Return the address of the database of the embedded Postgres. Raises `Unexpected`."""
    return f"postgresql://postgres@/looprooms?host={quote(str(store_sockets(data)), safe='')}&port=5432"


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server process until the block ends, or this process does; what it says goes to `log`."""
    if (setpriv := shutil.which("setpriv")) is not None:
        command = [setpriv, "--pdeathsig=TERM", "--", *command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            cwd=folder or Path(__file__).resolve().parent.parent,
            start_new_session=True,
        )
    try:
        yield process
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


def wait_until_listening(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server takes connections. Raises `Unexpected`."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            said = log.read_text(errors="replace").strip().splitlines()
            raise Unexpected(f"it did not start: {said[-1] if said else 'it said nothing'}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise Unexpected(f"it did not take connections within {START_SECONDS:g} s; see {log}")


def free_port() -> int:
    """Return a port that nobody has right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
