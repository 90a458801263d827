"""Calls over HTTP to a service that is not ours: each has a deadline, few are under way, and a breaker spares the rest.

Who hangs costs `SECONDS` and one of `TOGETHER` places, nobody else anything: those who find all places and the queue taken are
told so at once. Only addresses of the settings are asked; no redirect is followed, and no answer is larger than `MOST_BYTES`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import httpx2
import msgspec
from msgspec import Struct

from server.gateways.breaker import Breaker

# At INFO it logs the URL of each request, and what stands in one is nobody's business.
logging.getLogger("httpx2").setLevel(logging.WARNING)

_LOGGER = logging.getLogger("looprooms.outside")

SECONDS: Final = 5.0
TOGETHER: Final = 8
WAITING: Final = 64
MOST_BYTES: Final = 262144
LONGEST_WAIT: Final = 3600.0
"""A service that asks to be left alone for longer is asked again after this."""


@cache
def authorities() -> ssl.SSLContext:
    """Return how the certificates of services are checked, for all clients of the process: reading it takes 20 ms."""
    return httpx2.create_ssl_context()


class Answer(Struct, frozen=True):
    """What the service said: the status, and the JSON object in the body; an empty one for anything else.

    `retry_after` is how many seconds it asked to be left alone, if it did.
    """

    status: int
    body: dict[str, Any]
    retry_after: float | None = None

    @property
    def good(self) -> bool:
        """Whether it did what it was asked."""
        return 200 <= self.status < 300


class Outside:
    """One service. `client` may be shared by several."""

    def __init__(
        self,
        name: str,
        client: httpx2.AsyncClient,
        clock: Callable[[], float],
        *,
        seconds: float = SECONDS,
    ) -> None:
        self._name = name
        self._client = client
        self._seconds = seconds
        self._places = asyncio.Semaphore(TOGETHER)
        self._waiting = 0
        self.breaker = Breaker(name, clock)
        self.asked = 0

    async def get(self, url: str) -> Answer:
        """Fetch a JSON object. Raises `Refused` (unavailable)."""
        return await self._ask("GET", url)

    async def post(self, url: str, form: Mapping[str, str]) -> Answer:
        """Send a form. Raises `Refused` (unavailable)."""
        return await self._ask("POST", url, data=form)

    async def post_json(self, url: str, body: Mapping[str, Any], *, bearer: str) -> Answer:
        """Send a JSON object, as whoever `bearer` is the token of. Raises `Refused` (unavailable)."""
        headers = {"authorization": f"Bearer {bearer}", "content-type": "application/json"}
        return await self._ask("POST", url, content=msgspec.json.encode(body), headers=headers)

    async def _ask(
        self,
        method: str,
        url: str,
        *,
        data: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Answer:
        self.breaker.ask()
        if self._waiting >= WAITING:
            self.breaker.left()
            raise self.breaker.refused()
        self._waiting += 1
        outcome = self.breaker.left
        try:
            async with asyncio.timeout(self._seconds):
                async with self._places:
                    self.asked += 1
                    request = self._client.build_request(
                        method,
                        url,
                        data=data,
                        content=content,
                        headers={"accept": "application/json", **headers},
                    )
                    answer = await self._sent(request)
            outcome = self.breaker.worked if answer.status < 500 else self.breaker.failed
        except (TimeoutError, httpx2.HTTPError) as error:
            outcome = self.breaker.failed
            _LOGGER.warning("%s does not answer: %s", self._name, type(error).__name__)
            raise self.breaker.refused() from None
        finally:
            self._waiting -= 1
            outcome()
        if answer.status >= 500:
            _LOGGER.warning("%s does not answer: status %d", self._name, answer.status)
            raise self.breaker.refused(answer.retry_after or 1.0)
        return answer

    async def _sent(self, request: httpx2.Request) -> Answer:
        response = await self._client.send(request, stream=True)
        try:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MOST_BYTES:
                    raise httpx2.DecodingError("the answer is too large", request=request)
        finally:
            await response.aclose()
        wait = _seconds(response.headers.get("retry-after", ""))
        try:
            said = msgspec.json.decode(bytes(body), type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            said = {}
        return Answer(response.status_code, said, wait)


def _seconds(retry_after: str) -> float | None:
    """Read a Retry-After in seconds, an hour at most; the other form, a date, is one that our services do not use."""
    text = retry_after.strip()
    return min(float(text), LONGEST_WAIT) if text.isascii() and text.isdigit() else None
