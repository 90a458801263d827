"""Webhooks: signed as Stripe signs them, sent until they are taken, and as badly as one likes.

Normally every event goes out at once, and again after a while if the answer is no 2xx. A test may hold events back and send
them itself, in any order, as often as it likes; or let all of them be lost.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
from typing import Final

import httpx2

from server.gateways.outside import authorities
from server.gateways.standin.ledger import Object

_LOGGER = logging.getLogger("looprooms.standin")

SECONDS: Final = 10.0
PAUSES: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
TOGETHER: Final = 4


def signature(body: bytes, secret: str, at: float) -> str:
    """Return the header that signs `body` at a moment."""
    moment = int(at)
    digest = hmac.new(secret.encode(), b"%d.%s" % (moment, body), hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


def encoded(event: Object) -> bytes:
    """Return an event as it is sent: not as any library would write it again."""
    return json.dumps(event, indent=2).encode()


class Deliveries:
    """Sends events to one address. `copies` is how often each goes out; `held` collects them instead while it is a list."""

    def __init__(self, url: str, secret: str) -> None:
        self.url = url
        self.copies = 1
        self.lost = False
        """Whether all that happens is lost on its way."""
        self.held: list[Object] | None = None
        self.taken: list[str] = []
        """Events that were answered with 2xx, in that order."""
        self.refused: list[tuple[str, int]] = []
        """Events that were answered otherwise."""
        self._secret = secret
        self._client = httpx2.AsyncClient(timeout=SECONDS, trust_env=False, verify=authorities())
        self._waiting: asyncio.Queue[Object] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Send what comes, until `aclose`."""
        for _ in range(TOGETHER):
            task = asyncio.get_running_loop().create_task(self._work())
            self._tasks.add(task)

    def add(self, event: Object) -> None:
        """Take an event."""
        if self.held is not None:
            self.held.append(event)
        elif not self.lost:
            for _ in range(self.copies):
                self._waiting.put_nowait(event)

    async def send(self, event: Object, *, secret: str | None = None, at: float | None = None) -> int:
        """Send an event once, now; return the status of the answer. Raises `httpx2.HTTPError` when there is none."""
        body = encoded(event)
        moment = time.time() if at is None else at
        headers = {
            "content-type": "application/json; charset=utf-8",
            "stripe-signature": signature(body, secret or self._secret, moment),
        }
        answer = await self._client.post(self.url, content=body, headers=headers)
        if answer.is_success:
            self.taken.append(event["id"])
        else:
            self.refused.append((event["id"], answer.status_code))
        return answer.status_code

    async def _work(self) -> None:
        while True:
            event = await self._waiting.get()
            attempt = 0
            while not self.lost and not await self._sent(event):
                await asyncio.sleep(PAUSES[min(attempt, len(PAUSES) - 1)])
                attempt += 1

    async def _sent(self, event: Object) -> bool:
        try:
            return 200 <= await self.send(event) < 300
        except httpx2.HTTPError as error:
            _LOGGER.info("the webhook %s was not taken: %s", event["type"], type(error).__name__)
            return False

    async def aclose(self) -> None:
        """Send nothing more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()
