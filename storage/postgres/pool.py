"""Connections to Postgres, and what their loss looks like to a caller.

Every function of this layer reaches Postgres through `answering`, so that whatever keeps Postgres from answering - it is
stopped, starts, has no room, hangs for longer than its time - becomes one thing: `Refused` with ``unavailable``, to be
tried again in a second. Errors about the statement itself come through as they are: a deadlock or a serialization failure
may be tried again by who knows that it can be, all others are bugs.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import asyncpg

from protocol.envelope import Epoch
from protocol.refusals import ErrorCode, Refused

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    from storage.postgres.timing import StatementTimes

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

CONNECT_SECONDS = 5.0
ACQUIRE_SECONDS = 2.0
COMMAND_SECONDS = 2.0

_AWAY = (
    OSError,  # a timeout is one of them
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # terminated, cancelled, starting, stopping
    asyncpg.InsufficientResourcesError,  # connections, memory, disk
    asyncpg.PostgresSystemError,  # input and output
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,  # the primary has become a replica
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InternalClientError,  # a statement began when the word that the backend is terminated had just come
)

# The library repairs its pool by itself and logs a traceback at each attempt; whoever needs a connection is told anyway.
logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)

# JIT makes asyncpg's own look-up of a type take hundreds of milliseconds. The limits hold on the server's side too, where
# a statement would go on after its client has given up.
_SESSION = """
set jit = off;
set timezone = 'UTC';
set statement_timeout = '5s';
set lock_timeout = '2s';
set idle_in_transaction_session_timeout = '10s';
"""

_IDENTITY = """
select (select system_identifier from pg_control_system())::text,
       (select timeline_id from pg_control_checkpoint())::text,
       (select value from server_identity)
"""


async def open_pool(
    dsn: str, *, size: int = 10, application_name: str = "looprooms", times: StatementTimes | None = None
) -> Pool:
    """Connect to Postgres; `dsn` may name TLS options or a unix socket. Raises `Refused` (unavailable).

    A statement takes at most `COMMAND_SECONDS`. At most `size` statements run at a time. `times` counts what each takes.
    """
    with unavailable():
        pool: Pool = await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size,
            timeout=CONNECT_SECONDS,
            command_timeout=COMMAND_SECONDS,
            init=partial(_prepare_session, times=times),
            reset=_leave_session,
            server_settings={"application_name": application_name},
        )
        return pool


class PersonGone(Refused):
    """What was to be stored is somebody's who left for good while it was on its way: it is not stored."""

    def __init__(self) -> None:
        super().__init__(ErrorCode.SESSION_ENDED)


@asynccontextmanager
async def answering(pool: Pool) -> AsyncIterator[Connection]:
    """Lend a connection. Whatever keeps Postgres from answering inside the block is raised as `Refused` (unavailable).

    A reference to a person who is no longer there is raised as `PersonGone`.
    """
    with unavailable():
        async with pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
            try:
                yield connection
            except asyncpg.InternalClientError:
                connection.terminate()  # it is out of step with its server
                raise
            except asyncpg.ForeignKeyViolationError as error:
                if '"users"' in (error.detail or ""):
                    raise PersonGone from error
                raise


@contextmanager
def unavailable() -> Iterator[None]:
    """Raise `Refused` (unavailable) in place of what says that Postgres does not answer."""
    try:
        yield
    except _AWAY as error:
        raise Refused(ErrorCode.UNAVAILABLE, retry_after=1.0) from error
    except asyncpg.InterfaceError as error:
        # One type for a closed connection and for a wrong call; only its text tells them apart.
        if "closed" in str(error) or "closing" in str(error):
            raise Refused(ErrorCode.UNAVAILABLE, retry_after=1.0) from error
        raise


async def database_epoch(pool: Pool) -> Epoch:
    """Name the history that this database holds; it changes with a restore, a promotion or a new database."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(_IDENTITY)
    assert row is not None
    cluster, timeline, identity = row
    return Epoch(f"{int(cluster):x}-{timeline}-{identity}")


async def _prepare_session(
    connection: asyncpg.Connection[asyncpg.Record], times: StatementTimes | None
) -> None:
    await connection.execute(_SESSION)
    if times is not None:
        connection.add_query_logger(times.take)


async def _leave_session(_connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Spare the round trip of the library's own reset: nothing here changes a session or listens."""
