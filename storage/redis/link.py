"""One connection to Redis, spoken to directly: for the broker, whose messages are too many for a general client.

It knows how to connect (TCP, TLS, unix socket), to greet (HELLO 3, with name and password), to send commands and to hand
over what comes, synchronously, as soon as it is there. What to send and what a push means is for others to know.
Parsing is hiredis', protocol is RESP3, where pushes and replies may come on one connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection, parse_url

from storage.redis.pool import RedisAway

_log = logging.getLogger(__name__)

_NOTHING: Final = object()

Replies = list[Any]


class Link(asyncio.Protocol):
    """An open connection. Made by `open_link`; `lost` is done when it is no longer open, whoever closed it."""

    def __init__(self, on_push: Callable[[list[Any]], None]) -> None:
        self._on_push = on_push
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._transport: asyncio.WriteTransport | None = None
        self._waiting: deque[tuple[int, Replies, Callable[[Replies], None]]] = deque()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, commands: bytes, replies: int, then: Callable[[Replies], None]) -> None:
        """Write packed commands that have so many replies (SUBSCRIBE has none: it is answered by pushes).

        `then` is called with the replies, errors among them as `hiredis.ReplyError`; never, when the link is lost before.
        """
        if self._transport is None:
            return
        if replies:
            self._waiting.append((replies, [], then))
        self._transport.write(commands)

    def close(self) -> None:
        """Drop the connection now, with what was not written yet. No push and no reply comes after this."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        if not self.lost.done():
            self.lost.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOTHING and self._transport is not None:
                if type(reply) is hiredis.PushNotification:
                    self._on_push(reply)
                else:
                    self._replied(reply)
        except hiredis.ProtocolError as error:
            _log.warning("Redis sent what is not RESP3: %s", error)
            self.close()

    def connection_lost(self, _: Exception | None) -> None:
        self.close()

    def _replied(self, reply: object) -> None:
        if not self._waiting:
            # The only command without replies is SUBSCRIBE, and an error is the one reply that it can have.
            _log.warning("Redis refuses to subscribe: %s", reply)
            self.close()
            return
        left, replies, then = self._waiting[0]
        replies.append(reply)
        if len(replies) == left:
            self._waiting.popleft()
            then(replies)


async def open_link(url: str, *, on_push: Callable[[list[Any]], None], name: str, within: float) -> Link:
    """Connect to a ``redis://``, ``rediss://`` or ``unix://`` URL, understood as redis-py understands it.

    `on_push` is called for each push, in order; what it raises is not caught here. `name` is shown by CLIENT LIST.
    Raises `RedisAway` when there is no connection, or no right to it, `within` so many seconds.
    """
    loop = asyncio.get_running_loop()
    known = parse_url(url)
    kind = known.get("connection_class")
    link = Link(on_push)
    try:
        async with asyncio.timeout(within):
            if kind is UnixDomainSocketConnection:
                await loop.create_unix_connection(lambda: link, known["path"])
            else:
                tls = None
                if kind is SSLConnection:
                    options: Any = {key: value for key, value in known.items() if key.startswith("ssl_")}
                    tls = SSLConnection(**options).ssl_context.get()
                host, port = known.get("host", "localhost"), known.get("port", 6379)
                await loop.create_connection(lambda: link, host, port, ssl=tls)
            await _greet(link, known.get("username") or "default", known.get("password"), name)
    except TimeoutError:
        link.close()
        raise RedisAway(f"no connection within {within} s") from None
    except OSError as error:
        link.close()
        raise RedisAway(str(error)) from None
    except BaseException:
        link.close()
        raise
    return link


def pack(*args: bytes) -> bytes:
    """Return one command as it goes over the wire."""
    return cast("bytes", hiredis.pack_command(args))  # type: ignore[arg-type] # its stub means tuple[..., ...]


async def _greet(link: Link, username: str, password: str | None, name: str) -> None:
    greeted: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()
    login = (b"AUTH", username.encode(), password.encode()) if password else ()
    link.send(pack(b"HELLO", b"3", *login, b"SETNAME", name.encode()), 1, greeted.set_result)
    moments: set[asyncio.Future[Any]] = {greeted, link.lost}
    await asyncio.wait(moments, return_when=asyncio.FIRST_COMPLETED)
    if not greeted.done():
        raise RedisAway("closed while greeting")
    if isinstance(reply := greeted.result()[0], hiredis.ReplyError):
        raise RedisAway(str(reply))
