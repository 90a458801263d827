"""One stand-in: put together, served on a port of loopback, and made to misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal

import uvicorn
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from server.gateways.standin.api import Api
from server.gateways.standin.billing import DAY, Billing
from server.gateways.standin.connect import Connect
from server.gateways.standin.deliveries import Deliveries
from server.gateways.standin.ledger import Ledger
from server.gateways.standin.operations import Operations
from server.gateways.standin.pages import Pages
from server.gateways.standin.table import table
from server.settings import PRETEND_KEY

_LOGGER = logging.getLogger("looprooms.standin")

LIVE_SECONDS: Final = 1.0
"""How often it is looked whether something has become due."""


class Trouble(Struct):
    """What happens to the next `times` requests whose path begins with `path`.

    ``fail`` answers 500 and does nothing; ``hang`` never answers and does nothing; ``mute`` does it and never answers.
    """

    kind: Literal["fail", "hang", "mute"]
    path: str = "/v1/"
    times: int = 1


class StandIn:
    """A pretend Stripe that sends webhooks to `webhook`. `month` is in seconds; `clock` in seconds since 1970."""

    def __init__(
        self,
        webhook: str,
        *,
        key: str = PRETEND_KEY,
        secret: str = "whsec_standin",  # noqa: S107 - nothing real is signed with it
        month: int = 30 * DAY,
        clock: Callable[[], float] = time.time,
        file: Path | None = None,
    ) -> None:
        self.key = key
        self.secret = secret
        self.base = ""
        """Where it is, once it is served."""
        self.trouble: list[Trouble] = []
        self.deliveries = Deliveries(webhook, secret)
        self.ledger = Ledger(clock, self.deliveries.add, file)
        self.billing = Billing(self.ledger, month)
        self.connect = Connect(self.ledger)
        operations = Operations(self.ledger, self.billing, self.connect, lambda: self.base)
        self.api = Api(self.ledger, table(operations), key, self.ledger.save)
        pages = Pages(self.ledger, self.billing, self.connect)
        methods = ["GET", "POST", "DELETE", "PUT", "PATCH"]
        self.app = Starlette(
            routes=[*pages.routes(), Route("/{path:path}", self._respond, methods=methods)],
        )

    async def _respond(self, request: Request) -> Response:
        trouble = next((one for one in self.trouble if request.url.path.startswith(one.path)), None)
        if trouble is None:
            return await self.api.respond(request)
        trouble.times -= 1
        if not trouble.times:
            self.trouble.remove(trouble)
        if trouble.kind == "mute":
            await self.api.respond(request)
        if trouble.kind != "fail":
            await asyncio.Event().wait()
        return Response('{"error": {"type": "api_error"}}', 500, media_type="application/json")

    async def live(self) -> None:
        """Let time pass, for ever."""
        while True:
            await asyncio.sleep(LIVE_SECONDS)
            try:
                self.billing.advance()
                self.ledger.save()
            except Exception:
                _LOGGER.exception("the stand-in could not let time pass")


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def serving(stand_in: StandIn, *, alive: bool = True) -> AsyncIterator[StandIn]:
    """Serve a stand-in on a free port of loopback until the block ends; `alive` lets its time pass by itself."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )  # asyncio does it for its own sockets alone
    stand_in.base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = uvicorn.Config(
        stand_in.app,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    living = asyncio.create_task(stand_in.live()) if alive else None
    stand_in.deliveries.start()
    try:
        while not server.started and not running.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        yield stand_in
    finally:
        if living is not None:
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
        await stand_in.deliveries.aclose()
        server.should_exit = True
        await running
