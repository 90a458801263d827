"""Waiting for a condition that nothing announces: never for a while and luck."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], within: float = 20.0) -> float:
    """Wait until `condition`, which may be awaitable, is true and return the seconds that it took; fail after `within`."""
    began = time.monotonic()
    while True:
        found = condition()
        if await found if inspect.isawaitable(found) else found:
            return time.monotonic() - began
        assert time.monotonic() - began < within, f"not true within {within} s"
        await asyncio.sleep(0.005)


def wait_for(condition: Callable[[], object], within: float) -> None:
    """Wait, without the loop, until `condition` is true; fail after `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not true within {within} s"
        time.sleep(0.005)
