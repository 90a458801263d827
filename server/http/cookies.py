"""Cookies: what a browser keeps for us, out of reach of every script.

All names begin with ``__Host-``: a browser takes such a cookie only with ``Secure``, for this host alone and for the path
``/``, so neither another host of the domain nor an unencrypted connection can set or replace one. On loopback, where the
embedded run speaks plain HTTP, Chromium and Firefox count the host as secure and keep them all the same (Safari does not):
one kind of cookie everywhere, and no setting that could weaken it by mistake.

A browser sends cookies with every request to this host, whichever page caused it. So whoever reads one here asks first
whether the request comes from an allowed page: `from_page`.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from starlette.requests import Request

from protocol.refusals import ErrorCode, Refused

REFRESH: Final = "__Host-looprooms-refresh"
"""Holds the refresh token. It is used by pages of allowed origins alone, so it is never sent along from a foreign site."""

_VALUE = re.compile(r"[A-Za-z0-9._~-]{1,3500}")


def cookie(
    name: str, value: str, *, seconds: float, same_site: Literal["Strict", "Lax", "None"] = "Strict"
) -> str:
    """Return the ``Set-Cookie`` that keeps `value` for so many seconds."""
    assert _VALUE.fullmatch(value)
    return f"{name}={value}; Max-Age={int(seconds)}; Path=/; Secure; HttpOnly; SameSite={same_site}"


def no_cookie(name: str, *, same_site: Literal["Strict", "Lax", "None"] = "Strict") -> str:
    """Return the ``Set-Cookie`` that takes a cookie back."""
    return f"{name}=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite={same_site}"


def kept(request: Request, name: str) -> str | None:
    """Return what the browser keeps under `name`. None also for what can't be ours, and for two of one name."""
    found = [
        value
        for pair in ";".join(request.headers.getlist("cookie")).split(";")
        for key, _, value in (pair.strip().partition("="),)
        if key == name
    ]
    return found[0] if len(found) == 1 and _VALUE.fullmatch(found[0]) else None


def from_page(request: Request) -> bool:
    """Say whether a page of an allowed origin asks. A client that is not a browser sends no Origin; the guard knows the list."""
    return "origin" in request.headers


def only_from_page(request: Request) -> None:
    """Raise `Refused` (origin_refused) unless a page of an allowed origin asks: before a cookie decides anything."""
    if not from_page(request):
        raise Refused(ErrorCode.ORIGIN_REFUSED, "A cookie counts only with the Origin of an allowed page.")
