"""Pushes through Firebase Cloud Messaging (HTTP v1), which reaches phones and browsers whose app is closed.

We are a service account: an assertion that its key signs (RS256) is traded in for a token, which is good for an hour and shared by
all pushes. What FCM says of a push means one of four things:

| answer | meaning |
| --- | --- |
| 200 | it has it, and keeps it for the device until its time is over |
| 404 UNREGISTERED, 403 SENDER_ID_MISMATCH, 400 about the token | `Unregistered`: the device is not there any more |
| another 400 | `Unfit`: this push will never be taken; a bug of ours |
| 429, 5xx, no answer; 401, 403 or 404 for us | unavailable: again later, after what `Retry-After` says |

Once is kept by names, because FCM has no idempotency keys: each push carries the notification's id as the tag of what is shown
(`android.notification.tag`, `apns-collapse-id`, `Topic` of Web Push). One that is sent twice takes its own place on the screen;
it may sound twice. A `collapse_key` is not used: FCM keeps four of them for a device that is away and drops the others.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import httpx2
import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from msgspec import Struct

from protocol.refusals import ErrorCode, Refused
from server.gateways.gate import Gate
from server.gateways.outside import Answer, Outside, authorities
from server.settings import Settings

_LOGGER = logging.getLogger("looprooms.push")

FCM: Final = "https://fcm.googleapis.com"
SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_SECONDS: Final = 3600
EARLY_SECONDS: Final = 60.0
"""A token is renewed so long before it ends: a push that is under way takes its time."""
QUOTA_SECONDS: Final = 60.0
"""How long to leave FCM alone that says 429 and not how long; it is what Google asks for."""
OURS_SECONDS: Final = 60.0
"""How long until it is tried again when FCM does not take us: an operator has something to mend."""
_PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9:.-]{2,62}")


class Unregistered(Exception):  # noqa: N818 - it says what became of the device
    """The device is not there any more: nothing is to be pushed to it."""


class Unfit(Exception):  # noqa: N818 - see Unregistered
    """FCM will never take this push. `reason` holds nothing personal."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Push(Struct, frozen=True, kw_only=True):
    """What a device shows. `id` is the notification's, `data` is for the app; it is worth nothing after `seconds`."""

    id: UUID
    title: str
    body: str
    data: dict[str, str]
    seconds: float


class ServiceAccount(Struct, frozen=True):
    """Who we are to Google."""

    project_id: str
    client_email: str
    private_key_id: str
    private_key: str

    @property
    def key(self) -> RSAPrivateKey:
        """The key that signs assertions. Raises `ValueError`."""
        key = load_pem_private_key(self.private_key.encode(), None)
        if not isinstance(key, RSAPrivateKey):
            raise ValueError("not an RSA key")  # noqa: TRY004 - as for a text that is no key at all
        return key


class Fcm:
    """FCM, for one service account. `clock` is in seconds."""

    def __init__(
        self, account: ServiceAccount, url: str, client: httpx2.AsyncClient, clock: Callable[[], float]
    ) -> None:
        real = url == FCM
        self._account = account
        self._key = account.key
        self._client = client
        self._clock = clock
        self._outside = Outside("FCM", client, clock)
        self._send_url = f"{url}/v1/projects/{account.project_id}/messages:send"
        self._token_url = "https://oauth2.googleapis.com/token" if real else f"{url}/token"
        self._bearer = ""
        self._bearer_until = 0.0
        self._trading: asyncio.Task[None] | None = None
        self._alone_until = 0.0
        """It has asked to be left alone, or does not take us."""

    @property
    def away(self) -> bool:
        """Whether it is left alone for now, because it does not answer, has asked for it, or does not take us."""
        return self._outside.breaker.open or self._clock() < self._alone_until

    @property
    def gate(self) -> Gate:
        """Through which it is asked."""
        return self._outside.gate

    async def send(self, token: str, push: Push) -> None:
        """Have FCM push to a device. Raises `Unregistered`, `Unfit` and `Refused` (unavailable)."""
        if (wait := self._alone_until - self._clock()) > 0:
            raise self._refused(wait)
        message = _message(token, push)
        answer = await self._outside.post_json(self._send_url, message, bearer=await self._token())
        if answer.status == 401 and _error_code(answer) != "THIRD_PARTY_AUTH_ERROR":
            self._bearer_until = 0.0  # it may have been taken back: one is made anew, once
            answer = await self._outside.post_json(self._send_url, message, bearer=await self._token())
        if not answer.good:
            raise self._meaning(answer)

    async def aclose(self) -> None:
        """Close what is open to it."""
        if self._trading is not None:
            self._trading.cancel()
        await self._client.aclose()

    def _meaning(self, answer: Answer) -> Exception:
        code = _error_code(answer)
        if (answer.status, code) in ((404, "UNREGISTERED"), (403, "SENDER_ID_MISMATCH")):
            return Unregistered()
        if answer.status == 400:
            return Unregistered() if "message.token" in _fields(answer) else Unfit(f"FCM says {code}")
        if answer.status == 429:
            return self._later(answer.retry_after or QUOTA_SECONDS)
        _LOGGER.error("FCM does not take us: status %d, %.40s", answer.status, code)
        return self._later(OURS_SECONDS)

    async def _token(self) -> str:
        """Return a token that is good for a while. Raises `Refused` (unavailable)."""
        if self._clock() >= self._bearer_until:
            if self._trading is None:
                self._trading = asyncio.ensure_future(self._trade())
            await asyncio.shield(self._trading)
        return self._bearer

    async def _trade(self) -> None:
        """Trade in an assertion: once for all who wait."""
        try:
            now = int(time.time())
            claims = {
                "iss": self._account.client_email,
                "scope": SCOPE,
                "aud": self._token_url,
                "iat": now,
                "exp": now + ASSERTION_SECONDS,
            }
            assertion = jwt.encode(
                claims, self._key, algorithm="RS256", headers={"kid": self._account.private_key_id}
            )
            answer = await self._outside.post(self._token_url, {"grant_type": GRANT, "assertion": assertion})
            token, seconds = answer.body.get("access_token"), answer.body.get("expires_in")
            if not answer.good or not isinstance(token, str) or not isinstance(seconds, int):
                _LOGGER.error("Google does not take our service account: %.60s", answer.body.get("error"))
                raise self._later(answer.retry_after or OURS_SECONDS)
            self._bearer = token
            self._bearer_until = self._clock() + max(1.0, seconds - EARLY_SECONDS)
        finally:
            self._trading = None

    def _later(self, after: float) -> Refused:
        self._alone_until = self._clock() + after
        return self._refused(after)

    @staticmethod
    def _refused(after: float) -> Refused:
        return Refused(ErrorCode.UNAVAILABLE, "FCM does not take it now.", retry_after=after)


def open_push(settings: Settings, clock: Callable[[], float]) -> Fcm | None:
    """Return what pushes by these settings; None where nothing is pushed."""
    if not settings.fcm_service_account:
        return None
    account = service_account(settings.fcm_service_account)
    return Fcm(account, settings.fcm_url, httpx2.AsyncClient(verify=authorities()), clock)


def service_account(text: str) -> ServiceAccount:
    """Read the JSON of a service account's key. Raises `ValueError`."""
    try:
        account = msgspec.json.decode(text, type=ServiceAccount)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from None
    if not _PROJECT.fullmatch(account.project_id):
        raise ValueError("no project")
    _ = account.key
    return account


def _message(token: str, push: Push) -> dict[str, Any]:
    tag, seconds = str(push.id), max(0, int(push.seconds))
    return {
        "message": {
            "token": token,
            "notification": {"title": push.title, **({"body": push.body} if push.body else {})},
            "data": push.data,
            "android": {"priority": "high", "ttl": f"{seconds}s", "notification": {"tag": tag}},
            "apns": {
                "headers": {
                    "apns-collapse-id": tag,
                    "apns-expiration": str(int(time.time()) + seconds),
                    "apns-priority": "10",
                }
            },
            "webpush": {
                "headers": {"TTL": str(seconds), "Topic": push.id.hex},
                "notification": {"tag": tag},
            },
        }
    }


def _error_code(answer: Answer) -> str:
    """Return what FCM calls an error: its own code, or that of Google's interfaces in general."""
    error = answer.body.get("error")
    if not isinstance(error, dict):
        return "no reason"
    for detail in _details(error):
        if isinstance(code := detail.get("errorCode"), str):
            return code
    return str(error.get("status", "no reason"))


def _fields(answer: Answer) -> set[str]:
    """Return the fields that FCM says to be wrong."""
    error = answer.body.get("error")
    found: set[str] = set()
    for detail in _details(error if isinstance(error, dict) else {}):
        violations = detail.get("fieldViolations")
        for one in violations if isinstance(violations, list) else ():
            if isinstance(one, dict):
                found.add(str(one.get("field")))
    return found


def _details(error: dict[str, Any]) -> list[dict[str, Any]]:
    details = error.get("details")
    return [one for one in details if isinstance(one, dict)] if isinstance(details, list) else []
