"""How a client behaves; `protocol.client.connect` says what each option means."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from protocol.client.backoff import Backoff
from protocol.codec import JSON, Codec

TokenSource = Callable[[], Awaitable[str]]
"""Returns an access token that is good now. Called for each websocket, and when the server says that one runs out."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """All of them, with their defaults. Times are in seconds."""

    codec: Codec = JSON
    compression: bool = False
    call_timeout: float = 10.0
    open_timeout: float = 10.0
    close_timeout: float = 2.0
    patience: float = 10.0
    waiting: int = 1024
    backoff: Backoff = msgspec.field(default_factory=Backoff)
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
