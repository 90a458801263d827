"""Real nodes in this process that a test can look into, and people who are connected to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from protocol.client import Client, Occurrence, connect
from protocol.envelope import SessionId, UserId
from server.settings import Settings
from storage.postgres.pool import Pool
from tests.hosting import SIGNING_KEY
from tests.http.serving import Site, serving
from tests.stores import SEALING_KEY

PATIENCE = 5.0


@dataclass
class Guest:
    """Somebody with an account. `heard` is what each of their clients has handed out, by client."""

    user: UserId
    name: str
    heard: dict[Client, list[Occurrence]] = field(default_factory=dict)


class Meeting:
    """Some nodes on one database and one Valkey."""

    def __init__(self, sites: Sequence[Site], pool: Pool, stack: AsyncExitStack) -> None:
        self.sites = sites
        self.pool = pool
        self._stack = stack

    async def guest(self, name: str = "guest") -> Guest:
        """Make an account."""
        user = UserId(uuid4())
        await self.pool.execute("insert into users (id, name) values ($1, $2)", user, name)
        return Guest(user, name)

    async def token(self, guest: Guest, site: Site) -> str:
        """Begin a session."""
        session = SessionId(uuid4())
        await self.pool.execute("insert into sessions (id, user_id) values ($1, $2)", session, guest.user)
        return site.node.tokens.sign(user=guest.user, session=session, role="MEMBER", tier="FREE")[0]

    async def come(self, guest: Guest, site: Site, **options: Any) -> Client:
        """Connect somebody; what their client hands out is collected in `guest.heard`."""
        token = await self.token(guest, site)
        url = f"ws://127.0.0.1:{site.port}/ws"
        client = await self._stack.enter_async_context(
            connect(url, token=token, close_timeout=0.5, **options)
        )
        guest.heard[client] = []
        listening = asyncio.create_task(_listen(client, guest.heard[client]))
        self._stack.callback(listening.cancel)
        return client


async def _listen(client: Client, heard: list[Occurrence]) -> None:
    async for occurrence in client:
        heard.append(occurrence)  # noqa: PERF401 - it is read while it grows


@asynccontextmanager
async def meeting(
    database_url: str, redis_url: str, pool: Pool, nodes: int = 1, **settings: object
) -> AsyncIterator[Meeting]:
    """Run nodes until the block ends."""
    chosen = Settings(
        database_url=database_url,
        redis_url=redis_url,
        signing_keys=(SIGNING_KEY,),
        sealing_keys=(SEALING_KEY,),
        **settings,  # type: ignore[arg-type] # the caller's own
    )
    async with AsyncExitStack() as stack:
        sites = [await stack.enter_async_context(serving(chosen)) for _ in range(nodes)]
        async with AsyncExitStack() as clients:
            yield Meeting(sites, pool, clients)
