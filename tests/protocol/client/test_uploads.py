"""Uploading a file with the Python client: to a real node, over a network that breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from protocol.client.account import Account, register
from protocol.client.uploads import upload
from protocol.media import MediaKind, MediaType
from protocol.refusals import ErrorCode, Refused
from storage.postgres.pool import Pool
from tests.gallery import jpeg
from tests.hosting import hosting, make_room
from tests.proxy import Proxy, proxied
from tests.recordings import wav
from tests.redis.valkeys import Valkey
from tests.stores import database_url, pool, postgres, valkey
from tests.waiting import until

__all__ = ["database_url", "pool", "postgres", "valkey"]

SLUG = "a-room"


@dataclass
class Place:
    """A node behind a network, somebody with an account there who hosts a looproom, and a file of theirs."""

    proxy: Proxy
    account: Account
    pool: Pool
    file: Path


@pytest.fixture
async def place(database_url: str, valkey: Valkey, pool: Pool, tmp_path: Path) -> AsyncIterator[Place]:
    """Run it."""
    async with hosting(database_url, valkey.url, pool) as host:
        port = int(host.url.split(":")[2].partition("/")[0])
        async with proxied("127.0.0.1", port) as proxy:
            account = await register(
                f"http://{proxy.address}", "ada@example.org", "violets under a lamp", "Ada"
            )
            await make_room(pool, SLUG)
            await pool.execute(
                "update rooms set content = 'AUDIO', host_id = (select id from users where name = 'Ada') where slug = $1",
                SLUG,
            )
            yield Place(proxy, account, pool, tmp_path / "file")


def put(path: Path, data: bytes) -> None:
    """Write a file."""
    path.write_bytes(data)


async def fetched(place: Place, url: str) -> bytes:
    """Fetch what was uploaded."""
    headers = {"authorization": f"Bearer {await place.account()}"}
    async with httpx2.AsyncClient(base_url=place.account.url) as client:
        return (await client.get(url, headers=headers)).content


async def test_a_picture(place: Place) -> None:
    """It is shown when the call returns."""
    put(place.file, jpeg())
    shown = await upload(place.account, place.file, MediaKind.AVATAR, MediaType.JPEG)
    assert shown.type == "image/webp"
    assert len(await fetched(place, shown.url)) == shown.bytes
    assert await place.pool.fetchval("select avatar from users where name = 'Ada'") == shown.url


async def test_over_a_network_that_breaks(place: Place) -> None:
    """Cut in the middle, and cut again before the answer, it goes on from where it stood, and is shown once."""
    sound = bytes(range(256)) * 40_000
    put(place.file, wav(sound=sound))
    place.proxy.delay = 0.005
    sending = asyncio.create_task(
        upload(place.account, place.file, MediaKind.CONTENT, MediaType.WAV, SLUG, pause=0.05)
    )
    await until(lambda: place.proxy.carried > 2_000_000)
    before = place.proxy.accepted
    place.proxy.cut()
    await until(lambda: place.proxy.accepted > before + 1)
    place.proxy.hold_answers()
    await until(lambda: place.pool.fetchval("select count(*) from media"))
    place.proxy.cut()
    place.proxy.flow()
    shown = await asyncio.wait_for(sending, 20)
    place.proxy.delay = 0.0
    assert sound in await fetched(place, shown.url)
    assert await place.pool.fetchval("select count(*) from media") == 1
    assert await place.pool.fetchval("select content_url from rooms where slug = $1", SLUG) == shown.url


async def test_what_is_refused(place: Place) -> None:
    """What will not succeed is not tried again: something else than was said, another one's looproom, a file that is not there."""
    put(place.file, b"<html></html>")
    with pytest.raises(Refused) as refused:
        await upload(place.account, place.file, MediaKind.AVATAR, MediaType.PNG)
    assert refused.value.code is ErrorCode.MEDIA_REFUSED
    with pytest.raises(Refused) as refused:
        await upload(place.account, place.file, MediaKind.THUMBNAIL, MediaType.PNG, "nowhere")
    assert refused.value.code is ErrorCode.NOT_FOUND
    with pytest.raises(FileNotFoundError):
        await upload(place.account, place.file.with_name("other"), MediaKind.AVATAR, MediaType.PNG)


async def test_a_server_that_is_gone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many failures in a row it is given up."""
    monkeypatch.setattr("protocol.client.uploads.TRIES", 2)
    put(place.file, wav(sound=bytes(10_000_000)))
    place.proxy.delay = 0.01
    sending = asyncio.create_task(
        upload(place.account, place.file, MediaKind.CONTENT, MediaType.WAV, SLUG, pause=0.01)
    )
    await until(lambda: place.proxy.carried > 1_000_000)
    place.proxy.refuse()
    place.proxy.cut()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.wait_for(sending, 20)
