"""Health: alive is not ready, and whoever is missing is named."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import httpx2
import msgspec
import pytest

from server.settings import Settings
from tests.http.serving import Site, serving
from tests.redis.valkeys import Proxy, Valkey
from tests.waiting import until


@pytest.fixture
async def own(settings: Settings) -> AsyncIterator[tuple[Site, Valkey]]:
    """Give a node with a Valkey of its own."""
    with Valkey() as valkey:
        async with serving(msgspec.structs.replace(settings, redis_url=valkey.url)) as site:
            yield site, valkey


async def test_ready(site: Site) -> None:
    """With both stores a node is ready, and says how far away they are."""
    await until(lambda: site.node.stores.broker.probe_seconds is not None)
    answer = await site.client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert found["status"] == "ok"
    assert found["postgres"]["ok"] is True
    assert found["redis"]["ok"] is True
    for latency in (
        found["postgres"]["latency_ms"],
        found["redis"]["latency_ms"],
        found["redis"]["probe_ms"],
    ):
        assert 0 < latency < 1000


async def test_live(site: Site) -> None:
    """Alive is who answers."""
    answer = await site.client.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def readiness(site: Site, status: int) -> httpx2.Response:
    """Ask again and again until the answer has this status; it must within six seconds."""
    async with asyncio.timeout(6):
        while True:
            answer = await site.client.get("/health/ready")
            if answer.status_code == status:
                return answer
            await asyncio.sleep(0.05)


async def not_ready(site: Site, *failing: str) -> None:
    """Wait until the node is not ready, and check what it says."""
    answer = await readiness(site, 503)
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    problem = answer.json()
    assert (problem["code"], problem["status"]) == ("unavailable", 503)
    assert problem["failing"] == list(failing)
    for store in ("postgres", "redis"):
        assert problem[store]["ok"] is (store not in failing)
        assert store not in failing or problem[store]["detail"]
    assert (await site.client.get("/health/live")).status_code == 200


async def test_redis_killed(own: tuple[Site, Valkey]) -> None:
    """Without Redis a node is alive and not ready; sign-in works; with it again the node is ready again."""
    site, valkey = own
    valkey.kill()
    await not_ready(site, "redis")
    assert (await site.register())["access_token"]
    valkey.start()
    await readiness(site, 200)


async def test_redis_hangs(own: tuple[Site, Valkey]) -> None:
    """A Redis that hangs keeps the answer no longer than a second."""
    site, valkey = own
    valkey.freeze()
    try:
        began = time.monotonic()
        answer = await site.client.get("/health/ready")
        assert time.monotonic() - began < 2.0
        assert answer.json()["failing"] == ["redis"]
    finally:
        valkey.thaw()


async def test_deaf_subscription(settings: Settings) -> None:
    """A Redis that answers but carries nothing is not ready."""
    with Valkey() as valkey:
        async with Proxy(valkey.socket) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}"
            async with serving(msgspec.structs.replace(settings, redis_url=url)) as site:
                assert (await site.client.get("/health/ready")).status_code == 200
                proxy.deaf = True
                await not_ready(site, "redis")


async def test_postgres_gone(site: Site) -> None:
    """Without Postgres a node is not ready; accounts answer that they are not there, now."""
    account = await site.register()
    port = _closed_port()
    dsn = f"postgresql://nobody@127.0.0.1:{port}/nothing"
    site.node.stores.pool.set_connect_args(dsn)
    await site.node.stores.pool.expire_connections()
    await not_ready(site, "postgres")
    for answer in (
        await site.me(account["access_token"]),
        await site.post("/auth/refresh", refresh_token=account["refresh_token"]),
        await site.post("/auth/login", email=account["email"], password="violets under a lamp"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert int(answer.headers["retry-after"]) >= 1
        assert "127.0.0.1" not in answer.text


def _closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


async def test_metrics(site: Site) -> None:
    """Metrics come in the format of Prometheus."""
    answer = await site.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert "# TYPE looprooms_connections gauge" in answer.text
