"""A server that plays what a test says, and nothing of a client that runs on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.protocol.client.peer import Peer, listening


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A scripted server."""
    async with listening() as peer:
        yield peer


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """Nothing of a client runs on after its end."""
    before = asyncio.all_tasks()
    yield
    async with asyncio.timeout(5):
        while left := [t for t in asyncio.all_tasks() - before if "protocol.client" in repr(t.get_coro())]:
            await asyncio.wait(left)
