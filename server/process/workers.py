"""Several nodes on one port: a process each, started, watched and stopped by this one.

They share nothing but Postgres and Redis. Each has its own listening socket on the port, which stays open here: when a worker
dies its socket goes to the one that replaces it, and whoever was about to connect only waits a moment.

A worker gets its settings as the first line of its standard input. That stays open: when it ends, this process is gone, and
the worker stops as on SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from server.settings import Settings

_LOGGER = logging.getLogger("looprooms.workers")

READY: Final = b"ready\n"
STOP_MARGIN: Final = 15.0
"""Seconds beyond its drain that a worker has for finishing what was begun."""
_AGAIN_SECONDS: Final = (0.1, 1.0, 5.0)


class WorkerFailed(Exception):  # noqa: N818 - a sentence for the operator
    """A worker could not start; it has said why itself."""


class Workers:
    """One worker for each of `sockets`."""

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket]) -> None:
        self._settings = settings
        self._sockets = sockets
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = False

    async def run(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Run until `stop` is set, then stop all. `ready` is called when all take connections. Raises `WorkerFailed`."""
        watching: list[asyncio.Task[None]] = []
        stopping = asyncio.create_task(stop.wait())
        try:
            starting = asyncio.gather(*(self._start(place) for place in range(len(self._sockets))))
            await asyncio.wait(
                (asyncio.ensure_future(starting), stopping), return_when=asyncio.FIRST_COMPLETED
            )
            if starting.done():
                starting.result()
                ready()
                watching = [asyncio.create_task(self._watch(place)) for place in range(len(self._sockets))]
                await asyncio.wait((stopping, *watching), return_when=asyncio.FIRST_COMPLETED)
            else:
                starting.cancel()
        finally:
            self._stopping = True
            stopping.cancel()
            for task in watching:
                task.cancel()
            await asyncio.gather(*map(self._stop, list(self._processes.values())))

    def kill(self) -> None:
        """End all at once."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()

    async def _start(self, place: int) -> None:
        descriptor = self._sockets[place].fileno()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "server",
            "worker",
            str(descriptor),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(descriptor,),
            start_new_session=True,  # Ctrl-C in the terminal reaches it through our orderly stop alone
        )
        self._processes[place] = process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(self._settings) + b"\n")
        if await process.stdout.readline() != READY:
            await process.wait()
            raise WorkerFailed("A node could not start.")

    async def _watch(self, place: int) -> None:
        failures = 0
        while not self._stopping:
            status = await self._processes[place].wait()
            _LOGGER.error("worker %d ended with status %d and is started again", place + 1, status)
            await asyncio.sleep(_AGAIN_SECONDS[min(failures, len(_AGAIN_SECONDS) - 1)])
            try:
                await self._start(place)
                failures = 0
            except (WorkerFailed, OSError):
                failures += 1

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._settings.drain_seconds + STOP_MARGIN):
                await process.wait()
        except TimeoutError:
            _LOGGER.warning("worker process %d did not stop in time and is killed", process.pid)
            process.kill()
            await process.wait()
