"""What every request passes before anything else, and every response after: host, origin, headers, and a last catch.

The lists are those that the websocket's handshake checks. An origin is either allowed everywhere or nowhere; that it must be
there at all where a cookie decides is for `cookies` to see. Cookies of ours go along only with the requests of allowed pages
(``access-control-allow-credentials``), and each is named, never ``*``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Final
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from protocol.refusals import ErrorCode, Refused
from server.addresses import Addresses
from server.http.problems import response_of

_LOGGER = logging.getLogger("looprooms.http")

PREFLIGHT_SECONDS: Final = 600
_HTTPS_ONLY: Final = "max-age=31536000"
"""For a year, and this name alone: what else stands under its domain is not ours to decide."""
_SECURITY: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
_EXPOSED: Final = "content-range, etag, ratelimit, ratelimit-policy, retry-after, upload-offset"


class Guard:
    """ASGI middleware around all routes.

    Browsers are told to come by TLS alone (HSTS) where the world does: `https` says so of all of it, and a proxy among those
    that `addresses` trusts says so of a request (``X-Forwarded-Proto``). `elsewhere` are the paths to which a browser may post
    from a page of another origin, and those origins.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Iterable[str],
        origins: Iterable[str],
        elsewhere: Mapping[str, frozenset[str]],
        methods: Iterable[str],
        addresses: Addresses,
        https: bool,
    ) -> None:
        self._app = app
        self._addresses = addresses
        self._https = https
        self._hosts = frozenset(host.lower() for host in hosts)
        self._origins = frozenset(origins)
        self._elsewhere = elsewhere
        self._methods = ", ".join(sorted(methods))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._finish(MutableHeaders(scope=message), origin)
                if self._is_https(scope, headers):
                    MutableHeaders(scope=message)["strict-transport-security"] = _HTTPS_ONLY
            await send(message)

        try:
            response = self._checked(scope, headers, origin)
            if response is None:
                await self._app(scope, receive, send_guarded)
            else:
                await response(scope, receive, send_guarded)
        except ClientDisconnect:
            return
        except Exception:
            reference = uuid4().hex[:12]
            _LOGGER.exception("%s %s failed; reference %s", scope["method"], scope["path"], reference)
            if started:
                raise
            advice = f"{ErrorCode.INTERNAL.advice} (reference {reference})"
            await response_of(Refused(ErrorCode.INTERNAL, advice, retry_after=1.0))(
                scope, receive, send_guarded
            )

    def _checked(self, scope: Scope, headers: Headers, origin: str | None) -> Response | None:
        """Return a response when the request goes no further."""
        hosts = headers.getlist("host")
        if len(hosts) != 1 or name_of(hosts[0]) not in self._hosts:
            return response_of(Refused(ErrorCode.HOST_REFUSED))
        if origin is None:
            return None
        if origin not in self._origins:
            if scope["method"] == "POST" and origin in self._elsewhere.get(scope["path"], ()):
                return None
            return response_of(Refused(ErrorCode.ORIGIN_REFUSED))
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            return Response(
                status_code=HTTPStatus.NO_CONTENT,
                headers={
                    "access-control-allow-methods": self._methods,
                    "access-control-allow-headers": "authorization, content-type, if-none-match, if-range, range, upload-offset",
                    "access-control-max-age": str(PREFLIGHT_SECONDS),
                },
            )
        return None

    def _is_https(self, scope: Scope, headers: Headers) -> bool:
        if self._https:
            return True
        client = scope.get("client")
        said = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
        return said == "https" and client is not None and self._addresses.trusts(client[0])

    def _finish(self, headers: MutableHeaders, origin: str | None) -> None:
        for name, value in _SECURITY.items():
            headers.setdefault(name, value)
        headers.add_vary_header("Origin")
        if origin in self._origins:
            headers["access-control-allow-origin"] = str(origin)
            headers["access-control-allow-credentials"] = "true"
            headers["access-control-expose-headers"] = _EXPOSED


def name_of(host: str) -> str:
    """Return the name in a Host header, without the port, in lower case; an IPv6 address keeps its brackets."""
    name, colon, port = host.rpartition(":")
    if colon and port.isdecimal():
        return name.lower()
    return host.lower()
