"""Calls over HTTP to a service that is not ours.

It is called through its `gate`. Only addresses of the settings are asked; no redirect is followed, and no answer is larger than
`MOST_BYTES`.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final

import httpx2
import msgspec
from msgspec import Struct

from server.gateways.gate import Gate, Unanswered

# At INFO it logs the URL of each request, and what stands in one is nobody's business.
logging.getLogger("httpx2").setLevel(logging.WARNING)

SECONDS: Final = 5.0
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
        self._client = client
        self.gate = Gate(name, clock, seconds=seconds)
        self.breaker = self.gate.breaker
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
        async def call() -> Answer:
            self.asked += 1
            request = self._client.build_request(
                method, url, data=data, content=content, headers={"accept": "application/json", **headers}
            )
            try:
                answer = await self._sent(request)
            except httpx2.HTTPError as error:
                raise Unanswered(type(error).__name__) from None
            if answer.status >= 500:
                raise Unanswered(f"status {answer.status}", after=answer.retry_after or 1.0)
            return answer

        return await self.gate.ask(call)

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
