"""A client for Python: typed calls, events in order, and a connection that comes back by itself.

    async with connect("ws://127.0.0.1:8000/ws", token=token) as client:
        joined = await client.call(JoinRoom("morning-calm"))
        await client.send_chat("morning-calm", "hello")
        async for event in client:
            match event:
                case ChatLine():
                    print(event.line.author.name, event.line.text)

What it promises: each durable event of a room, and of the person, comes out once and in the order of its offsets, across
lost connections and restarted servers; what could not be replayed is announced by a `Snapshot` or a `PersonSnapshot`, never
silently skipped; a line sent with a key is said once. What it can't: an event that was handed out is forgotten here, so whoever must survive their own crash keeps
the offsets themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

from protocol.client.backoff import Backoff
from protocol.client.connection import Client
from protocol.client.options import Options, TokenSource
from protocol.client.states import (
    CaughtUp,
    Disconnected,
    Occurrence,
    PersonSnapshot,
    Reconnecting,
    Snapshot,
    Unanswered,
)
from protocol.codec import JSON, MSGPACK

__all__ = [
    "Backoff",
    "CaughtUp",
    "Client",
    "Disconnected",
    "Occurrence",
    "PersonSnapshot",
    "Reconnecting",
    "Snapshot",
    "TokenSource",
    "Unanswered",
    "connect",
]


def connect(
    url: str,
    *,
    token: str | TokenSource,
    encoding: Literal["json", "msgpack"] = "json",
    compression: bool = False,
    call_timeout: float = 10.0,
    open_timeout: float = 10.0,
    close_timeout: float = 2.0,
    patience: float = 10.0,
    waiting: int = 1024,
    backoff: Backoff | None = None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> Client:
    """Return a client for the server at `url`, to be used with ``async with``. All times are in seconds.

    `url` is ``ws://host:port/ws`` (``http://host:port`` will do). `token` is an access token, or an async function that
    returns a fresh one: with a plain string, the end of the token is the end of the connection. `patience` is how long a
    silent server has to answer a ping before it counts as dead. `waiting` is how many events may wait to be iterated over;
    past that the socket is not read until some are taken, so iterate, or join no room. `backoff` and `sleep` are there for
    tests. Entering raises OSError when there is no server, `protocol.refusals.Refused` when the token is not taken, and
    `Disconnected` when the connection is closed for good.
    """
    options = Options(
        codec=JSON if encoding == "json" else MSGPACK,
        compression=compression,
        call_timeout=call_timeout,
        open_timeout=open_timeout,
        close_timeout=close_timeout,
        patience=patience,
        waiting=waiting,
        backoff=backoff or Backoff(),
        sleep=sleep,
    )
    return Client(url, token, options)
