"""Processes of testers, so that the tester is never the smaller side: each takes its orders from a pipe and reports.

A process is one object made from its plan; an order is the name of one of its coroutine methods and the arguments. A process
keeps its connections between orders, and ends when the pipe is closed.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection as Pipe
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import uvloop

from bench.histogram import Histogram
from bench.roomlog import Unexpected

STEP_SECONDS = 180.0
"""How long a process may be silent beyond the time that an order takes by itself."""


_REST_SECONDS = 0.001
"""The shortest sleep: the loop's timers know milliseconds, and less would keep a core busy with waiting."""


class Troop(Protocol):
    """What runs in a process: besides the orders, a way to let go of every connection."""

    def close(self) -> None:
        """Let go of every connection."""


class Team:
    """The processes of testers, and the pipe to each."""

    def __init__(
        self, troop: Callable[[Any], Troop], plans: Sequence[Any], cores: set[int] | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._members: list[tuple[BaseProcess, Pipe]] = []
        for plan in plans:
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, troop, plan, cores), daemon=True)
            process.start()
            theirs.close()
            self._members.append((process, ours))

    @property
    def pids(self) -> list[int]:
        """The processes."""
        return [process.pid for process, _ in self._members if process.pid is not None]

    def order(self, step: str, *arguments: Any) -> None:
        """Tell everyone what to do next."""
        for _, pipe in self._members:
            pipe.send((step, arguments))

    def reports(self, seconds: float = 0.0) -> list[Any]:
        """Wait for everyone's answer to the last order, which takes `seconds`. Raises `Unexpected` when one failed."""
        found = []
        until = time.monotonic() + STEP_SECONDS + seconds
        for process, pipe in self._members:
            while not pipe.poll(0.1):
                if not process.is_alive():
                    raise Unexpected("a process of testers has died")
                if time.monotonic() > until:
                    raise Unexpected("a process of testers does not answer")
            try:
                report = pipe.recv()
            except EOFError:
                raise Unexpected("a process of testers has died") from None
            if isinstance(report, Unexpected):
                raise report
            found.append(report)
        return found

    def ask(self, step: str, *arguments: Any) -> list[Any]:
        """Give an order and wait for everyone's answer. Raises `Unexpected`."""
        self.order(step, *arguments)
        return self.reports()

    def dismiss(self) -> None:
        """End every process."""
        for process, pipe in self._members:
            pipe.close()
            process.join(2)
            if process.is_alive():
                process.kill()
                process.join()


@contextmanager
def employed(
    troop: Callable[[Any], Troop], plans: Sequence[Any], cores: set[int] | None = None
) -> Iterator[Team]:
    """Have a team until the block ends."""
    team = Team(troop, plans, cores)
    try:
        yield team
    finally:
        team.dismiss()


def work(pipe: Pipe, troop: Callable[[Any], Troop], plan: Any, cores: set[int] | None) -> None:
    """Be a process of testers; returns when the pipe is closed."""
    if cores is not None:
        os.sched_setaffinity(0, cores)
    try:
        uvloop.run(_work(pipe, troop, plan))
    except (EOFError, KeyboardInterrupt):
        return


async def _work(pipe: Pipe, troop: Callable[[Any], Troop], plan: Any) -> None:
    loop = asyncio.get_running_loop()
    working = troop(plan)
    orders: asyncio.Queue[tuple[str, tuple[Any, ...]] | None] = asyncio.Queue()

    def take_order() -> None:
        try:
            orders.put_nowait(pipe.recv())
        except (EOFError, OSError):
            loop.remove_reader(pipe.fileno())
            orders.put_nowait(None)

    loop.add_reader(pipe.fileno(), take_order)
    while (order := await orders.get()) is not None:
        step, arguments = order
        try:
            pipe.send(await getattr(working, step)(*arguments))
        except Unexpected as unexpected:
            pipe.send(unexpected)


def still_collector() -> None:
    """Stop the garbage collector of this process: a tester's pause is not the server's."""
    gc.collect()
    gc.freeze()
    gc.disable()


async def paced(
    rate: float, start: int, until: int, act: Callable[[int, int], None], late: Histogram | None = None
) -> int:
    """Call ``act(number, due)`` `rate` times a second from `start` to `until`; return how often.

    Open-loop: each call has its moment (monotonic nanoseconds), whether or not the ones before were on time. How late they
    were is added to `late`.
    """
    gap = 1e9 / rate
    number = 0
    while (due := start + int(number * gap)) < until:
        ahead = due - time.monotonic_ns()
        if ahead > 0:
            await asyncio.sleep(max(_REST_SECONDS, ahead / 1e9))
            continue
        if late is not None:
            late.add(-ahead)
        act(number, due)
        number += 1
        if number % 64 == 0:
            await asyncio.sleep(0)  # far behind: answers must still be read
    return number


async def until_true(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until `condition` is true, at most `seconds`; return whether it is."""
    end = time.monotonic() + seconds
    while not (true := condition()) and time.monotonic() < end:  # noqa: ASYNC110 - it has no event of its own
        await asyncio.sleep(0.02)
    return true
