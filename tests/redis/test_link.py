"""One connection to Redis, spoken to directly: connecting, being refused, losing it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hiredis
import pytest

from storage.redis.link import Link, open_link, pack
from storage.redis.pool import RedisAway
from tests.redis.valkeys import Proxy, Valkey, certificate
from tests.waiting import until


async def opened(url: str, pushes: list[list[Any]] | None = None, within: float = 1.0) -> Link:
    """Open a link that puts what is pushed into a list."""
    heard = pushes if pushes is not None else []
    return await open_link(url, on_push=heard.append, name="test", within=within)


async def ask(link: Link, *commands: tuple[bytes, ...]) -> list[Any]:
    """Send commands in one write and return their replies."""
    answered: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
    link.send(b"".join(pack(*command) for command in commands), len(commands), answered.set_result)
    return await answered


@asynccontextmanager
async def speaking(*answers: bytes) -> AsyncIterator[str]:
    """Run a server that says something else than Redis would: one answer for each thing that it reads."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            await reader.read(65536)
            writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(accepted, "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_replies_come_in_order(valkey: Valkey) -> None:
    """Each write gets the replies of its own commands, an error in its place; pushes go elsewhere."""
    pushes: list[list[Any]] = []
    link = await opened(valkey.url, pushes)
    first = asyncio.ensure_future(ask(link, (b"SET", b"k", b"v"), (b"NONSENSE",), (b"GET", b"k")))
    second = asyncio.ensure_future(ask(link, (b"PUBLISH", b"c", b"x")))
    ok, error, value = await first
    assert (ok, value) == (b"OK", b"v")
    assert isinstance(error, hiredis.ReplyError)
    assert await second == [0]
    link.send(pack(b"SUBSCRIBE", b"c"), 0, _never)
    assert await ask(link, (b"PUBLISH", b"c", b"x")) == [1]
    assert pushes == [[b"subscribe", b"c", 1], [b"message", b"c", b"x"]]
    link.close()


async def test_it_has_its_name(valkey: Valkey) -> None:
    """The administrator of a Redis sees whose connection it is."""
    link = await opened(valkey.url)
    assert await ask(link, (b"CLIENT", b"GETNAME")) == [b"test"]
    link.close()


async def test_closed(valkey: Valkey) -> None:
    """A closed link is lost, sends nothing and hands over nothing; closing it again changes nothing."""
    link = await opened(valkey.url)
    link.send(pack(b"PING"), 1, _never)
    link.close()
    link.close()
    assert link.lost.done()
    link.send(pack(b"PING"), 1, _never)
    other = await opened(valkey.url)
    await ask(other, (b"PING",))
    other.close()


async def test_closed_between_two_pushes(valkey: Valkey) -> None:
    """Whoever closes a link while it hands over what has arrived gets nothing more of it."""
    heard = []

    def close(push: list[Any]) -> None:
        heard.append(push)
        link.close()

    link = await open_link(valkey.url, on_push=close, name="test", within=1)
    link.send(pack(b"SUBSCRIBE", b"a", b"b", b"c"), 0, _never)
    await link.lost
    assert heard == [[b"subscribe", b"a", 1]]


async def test_lost(valkey: Valkey) -> None:
    """A link to a Redis that dies is lost at once."""
    link = await opened(valkey.url)
    valkey.kill()
    await asyncio.wait_for(link.lost, 2)


async def test_nobody_there() -> None:
    """Where no Redis is, there is no link, on a socket or a port."""
    for url in ("unix:///dev/shm/no-such-socket", "redis://127.0.0.1:1"):
        with pytest.raises(RedisAway):
            await opened(url)


async def test_hung(valkey: Valkey) -> None:
    """A Redis that takes connections and says nothing is given up in time."""
    valkey.freeze()
    with pytest.raises(RedisAway, match=r"0\.2 s"):
        await opened(valkey.url, within=0.2)
    valkey.thaw()


async def test_cancelled_while_opening(valkey: Valkey) -> None:
    """Nobody is left connected when opening is given up from outside."""
    valkey.freeze()
    task = asyncio.create_task(opened(valkey.url, within=5))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    valkey.thaw()
    other = await opened(valkey.url)

    while (await ask(other, (b"CLIENT", b"LIST")))[0].count(b"id=") > 1:  # noqa: ASYNC110 - another process's doing
        await asyncio.sleep(0.01)
    other.close()


@pytest.mark.parametrize(
    ("answers", "cause"),
    [
        ((b"-ERR unknown command 'HELLO'\r\n",), "unknown command"),
        ((b"HTTP/1.1 400 Bad Request\r\n\r\n",), "closed while greeting"),
        ((b"",), "closed while greeting"),
    ],
)
async def test_what_is_no_redis(answers: tuple[bytes, ...], cause: str) -> None:
    """A server that is too old, or is something else, is no link."""
    async with speaking(*answers) as url:
        with pytest.raises(RedisAway, match=cause):
            await opened(url)


@pytest.mark.parametrize("nonsense", [b"\x00\x01\x02", b"-NOPERM no\r\n"])
async def test_nonsense_later(nonsense: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """What is not RESP3, or answers nothing that was asked, ends the link and is logged."""
    async with speaking(b"%0\r\n", nonsense) as url:
        link = await opened(url)
        link.send(pack(b"SUBSCRIBE", b"c"), 0, _never)
        await asyncio.wait_for(link.lost, 2)
        await until(lambda: caplog.records)


async def test_passwords(tmp_path: Path) -> None:
    """With the right password, alone or with a name, over TLS or not; without it there is no link."""
    context, authority = certificate(tmp_path)
    with Valkey("--requirepass", "s3cr@t") as valkey:
        async with Proxy(valkey.socket, context) as proxy:
            tls = f"127.0.0.1:{proxy.port}?ssl_ca_certs={authority}"
            for url, works in {
                f"unix://:s3cr%40t@{valkey.socket}": True,
                f"unix://default:s3cr%40t@{valkey.socket}": True,
                f"rediss://:s3cr%40t@{tls}": True,
                f"unix://{valkey.socket}": False,
                f"unix://:wrong@{valkey.socket}": False,
                f"rediss://:s3cr%40t@127.0.0.1:{proxy.port}": False,
                f"redis://:s3cr%40t@127.0.0.1:{proxy.port}": False,
            }.items():
                if works:
                    link = await opened(url)
                    assert await ask(link, (b"PING",)) == [b"PONG"]
                    link.close()
                else:
                    with pytest.raises(RedisAway):
                        await opened(url)


def _never(replies: list[Any]) -> None:
    raise AssertionError(replies)
