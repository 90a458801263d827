"""A whole node on a real socket, and a client of its HTTP side."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import httpx2
import uvicorn
from starlette.applications import Starlette

from server.http.app import create_app
from server.http.connection import HttpConnection
from server.node import Node
from server.passwords import Passwords
from server.process.listening import listen
from server.settings import Settings
from tests.http.announced import Announced

PASSWORD = "violets under a lamp"


def new_key(kid: str) -> str:
    """Make a signing key, as it stands in the settings."""
    return f"{kid}:{base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip('=')}"


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass
class Site:
    """One node that serves. `connections` are those that uvicorn knows of; `number` makes every account of a test another one."""

    node: Node
    app: Starlette
    client: httpx2.AsyncClient
    port: int
    connections: set[Any]
    number: int = field(default=0)

    @property
    def passwords(self) -> Passwords:
        """The pool that hashes here."""
        return cast("Passwords", self.app.state.passwords)

    async def post(self, path: str, **body: Any) -> httpx2.Response:
        """Send a JSON body."""
        return await self.client.post(path, json=body)

    async def register(self) -> dict[str, Any]:
        """Make an account and return what the server gave, with the address and the password."""
        self.number += 1
        email = f"person{self.number}@example.org"
        answer = await self.post(
            "/auth/register", email=email, password=PASSWORD, name=f"Person {self.number}"
        )
        assert answer.status_code == 201, answer.text
        return cast("dict[str, Any]", answer.json()) | {"email": email}

    async def me(self, access_token: str) -> httpx2.Response:
        """Ask who one is."""
        return await self.client.get("/me", headers={"authorization": f"Bearer {access_token}"})

    async def raw(self, data: bytes, *, within: float = 5.0) -> bytes:
        """Send bytes on a connection of their own; return all that comes until the server closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            async with asyncio.timeout(within):
                return await reader.read()
        finally:
            writer.transport.abort()


async def _announced(app: Starlette) -> Announced:
    """Read the description without a connection: tests count those."""
    within = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=within, base_url="http://127.0.0.1") as client:
        return Announced((await client.get("/openapi.json")).json())


@asynccontextmanager
async def serving(
    settings: Settings, http: type[HttpConnection] = HttpConnection, *, port: int = 0
) -> AsyncIterator[Site]:
    """Run a node with its port: any, or one that must be known before."""
    node = await Node.open(settings)
    app = create_app(node)
    (listener,) = listen("127.0.0.1", port)
    port = listener.getsockname()[1]
    server = _Server(
        uvicorn.Config(
            app,
            http=cast("Any", partial(http, door=node.door)),
            ws=cast("Any", node.hub.connect),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
        )
    )
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            assert not running.done()
            await asyncio.sleep(0.001)
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            client.event_hooks = {"response": [(await _announced(app)).check]}
            yield Site(node, app, client, port, server.server_state.connections)
    finally:
        server.should_exit = True
        await running
        await node.aclose()
