"""What waits to be iterated over: bounded, so that a slow reader slows the socket and not the memory."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue of at most about `limit` items between the socket's reader and the one who iterates.

    Putting never waits. The reader looks at `full` after each put, and while it is full awaits `change()`.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._items: deque[T] = deque()
        self._getter: asyncio.Future[None] | None = None
        self._putter: asyncio.Future[None] | None = None
        self._ended = False
        self._error: Exception | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        """Whether nothing more should be put."""
        return len(self._items) >= self.limit

    @property
    def last(self) -> T | None:
        """The newest item that waits."""
        return self._items[-1] if self._items else None

    def put(self, item: T) -> None:
        """Add an item; after the end it is dropped."""
        if self._ended:
            return
        self._items.append(item)
        _release(self._getter)

    def replace_last(self, item: T) -> None:
        """Put `item` in the place of the newest one."""
        self._items[-1] = item

    def end(self, error: Exception | None) -> None:
        """Say that nothing follows. What waits is still handed out; then `error` is raised, or the iteration stops."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        _release(self._getter)
        self.nudge()

    async def get(self) -> T:
        """Return the oldest item; wait for one. Raises StopAsyncIteration or the error at the end."""
        while not self._items:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            if self._getter is None or self._getter.done():
                self._getter = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._getter)
        item = self._items.popleft()
        if self._putter is not None and len(self._items) <= self.limit // 2:
            self.nudge()
        return item

    async def change(self) -> None:
        """Wait until half of the queue is free, or until `nudge()`."""
        self._putter = asyncio.get_running_loop().create_future()
        try:
            await self._putter
        finally:
            self._putter = None

    def nudge(self) -> None:
        """Let the reader look again whether it should read."""
        _release(self._putter)


def _release(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
