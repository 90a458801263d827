"""Statements are counted by the time that they took."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from storage.postgres.pool import answering, open_pool
from storage.postgres.timing import BOUNDS, StatementTimes
from tests.waiting import until


async def test_every_statement_is_counted(database_url: str) -> None:
    """On whichever connection it ran, in the pool for the first time or again, and also when it failed."""
    times = StatementTimes()
    pool = await open_pool(database_url, size=2, times=times)
    try:
        for _ in range(3):
            await pool.fetchval("select 1")
        async with answering(pool) as one, answering(pool) as other:
            await asyncio.gather(one.fetchval("select pg_sleep(0.06)"), other.fetchval("select 2"))
        with pytest.raises(asyncpg.DivisionByZeroError):
            await pool.fetchval("select 1 / $1::int", 0)
        await until(lambda: sum(times.counts) >= 6)
    finally:
        await pool.close()
    assert sum(times.counts) == 6
    assert sum(times.counts[BOUNDS.index(0.1) :]) >= 1
    assert times.seconds >= 0.06
