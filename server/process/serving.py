"""From settings to a server that answers: port, stores, schema, demo, nodes; and in the other order to its end."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import asyncpg
import click
import msgspec
import uvloop

from protocol.refusals import Refused
from server.gateways.mail import FolderMailer
from server.gateways.standin.embedded import pretending
from server.node import serve_node
from server.passwords import Passwords
from server.process.keys import DEMO_PASSWORD, SEALING_KEYS, SIGNING_KEYS, kept
from server.process.keys import new_key as make_key
from server.process.listening import PortError, allow_files, listen
from server.process.logs import start_logging
from server.process.workers import READY, WorkerFailed, Workers
from server.settings import DEFAULTS, Settings, variable
from storage.demo import MEMBER, PEOPLE, add_demo
from storage.embedded import DataFolder, InUseError, Server, StartError
from storage.postgres.embedded import EmbeddedPostgres
from storage.postgres.migrations import MigrationError, migrate
from storage.postgres.pool import open_pool
from storage.redis.embedded import EmbeddedValkey
from storage.sealing import BrokenSeal, open_sealer

ResultT = TypeVar("ResultT")

_DATABASE_AWAY: Final = "Postgres at DATABASE_URL does not answer"


class CannotStart(Exception):  # noqa: N818 - a sentence for the operator
    """The server can't start; the message is one sentence for the operator."""


def serve(settings: Settings) -> int:
    """Run the server until it is told to stop; return the exit code. Raises `CannotStart`."""
    start_logging(settings.log_level, settings.log_format)
    return run(_serve(settings))


def work(descriptor: int) -> int:
    """Run one node on an inherited socket, for `server.process.workers`; return the exit code. Raises `CannotStart`."""
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)
    start_logging(settings.log_level, settings.log_format)
    return run(_work(settings, socket.socket(fileno=descriptor)))


def run(work: Awaitable[ResultT]) -> ResultT:
    """Do `work` in a loop of its own, and return what comes of it. Raises `CannotStart` for what an operator can mend."""
    allow_files()

    async def running() -> ResultT:
        return await work

    try:
        return uvloop.run(running())
    except (StartError, MigrationError, PortError, WorkerFailed) as error:
        raise CannotStart(str(error)) from None
    except BrokenSeal as broken:
        raise CannotStart(
            f"The database can't be opened with {variable('sealing_keys')}: {broken}."
        ) from None
    except Refused as refused:
        raise CannotStart(f"{_DATABASE_AWAY}: {refused.__cause__ or refused.message}.") from None
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise CannotStart(f"{_DATABASE_AWAY}: {str(error) or type(error).__name__}.") from None


async def _serve(settings: Settings) -> int:
    workers: Workers | None = None

    def hurry() -> None:
        if workers is not None:
            workers.kill()
        os._exit(1)  # the embedded stores go with this process

    stop = _stop_on_signals(hurry)
    sockets = listen(settings.host, settings.port, settings.workers)
    async with stores(settings) as (completed, folder):
        await migrated(completed)
        embedded = None if settings.database_url else folder
        password = None if embedded is None else await _seeded(completed, embedded)

        def ready() -> None:
            click.echo(_announcement(settings, folder, password))

        async with pretending(completed, embedded) as paid:
            if len(sockets) == 1:
                await serve_node(paid, sockets=sockets, stop=stop, ready=ready, alone=True)
            else:
                workers = Workers(paid, sockets)
                await workers.run(stop, ready)
    return 0


async def _work(settings: Settings, listener: socket.socket) -> int:
    stop = _stop_on_signals(lambda: os._exit(1))
    loop = asyncio.get_running_loop()

    def parent_said() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            stop.set()

    loop.add_reader(0, parent_said)

    def ready() -> None:
        sys.stdout.buffer.write(READY)
        sys.stdout.buffer.flush()

    await serve_node(settings, sockets=[listener], stop=stop, ready=ready, alone=True)
    return 0


def _stop_on_signals(hurry: Callable[[], None]) -> asyncio.Event:
    """Return what is set by the first SIGTERM or SIGINT; another one calls `hurry`."""
    stop = asyncio.Event()

    def told() -> None:
        if stop.is_set():
            hurry()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, told)
    return stop


@asynccontextmanager
async def stores(
    settings: Settings, *, redis: bool = True, running: bool = False
) -> AsyncIterator[tuple[Settings, Path | None]]:
    """Run the stores that are not elsewhere until the block ends; give the settings completed, and the data folder if any.

    `redis` says whether one is needed; with `running` those of a server that runs already are good. Raises `StartError`.
    """
    if settings.database_url and (settings.redis_url or not redis):
        yield settings, None
        return
    data = _folder(Path(settings.data_dir), running=running)
    try:
        postgres = None if settings.database_url else EmbeddedPostgres(data)
        valkey = None if settings.redis_url or not redis else EmbeddedValkey(data)
        completed = settings
        if postgres is not None:
            if not settings.signing_keys:
                file = data.path / SIGNING_KEYS
                completed = msgspec.structs.replace(
                    completed, signing_keys=tuple(kept(file, make_key)[0]), signing_keys_file=str(file)
                )
            completed = msgspec.structs.replace(
                completed,
                database_url=postgres.dsn(),
                sealing_keys=settings.sealing_keys or tuple(kept(data.path / SEALING_KEYS, make_key)[0]),
            )
        if valkey is not None:
            completed = msgspec.structs.replace(completed, redis_url=valkey.url())
        ours = [server for server in (postgres, valkey) if server is not None and not data.visited]
        async with _running(ours):
            if postgres is not None:
                await postgres.create_database()
            yield completed, data.path
    finally:
        data.release()


def _folder(path: Path, *, running: bool) -> DataFolder:
    try:
        return DataFolder.claim(path)
    except InUseError:
        if not running:
            raise
        return DataFolder.visit(path)


@asynccontextmanager
async def _running(servers: Sequence[Server]) -> AsyncIterator[None]:
    """Start servers at the same time, keep them running, and stop them at the end."""
    keeping: list[asyncio.Task[None]] = []
    try:
        for server in servers:
            await server.prepare()
            server.launch()
        for server in servers:
            await server.answer()
        keeping = [asyncio.create_task(server.keep()) for server in servers]
        yield
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.gather(*(server.stop() for server in servers))


async def migrated(settings: Settings) -> list[str]:
    try:
        return await migrate(settings.database_url)
    except TimeoutError:
        raise CannotStart(f"{_DATABASE_AWAY} in time.") from None


async def _seeded(settings: Settings, folder: Path) -> str:
    """Put the demo in, and return the password of its people, which is made once."""
    lines, new = kept(folder / DEMO_PASSWORD, lambda: f"calm-{secrets.token_hex(4)}")
    await seed(settings, lines[0], renew=new)
    return lines[0]


async def seed(settings: Settings, password: str, *, renew: bool) -> None:
    pool = await open_pool(settings.database_url, size=2)
    try:
        sealer = await open_sealer(pool, settings.sealing_keys)
        await add_demo(pool, sealer, await Passwords(threads=1).hash(password), renew=renew)
    finally:
        await pool.close()


def _announcement(settings: Settings, folder: Path | None, password: str | None) -> str:
    """Say where everything is, and the one line to type next."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    http = f"http://{host}:{settings.port}"
    place = f"{http.replace('http', 'ws', 1)}/ws"
    nodes = f", {settings.workers} nodes" if settings.workers > 1 else ""
    lines = [f"VYBE LOOPROOMS is ready (process {os.getpid()}{nodes}).", ""]
    lines += [f"  HTTP        {http}", f"  websocket   {place}", f"  documents   {http}/docs"]
    if folder is not None:
        lines.append(f"  data        {settings.data_dir}")
    if not settings.smtp_url:
        lines.append(
            f"  mail        {FolderMailer.place(settings.data_dir)} (nothing is sent; the links are in the log)"
        )
    if password is not None:
        others = ", ".join(f"{person.email} ({_standing(person.role, person.tier)})" for person in PEOPLE[1:])
        lines += ["", f"  demo sign-in  {MEMBER.email}, password {password}", f"  the same for  {others}"]
        pretended = "" if settings.stripe_secret_key else ", in pretend money"
        lines += ["", f"  premium     {http}/pay{pretended}"]
    address = "" if _is_default(settings) else f" --url {http}"
    lines += ["", "Next, in another terminal (or in two):", ""]
    lines.append(f"  {_command()} join morning-calm --as Ada{address}")
    return "\n".join(lines) + "\n"


def _standing(role: str, tier: str) -> str:
    return role.lower() if role != "MEMBER" else tier.lower().replace("_", " ")


def _is_default(settings: Settings) -> bool:
    return (settings.host, settings.port) == (DEFAULTS["host"], DEFAULTS["port"])


def _command() -> str:
    """Return how this command line was called, as one can type it here."""
    script = Path(sys.executable).with_name("looprooms")
    if not script.exists():
        return "python -m server"
    try:
        return str(script.relative_to(Path.cwd()))
    except ValueError:
        return str(script)
