"""People to test with: real accounts, made over HTTP once and kept in a file, so that only the first run waits for passwords.

A password costs the server some 20 ms on purpose, so a thousand new accounts take a while; a kept access token that still
lives costs nothing, one that does not is renewed by its refresh token, without a password.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bench.roomlog import Unexpected

AT_ONCE = 8
PASSWORD = "a password of load testers"
_TIMEOUT = 30.0


class SignedIn(msgspec.Struct):
    """What the server gives; `expires_in` is in seconds."""

    access_token: str
    refresh_token: str
    expires_in: float


class Kept(msgspec.Struct):
    """What is kept of an account; `expires_at` is in seconds since 1970."""

    access_token: str
    refresh_token: str
    expires_at: float


class Accounts:
    """The accounts of one server, in a file beside its data."""

    def __init__(self, url: str, file: Path) -> None:
        self._host, self._port = address(url)
        self._file = file
        self._thread = local()
        self._connections: list[http.client.HTTPConnection] = []
        self._kept: dict[str, Kept] = {}
        if file.exists():
            self._kept = msgspec.json.decode(file.read_bytes(), type=dict[str, Kept])

    @property
    def count(self) -> int:
        """How many people have an account already."""
        return len(self._kept)

    def people(
        self, count: int, seconds: float, progress: Callable[[int], None] = lambda _: None
    ) -> list[str]:
        """Return access tokens of `count` different people, each living for `seconds` more.

        `progress` is called with the number of those who are ready. Raises `Unexpected`.
        """
        emails = [f"tester-{number}@bench.example" for number in range(count)]
        ready = 0
        tokens = []
        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                for token in pool.map(lambda email: self._token(email, seconds), emails):
                    tokens.append(token)
                    ready += 1
                    progress(ready)
            finally:
                self._hang_up()
                self._file.write_bytes(msgspec.json.encode(self._kept))
        return tokens

    def sign_in(self, email: str, password: str) -> str:
        """Return an access token of an account that exists. Raises `Unexpected`."""
        signed_in = self._post("/auth/login", {"email": email, "password": password})
        self._hang_up()
        if isinstance(signed_in, str):
            raise Unexpected(f"{email} cannot sign in: {signed_in}")
        return signed_in.access_token

    def _token(self, email: str, seconds: float) -> str:
        kept = self._kept.get(email)
        if kept is not None and kept.expires_at > time.time() + seconds:
            return kept.access_token
        found: SignedIn | str = "it is not known here"
        if kept is not None:
            found = self._post("/auth/refresh", {"refresh_token": kept.refresh_token})
        if isinstance(found, str):
            name = email.partition("@")[0].replace("-", " ").capitalize()
            found = self._post("/auth/register", {"email": email, "password": PASSWORD, "name": name})
        if isinstance(found, str):
            found = self._post("/auth/login", {"email": email, "password": PASSWORD})
        if isinstance(found, str):
            raise Unexpected(f"{email} can neither be made nor sign in: {found}")
        if found.expires_in < seconds:
            raise Unexpected(
                f"an access token lives {found.expires_in:g} s here, which is less than the run takes"
            )
        self._kept[email] = Kept(found.access_token, found.refresh_token, time.time() + found.expires_in)
        return found.access_token

    def _post(self, path: str, body: dict[str, Any]) -> SignedIn | str:
        """Return what was given, or why it was not; a busy server is asked again."""
        until = time.monotonic() + _TIMEOUT
        while True:
            status, data = self._request(path, msgspec.json.encode(body))
            if status < 300:
                return msgspec.json.decode(data, type=SignedIn)
            if status not in (429, 503) or time.monotonic() > until:
                return f"{status} {data[:200].decode(errors='replace')}"
            time.sleep(0.5)

    def _hang_up(self) -> None:
        self._thread = local()
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def _request(self, path: str, body: bytes) -> tuple[int, bytes]:
        connection: http.client.HTTPConnection | None = getattr(self._thread, "connection", None)
        if connection is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT)
            self._thread.connection = connection
            self._connections.append(connection)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unexpected(f"http://{self._host}:{self._port}{path} does not answer: {error!r}") from error


def address(url: str) -> tuple[str, int]:
    """Return host and port of ``http://host:port``. Raises `Unexpected` for anything else."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "ws") or parts.hostname is None:
        raise Unexpected(f"{url!r} is not an address such as http://127.0.0.1:8000")
    return parts.hostname, parts.port or 80
