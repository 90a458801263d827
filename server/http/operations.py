"""What an operator asks: is the process alive, can it serve, how is it doing. Only our own stores are asked, nothing outside."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta, Struct
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import Response

from protocol.refusals import ErrorCode, Refused
from server.http.endpoint import JSON, Endpoint
from server.http.problems import problem_of
from server.metrics import render
from storage.postgres.pool import answering
from storage.redis.pool import ping

if TYPE_CHECKING:
    from server.node import Node

CHECK_SECONDS: Final = 1.0


class Alive(Struct):
    """The process answers."""

    status: Annotated[str, Meta(description="Always `ok`.")] = "ok"


class Check(Struct, omit_defaults=True, kw_only=True):
    """One store."""

    ok: Annotated[bool, Meta(description="Whether it does what is needed of it.")]
    latency_ms: Annotated[float | None, Meta(description="Milliseconds of a round trip made now.")] = None
    probe_ms: Annotated[
        float | None, Meta(description="Milliseconds of the last probe that went round through pub/sub.")
    ] = None
    detail: Annotated[str | None, Meta(description="What is wrong.")] = None


class Readiness(Struct, omit_defaults=True, kw_only=True):
    """Whether this node can serve. When it can't, this is also a problem with the code `unavailable`."""

    status: Annotated[str, Meta(description="`ok`, or `unavailable`.")]
    postgres: Annotated[Check, Meta(description="Where everything is kept.")]
    redis: Annotated[Check, Meta(description="What nodes meet in.")]
    failing: Annotated[list[str], Meta(description="The stores that are out of reach.")] = []


class Operations:
    """The operations of an operator, on one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def live(self, _: Request) -> Alive:
        """Answer, which is all."""
        return Alive()

    async def ready(self, _: Request) -> Response:
        """Ask both stores at once."""
        postgres, redis = await asyncio.gather(_timed(self._ask_postgres), self._check_broker())
        failing = [name for name, check in (("postgres", postgres), ("redis", redis)) if not check.ok]
        status = 503 if failing else 200
        answer = Readiness(
            status="unavailable" if failing else "ok", postgres=postgres, redis=redis, failing=failing
        )
        headers = {"cache-control": "no-store"}
        if not failing:
            return Response(msgspec.json.encode(answer), status, headers, JSON)
        refused = Refused(ErrorCode.UNAVAILABLE, f"Out of reach: {' and '.join(failing)}.", retry_after=1.0)
        problem = msgspec.to_builtins(problem_of(refused)) | msgspec.to_builtins(answer) | {"status": status}
        headers["retry-after"] = "1"
        return Response(msgspec.json.encode(problem), status, headers, "application/problem+json")

    async def metrics(self, _: Request) -> Response:
        """Return all metrics of this process."""
        return Response(
            render(self._node), headers={"content-type": CONTENT_TYPE_LATEST, "cache-control": "no-store"}
        )

    async def _ask_postgres(self) -> None:
        async with answering(self._node.stores.pool) as connection:
            await connection.fetchval("select 1")

    async def _ask_redis(self) -> None:
        await self._node.stores.redis.run(ping())

    async def _check_broker(self) -> Check:
        """A Redis that answers is not enough: what is published must come back, too."""
        check = await _timed(self._ask_redis)
        broker = self._node.stores.broker
        if broker.probe_seconds is not None:
            check.probe_ms = round(broker.probe_seconds * 1000, 3)
        if check.ok and not broker.healthy:
            check.ok = False
            check.detail = "Redis answers, but what is published does not come back."
        return check


async def _timed(ask: Callable[[], Awaitable[None]]) -> Check:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await ask()
    except (Refused, TimeoutError):
        return Check(ok=False, detail=f"It did not answer, or not within {CHECK_SECONDS:g} s.")
    return Check(ok=True, latency_ms=round((time.perf_counter() - began) * 1000, 3))


def endpoints(operations: Operations) -> list[Endpoint]:
    """List the operations of an operator."""
    return [
        Endpoint(
            method="GET",
            path="/health/live",
            summary="Is the process alive",
            handle=operations.live,
            unlimited=True,
            answer=Alive,
            group="Operations",
        ),
        Endpoint(
            method="GET",
            path="/health/ready",
            summary="Can this node serve",
            handle=operations.ready,
            unlimited=True,
            answer=Readiness,
            refuses=(ErrorCode.UNAVAILABLE,),
            group="Operations",
        ),
        Endpoint(
            method="GET",
            path="/metrics",
            summary="Metrics in the format of Prometheus",
            handle=operations.metrics,
            unlimited=True,
            media_type="text/plain",
            group="Operations",
        ),
    ]
