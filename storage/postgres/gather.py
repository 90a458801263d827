"""While busy, gather: one statement carries everything that came while the one before was under way.

This is the group commit of writes and the shared look-up of reads. No timer decides: a quiet system runs a batch of one at
once, a busy one gets cheaper per item. Measured on one core (`python -m bench commits`): reactions stored one INSERT
each reach a few thousand a second, in batches of a hundred some tens of thousands.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import asyncpg

from protocol.refusals import ErrorCode, Refused
from storage.postgres.pool import PersonGone

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

Run = Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT | Exception]]]

_TRANSIENT = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_ATTEMPTS = 5

ANSWER_SECONDS = 2.0
"""How long a command waits for a store before it is told to try again."""


class Gather(Generic[ItemT, ResultT]):
    """Runs batches of submitted items, one after the other.

    `run` takes a batch and returns one result per item, in order; a result that is an exception is raised to its
    submitter alone. When `run` itself fails because of the data, the batch is halved until the poisoned items fail alone;
    a deadlock or a serialization failure is tried again. A failure that is nobody's data (`Refused`) goes to all; that a person
    is gone (`PersonGone`) is that person's alone.

    At most `limit` items go in one batch; when `waiting` items wait, the next is refused with ``busy``. With a `pause`,
    batches begin at least so many seconds apart: for reads that a storm of clients would otherwise ask for one by one. The
    first of a quiet time still runs at once.
    """

    def __init__(
        self, run: Run[ItemT, ResultT], *, limit: int = 1000, waiting: int = 20_000, pause: float = 0.0
    ) -> None:
        self._run = run
        self._pause = pause
        self._next_at = 0.0
        self._limit = limit
        self._most_waiting = waiting
        self._waiting: deque[tuple[ItemT, asyncio.Future[ResultT]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self.batches = 0
        self.items = 0

    def __len__(self) -> int:
        """Count the items that wait for the next batch."""
        return len(self._waiting)

    def submit(self, item: ItemT) -> asyncio.Future[ResultT]:
        """Put `item` into the next batch, in the order of the calls; the future has its result.

        Giving up on the future does not take the item back: it may be in a statement already. Raises `Refused` (busy).
        """
        if len(self._waiting) >= self._most_waiting:
            raise Refused(ErrorCode.BUSY, retry_after=1.0)
        future: asyncio.Future[ResultT] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(), name="gather")
        return future

    async def ask(self, item: ItemT, within: float = ANSWER_SECONDS) -> ResultT:
        """Submit `item` and wait for its result, at most `within` seconds. Raises `Refused` (busy, unavailable).

        Unavailable does not mean undone: the statement may still be committed. Asking again with the same key tells.
        """
        try:
            async with asyncio.timeout(within):
                return await self.submit(item)
        except TimeoutError:
            raise Refused(ErrorCode.UNAVAILABLE, retry_after=1.0) from None

    async def drain(self) -> None:
        """Wait until everything that was submitted has its result."""
        while self._worker is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({self._worker})

    async def _work(self) -> None:
        try:
            while self._waiting:
                if self._pause:
                    await self._rest()
                take = min(self._limit, len(self._waiting))
                await self._settle([self._waiting.popleft() for _ in range(take)])
        finally:
            self._worker = None

    async def _rest(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next_at:
            await asyncio.sleep(self._next_at - now)
        self._next_at = max(now, self._next_at) + self._pause

    async def _settle(self, batch: list[tuple[ItemT, asyncio.Future[ResultT]]]) -> None:
        self.batches += 1
        self.items += len(batch)
        try:
            results = await self._attempt([item for item, _ in batch])
        except PersonGone as error:
            await self._halve(batch, error)
        except (Refused, OSError, asyncpg.InterfaceError) as error:
            # The store is away: those who wait for the next batch would wait for the same answer.
            batch += self._waiting
            self._waiting.clear()
            for _, future in batch:
                _fail(future, error)
        except Exception as error:  # noqa: BLE001 - whose data it was is found by halving
            await self._halve(batch, error)
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if isinstance(result, Exception):
                    _fail(future, result)
                elif not future.done():
                    future.set_result(result)

    async def _halve(self, batch: list[tuple[ItemT, asyncio.Future[ResultT]]], error: Exception) -> None:
        """Find out whose data it was: of one it is that one's, else each half is tried alone."""
        if len(batch) == 1:
            _fail(batch[0][1], error)
            return
        middle = len(batch) // 2
        await self._settle(batch[:middle])
        await self._settle(batch[middle:])

    async def _attempt(self, items: list[ItemT]) -> Sequence[ResultT | Exception]:
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(*_TRANSIENT):
                return await self._run(items)
        raise Refused(ErrorCode.BUSY, retry_after=1.0)


def _fail(future: asyncio.Future[ResultT], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # a submitter that has gone away is no reason for a warning
