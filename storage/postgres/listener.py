"""Hears what transactions notify, on a connection of its own outside the pool.

A notification is a hint that something may be there, never the thing itself: one is lost whenever the connection is, and
a pooler in transaction mode carries none. Whoever listens looks again by a clock of its own as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import asyncpg

from protocol.refusals import Refused
from storage.postgres.pool import CONNECT_SECONDS, unavailable

_LOGGER = logging.getLogger("looprooms.postgres")

AGAIN_SECONDS: Final = 1.0


async def listen(dsn: str, channel: str, heard: Callable[[], None]) -> None:
    """Call `heard` for each notification on `channel`, and whenever some may have been missed; for ever."""
    while True:
        try:
            await _listen_once(dsn, channel, heard)
        except Refused:
            pass
        except Exception:
            _LOGGER.exception("notifications can't be heard")
        await asyncio.sleep(AGAIN_SECONDS)


async def _listen_once(dsn: str, channel: str, heard: Callable[[], None]) -> None:
    """Listen until the connection ends. Raises `Refused` (unavailable)."""
    lost = asyncio.Event()
    with unavailable():
        connection: asyncpg.Connection[asyncpg.Record] = await asyncpg.connect(
            dsn, timeout=CONNECT_SECONDS, server_settings={"application_name": "looprooms listener"}
        )
        connection.add_termination_listener(lambda _: lost.set())
        try:
            await connection.add_listener(channel, lambda *_: heard())
            heard()
            await lost.wait()
        finally:
            connection.terminate()
