"""Upload a file over HTTP, to be shown: one's own picture, or the picture or the content of a looproom that one hosts.

It is sent as it is. Where the connection breaks it goes on from where it stood, as long as the server remembers.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import msgspec

from protocol.client.account import Account, exchange
from protocol.envelope import RoomRef
from protocol.media import MediaKind, MediaType
from protocol.refusals import ErrorCode, Refused

TRIES: Final = 30
"""Failures in a row, without a byte in between, after which it is given up: the server has forgotten it by then."""
PAUSE: Final = 1.0
"""Seconds between two tries, unless the server says how many."""


class Uploaded(msgspec.Struct):
    """What came of an upload: `url` is a path on the server."""

    url: str
    type: str
    bytes: int


class _State(msgspec.Struct):
    id: str
    received: int
    media: Uploaded | None = None


async def upload(
    account: Account,
    path: Path,
    kind: MediaKind,
    media_type: MediaType,
    room: RoomRef | None = None,
    *,
    pause: float = PAUSE,
) -> Uploaded:
    """Upload the file at `path`; it is shown when this returns. Only the host of a looproom may name it as `room`.

    Raises `protocol.refusals.Refused`, and OSError when the server or the file is not there.
    """
    size = await asyncio.to_thread(lambda: path.stat().st_size)
    wanted: dict[str, Any] = {"kind": kind, "type": media_type, "bytes": size}
    if room is not None:
        wanted["room"] = room
    state = await _ask(account, "POST", "/uploads", wanted)
    failures = 0
    while state.media is None:
        try:
            if failures:
                before, state = state.received, await _ask(account, "GET", f"/uploads/{state.id}")
                failures = 1 if state.received > before else failures
            if state.media is None:
                state = await asyncio.to_thread(_send, account.url, await account(), path, state)
        except (OSError, Refused) as failure:
            failures += 1
            if failures > TRIES or not _passes(failure):
                raise
            await asyncio.sleep(getattr(failure, "retry_after", None) or pause)
    return state.media


def _passes(failure: OSError | Refused) -> bool:
    """Say whether the same may succeed soon."""
    if isinstance(failure, Refused):
        return failure.code.retryable or failure.code in (ErrorCode.OFFSET_REFUSED, ErrorCode.TOO_SLOW)
    return not isinstance(failure, FileNotFoundError)


async def _ask(account: Account, method: str, path: str, body: object = None) -> _State:
    data = None if body is None else msgspec.json.encode(body)
    headers = {"Authorization": f"Bearer {await account()}", "Content-Type": "application/json"}
    return await asyncio.to_thread(exchange, account.url, method, path, _State, data, headers)


def _send(url: str, token: str, path: Path, state: _State) -> _State:
    with path.open("rb") as file:
        file.seek(state.received)
        left = path.stat().st_size - state.received
        headers = {
            "Authorization": f"Bearer {token}",
            "Content-Length": str(left),
            "Upload-Offset": str(state.received),
        }
        return exchange(url, "PUT", f"/uploads/{state.id}", _State, file, headers)
