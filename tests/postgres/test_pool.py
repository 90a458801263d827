"""Connections to a real Postgres, and one answer for all that keeps it from answering."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from protocol.refusals import ErrorCode, Refused
from storage.postgres import pool as module
from storage.postgres.embedded import EmbeddedPostgres
from storage.postgres.migrations import migrate
from storage.postgres.pool import PersonGone, Pool, answering, database_epoch, open_pool, unavailable

DROP_OTHERS = """
select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()
"""

ASLEEP = "select count(*) from pg_stat_activity where query like '%pg_sleep%' and datname = $1"
IN_TRANSACTION = """
select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in%'
"""


@pytest.fixture
async def admin(postgres: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Connect from outside."""
    connection = await asyncpg.connect(postgres.dsn("postgres"))
    yield connection
    await connection.close()


def database_of(url: str) -> str:
    """Return the name of the database at an address of the tests' Postgres."""
    return url.partition("@/")[2].partition("?")[0]


async def refusal_of(pool: Pool, statement: str, *arguments: object) -> Refused:
    """Run a statement that is refused, and return how."""
    with pytest.raises(Refused) as refusal:
        async with answering(pool) as connection:
            await connection.fetch(statement, *arguments)
    return refusal.value


async def test_sessions(database_url: str) -> None:
    """Each connection has its limits on the server's side too, no JIT, and tells who it is."""
    pool = await open_pool(database_url, size=1, application_name="looprooms test")
    async with answering(pool) as connection:
        shown = {
            name: await connection.fetchval(f"show {name}")
            for name in (
                "jit",
                "timezone",
                "statement_timeout",
                "lock_timeout",
                "idle_in_transaction_session_timeout",
                "application_name",
            )
        }
    await pool.close()
    assert shown == {
        "jit": "off",
        "timezone": "UTC",
        "statement_timeout": "5s",
        "lock_timeout": "2s",
        "idle_in_transaction_session_timeout": "10s",
        "application_name": "looprooms test",
    }


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://postgres@/nothing?host=%2Fnonexistent",
        "postgresql://postgres@127.0.0.1:1/nothing",
    ],
)
async def test_nobody_there(dsn: str) -> None:
    """Where no Postgres listens is unavailable, to be tried again."""
    with pytest.raises(Refused) as refusal:
        _ = await open_pool(dsn)
    assert (refusal.value.code, refusal.value.retry_after) == (ErrorCode.UNAVAILABLE, 1.0)


async def test_no_such_database(postgres: EmbeddedPostgres) -> None:
    """A database that is not there, or may not be entered, is unavailable: it may be on its way."""
    for dsn in (postgres.dsn("no_such_database"), postgres.dsn("postgres").replace("postgres@", "nobody@")):
        with pytest.raises(Refused) as refusal:
            _ = await open_pool(dsn)
        assert refusal.value.code is ErrorCode.UNAVAILABLE


@pytest.mark.parametrize(
    "error",
    [
        OSError("no route"),
        TimeoutError(),
        asyncpg.ConnectionDoesNotExistError(),
        asyncpg.AdminShutdownError(),
        asyncpg.CannotConnectNowError(),
        asyncpg.QueryCanceledError(),
        asyncpg.TooManyConnectionsError(),
        asyncpg.DiskFullError(),
        asyncpg.PostgresIOError(),
        asyncpg.LockNotAvailableError(),
        asyncpg.ReadOnlySQLTransactionError(),
        asyncpg.IdleInTransactionSessionTimeoutError(),
        asyncpg.InternalClientError("out of step"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InterfaceError("pool is closing"),
    ],
    ids=repr,
)
def test_what_is_unavailable(error: Exception) -> None:
    """Whatever keeps Postgres from answering is one thing to a caller, who may try again in a second."""
    with pytest.raises(Refused) as refusal, unavailable():
        raise error
    assert (refusal.value.code, refusal.value.retry_after) == (ErrorCode.UNAVAILABLE, 1.0)
    assert refusal.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.UniqueViolationError(),
        asyncpg.DataError(),
        asyncpg.DeadlockDetectedError(),
        asyncpg.SerializationError(),
        asyncpg.UndefinedColumnError(),
        asyncpg.InterfaceError("the server expects 1 argument for this query, 2 were passed"),
        ValueError(),
    ],
    ids=repr,
)
def test_what_is_not(error: Exception) -> None:
    """What is wrong with a statement, or may be tried again by who knows that it can be, comes through as it is."""
    with pytest.raises(type(error)) as raised, unavailable():
        raise error
    assert raised.value is error


async def test_backends_are_terminated(
    pool: Pool, database_url: str, admin: asyncpg.Connection[asyncpg.Record]
) -> None:
    """All connections are cut, in the middle of a statement and before one: unavailable, and the next ones work."""
    database = database_of(database_url)
    sleeping = [asyncio.create_task(refusal_of(pool, "select pg_sleep(10)")) for _ in range(3)]
    while await admin.fetchval(ASLEEP, database) < 3:  # noqa: ASYNC110 - Postgres has no event for it
        await asyncio.sleep(0.002)
    await admin.fetch(DROP_OTHERS, database)
    assert {(await one).code for one in sleeping} == {ErrorCode.UNAVAILABLE}
    async with answering(pool) as connection:
        assert await connection.fetchval("select 1") == 1
    await admin.fetch(DROP_OTHERS, database)

    async def ask() -> object:
        async with answering(pool) as connection:
            return await connection.fetchval("select 2")

    answers = [await asyncio.gather(ask(), return_exceptions=True) for _ in range(10)]
    refused = [answer for [answer] in answers if isinstance(answer, Refused)]
    assert [answer for [answer] in answers if answer not in refused] == [2] * (10 - len(refused))
    assert {one.code for one in refused} <= {ErrorCode.UNAVAILABLE}
    assert len(refused) <= 5


async def test_a_statement_takes_too_long(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement past its time is given up, here and on the server, and its connection is of use again."""
    monkeypatch.setattr(module, "COMMAND_SECONDS", 0.1)
    pool = await open_pool(database_url, size=1)
    assert (await refusal_of(pool, "select pg_sleep(30)")).code is ErrorCode.UNAVAILABLE
    async with answering(pool) as connection:
        assert await connection.fetchval("select 1") == 1
    assert await pool.fetchval("select count(*) from pg_stat_activity where query like '%sleep(30)'") == 0
    await pool.close()


async def test_no_connection_is_free(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds no connection in time is told so, and takes none from those who wait on."""
    monkeypatch.setattr(module, "ACQUIRE_SECONDS", 0.1)
    connections = [await pool.acquire() for _ in range(5)]
    assert (await refusal_of(pool, "select 1")).code is ErrorCode.UNAVAILABLE
    for connection in connections:
        await pool.release(connection)
    async with answering(pool) as connection:
        assert await connection.fetchval("select 1") == 1


async def test_locked_and_read_only(pool: Pool) -> None:
    """A lock that is not to be had, and a database that takes no writes, are unavailable."""
    await pool.execute("create table thing (id int primary key)")
    await pool.execute("insert into thing values (1)")
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("select from thing for update")
        assert (await refusal_of(pool, "select from thing for update nowait")).code is ErrorCode.UNAVAILABLE
    with pytest.raises(Refused):
        async with answering(pool) as connection, connection.transaction(readonly=True):
            await connection.execute("insert into thing values (2)")


async def test_a_wrong_statement(pool: Pool) -> None:
    """A bug, or what the data does not allow, is no loss of Postgres; its transaction is undone."""
    with pytest.raises(asyncpg.UndefinedTableError):
        async with answering(pool) as connection:
            await connection.fetch("select from no_such_table")
    await pool.execute("create table thing (id int primary key)")
    with pytest.raises(asyncpg.UniqueViolationError):
        async with answering(pool) as connection, connection.transaction():
            await connection.executemany("insert into thing values ($1)", [(1,), (1,)])
    assert await pool.fetchval("select count(*) from thing") == 0


async def test_a_person_who_is_gone(pool: Pool) -> None:
    """What refers to somebody who is not there any more is that person's end; what refers to anything else is a bug."""
    with pytest.raises(PersonGone) as gone:
        async with answering(pool) as connection:
            await connection.execute("insert into sessions (user_id) values ($1)", uuid4())
    assert gone.value.code is ErrorCode.SESSION_ENDED
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with answering(pool) as connection:
            await connection.execute(
                "insert into refresh_tokens (hash, session_id, expires_at) values ($1, $2, now())",
                b"h" * 32,
                uuid4(),
            )


async def test_a_connection_out_of_step_is_not_used_again(pool: Pool) -> None:
    """When the library finds itself out of step with the server, that connection is ended."""
    pids = set()

    async def use(error: Exception | None = None) -> None:
        async with answering(pool) as connection:
            pids.add(connection.get_server_pid())
            if error is not None:
                raise error

    await use()
    with pytest.raises(Refused):
        await use(asyncpg.InternalClientError("out of step"))
    assert len(pids) == 1
    await use()
    assert len(pids) == 2


async def test_cancelled_in_the_middle(pool: Pool) -> None:
    """Whoever is cancelled at whatever moment, nobody gets another's answer afterwards, and no transaction stays open."""
    chance = random.Random(7)
    await pool.execute("create table thing (id int primary key)")

    async def ask(number: int) -> None:
        async with answering(pool) as connection, connection.transaction():
            await connection.execute("insert into thing values ($1)", number)
            assert await connection.fetchval("select $1::int from pg_sleep(0.001)", number) == number

    for first in range(0, 600, 20):
        asking = [asyncio.create_task(ask(number)) for number in range(first, first + 20)]
        await asyncio.sleep(chance.uniform(0.0, 0.01))
        for one in chance.sample(asking, 10):
            one.cancel()
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
    answers = await asyncio.gather(*(pool.fetchval("select $1::int", number) for number in range(100)))
    assert answers == list(range(100))
    assert await pool.fetchval(IN_TRANSACTION) == 0


async def test_epoch(pool: Pool, database_url: str, postgres: EmbeddedPostgres) -> None:
    """An epoch is the same for everyone as long as the database lives, and another for another database of the same cluster."""
    epoch = await database_epoch(pool)
    again = await open_pool(database_url, size=1)
    assert await database_epoch(again) == epoch
    await again.close()
    cluster = await pool.fetchval("select system_identifier from pg_control_system()")
    assert epoch.startswith(f"{cluster:x}-1-")
    assert len(epoch) <= 64
    await postgres.create_database("another")
    await migrate(postgres.dsn("another"))
    other = await open_pool(postgres.dsn("another"), size=1)
    assert (await database_epoch(other)).startswith(f"{cluster:x}-1-")
    assert await database_epoch(other) != epoch
    await other.close()
