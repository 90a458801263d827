"""What a node is beside its parts: what runs in the background runs as long as the node does."""

from __future__ import annotations

import asyncio
import logging

import pytest

from server import session
from server.node import for_life
from server.session import LiveSessions
from storage.postgres.pool import Pool
from tests.clocks import in_no_time
from tests.hosting import hosting
from tests.redis.valkeys import Valkey
from tests.visitors import visit
from tests.waiting import until


def test_for_life(caplog: pytest.LogCaptureFixture) -> None:
    """A bug is logged and what failed begins again; what is done is done, and what is told to stop stops."""
    turns = 0

    async def work() -> None:
        nonlocal turns
        turns += 1
        await asyncio.sleep(1.0)
        if turns < 3:
            raise ZeroDivisionError

    async def run() -> None:
        await for_life(work)
        assert turns == 3
        endless = asyncio.create_task(for_life(asyncio.Event().wait))
        await asyncio.sleep(1.0)
        endless.cancel()
        await asyncio.wait({endless})
        assert endless.cancelled()

    with caplog.at_level(logging.ERROR, "looprooms.node"):
        in_no_time(run())
    assert [record.getMessage() for record in caplog.records] == [
        "what runs in the background failed, and begins again"
    ] * 2


async def test_a_sweep_that_fails_is_not_the_last(
    database_url: str, valkey: Valkey, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions are swept as long as the node lives: after a bug in one sweep, who was revoked is still found."""
    monkeypatch.setattr(session, "SWEEP_SECONDS", 0.05)
    truly = LiveSessions.look_again
    failures = 0

    async def look_again(self: LiveSessions, *arguments: object) -> None:
        nonlocal failures
        if failures < 1:
            failures += 1
            raise ZeroDivisionError
        await truly(self, *arguments)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(LiveSessions, "look_again", look_again)
    async with hosting(database_url, valkey.url, pool) as host:
        visitor = await visit(host, "visitor")
        await until(lambda: failures == 1)
        await pool.execute("update sessions set ended_at = now()")
        assert (await asyncio.wait_for(visitor.connection.gone, 5)).code == 4501
