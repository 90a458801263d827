"""The websockets library with its own broadcast, on uvloop."""

from __future__ import annotations

import asyncio
import os

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

here: set[ServerConnection] = set()


async def room(connection: ServerConnection) -> None:
    """Pass on what one says."""
    here.add(connection)
    try:
        async for text in connection:
            broadcast(here, text)
    finally:
        here.discard(connection)


async def main() -> None:
    """Serve for ever."""
    async with serve(room, "127.0.0.1", int(os.environ["PORT"]), compression=None):
        await asyncio.Future()


uvloop.run(main())
