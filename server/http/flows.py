"""A sign-in that is under way at a provider, bound to the browser that began it.

What binds it is a cookie, good for ten minutes and for one return. It holds a random secret, signed like the rest of it, from
which state, nonce and the verifier of PKCE follow with a key that only the nodes have. So nothing is stored here, any node can
finish what another one began, and who sees the address of the provider, or even the cookie, learns none of the others.

- The state comes back with the browser: a page that sends somebody's browser here with a code of its own does not know it.
- The nonce comes back inside the ID token: a token that was made for another sign-in does not hold it.
- The verifier goes to the provider with the code: a code that was caught on its way is worth nothing without it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Collection
from typing import Final, Literal

import msgspec
from msgspec import Struct

from protocol.envelope import SessionId
from protocol.refusals import ErrorCode, Refused
from server.gateways.identity import Provider
from server.tokens import Tokens

FLOW_SECONDS: Final = 600.0
_PURPOSE: Final = b"looprooms: a sign-in under way, v1"
_PLACE = re.compile(r"[!-~]{1,500}")
_NO_PLACE = re.compile(r"[\\#\"<>]")


class Flow(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the cookie holds. `link` is the session of whoever links the identity to their account, instead of signing in.

    `replaces` is the session that the browser had when it set out: the cookie of that does not come along from another site.
    `name` is what Apple said somebody is called, which it says once: kept for the next attempt when this one fails.
    """

    provider: str
    secret: str
    expires_at: float
    then: str = "/"
    link: SessionId | None = None
    replaces: SessionId | None = None
    name: str | None = None


class Flows:
    """Begins and takes up sign-ins. `clock` is in seconds since 1970."""

    def __init__(self, tokens: Tokens, *, clock: Callable[[], float] = time.time) -> None:
        self._tokens = tokens
        self._clock = clock

    def begin(
        self,
        provider: str,
        then: str,
        *,
        link: SessionId | None = None,
        replaces: SessionId | None = None,
        name: str | None = None,
    ) -> UnderWay:
        """Begin a sign-in that leads to `then`."""
        flow = Flow(
            provider=provider,
            secret=secrets.token_urlsafe(32),
            expires_at=self._clock() + FLOW_SECONDS,
            then=then,
            link=link,
            replaces=replaces,
            name=name,
        )
        return UnderWay(flow, self._tokens.derived(_PURPOSE)[0])

    def taken_up(self, cookie: str | None, provider: str) -> UnderWay | None:
        """Return what a browser began at `provider`, by the cookie that it keeps. None when it did not, or too long ago."""
        payload, _, signature = (cookie or "").partition(".")
        for key in self._tokens.derived(_PURPOSE):
            if hmac.compare_digest(signature.encode(), _mac(key, "cookie", payload).encode()):
                flow = _read(payload)
                if flow is None or flow.provider != provider or flow.expires_at <= self._clock():
                    return None
                return UnderWay(flow, key)
        return None


class UnderWay:
    """A sign-in under way, with all that follows from its secret."""

    def __init__(self, flow: Flow, key: bytes) -> None:
        self.flow = flow
        self._key = key

    @property
    def cookie(self) -> str:
        """What the browser keeps."""
        payload = _base64(msgspec.json.encode(self.flow))
        return f"{payload}.{_mac(self._key, 'cookie', payload)}"

    @property
    def state(self) -> str:
        """What the provider sends back with the browser."""
        return _mac(self._key, "state", self.flow.secret)

    @property
    def nonce(self) -> str:
        """What the provider puts into the ID token."""
        return _mac(self._key, "nonce", self.flow.secret)

    @property
    def verifier(self) -> str:
        """What is shown to the provider when the code is traded in (RFC 7636)."""
        return _mac(self._key, "verifier", self.flow.secret)

    @property
    def challenge(self) -> str:
        """What the provider gets first: the SHA-256 of the verifier."""
        return _base64(hashlib.sha256(self.verifier.encode()).digest())

    @property
    def spent(self) -> bytes:
        """The hash by which it is known that this was finished."""
        return hashlib.sha256(b"flow " + self.flow.secret.encode()).digest()

    def fits(self, state: str) -> bool:
        """Say whether `state` is the one of this sign-in."""
        return state.isascii() and hmac.compare_digest(state, self.state)


def cookie_name(provider: Provider) -> str:
    """Name the cookie of a sign-in at `provider`."""
    return f"__Host-looprooms-{provider.name}"


def same_site(provider: Provider) -> Literal["Lax", "None"]:
    """Return when the cookie goes along. With a query it does as on any link; what is posted across sites brings only ``None``.

    That is no danger: it counts with the state alone, and lets nobody do anything but finish what they began.
    """
    return "None" if provider.posts else "Lax"


def checked_place(then: str, origins: Collection[str]) -> str:
    """Return where a browser may be sent after it signed in: a path here, or a page of an allowed origin. Raises `Refused`."""
    here = then.startswith("/") and not then.startswith("//")
    allowed = here or any(then == origin or then.startswith(f"{origin}/") for origin in origins)
    if not allowed or not _PLACE.fullmatch(then) or _NO_PLACE.search(then):
        raise Refused(ErrorCode.INVALID, "Name a path, or a page of an allowed origin.", path="$.then")
    return then


def _read(payload: str) -> Flow | None:
    try:
        return msgspec.json.decode(urlsafe_b64decode(payload + "=="), type=Flow)
    except (Base64Error, msgspec.MsgspecError, ValueError):
        return None


def _mac(key: bytes, kind: str, text: str) -> str:
    return _base64(hmac.digest(key, f"{kind} {text}".encode(), "sha256"))


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
