"""The one typed boundary to redis-py, whose own commands are typed ``Awaitable | Any``.

A command is a value that knows how to read its reply, so the type checker knows what comes back, alone or in a pipeline::

    people = await redis.run(hgetall("lr:{room}:here"))            # dict[bytes, bytes]
    here, nodes = await redis.run_all([hgetall(a), hgetall(b)])    # list[dict[bytes, bytes]]

What was changed of redis-py's own settings, and why:

- nothing is tried twice: with the library's ten retries one INCR ran twice when the server was slow. A caller that can
  repeat its command does so itself;
- a command takes at most `timeout` seconds, all in all: the wait for a connection, the connecting, the answer (rarely
  twice that: ``asyncio.wait_for`` of Python 3.11, used inside the library, may swallow a cancellation);
- a pool that is used up makes callers wait instead of raising (there is no multiplexing: one connection per command);
- protocol 3, so that replies have one shape, and no maintenance notifications, which only a managed Redis sends.

Whatever keeps Redis from answering is raised as `RedisAway`. It is a `Refused` (``unavailable``, try again in a second), so
a command's handler need not catch it; work in the background catches `RedisAway` by name and goes on without Redis. A reply
that says that *we* are wrong (a wrong type, a script that fails) is a bug and comes as redis-py's ``ResponseError``.

Commands that block on the server (BLPOP, XREAD BLOCK) have no place here: they outlast `timeout`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import redis.asyncio as library
from msgspec import Struct
from redis import exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from protocol.refusals import ErrorCode, Refused

Value = bytes | str | int | float
ReplyT = TypeVar("ReplyT")
Reply_co = TypeVar("Reply_co", covariant=True)

_AWAY = (
    "OOM",
    "READONLY",
    "LOADING",
    "MISCONF",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY",
    "NOREPLICAS",
)
"""First words of error replies that say nothing about our command, only that Redis can't do it now."""


class RedisAway(Refused):
    """Redis did not do it: out of reach, hung, starting, full, or a replica. Whether a write took effect is unknown."""

    def __init__(self, cause: str) -> None:
        super().__init__(ErrorCode.UNAVAILABLE, retry_after=1.0)
        self.cause = cause

    def __str__(self) -> str:
        return f"Redis is away: {self.cause}"


class Command(Struct, Generic[Reply_co], frozen=True):
    """What to send, and how to read what comes back."""

    args: tuple[Value, ...]
    read: Callable[[Any], Reply_co]


class Redis:
    """A pool of connections to one Redis. Made by `open_redis`."""

    def __init__(self, client: library.Redis, timeout: float) -> None:
        self._client = client
        self._timeout = timeout

    async def run(self, command: Command[ReplyT]) -> ReplyT:
        """Run one command. Raises `RedisAway`."""
        execute = self._client.execute_command
        return command.read(await self._bounded(lambda: execute(*command.args)))  # type: ignore[no-untyped-call] # theirs

    async def run_all(self, commands: Iterable[Command[ReplyT]], *, atomic: bool = False) -> list[ReplyT]:
        """Run commands in one round trip, in order; `atomic` wraps them in MULTI. Raises `RedisAway`.

        The first error reply is raised after all have run.
        """
        batch = list(commands)
        if not batch:
            return []
        pipeline = self._client.pipeline(transaction=atomic)
        for command in batch:
            pipeline.execute_command(*command.args)
        replies = await self._bounded(pipeline.execute)
        return [command.read(reply) for command, reply in zip(batch, replies, strict=True)]

    async def aclose(self) -> None:
        """Close all connections. What is under way fails."""
        await self._client.aclose()

    async def _bounded(self, ask: Callable[[], Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return await ask()
        except TimeoutError:
            raise RedisAway(f"no answer within {self._timeout} s") from None
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError) as error:
            raise RedisAway(str(error)) from None
        except exceptions.ResponseError as error:
            if isinstance(error, exceptions.ReadOnlyError | exceptions.OutOfMemoryError) or str(
                error
            ).startswith(_AWAY):
                raise RedisAway(str(error)) from None
            raise


def open_redis(url: str, *, connections: int = 20, timeout: float = 1.0) -> Redis:
    """Return a pool for a ``redis://``, ``rediss://`` (TLS) or ``unix://`` URL. Nothing is connected until it is used.

    `timeout` is the most seconds that one call takes. Raises `ValueError` when the URL is not one.
    """
    pool = library.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=None,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        protocol=3,
        retry=Retry(NoBackoff(), 0),
        driver_info=None,
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )
    return Redis(library.Redis.from_pool(pool), timeout)


def ping() -> Command[bool]:
    """Ask for a sign of life."""
    return Command(("PING",), bool)


def get(key: str) -> Command[bytes | None]:
    """Read a string."""
    return Command(("GET", key), _as_it_is)


def put(key: str, value: Value, *, px: int | None = None, nx: bool = False) -> Command[bool]:
    """Write a string that lives `px` milliseconds (for ever without); `nx`: only if there is none. False if not written."""
    life: tuple[Value, ...] = () if px is None else ("PX", px)
    return Command(("SET", key, value, *life, *(("NX",) if nx else ())), bool)


def delete(*keys: str) -> Command[int]:
    """Forget keys of any type, freeing their memory in the background; counts those that were there."""
    return Command(("UNLINK", *keys), int)


def expire(key: str, milliseconds: int) -> Command[bool]:
    """Let a key live so long from now. False when there is no such key."""
    return Command(("PEXPIRE", key, milliseconds), bool)


def hset(key: str, fields: Mapping[str, Value]) -> Command[int]:
    """Write fields of a hash; counts the new ones."""
    return Command(("HSET", key, *(part for pair in fields.items() for part in pair)), int)


def hdel(key: str, *fields: str) -> Command[int]:
    """Forget fields of a hash; counts those that were there."""
    return Command(("HDEL", key, *fields), int)


def hgetall(key: str) -> Command[dict[bytes, bytes]]:
    """Read a whole hash; empty when there is none."""
    return Command(("HGETALL", key), dict)


def evaluate(script: str, keys: Sequence[str], args: Sequence[Value] = ()) -> Command[Any]:
    """Run a Lua script at once and alone on the server.

    The text is sent each time: Redis compiles it once and knows it by its digest, and so nothing needs to be loaded again
    after a restart.
    """
    return Command(("EVAL", script, len(keys), *keys, *args), _as_it_is)


def _as_it_is(reply: Any) -> Any:
    return reply
