"""What transactions notify is heard; when some may have been missed, that is heard too."""

from __future__ import annotations

import asyncio
import logging

import pytest

from storage.postgres import listener as module
from storage.postgres.listener import listen
from storage.postgres.pool import Pool
from tests.waiting import until

OURS = "from pg_stat_activity where application_name = 'looprooms listener' and datname = current_database()"
DROP = f"select pg_terminate_backend(pid) {OURS}"
WORKS = f"select count(*) {OURS}"


class Ear:
    """Listens, and counts."""

    def __init__(self, dsn: str) -> None:
        self.heard = 0
        self._task = asyncio.create_task(listen(dsn, "jobs", self._hear))

    def _hear(self) -> None:
        self.heard += 1

    async def aclose(self) -> None:
        """Stop."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def test_notifications(pool: Pool, database_url: str) -> None:
    """It is called once at the start, then for each transaction that notifies its channel when it is committed, and no other."""
    ear = Ear(database_url)
    await until(lambda: ear.heard == 1)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("notify jobs")
        await connection.execute("notify others")
        assert await pool.fetchval("select 1") == 1
        assert ear.heard == 1
    await until(lambda: ear.heard == 2)
    await pool.execute("notify others")
    await pool.execute("notify jobs")
    await until(lambda: ear.heard == 3)
    await ear.aclose()


async def test_lost_and_found(pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is lost is made again, and what may have been missed meanwhile is a reason to look."""
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.05)
    ear = Ear(database_url)
    await until(lambda: ear.heard == 1)
    for heard in (2, 3):
        await pool.execute(DROP)
        await until(lambda heard=heard: ear.heard == heard)  # type: ignore[misc] # a default binds it
    await pool.execute("notify jobs")
    await until(lambda: ear.heard == 4)
    await ear.aclose()
    await until_nobody(pool)


async def test_postgres_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """While nobody answers it is tried again and again, without a word."""
    tried = 0
    once = module._listen_once

    async def count(*arguments: object) -> None:
        nonlocal tried
        tried += 1
        await once(*arguments)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(module, "_listen_once", count)
    ear = Ear("postgresql://postgres@/nothing?host=%2Fnonexistent")
    await until(lambda: tried >= 3)
    await ear.aclose()
    assert ear.heard == 0


async def until_nobody(pool: Pool) -> None:
    """Wait until no listener is connected: it leaves nothing behind."""
    while await pool.fetchval(WORKS):  # noqa: ASYNC110 - Postgres has no event for it
        await asyncio.sleep(0.002)


async def test_what_nobody_thought_of(
    pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong is logged, and tried again: nobody goes deaf by a bug."""
    caplog.set_level(logging.CRITICAL)
    once, fails = module._listen_once, [True, True]

    async def fails_first(*arguments: object) -> None:
        if fails:
            fails.pop()
            raise RuntimeError("what is this")
        await once(*arguments)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr(module, "_listen_once", fails_first)
    ear = Ear(database_url)
    await until(lambda: ear.heard == 1)
    await ear.aclose()
