"""Durable jobs: as durable as the transaction that enqueued them, performed by one node at a time, and never lost."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import pytest

from server.jobs import PERFORMERS, GiveUp, Jobs, NotYet, TryAgain, performs
from server.node import Node
from storage import jobs
from storage.jobs import Count, Job, Period, Periodic
from storage.postgres.pool import Pool, answering
from tests.commands import looprooms
from tests.hosting import SIGNING_KEY, hosting
from tests.redis.valkeys import Valkey
from tests.stores import SEALING_KEY, database_url, pool, postgres, valkey
from tests.waiting import until

__all__ = ["database_url", "pool", "postgres", "valkey"]  # fixtures

Performing = Callable[["Errand"], Awaitable[None]]


class Errand(Job, tag="test.errand"):
    """Something that a test wants done."""

    id: UUID


class Slow(Job, tag="test.slow"):
    """Something that does not end."""


class Tick(Periodic, tag="test.tick"):
    """Something that is done once a period."""


class Errands:
    """What is performed, and how: a test replaces `perform`."""

    def __init__(self) -> None:
        self.performed: Counter[UUID] = Counter()
        self.at_once = 0
        self.most_at_once = 0
        self.ended = 0
        self.perform: Performing | None = None

    async def __call__(self, job: Errand) -> None:
        """Perform one."""
        self.performed[job.id] += 1
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            if self.perform is not None:
                await self.perform(job)
        finally:
            self.at_once -= 1
            self.ended += 1


_BEGINS_NOW = "update job_periods set next_at = now() where kind = 'test.tick'"

ERRANDS = Errands()
TICKS: list[int] = []


@performs(Errand, attempts=4, backoff=0.01, together=3, within=5)
async def run_errand(node: Node, job: Errand) -> None:
    """Do what the test says."""
    await ERRANDS(job)


@performs(Slow, together=2, within=0.3, attempts=1)
async def hang(node: Node, job: Slow) -> None:
    """Wait for what never comes."""
    await asyncio.Event().wait()


@performs(Tick, every=86400, at=3 * 3600)
async def tick(node: Node, job: Tick) -> None:
    """Note which period it was."""
    TICKS.append(job.period)


@pytest.fixture(autouse=True)
def fresh() -> None:
    """Begin with nothing performed."""
    ERRANDS.__init__()  # type: ignore[misc] # the registered function keeps the object
    TICKS.clear()


@asynccontextmanager
async def worker(pool: Pool, database_url: str) -> AsyncIterator[Jobs]:
    """Run what performs jobs, as a node does."""
    node = SimpleNamespace(
        stores=SimpleNamespace(pool=pool), settings=SimpleNamespace(database_url=database_url)
    )
    running = Jobs(cast("Node", node))
    running.start()
    try:
        yield running
    finally:
        await running.aclose()


async def enqueue(pool: Pool, *errands: Errand, key: str | None = None, delay: float = 0.0) -> None:
    """Enqueue in a transaction of its own."""
    async with answering(pool) as connection, connection.transaction():
        if key is None and not delay:
            await jobs.enqueue_all(connection, errands)
        else:
            for errand in errands:
                await jobs.enqueue(connection, errand, key=key, delay=delay)


def errand() -> Errand:
    """Make one."""
    return Errand(id=uuid4())


async def stored(pool: Pool) -> list[dict[str, Any]]:
    """Return the jobs that are there."""
    return [dict(row) for row in await pool.fetch("select * from jobs where kind like 'test.%' order by id")]


async def becomes(pool: Pool, condition: Callable[[list[dict[str, Any]]], object]) -> None:
    """Wait until the jobs that are there are as they should be."""
    deadline = time.monotonic() + 20
    while not condition(rows := await stored(pool)):
        assert time.monotonic() < deadline, rows
        await asyncio.sleep(0.01)


async def nothing_left(pool: Pool) -> None:
    """Wait until every job is done."""
    await becomes(pool, lambda rows: not rows)


async def all_dead(pool: Pool) -> None:
    """Wait until no job is left that could be done."""
    await becomes(pool, lambda rows: all(row["died_at"] for row in rows))


async def test_done_after_the_commit(pool: Pool, database_url: str) -> None:
    """A job is performed once its transaction is committed, and not before; one that is rolled back never was."""
    one, other = errand(), errand()
    async with worker(pool, database_url) as running:
        async with answering(pool) as connection:
            transaction = connection.transaction()
            await transaction.start()
            await jobs.enqueue(connection, one)
            await transaction.rollback()
        async with answering(pool) as connection, connection.transaction():
            await jobs.enqueue(connection, other)
            await asyncio.sleep(0.05)
            assert ERRANDS.performed == {}
        await until(lambda: running.done["test.errand"] == 1)
        await nothing_left(pool)
    assert ERRANDS.performed == {other.id: 1}


async def test_a_notification_wakes(pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job begins at once, without waiting for the next look."""
    monkeypatch.setattr("server.jobs.POLL_SECONDS", 3600)
    async with worker(pool, database_url):
        await asyncio.sleep(0.2)
        await enqueue(pool, errand())
        await until(lambda: ERRANDS.ended == 1)


async def test_a_lost_notification(pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When no notification comes the job is found by looking."""

    async def deaf(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("server.jobs.listen", deaf)
    monkeypatch.setattr("server.jobs.POLL_SECONDS", 0.05)
    async with worker(pool, database_url):
        await asyncio.sleep(0.2)
        await enqueue(pool, errand())
        await until(lambda: ERRANDS.ended == 1)


async def test_a_lost_connection(pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All connections are terminated: jobs are performed afterwards, and notifications are heard again."""
    monkeypatch.setattr("storage.postgres.listener.AGAIN_SECONDS", 0.05)
    monkeypatch.setattr("server.jobs.POLL_SECONDS", 3600)
    async with worker(pool, database_url):
        await enqueue(pool, errand())
        await until(lambda: ERRANDS.ended == 1)
        await pool.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name = 'looprooms listener' and datname = current_database()"
        )
        await enqueue(pool, errand())
        await until(lambda: ERRANDS.ended == 2)


async def test_what_nobody_thought_of(
    pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever Postgres says to the worker, it is logged, and the worker goes on."""
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr("server.jobs.POLL_SECONDS", 0.05)
    monkeypatch.setattr("server.jobs.TEND_SECONDS", 0.05)
    left = Counter(dict.fromkeys(("take", "finish", "count"), 2))

    def failing(name: str) -> Callable[..., Awaitable[Any]]:
        truly = getattr(jobs, name)

        async def fails_first(*arguments: Any, **more: Any) -> Any:
            left[name] -= 1
            if left[name] >= 0:
                raise asyncpg.DeadlockDetectedError("deadlock detected")
            return await truly(*arguments, **more)

        return fails_first

    for name in left:
        monkeypatch.setattr(jobs, name, failing(name))
    async with worker(pool, database_url):
        await enqueue(pool, errand())
        await nothing_left(pool)
        await until(lambda: max(left.values()) < 0)
    assert ERRANDS.ended == 1


async def test_each_once_over_two_nodes(pool: Pool, database_url: str) -> None:
    """Two nodes share the work: hundreds enqueued at once are each performed once, a few at a time."""
    many = [errand() for _ in range(300)]

    async def a_moment(_: Errand) -> None:
        await asyncio.sleep(0)

    ERRANDS.perform = a_moment
    async with worker(pool, database_url) as one, worker(pool, database_url) as other:
        await enqueue(pool, *many)
        await nothing_left(pool)
        assert one.done["test.errand"] + other.done["test.errand"] == 300
    assert ERRANDS.performed == Counter({job.id: 1 for job in many})
    assert ERRANDS.most_at_once <= 6


async def test_later(pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job with a delay is not performed before, and needs no notification and no look when its time has come."""
    monkeypatch.setattr("server.jobs.POLL_SECONDS", 3600)
    async with worker(pool, database_url):
        await enqueue(pool, errand(), delay=3600)
        await enqueue(pool, errand())
        await until(lambda: ERRANDS.ended == 1)
        await becomes(pool, lambda rows: [row["attempts"] for row in rows] == [0])
        await enqueue(pool, errand(), delay=0.5)
        await until(lambda: ERRANDS.ended == 2)
        await becomes(pool, lambda rows: [row["attempts"] for row in rows] == [0])


async def test_key_case_2_one_that_waits_is_enough(pool: Pool, database_url: str) -> None:
    """While a job with a key waits there is no second one; another key is another job."""
    first = errand()
    await enqueue(pool, first, key="a", delay=0.5)
    await enqueue(pool, errand(), key="a", delay=0.5)
    await enqueue(pool, errand(), key="b", delay=0.5)
    assert [(row["key"], row["again"]) for row in await stored(pool)] == [("a", False), ("b", False)]
    async with worker(pool, database_url):
        await nothing_left(pool)
    assert ERRANDS.performed[first.id] == 1
    assert ERRANDS.ended == 2


async def test_key_case_3_enqueued_while_it_is_performed(pool: Pool, database_url: str) -> None:
    """What changed while a job ran is not missed: it is performed once more, and only once."""
    go, begun = asyncio.Event(), asyncio.Event()

    async def wait(_: Errand) -> None:
        begun.set()
        await go.wait()

    ERRANDS.perform = wait
    job = errand()
    async with worker(pool, database_url):
        await enqueue(pool, job, key="a")
        await begun.wait()
        for _ in range(3):
            await enqueue(pool, errand(), key="a")
        assert len(await stored(pool)) == 1
        go.set()
        await nothing_left(pool)
    assert ERRANDS.performed == {job.id: 2}


async def test_key_case_3_and_it_dies(pool: Pool, database_url: str) -> None:
    """A job that is enqueued again while it fails for good has its attempts anew."""
    go, begun = asyncio.Event(), asyncio.Event()

    async def wait(_: Errand) -> None:
        begun.set()
        await go.wait()
        if ERRANDS.ended == 0:
            raise GiveUp("no")

    ERRANDS.perform = wait
    async with worker(pool, database_url):
        await enqueue(pool, errand(), key="a")
        await begun.wait()
        await enqueue(pool, errand(), key="a")
        go.set()
        await nothing_left(pool)
    assert ERRANDS.ended == 2


async def test_key_case_4_a_dead_one_is_in_nobodys_way(pool: Pool, database_url: str) -> None:
    """The key of a job that has died is free."""

    async def refuse_the_first(_: Errand) -> None:
        if ERRANDS.ended == 0:
            raise GiveUp("no")

    ERRANDS.perform = refuse_the_first
    async with worker(pool, database_url) as running:
        await enqueue(pool, errand(), key="a")
        await until(lambda: ERRANDS.ended == 1)
        await all_dead(pool)
        await enqueue(pool, errand(), key="a")
        await until(lambda: running.done["test.errand"] == 1)
    assert [row["reason"] for row in await stored(pool)] == ["no"]


async def test_the_dead_are_brought_back(pool: Pool, database_url: str) -> None:
    """An operator sees what has died and why, and has it tried anew; of two with one key the last one is."""
    first, last, other = errand(), errand(), errand()
    for job, key in ((first, "a"), (last, "a"), (other, None)):
        await enqueue(pool, job, key=key)
        (taken,) = await jobs.take(pool, {"test.errand": 1}, lease=30)
        await jobs.bury(pool, taken, "no")
    assert [(dead.kind, dead.reason, dead.jobs) for dead in await jobs.dead(pool)] == [
        ("test.errand", "no", 3)
    ]
    assert await jobs.revive(pool, "test.slow") == 0
    assert await jobs.revive(pool, "test.errand") == 2
    async with worker(pool, database_url):
        await until(lambda: ERRANDS.ended == 2)
    assert ERRANDS.performed == {last.id: 1, other.id: 1}


async def test_later_is_no_failure(pool: Pool, database_url: str) -> None:
    """A job whose time has not come is performed again when it has, however often, and no attempt is counted."""

    async def not_yet(job: Errand) -> None:
        if ERRANDS.performed[job.id] < 10:
            raise NotYet(after=0.01)

    ERRANDS.perform = not_yet
    async with worker(pool, database_url) as running:
        await enqueue(pool, errand())
        await nothing_left(pool)
        assert (running.failed["test.errand"], running.done["test.errand"]) == (0, 1)


@pytest.mark.parametrize("failure", [TryAgain("not now"), RuntimeError("secret"), TimeoutError("secret")])
async def test_tried_again(
    pool: Pool, database_url: str, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that fails is tried again after a pause; when it works at last nothing is left of it."""
    caplog.set_level(logging.CRITICAL)

    async def fail_twice(job: Errand) -> None:
        if ERRANDS.performed[job.id] < 3:
            raise failure

    ERRANDS.perform = fail_twice
    async with worker(pool, database_url) as running:
        await enqueue(pool, errand())
        await nothing_left(pool)
        assert running.failed["test.errand"] == 2
        assert running.done["test.errand"] == 1


@pytest.mark.parametrize(
    ("failure", "attempts", "reason"),
    [
        (GiveUp("the address is refused"), 1, "the address is refused"),
        (TryAgain("not now"), 4, "not now"),
        (ValueError("ada@example.org"), 4, "ValueError"),
    ],
)
async def test_dead(
    pool: Pool,
    database_url: str,
    failure: Exception,
    attempts: int,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What can't be done stays, with a reason that holds nothing of an exception's text."""
    caplog.set_level(logging.CRITICAL)

    async def fail(_: Errand) -> None:
        raise failure

    ERRANDS.perform = fail
    async with worker(pool, database_url):
        await enqueue(pool, errand())
        await all_dead(pool)
    (row,) = await stored(pool)
    assert (row["attempts"], row["reason"], row["running"]) == (attempts, reason, False)
    assert ERRANDS.ended == attempts
    assert (await jobs.count(pool))["test.errand"] == Count(waiting=0, dead=1)


async def test_the_dead_are_forgotten(pool: Pool) -> None:
    """A dead job is kept for a month."""
    await enqueue(pool, errand(), errand())
    (one, other) = await jobs.take(pool, {"test.errand": 2}, lease=30)
    await jobs.bury(pool, one, "no")
    await jobs.bury(pool, other, "no")
    await pool.execute("update jobs set died_at = now() - interval '31 days' where id = $1", one.id)
    await PERFORMERS["jobs.forget"].perform(
        cast("Node", SimpleNamespace(stores=SimpleNamespace(pool=pool))), None
    )
    assert [row["id"] for row in await stored(pool)] == [other.id]


async def test_a_node_that_died(pool: Pool, database_url: str) -> None:
    """What a dead node had taken is performed by another one when the lease has ended."""
    await enqueue(pool, errand())
    (lost,) = await jobs.take(pool, {"test.errand": 5}, lease=0.5)
    async with worker(pool, database_url):
        assert await jobs.take(pool, {"test.errand": 5}, lease=1) == []
        await nothing_left(pool)
    assert ERRANDS.ended == 1
    assert lost.attempts == 1


async def test_a_node_that_comes_too_late(pool: Pool) -> None:
    """A node whose lease has ended can neither finish, nor fail, nor prolong what another one performs."""
    await enqueue(pool, errand())
    (late,) = await jobs.take(pool, {"test.errand": 5}, lease=0.0)
    (now,) = await jobs.take(pool, {"test.errand": 5}, lease=30)
    assert (late.id, late.attempts, now.attempts) == (now.id, 1, 2)
    before = await stored(pool)
    await jobs.finish(pool, late)
    await jobs.bury(pool, late, "no")
    await jobs.postpone(pool, late, "no", delay=0)
    await jobs.give_back(pool, late)
    await jobs.renew(pool, [late], lease=99)
    assert await stored(pool) == before
    await jobs.finish(pool, now)
    assert await stored(pool) == []


async def test_a_long_job_keeps_its_lease(
    pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that takes longer than its lease is renewed, so that nobody else begins it."""
    monkeypatch.setattr("server.jobs.LEASE_SECONDS", 0.4)
    monkeypatch.setattr("server.jobs.TEND_SECONDS", 0.1)

    async def long(_: Errand) -> None:
        await asyncio.sleep(1.2)

    ERRANDS.perform = long
    async with worker(pool, database_url), worker(pool, database_url):
        await enqueue(pool, errand())
        await nothing_left(pool)
    assert ERRANDS.ended == 1


async def test_a_job_that_takes_its_node_along(
    pool: Pool, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What was taken as often as may be and never ended is not begun once more."""
    caplog.set_level(logging.CRITICAL)
    await enqueue(pool, errand())
    for _ in range(4):
        await jobs.take(pool, {"test.errand": 1}, lease=0.0)
    async with worker(pool, database_url):
        await all_dead(pool)
    assert ERRANDS.performed == {}
    assert (await stored(pool))[0]["reason"] == "its node was lost each time"


async def test_what_hangs_delays_its_own_kind_alone(
    pool: Pool, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Jobs that hang take the places of their kind; others go on, and those are ended after their time."""
    caplog.set_level(logging.CRITICAL)
    async with worker(pool, database_url):
        async with answering(pool) as connection:
            await jobs.enqueue_all(connection, [Slow() for _ in range(5)])
        await enqueue(pool, *(errand() for _ in range(20)))
        await until(lambda: ERRANDS.ended == 20)
        assert len(await pool.fetch("select from jobs where kind = 'test.slow'")) == 5
        await all_dead(pool)
    assert {row["reason"] for row in await stored(pool)} == {"it took too long"}


async def test_stopping(pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that stops finishes what ends soon, gives back what does not, as if untried, and begins nothing."""
    monkeypatch.setattr("server.jobs.STOP_SECONDS", 0.3)
    short, endless, never = errand(), errand(), errand()

    async def perform(job: Errand) -> None:
        await asyncio.sleep(0.1 if job.id == short.id else 3600)

    ERRANDS.perform = perform
    async with worker(pool, database_url):
        await enqueue(pool, short, endless)
        await until(lambda: ERRANDS.at_once == 2)
    await enqueue(pool, never)
    given_back, waiting = await stored(pool)
    assert (given_back["attempts"], given_back["running"]) == (0, False)
    assert waiting["attempts"] == 0
    assert ERRANDS.performed == {short.id: 1, endless.id: 1}
    ERRANDS.perform = None
    async with worker(pool, database_url):
        await nothing_left(pool)


async def test_kinds_of_a_newer_version_are_left_alone(pool: Pool, database_url: str) -> None:
    """A node does not take what it can't perform: during a rolling restart another one can."""
    await pool.execute("insert into jobs (kind, payload, run_at) values ('test.new', '{}', now())")
    await enqueue(pool, errand())
    async with worker(pool, database_url) as running:
        await until(lambda: running.done["test.errand"] == 1)
    assert [(row["kind"], row["attempts"]) for row in await stored(pool)] == [("test.new", 0)]


async def test_a_payload_that_is_not_understood(
    pool: Pool, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A job whose payload is of another form dies at once, and says so."""
    caplog.set_level(logging.CRITICAL)
    await pool.execute("insert into jobs (kind, payload, run_at) values ('test.errand', '{}', now())")
    async with worker(pool, database_url):
        await all_dead(pool)
    assert (await stored(pool))[0]["reason"] == "its payload is not understood"


async def test_once_a_period(pool: Pool, database_url: str) -> None:
    """However many nodes look, a period has one run; periods that nobody saw are one, the newest."""
    period = [Period("test.tick", 86400, 3 * 3600)]
    await jobs.plan(pool, period)
    await jobs.begin_periods(pool, period)
    assert await stored(pool) == []
    next_at = await pool.fetchval("select next_at from job_periods where kind = 'test.tick'")
    assert (next_at.hour, next_at.minute, next_at.second) == (3, 0, 0)
    await pool.execute("update job_periods set next_at = next_at - interval '3 days'")
    await asyncio.gather(*(jobs.begin_periods(pool, period) for _ in range(20)))
    await jobs.plan(pool, period)
    assert await pool.fetchval("select next_at from job_periods where kind = 'test.tick'") == next_at
    assert len(await stored(pool)) == 1
    async with worker(pool, database_url), worker(pool, database_url):
        await nothing_left(pool)
    (period_run,) = TICKS
    assert period_run == int(next_at.timestamp() - 86400) * 1000


async def test_a_worker_begins_periods(
    pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that runs sees the period begin by itself."""
    monkeypatch.setattr("server.jobs.TEND_SECONDS", 0.05)
    async with worker(pool, database_url), worker(pool, database_url):
        while (await pool.execute(_BEGINS_NOW)).endswith(" 0"):
            await asyncio.sleep(0.01)
            assert TICKS == []
        await until(lambda: len(TICKS) == 1)
        await nothing_left(pool)
    assert len(TICKS) == 1


async def test_metrics(
    pool: Pool, database_url: str, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node tells how many jobs wait, are done, have failed and are dead."""
    monkeypatch.setattr("server.jobs.TEND_SECONDS", 0.1)
    await enqueue(pool, errand(), errand(), errand())
    (taken,) = await jobs.take(pool, {"test.errand": 1}, lease=30)
    await jobs.bury(pool, taken, "no")
    async with hosting(database_url, valkey.url, pool) as host:
        port = int(host.url.split(":")[2].split("/")[0])
        await all_dead(pool)
        text = await metrics(port)
        while not re.search(r'looprooms_jobs_dead\{kind="test.errand",node="\w+"\} 1\.0', text):
            await asyncio.sleep(0.05)
            text = await metrics(port)
    assert re.search(r'looprooms_jobs_done_total\{kind="test.errand",node="\w+"\} 2\.0', text)


async def metrics(port: int) -> str:
    """Read a node's metrics."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    return text


class Once(Job, tag="test.once"):
    """A job that nothing performs."""


class Daily(Periodic, tag="test.daily"):
    """A periodic job that nothing performs."""


def test_registering() -> None:
    """One performer a kind, of the right type, with a period if and only if it is periodic."""

    async def once(node: Node, job: Once) -> None:
        """Do nothing."""

    async def daily(node: Node, job: Daily) -> None:
        """Do nothing."""

    with pytest.raises(TypeError, match=r"test\.errand is performed already"):
        performs(Errand)(run_errand)
    with pytest.raises(TypeError, match="must take a Once"):
        performs(Once)(cast("Any", daily))
    with pytest.raises(TypeError, match="period"):
        performs(Once, every=5)(once)
    with pytest.raises(TypeError, match="period"):
        performs(Daily)(daily)
    assert "test.once" not in PERFORMERS
    assert "test.daily" not in PERFORMERS


async def test_the_operators_command(pool: Pool, database_url: str, valkey: Valkey, tmp_path: Path) -> None:
    """`looprooms jobs` says what waits and what is dead and why, and has the dead tried anew."""
    environment = {
        "DATABASE_URL": database_url,
        "REDIS_URL": valkey.url,
        "LOOPROOMS_SIGNING_KEYS": SIGNING_KEY,
        "LOOPROOMS_SEALING_KEYS": SEALING_KEY,
    }

    async def command(*arguments: str) -> tuple[int, list[str]]:
        done = await asyncio.to_thread(looprooms, tmp_path, "jobs", *arguments, **environment)
        assert done.stderr == ""
        return done.returncode, done.stdout.splitlines()

    assert await command() == (0, ["Nothing waits, and nothing is dead."])
    await enqueue(pool, errand(), errand())
    (taken,) = await jobs.take(pool, {"test.errand": 1}, lease=30)
    await jobs.bury(pool, taken, "the recipient was refused (550)")
    dead = "test.errand: 1 dead, the recipient was refused (550)"
    assert await command() == (0, ["test.errand: 1 waiting", dead])
    revived = ["1 of test.errand are tried anew", "test.errand: 2 waiting"]
    assert await command("--retry", "test.errand") == (0, revived)
