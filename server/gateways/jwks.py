"""The keys that a provider signs with: fetched when they are needed, together for all who wait, and never often.

A token names its key, and whoever sends one can name any. So an unknown name may cause a fetch, because the provider may have
rotated its keys, but not more than one in `PAUSE_SECONDS`: a flood of invented names costs the provider one question a minute,
and us a look into a dict each. While the provider does not answer, the keys of before go on to count, for a day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import jwt

from protocol.refusals import ErrorCode, Refused
from server.gateways.outside import Answer

PAUSE_SECONDS: Final = 60.0
FRESH_SECONDS: Final = 3600.0
STALE_SECONDS: Final = 86400.0
RETRY_SECONDS: Final = 2.0
"""After a fetch that failed the next may be this soon; the breaker makes it later while that goes on."""
_LEAST_BITS: Final = 2048


class ProviderKeys:
    """The RSA keys of one provider. `fetch` asks for the key set (RFC 7517); `clock` is in seconds."""

    def __init__(self, fetch: Callable[[], Awaitable[Answer]], clock: Callable[[], float]) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = -STALE_SECONDS
        self._next_at = -STALE_SECONDS
        self._fetching: asyncio.Task[None] | None = None
        self.fetches = 0

    async def find(self, kid: str) -> jwt.PyJWK | None:
        """Return the key of that name. None: the provider has none. Raises `Refused` (unavailable) when it can't be known."""
        age = self._clock() - self._fetched_at
        if kid not in self._keys or age > FRESH_SECONDS:
            try:
                await self._refresh()
            except Refused:
                if kid not in self._keys or age > STALE_SECONDS:
                    raise
        return self._keys.get(kid)

    async def _refresh(self) -> None:
        """Fetch, if it is time: one fetch for all who ask meanwhile, which goes on even if they go away."""
        if self._fetching is None:
            if self._clock() < self._next_at:
                if not self._keys:
                    raise Refused(ErrorCode.UNAVAILABLE, retry_after=RETRY_SECONDS)
                return
            self._fetching = asyncio.ensure_future(self._fetch_once())
        await asyncio.shield(self._fetching)

    async def _fetch_once(self) -> None:
        self._next_at = self._clock() + RETRY_SECONDS
        self.fetches += 1
        try:
            answer = await self._fetch()
            keys = _usable(answer.body.get("keys")) if answer.good else {}
            if not keys:
                raise Refused(
                    ErrorCode.UNAVAILABLE, "The provider's keys are not to be had.", retry_after=RETRY_SECONDS
                )
            self._keys = keys
            self._fetched_at = self._clock()
            self._next_at = self._fetched_at + PAUSE_SECONDS
        finally:
            self._fetching = None


def _usable(entries: Any) -> dict[str, jwt.PyJWK]:
    """Return the RSA signing keys of a set by their names, leaving out whatever else is in it."""
    found: dict[str, jwt.PyJWK] = {}
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or entry.get("kty") != "RSA" or entry.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(entry, algorithm="RS256")
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        if key.key_id and key.key.key_size >= _LEAST_BITS:
            found[key.key_id] = key
    return found
