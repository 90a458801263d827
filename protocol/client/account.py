"""Sign in over HTTP and stay signed in: the token source for programs that have an e-mail address and a password.

The websocket is spoken by `protocol.client.connection`, which needs nothing of this: any other source of tokens will do.
"""

from __future__ import annotations

import asyncio
import http.client
import time
from collections.abc import Mapping
from typing import Any, BinaryIO, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from protocol.client.calls import refused
from protocol.envelope import Error

TIMEOUT: Final = 10.0
"""Seconds that the server may be silent in one request."""
_JSON: Final = {"Content-Type": "application/json"}

AnswerT = TypeVar("AnswerT")


class Tokens(msgspec.Struct):
    """What the server gives for a password or a refresh token. `expires_in` is in seconds."""

    access_token: str
    refresh_token: str
    expires_in: float


class Problem(msgspec.Struct):
    """What is needed of ``application/problem+json`` (RFC 9457)."""

    code: str
    detail: str = ""
    retry_after: float | None = None
    path: str | None = None


class Account:
    """A signed-in account on one server. Called, it returns an access token with at least half of its life left."""

    def __init__(self, url: str, tokens: Tokens) -> None:
        self.url = url
        self._lock = asyncio.Lock()
        self._keep(tokens)

    def _keep(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._fresh_until = time.monotonic() + tokens.expires_in / 2

    async def __call__(self) -> str:
        """Return an access token. Raises OSError, and `protocol.refusals.Refused` when one must sign in again."""
        async with self._lock:
            if time.monotonic() >= self._fresh_until:
                body = {"refresh_token": self._tokens.refresh_token}
                self._keep(await _post(self.url, "/auth/refresh", body))
            return self._tokens.access_token


async def sign_in(url: str, email: str, password: str) -> Account:
    """Sign in at the server ``http://host:port``. Raises `protocol.refusals.Refused`, and OSError when it is not there."""
    return Account(url, await _post(url, "/auth/login", {"email": email, "password": password}))


async def register(url: str, email: str, password: str, name: str) -> Account:
    """Make an account, signed in. `name` is what others see. Raises as `sign_in` does."""
    body = {"email": email, "password": password, "name": name}
    return Account(url, await _post(url, "/auth/register", body))


async def _post(url: str, path: str, body: dict[str, Any]) -> Tokens:
    return await asyncio.to_thread(exchange, url, "POST", path, Tokens, msgspec.json.encode(body))


def exchange(
    url: str,
    method: str,
    path: str,
    answer: type[AnswerT],
    body: bytes | BinaryIO | None = None,
    headers: Mapping[str, str] = _JSON,
) -> AnswerT:
    """Send a request and wait for its answer, in a thread. Raises `protocol.refusals.Refused`, and OSError as `sign_in` does."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or parts.hostname is None:
        raise ValueError(f"{url!r} is not an address such as http://127.0.0.1:8000")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=TIMEOUT)
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        data = response.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"{url} does not speak HTTP as we know it: {error!r}") from None
    finally:
        connection.close()
    try:
        if response.status < 300:
            return msgspec.json.decode(data, type=answer)
        problem = msgspec.json.decode(data, type=Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ConnectionError(
            f"{url}{path} answered {response.status}, but not as our server does."
        ) from None
    raise refused(
        Error(code=problem.code, message=problem.detail, retry_after=problem.retry_after, path=problem.path)
    )
