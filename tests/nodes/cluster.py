"""Real stores and real node processes that a test may kill, freeze, starve and start again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
from msgspec import Struct

from protocol.envelope import RoomId, SessionId, UserId
from server.settings import Settings
from server.tokens import Tokens
from storage.embedded import DataFolder, running
from storage.postgres.embedded import SETTINGS, EmbeddedPostgres
from storage.postgres.migrations import migrate
from tests.hosting import SIGNING_KEY, make_room
from tests.redis.valkeys import Valkey
from tests.stores import SEALING_KEY, name_database
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]
START_SECONDS = 20.0

_STORED = """
select l."offset", k.key
from chat_lines l left join idempotency_keys k on k.line_id = l.id where l.room_id = $1
union all
select e."offset", 'removal of ' || k.key
from room_events e left join idempotency_keys k on k.line_id = e.line_id where e.room_id = $1
order by 1
"""

BARELY_LIMITED = {
    "LOOPROOMS_COMMANDS_PER_SECOND": "2000",
    "LOOPROOMS_COMMANDS_BURST": "4000",
    "LOOPROOMS_LIMITS_FACTOR": "1000",
}
"""So that a few writers can load a room."""


class Memory(EmbeddedPostgres):
    """A Postgres that survives its own death (not the machine's) and also listens on a TCP port, for proxies."""

    def __init__(self, data: DataFolder) -> None:
        settings = {**SETTINGS, "fsync": "off", "max_connections": "200", "shared_buffers": "64MB"}
        settings["shared_preload_libraries"] = "pg_stat_statements"
        super().__init__(data, settings, durable=False)
        self.port = free_port()

    def command(self) -> list[str]:
        """Return the program and its arguments."""
        return [*super().command(), "-c", "listen_addresses=127.0.0.1", "-c", f"port={self.port}"]

    def dsn(self, database: str = "postgres") -> str:
        """Return the address of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def family(self) -> list[int]:
        """Return the server and its children, the server first."""
        return [] if self.pid is None else [self.pid, *children(self.pid)]

    def kill(self) -> None:
        """End all of it as a power cut would; its files stay."""
        process, family = self._process, self.family()
        self.freeze()
        for pid in reversed(family):
            os.kill(pid, signal.SIGKILL)
        assert process is not None
        process.wait()
        wait_for(lambda: not any(map(running, family)), 5.0)

    def freeze(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        for pid in self.family():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on where it was."""
        for pid in self.family():
            os.kill(pid, signal.SIGCONT)

    async def again(self) -> None:
        """Start it after `kill`."""
        self.launch()
        await self.answer()


class Account(Struct):
    """Somebody who is signed in."""

    user: UserId
    session: SessionId
    name: str
    token: str


class NodeProcess:
    """One node: a process, its port, and its log."""

    def __init__(self, folder: Path, name: str, environment: dict[str, str]) -> None:
        self.name = name
        self.port = free_port()
        self.log = folder / f"{name}.log"
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = folder

    @property
    def url(self) -> str:
        """Where its websocket is."""
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the process; `ready` must be awaited before it is used."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", "--", sys.executable, "-m", "tests.nodes.process"],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "PYTHONPATH": str(ROOT),
                    "LOOPROOMS_PORT": str(self.port),
                    **BARELY_LIMITED,
                    **self._environment,
                },
            )

    async def ready(self) -> None:
        """Wait until it takes connections."""
        deadline = time.monotonic() + START_SECONDS
        while not await self.answers("/health/live"):
            assert self.alive, f"{self.name} ended at its start:\n{self.said()}"
            assert time.monotonic() < deadline, f"{self.name} did not start:\n{self.said()}"
            await asyncio.sleep(0.02)

    async def answers(self, path: str, within: float = 2.0) -> bool:
        """Say whether a GET is answered with 200."""
        return await self.status(path, within) == 200

    async def status(self, path: str, within: float = 6.0) -> int:
        """Return the status of a GET; 0 when there is no answer."""
        return (await self.get(path, within))[0]

    async def becomes_ready(self, within: float) -> float:
        """Wait until the node says that it is ready; return the seconds that it took."""
        began = time.monotonic()
        while (found := await self.get("/health/ready"))[0] != 200:
            assert time.monotonic() - began < within, f"{self.name} is not ready: {found}"
            await asyncio.sleep(0.05)
        return time.monotonic() - began

    async def get(self, path: str, within: float = 6.0) -> tuple[int, str]:
        """Return the status and the body of a GET; 0 when there is no answer."""
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(within):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
                return int(head.split()[1]), body.decode()
        except (OSError, TimeoutError, IndexError):
            return 0, ""
        finally:
            if writer is not None:
                writer.transport.abort()

    async def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        _, text = await self.get("/metrics")
        pattern = rf"^{re.escape(name)}(?:\{{[^}}]*\}})? ([-+.\deE]+)$"
        return sum(float(value) for value in re.findall(pattern, text, re.MULTILINE))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def ended(self, within: float) -> int:
        """Wait for the end and return the exit status."""
        assert self._process is not None
        deadline = time.monotonic() + within
        while (status := self._process.poll()) is None:
            assert time.monotonic() < deadline, f"{self.name} did not end within {within} s:\n{self.said()}"
            await asyncio.sleep(0.02)
        return status

    def said(self) -> str:
        """Return its log."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""


class Cluster:
    """Some nodes on one database and one Valkey. Made by `cluster`."""

    def __init__(self, postgres: Memory, database: str, valkey: Valkey, folder: Path) -> None:
        self.postgres = postgres
        self.valkey = valkey
        self.database_url = postgres.dsn(database)
        self.database = database
        self.folder = folder
        self.nodes: list[NodeProcess] = []
        self._tokens = Tokens(Settings(signing_keys=(SIGNING_KEY,), access_token_seconds=3600))
        self._rooms = itertools.count(1)

    def node(
        self, *, bug: str = "", database_url: str = "", redis_url: str = "", **settings: object
    ) -> NodeProcess:
        """Launch one more node."""
        environment = {
            "DATABASE_URL": database_url or self.database_url,
            "REDIS_URL": redis_url or self.valkey.url,
            "LOOPROOMS_SIGNING_KEYS": SIGNING_KEY,
            "LOOPROOMS_SEALING_KEYS": SEALING_KEY,
            "LOOPROOMS_DATA_DIR": str(self.folder / "data"),
            **({"BUG": bug} if bug else {}),
            **{f"LOOPROOMS_{name.upper()}": str(value) for name, value in settings.items()},
        }
        node = NodeProcess(self.folder, f"node-{len(self.nodes) + 1}", environment)
        self.nodes.append(node)
        node.launch()
        return node

    async def start(self, count: int, **settings: object) -> list[NodeProcess]:
        """Launch `count` nodes and wait until all take connections."""
        nodes = [self.node(**settings) for _ in range(count)]  # type: ignore[arg-type] # the caller's own
        await asyncio.gather(*(node.ready() for node in nodes))
        return nodes

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """Connect to the database, past every proxy."""
        connection = await asyncpg.connect(self.database_url, timeout=10)
        try:
            yield connection
        finally:
            await connection.close(timeout=5)

    async def accounts(self, names: Iterable[str]) -> list[Account]:
        """Sign new people in."""
        people = [(UserId(uuid4()), SessionId(uuid4()), name) for name in names]
        async with self.connection() as connection:
            await connection.executemany(
                "insert into users (id, name) values ($1, $2)", [(user, name) for user, _, name in people]
            )
            await connection.executemany(
                "insert into sessions (id, user_id) values ($1, $2)",
                [(session, user) for user, session, _ in people],
            )
        return [
            Account(
                user,
                session,
                name,
                self._tokens.sign(user=user, session=session, role="MEMBER", tier="FREE")[0],
            )
            for user, session, name in people
        ]

    async def signed_in_again(self, account: Account) -> Account:
        """Sign somebody in on one more device."""
        session = SessionId(uuid4())
        async with self.connection() as connection:
            await connection.execute(
                "insert into sessions (id, user_id) values ($1, $2)", session, account.user
            )
        token, _ = self._tokens.sign(user=account.user, session=session, role="MEMBER", tier="FREE")
        return Account(account.user, session, account.name, token)

    async def room(self) -> RoomId:
        """Make a looproom."""
        async with asyncpg.create_pool(self.database_url, min_size=1, max_size=1) as pool:
            return await make_room(pool, f"room-{next(self._rooms)}")

    async def stored(self, room: RoomId) -> list[tuple[int, str]]:
        """Return what a room's history is: offset and key, in the order of offsets; removals are named after their line."""
        async with self.connection() as connection:
            rows = await connection.fetch(_STORED, UUID(str(room)))
        return [(row["offset"], row["key"]) for row in rows]

    async def terminate_backends(self) -> int:
        """Terminate every other connection to the database; return how many."""
        async with self.connection() as connection:
            count: int = await connection.fetchval(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
            return count

    def redis(self, *words: str) -> str:
        """Give Valkey one command and return its answer as it is on the wire."""
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(5)
            link.connect(self.valkey.socket)
            link.sendall((" ".join(words) + "\r\n").encode())
            return link.recv(65536).decode()

    def complaints(self) -> list[str]:
        """Return what nodes logged that only a bug logs, with what stands after it."""
        found = []
        for node in self.nodes:
            lines = node.said().splitlines()
            found += [
                f"{node.name}: " + "\n".join(lines[max(0, at - 2) : at + 60])
                for at, line in enumerate(lines)
                if any(word in line for word in ("Traceback", "never retrieved", "was destroyed"))
            ]
        return found

    def stop(self) -> None:
        """End everything that was started here."""
        for node in self.nodes:
            node.kill()


@contextlib.asynccontextmanager
async def memory() -> AsyncIterator[Memory]:
    """Run a Postgres with a template database that has the schema."""
    folder = _folder()
    data = DataFolder.claim(folder / "data")
    server = Memory(data)
    await server.start()
    try:
        await server.create_database("template")
        await migrate(server.dsn("template"))
        yield server
    finally:
        server.thaw()
        await server.stop()
        data.release()
        shutil.rmtree(folder)


@contextlib.asynccontextmanager
async def cluster(postgres: Memory) -> AsyncIterator[Cluster]:
    """Give a fresh database and an empty Valkey, and end every node in the end."""
    database = await name_database(postgres)
    folder = _folder()
    try:
        with Valkey("--maxmemory-policy", "noeviction", "--enable-debug-command", "yes") as valkey:
            one = Cluster(postgres, database, valkey, folder)
            try:
                yield one
            finally:
                with contextlib.suppress(AssertionError):  # a test may have left it dead
                    valkey.thaw()
                one.stop()
    finally:
        shutil.rmtree(folder)


def children(pid: int) -> list[int]:
    """Return the children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
    return found


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _folder() -> Path:
    place = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="lr-", dir=place if place.is_dir() else None))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    return folder
