"""A real node in this process, on a port of its own, and clients who are signed in to it."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from copy import copy
from pathlib import Path
from uuid import UUID, uuid4

from protocol.client import Client, connect
from protocol.envelope import Person, RoomId, SessionId, UserId
from server.node import serve_node
from server.process.listening import listen
from server.settings import Settings
from server.tokens import Tokens
from storage.postgres.pool import Pool
from tests.stores import SEALING_KEY

SIGNING_KEY = "test:" + "A" * 43


class Host:
    """A running node, and a way to come to it as somebody."""

    def __init__(self, url: str, tokens: Tokens, pool: Pool, stack: AsyncExitStack) -> None:
        self.url = url
        self._tokens = tokens
        self._pool = pool
        self._stack = stack

    async def client(self, name: str, person: Person | None = None) -> Client:
        """Connect as a new person, or as one who has been here."""
        token = await self.token(name, person)
        return await self._stack.enter_async_context(connect(self.url, token=token, close_timeout=0.5))

    async def token(self, name: str, person: Person | None = None) -> str:
        """Begin a session of a new person, or of one who has been here, and return its access token."""
        user = UserId(uuid4()) if person is None else person.id
        session = SessionId(uuid4())
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "insert into users (id, name) values ($1, $2) on conflict do nothing", user, name
            )
            await connection.execute("insert into sessions (id, user_id) values ($1, $2)", session, user)
        return self.sign(user, session)

    def sign(self, user: UserId, session: SessionId, *, days_ago: float = 0.0) -> str:
        """Return another access token of a session: of now, or one that was made before."""
        tokens = copy(self._tokens)
        tokens._clock = lambda: time.time() - 86400 * days_ago
        return tokens.sign(user=user, session=session, role="MEMBER", tier="FREE")[0]


async def make_room(
    pool: Pool,
    slug: str,
    *,
    status: str = "PUBLISHED",
    category: str = "recovery",
    preview: int | None = None,
) -> RoomId:
    """Make a looproom, with a host of its own; with a `preview` (seconds) it is a premium one."""
    host, room = uuid4(), uuid4()
    await pool.execute("insert into users (id, name) values ($1, 'host')", host)
    await pool.execute(
        "insert into categories (slug, name, description, colour, icon, position) "
        "values ($1, $1, '', '#000', 'leaf', 1) on conflict do nothing",
        category,
    )
    await pool.execute(
        "insert into rooms "
        "(id, slug, title, description, category, host_id, status, content, premium, preview_seconds) "
        "values ($1, $2, $2, '', $3, $4, $5::room_status, 'TEXT', $6, $7)",
        room,
        slug,
        category,
        host,
        status,
        preview is not None,
        preview or 0,
    )
    return RoomId(UUID(str(room)))


@asynccontextmanager
async def hosting(database_url: str, redis_url: str, pool: Pool, **settings: object) -> AsyncIterator[Host]:
    """Run a node until the block ends."""
    (listener,) = listen("127.0.0.1", 0)
    listener.setblocking(False)
    port = listener.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="lr-"))
    chosen = Settings(
        data_dir=str(folder),
        database_url=database_url,
        redis_url=redis_url,
        signing_keys=(SIGNING_KEY,),
        sealing_keys=(SEALING_KEY,),
        drain_seconds=0,
        **{"limits_factor": 1000.0, **settings},  # type: ignore[arg-type] # the caller's own
    )
    stop, ready = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(serve_node(chosen, sockets=[listener], stop=stop, ready=ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        waiting.cancel()
        serving.result()
    try:
        async with AsyncExitStack() as stack:
            yield Host(f"ws://127.0.0.1:{port}/ws", Tokens(chosen), pool, stack)
    finally:
        stop.set()
        await serving
        shutil.rmtree(folder)
