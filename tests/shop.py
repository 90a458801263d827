"""A stand-in Stripe over a real socket, nodes that use it, and people who pay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx2

from protocol.client import Occurrence
from protocol.subscriptions import Subscription, SubscriptionChanged
from server.gateways.standin.billing import GOOD
from server.gateways.standin.ledger import Object
from server.gateways.standin.standin import StandIn, serving
from storage import subscriptions
from storage.postgres.pool import Pool
from tests.http.serving import Site
from tests.meeting import Guest, Meeting, meeting

KEY = "sk_test_shop"
SECRET = "whsec_shop"


class Shop:
    """Nodes that are paid, and who pays them. Webhooks go to the first node unless `stand_in.deliveries` says otherwise."""

    def __init__(self, stand_in: StandIn, nodes: Meeting) -> None:
        self.stand_in = stand_in
        self.nodes = nodes
        self.pool = nodes.pool
        self._known: dict[int, str] = {}

    @property
    def sites(self) -> Sequence[Site]:
        """The nodes."""
        return self.nodes.sites

    async def guest(self) -> Guest:
        """Make an account."""
        return await self.nodes.guest()

    async def ask(
        self, guest: Guest | None, method: str, path: str, site: int = 0, **body: Any
    ) -> httpx2.Response:
        """Ask a node over HTTP as somebody."""
        headers = {}
        if guest is not None:
            if id(guest) not in self._known:
                self._known[id(guest)] = await self.nodes.token(guest, self.sites[site])
            headers["authorization"] = f"Bearer {self._known[id(guest)]}"
        content = {"json": body} if body else {}
        return await self.sites[site].client.request(method, path, headers=headers, **content)  # type: ignore[arg-type]

    async def checkout(self, guest: Guest, tier: str = "PREMIUM_MONTHLY") -> Object:
        """Begin a checkout; return it as the stand-in has it."""
        answer = await self.ask(guest, "POST", "/payments/checkout", tier=tier, key=uuid4().hex)
        assert answer.status_code == 201, answer.text
        return self.stand_in.ledger.get("checkout.session", answer.json()["url"].rpartition("/")[2])

    async def subscribe(self, guest: Guest, tier: str = "PREMIUM_MONTHLY", method: str = GOOD) -> Object:
        """Go through a checkout and pay; return the subscription as the stand-in has it."""
        session = await self.checkout(guest, tier)
        self.stand_in.billing.complete(session, method)
        return self.stand_in.ledger.get("subscription", session["subscription"])

    async def standing(self, guest: Guest) -> Subscription:
        """Return how somebody stands."""
        return await subscriptions.find(self.pool, guest.user)

    async def stands(self, guest: Guest, *expected: str, within: float = 5.0) -> None:
        """Wait until somebody's tier, status and reason are these."""
        found: list[str] = []

        async def looking() -> None:
            while True:
                one = await self.standing(guest)
                found[:] = [one.tier, *(part for part in (one.status, one.reason) if part)]
                if found == list(expected):
                    return
                await asyncio.sleep(0.01)

        try:
            async with asyncio.timeout(within):
                await looking()
        except TimeoutError:
            raise AssertionError(f"expected {expected}, found {found}") from None

    def hold(self) -> list[Object]:
        """Hold all events back from now on; return the list that they are added to."""
        self.stand_in.deliveries.held = []
        return self.stand_in.deliveries.held

    async def deliver(self, events: Iterable[Object], site: int = 0) -> None:
        """Send events, one after the other, to a node; each must be taken."""
        deliveries = self.stand_in.deliveries
        deliveries.url = webhook(self.sites[site])
        for event in events:
            assert await deliveries.send(event) == 204


def webhook(site: Site) -> str:
    """Return where a node takes webhooks."""
    return f"http://127.0.0.1:{site.port}/payments/webhook"


def changes(heard: Sequence[Occurrence]) -> list[Subscription]:
    """Return what somebody was told of their subscription."""
    return [one.subscription for one in heard if isinstance(one, SubscriptionChanged)]


@asynccontextmanager
async def shop(
    database_url: str,
    redis_url: str,
    pool: Pool,
    nodes: int = 1,
    *,
    stand_in: StandIn | None = None,
    **settings: object,
) -> AsyncIterator[Shop]:
    """Open one; time passes at the stand-in only when a test lets it."""
    pretend = stand_in or StandIn("", key=KEY, secret=SECRET)
    async with serving(pretend, alive=False) as running:
        paid = {
            "stripe_secret_key": pretend.key,
            "stripe_webhook_secret": pretend.secret,
            "stripe_api_base": running.base,
        }
        async with meeting(database_url, redis_url, pool, nodes, **paid, **settings) as met:
            running.deliveries.url = webhook(met.sites[0])
            yield Shop(running, met)
