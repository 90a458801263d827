"""Two nodes, and people with accounts on them who do all that leaves a trace."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID

import httpx2

from protocol.envelope import RoomId, UserId
from server.settings import Settings
from storage.postgres.pool import Pool
from tests.hosting import make_room
from tests.http.serving import PASSWORD, Site, serving
from tests.nodes.raw import open_raw
from tests.visitors import Visitor

DEVICE = "the telephone of a test"
_NUMBERS = itertools.count(1)

TABLES = """
select c.relname::text from pg_class c
where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace order by 1
"""


class Member:
    """Somebody with an account, and their connections."""

    def __init__(self, site: Site, account: dict[str, Any]) -> None:
        self.site = site
        self.id = UserId(UUID(account["user"]["id"]))
        self.name: str = account["user"]["name"]
        self.email: str = account["email"]
        self.access_token: str = account["access_token"]
        self.refresh_token: str = account["refresh_token"]

    @property
    def headers(self) -> dict[str, str]:
        """What an HTTP request of theirs carries."""
        return {"authorization": f"Bearer {self.access_token}"}

    async def ask(self, method: str, path: str, **body: Any) -> httpx2.Response:
        """Send a request, with a body for those that have one."""
        json = body if method == "DELETE" or body else None
        return await self.site.client.request(method, path, json=json, headers=self.headers)

    async def come(self, site: Site | None = None, *rooms: RoomId) -> Visitor:
        """Connect to a node, and enter rooms."""
        visitor = Visitor()
        visitor.connection = await open_raw((site or self.site).port, visitor.heard.append)
        visitor.welcome = await visitor.call("hello", token=self.access_token)
        assert visitor.welcome["type"] == "welcome", visitor.welcome
        for room in rooms:
            await visitor.join(room)
        return visitor

    async def leave(self, password: str | None = PASSWORD) -> httpx2.Response:
        """Delete the account."""
        return await self.ask("DELETE", "/me", password=password)


class Town:
    """Two nodes on one database and one Valkey."""

    def __init__(self, sites: list[Site]) -> None:
        self.sites = sites

    @property
    def pool(self) -> Pool:
        """The connections of the first node."""
        return self.sites[0].node.stores.pool

    async def member(self, name: str) -> Member:
        """Make an account, whose address is proven."""
        email = f"{name.lower()}.{next(_NUMBERS)}@post.example.org"
        answer = await self.sites[0].client.post(
            "/auth/register",
            json={"email": email, "password": PASSWORD, "name": name},
            headers={"user-agent": DEVICE},
        )
        assert answer.status_code == 201, answer.text
        account = dict(answer.json())
        await self.pool.execute("update identities set issuer = '' where user_id = $1", account["user"]["id"])
        return Member(self.sites[0], account | {"email": email})

    async def room(self, slug: str = "a-room") -> RoomId:
        """Make a looproom."""
        return await make_room(self.pool, slug)

    async def cleared(self, kind: str = "person.leave") -> None:
        """Wait until no job of a kind is left: all that somebody left has been cleared away."""
        async with asyncio.timeout(10):
            while await self.pool.fetchval("select count(*) from jobs where kind = $1", kind):  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def dump(self) -> dict[str, str]:
        """Write down every row of every table."""
        dumped = {}
        for row in await self.pool.fetch(TABLES):
            rows = await self.pool.fetch(f'select one::text from "{row[0]}" one')
            dumped[row[0]] = "\n".join(one[0] for one in rows)
        return dumped


@asynccontextmanager
async def town(settings: Settings, nodes: int = 2) -> AsyncIterator[Town]:
    """Run the nodes until the block ends."""
    async with AsyncExitStack() as stack:
        yield Town([await stack.enter_async_context(serving(settings)) for _ in range(nodes)])
