"""Performs the durable jobs of `storage.jobs`: on every node a few of each kind at a time, each under a lease.

A performer is registered by the kind of job that it performs::

    @performs(SendMail, attempts=30)
    async def send(node: Node, job: SendMail) -> None: ...

It may fail in three ways. `TryAgain` is expected and waited out, `GiveUp` is final, anything else is a bug: logged, and
tried again like the first, because it may be of the moment. `NotYet` is no failure: such a job has time without end. Past its attempts a job is dead; it is kept, with its reason,
for an operator to see. One that hangs is ended after its time, and takes places of its own kind alone meanwhile.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_type_hints

import msgspec

from protocol.refusals import Refused
from storage import jobs
from storage.jobs import Count, Job, Period, Periodic, Taken, kind_of
from storage.postgres.listener import listen

if TYPE_CHECKING:
    from server.node import Node

_LOGGER = logging.getLogger("looprooms.jobs")

DAY: Final = 86400.0
LEASE_SECONDS: Final = 30.0
"""After so long without a word of its node a job is taken by another one."""
POLL_SECONDS: Final = 5.0
"""How often a node looks for jobs whose notification was lost, and for those of a node that died."""
LEAST_PAUSE: Final = 0.05
"""Between two looks at a job that is due, but is just being taken by another node."""
TEND_SECONDS: Final = 10.0
LONGEST_PAUSE: Final = 3600.0
STOP_SECONDS: Final = 5.0
"""What runs when a node stops may finish within this; the rest is given back."""
DEAD_KEPT_DAYS: Final = 30.0
_SAY_IT_AGAIN: Final = 5

JobT = TypeVar("JobT", bound=Job)
Perform = Callable[["Node", Any], Awaitable[None]]


class TryAgain(Exception):  # noqa: N818 - it is not an error of ours
    """The job can't be done now. `reason` is kept and logged: nothing personal. `after` is in seconds."""

    def __init__(self, reason: str, *, after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.after = after


class NotYet(Exception):  # noqa: N818 - see TryAgain
    """It is too early for the job: it waits for `after` seconds, and has not been tried."""

    def __init__(self, *, after: float) -> None:
        super().__init__("not yet")
        self.after = after


class GiveUp(Exception):  # noqa: N818 - see TryAgain
    """The job can never be done. `reason` is kept and logged: nothing personal."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Performer:
    __slots__ = ("at", "attempts", "backoff", "every", "job", "perform", "together", "within")

    def __init__(
        self,
        job: type[Job],
        perform: Perform,
        *,
        attempts: int,
        backoff: float,
        together: int,
        within: float,
        every: float | None,
        at: float,
    ) -> None:
        self.job = job
        self.perform = perform
        self.attempts = attempts
        self.backoff = backoff
        self.together = together
        self.within = within
        self.every = every
        self.at = at


PERFORMERS: Final[dict[str, _Performer]] = {}


def performs(
    job: type[JobT],
    *,
    attempts: int = 12,
    backoff: float = 2.0,
    together: int = 4,
    within: float = 60.0,
    every: float | None = None,
    at: float = 0.0,
) -> Callable[[Callable[[Node, JobT], Awaitable[None]]], Callable[[Node, JobT], Awaitable[None]]]:
    """Register the decorated function as what performs `job`. Raises `TypeError` at import when they don't match.

    After the first failure it waits `backoff` seconds, after each further one twice as long, at most an hour. A node performs
    at most `together` of this kind at a time, each within `within` seconds. A `Periodic` is performed once every `every`
    seconds, beginning `at` seconds after the whole ones: ``every=DAY, at=3 * 3600`` is at three in the night (UTC).
    """

    def register(
        perform: Callable[[Node, JobT], Awaitable[None]],
    ) -> Callable[[Node, JobT], Awaitable[None]]:
        kind = kind_of(job)
        if kind in PERFORMERS:
            raise TypeError(f"{kind} is performed already")
        if get_type_hints(perform, localns={"Node": object})["job"] is not job:
            raise TypeError(f"{perform.__qualname__} must take a {job.__name__}")
        if issubclass(job, Periodic) != (every is not None) or not inspect.iscoroutinefunction(perform):
            raise TypeError(f"{job.__name__} needs a period if it is a Periodic, and a coroutine function")
        PERFORMERS[kind] = _Performer(
            job,
            perform,
            attempts=attempts,
            backoff=backoff,
            together=together,
            within=within,
            every=every,
            at=at,
        )
        return perform

    return register


class Jobs:
    """The jobs that one node performs."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._pool = node.stores.pool
        self._due = asyncio.Event()
        self._running: dict[asyncio.Task[None], Taken] = {}
        self._places: Counter[str] = Counter(
            {kind: performer.together for kind, performer in PERFORMERS.items()}
        )
        self._taking: asyncio.Task[None] | None = None
        self._others: list[asyncio.Task[None]] = []
        self._stopping = False
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.counts: dict[str, Count] = {}
        """Of all nodes, as read a few seconds ago."""

    def start(self) -> None:
        """Begin to take jobs."""
        url = self._node.settings.database_url
        self._taking = asyncio.create_task(self._take())
        self._others += [
            asyncio.create_task(self._tend()),
            asyncio.create_task(listen(url, jobs.CHANNEL, self._due.set)),
        ]

    async def aclose(self) -> None:
        """Take no more, finish what can be finished soon, and give the rest back."""
        self._stopping = True
        self._due.set()
        if self._taking is not None:
            await self._taking  # not in the middle: what has just been taken is known here alone
        if self._running:
            await asyncio.wait(self._running, timeout=STOP_SECONDS)
        await _end([*self._running, *self._others])

    # Taking.

    async def _take(self) -> None:
        while not self._stopping:
            self._due.clear()
            free = {kind: places for kind, places in self._places.items() if places > 0}
            pause = POLL_SECONDS
            try:
                taken = await jobs.take(self._pool, free, lease=LEASE_SECONDS) if free else []
                if free and not taken and (due := await jobs.next_due(self._pool, list(free))) is not None:
                    pause = min(POLL_SECONDS, max(LEAST_PAUSE, due))
            except Refused:
                taken = []
            except Exception:
                _LOGGER.exception("jobs could not be taken")
                taken = []
            for job in taken:
                self._begin(job)
            if not taken:
                await self._wait(pause)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._due.wait()
        except TimeoutError:
            return

    def _begin(self, job: Taken) -> None:
        self._places[job.kind] -= 1
        task = asyncio.create_task(self._run(job), name=f"{job.kind} {job.id}")
        self._running[task] = job
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._places[self._running.pop(task).kind] += 1
        self._due.set()

    # Performing.

    async def _run(self, job: Taken) -> None:
        performer = PERFORMERS[job.kind]
        try:
            if job.attempts > performer.attempts:
                raise GiveUp("its node was lost each time")
            async with asyncio.timeout(performer.within):
                await performer.perform(self._node, _payload(performer.job, job))
        except asyncio.CancelledError:
            await self._say(jobs.give_back(self._pool, job))
            raise
        except NotYet as early:
            delay = early.after
            await self._record(job, lambda: jobs.give_back(self._pool, job, delay=delay))
        except GiveUp as refused:
            await self._bury(job, refused.reason)
        except TryAgain as refused:
            await self._failed(job, refused.reason, refused.after)
        except Refused as refused:
            await self._failed(job, refused.code.value, refused.retry_after)
        except TimeoutError:
            await self._failed(job, "it took too long", None)
        except Exception as error:
            _LOGGER.exception("a job %s failed", job.kind)
            await self._failed(job, type(error).__name__, None)
        else:
            self.done[job.kind] += 1
            await self._record(job, lambda: jobs.finish(self._pool, job))

    async def _failed(self, job: Taken, reason: str, after: float | None) -> None:
        performer = PERFORMERS[job.kind]
        self.failed[job.kind] += 1
        if job.attempts >= performer.attempts:
            await self._bury(job, reason)
            return
        pause: float = min(LONGEST_PAUSE, performer.backoff * 2.0 ** (job.attempts - 1))
        delay = max(after or 0.0, pause * random.uniform(0.75, 1.0))
        _LOGGER.info("a job %s failed (%s) and is tried again in %.0f s", job.kind, reason, delay)
        await self._record(job, lambda: jobs.postpone(self._pool, job, reason, delay=delay))

    async def _bury(self, job: Taken, reason: str) -> None:
        _LOGGER.error("a job %s is dead after %d attempts: %s", job.kind, job.attempts, reason)
        await self._record(job, lambda: jobs.bury(self._pool, job, reason))

    async def _record(self, job: Taken, say: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Tell Postgres what became of a job. What it can't be told ends with the lease: then the job is performed again."""
        for _ in range(_SAY_IT_AGAIN):
            if await self._say(say()):
                return
            await asyncio.sleep(1.0)
        _LOGGER.warning("what became of a job %s could not be stored: it will be performed again", job.kind)

    async def _say(self, saying: Coroutine[Any, Any, None]) -> bool:
        try:
            await saying
        except Refused:
            return False
        except Exception:
            _LOGGER.exception("what became of a job could not be stored")
            return False
        return True

    # What is done by the clock.

    async def _tend(self) -> None:
        """Renew the leases of what runs, begin periods, and count; every few seconds, for ever."""
        periods = [Period(kind, one.every, one.at) for kind, one in PERFORMERS.items() if one.every]
        planned = False
        while True:
            try:
                if self._running:
                    await jobs.renew(self._pool, list(self._running.values()), lease=LEASE_SECONDS)
                if not planned:
                    await jobs.plan(self._pool, periods)
                    planned = True
                await jobs.begin_periods(self._pool, periods)
                self.counts = await jobs.count(self._pool)
            except Refused:
                _LOGGER.debug("jobs could not be tended: Postgres is out of reach")
            except Exception:
                _LOGGER.exception("jobs could not be tended")
            await asyncio.sleep(TEND_SECONDS)


def _payload(kind: type[Job], job: Taken) -> Job:
    try:
        return msgspec.json.decode(job.payload, type=kind)
    except msgspec.ValidationError:
        raise GiveUp("its payload is not understood") from None


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class ForgetDeadJobs(Periodic, tag="jobs.forget"):
    """Deletes what died long ago."""


@performs(ForgetDeadJobs, every=DAY, at=4 * 3600)
async def forget_dead(node: Node, job: ForgetDeadJobs) -> None:  # noqa: ARG001 - whichever night it is
    """Delete the jobs that died more than `DEAD_KEPT_DAYS` ago."""
    await jobs.forget_dead(node.stores.pool, DEAD_KEPT_DAYS * DAY)
