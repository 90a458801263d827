"""While busy, gather: one statement carries everything that came while the one before was under way.

This is the group commit of writes and the shared look-up of reads. No timer decides: a quiet system runs a batch of one at
once, a busy one gets cheaper per item. Measured on one core (`python -m bench commits`): reactions stored one INSERT
each reach a few thousand a second, in batches of a hundred some tens of thousands.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

import asyncpg

from protocol.refusals import ErrorCode, Refused
from storage.postgres.pool import PersonGone

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")
ToldT_contra = TypeVar("ToldT_contra", contravariant=True)

Run = Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT | Exception]]]

_TRANSIENT = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_ATTEMPTS = 5

ANSWER_SECONDS = 2.0
"""How long a command waits for a store before it is told to try again."""

_LOOK: Final = 16
"""Looks at who has waited too long, in the time that one may wait."""


class Waiter(Protocol[ToldT_contra]):
    """Who is told what came of an item, once. A future is one."""

    def done(self) -> bool:
        """Say whether it was told already, or wants to know no more."""

    def set_result(self, result: ToldT_contra, /) -> object:
        """Take the result."""

    def set_exception(self, exception: Exception, /) -> object:
        """Take what came in place of a result."""

    def cancel(self) -> object:
        """Take note that there will be neither."""


class _Entry(Generic[ItemT, ResultT]):
    __slots__ = ("due", "item", "served", "waiter")

    def __init__(self, item: ItemT, waiter: Waiter[ResultT], due: float, served: int) -> None:
        self.item = item
        self.waiter = waiter
        self.due = due
        """In loop time; infinite for what is to be run whoever waits for it."""
        self.served = served
        """How many items had been served when this one came."""


_Batch = list[_Entry[ItemT, ResultT]]


class Gather(Generic[ItemT, ResultT]):
    """Runs batches of submitted items, one after the other.

    `run` takes a batch and returns one result per item, in order; a result that is an exception is raised to its
    submitter alone. When `run` itself fails because of the data, the batch is halved until the poisoned items fail alone;
    a deadlock or a serialization failure is tried again. A failure that is nobody's data (`Refused`) goes to all; that a person
    is gone (`PersonGone`) is that person's alone.

    At most `limit` items go in one batch. With a `pause`, batches begin at least so many seconds apart: for reads that a storm
    of clients would otherwise ask for one by one. The first of a quiet time still runs at once.

    Whoever puts an item or asks waits at most `within` seconds, and there is one timer for all of them. A queue that is longer
    than what can be served in that time would make a server work on nothing but what nobody waits for any more, for ever:
    measured with reactions at twice the peak, less than 2 % of it was served. So

    - the next one is refused with ``busy`` when those before it will take more than half of that time, as fast as items were
      served since the first of them came; and when `waiting` items wait;
    - what has not begun when its time is over, or is given up, is not run at all.
    """

    def __init__(
        self,
        run: Run[ItemT, ResultT],
        *,
        limit: int = 1000,
        waiting: int = 20_000,
        pause: float = 0.0,
        within: float = ANSWER_SECONDS,
    ) -> None:
        self._run = run
        self._pause = pause
        self._next_at = 0.0
        self._limit = limit
        self._most_waiting = waiting
        self._within = within
        self._waiting: deque[_Entry[ItemT, ResultT]] = deque()
        self._under_way: _Batch[ItemT, ResultT] = []
        self._worker: asyncio.Task[None] | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._served = 0
        self.batches = 0
        self.items = 0
        self.dropped = 0
        """Items whose time was over, or that were given up, before they had begun."""

    def __len__(self) -> int:
        """Count the items that wait for the next batch."""
        return len(self._waiting)

    def submit(self, item: ItemT) -> asyncio.Future[ResultT]:
        """Put `item` into the next batch, in the order of the calls; the future has its result, however long it takes.

        Giving up on the future does not take the item back. Raises `Refused` (busy).
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ResultT] = loop.create_future()
        self._add(_Entry(item, future, math.inf, self._served))
        return future

    async def ask(self, item: ItemT) -> ResultT:
        """Put `item` into the next batch and wait for its result. Raises `Refused` (busy, unavailable): see `put`."""
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self.put(item, future)
        return await future

    def put(self, item: ItemT, waiter: Waiter[ResultT]) -> None:
        """Put `item` into the next batch, and tell `waiter` what came of it. Raises `Refused` (busy).

        After `within` seconds the waiter is told ``busy`` if the item has not begun; it is taken back. If it has, it is told
        ``unavailable``, which does not mean undone: the statement may still be committed. Asking again with the same key tells.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._waiting and self._too_long(self._waiting[0], now):
            raise Refused(ErrorCode.BUSY, retry_after=1.0)
        self._add(_Entry(item, waiter, now + self._within, self._served))
        if self._looking is None:
            self._looking = loop.call_later(self._within / _LOOK, self._look)

    def _too_long(self, first: _Entry[ItemT, ResultT], now: float) -> bool:
        """Say whether the queue will take too long. The first in it has seen how fast it is served."""
        waited = now - (first.due - self._within)
        if len(self._waiting) < self._limit:  # all of them go along with the next batch
            return waited > self._within / 2
        if waited <= self._within / _LOOK:  # too short to say
            return False
        served = self._served - first.served + len(self._under_way)
        return len(self._waiting) * waited > self._within / 2 * max(1, served)

    def _add(self, entry: _Entry[ItemT, ResultT]) -> None:
        if len(self._waiting) >= self._most_waiting:
            raise Refused(ErrorCode.BUSY, retry_after=1.0)
        self._waiting.append(entry)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="gather")

    async def drain(self) -> None:
        """Wait until everything that was submitted has its result."""
        while self._worker is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({self._worker})

    def _look(self) -> None:
        """Tell those who have waited long enough. They stand in the order of their time."""
        self._looking = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for entries, code in ((self._under_way, ErrorCode.UNAVAILABLE), (self._waiting, ErrorCode.BUSY)):
            for entry in list(entries):
                if entry.due <= now:
                    _fail(entry.waiter, Refused(code, retry_after=1.0))
                elif entry.due < math.inf:
                    break
        if self._worker is not None:
            self._looking = loop.call_later(self._within / _LOOK, self._look)

    async def _work(self) -> None:
        try:
            while self._waiting:
                if self._pause:
                    await self._rest()
                if batch := self._next_batch():
                    self._under_way = batch
                    await self._settle(batch)
                    self._served += len(batch)
                    self._under_way = []
        finally:
            self._under_way = []
            self._worker = None

    def _next_batch(self) -> _Batch[ItemT, ResultT]:
        batch: _Batch[ItemT, ResultT] = []
        while self._waiting and len(batch) < self._limit:
            entry = self._waiting.popleft()
            if entry.due < math.inf and entry.waiter.done():
                self.dropped += 1
            else:
                batch.append(entry)
        return batch

    async def _rest(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next_at:
            await asyncio.sleep(self._next_at - now)
        self._next_at = max(now, self._next_at) + self._pause

    async def _settle(self, batch: _Batch[ItemT, ResultT]) -> None:
        self.batches += 1
        self.items += len(batch)
        try:
            results = await self._attempt([entry.item for entry in batch])
        except PersonGone as error:
            await self._halve(batch, error)
        except (Refused, OSError, asyncpg.InterfaceError) as error:
            # The store is away: those who wait for the next batch would wait for the same answer.
            waiting, self._waiting = self._waiting, deque()
            for entry in (*batch, *waiting):
                _fail(entry.waiter, error)
        except Exception as error:  # noqa: BLE001 - whose data it was is found by halving
            await self._halve(batch, error)
        except BaseException:
            for entry in batch:
                if not entry.waiter.done():
                    entry.waiter.cancel()
            raise
        else:
            for entry, result in zip(batch, results, strict=True):
                if isinstance(result, Exception):
                    _fail(entry.waiter, result)
                elif not entry.waiter.done():
                    entry.waiter.set_result(result)

    async def _halve(self, batch: _Batch[ItemT, ResultT], error: Exception) -> None:
        """Find out whose data it was: of one it is that one's, else each half is tried alone."""
        if len(batch) == 1:
            _fail(batch[0].waiter, error)
            return
        middle = len(batch) // 2
        await self._settle(batch[:middle])
        await self._settle(batch[middle:])

    async def _attempt(self, items: list[ItemT]) -> Sequence[ResultT | Exception]:
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(*_TRANSIENT):
                return await self._run(items)
        raise Refused(ErrorCode.BUSY, retry_after=1.0)


def _fail(waiter: Waiter[ResultT], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
        if isinstance(waiter, asyncio.Future):
            waiter.exception()  # a submitter that has gone away is no reason for a warning
