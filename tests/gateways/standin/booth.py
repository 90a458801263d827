"""A stand-in without a node: asked with plain HTTP, as anybody could."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx2

from server.gateways.standin.ledger import VERSION, Object
from server.gateways.standin.standin import StandIn, serving

KEY = "sk_test_booth"
PRICE = {
    "currency": "usd",
    "unit_amount": "999",
    "product_data[name]": "Premium",
    "recurring[interval]": "month",
    "metadata[looprooms_tier]": "PREMIUM_MONTHLY",
}


class Booth:
    """A served stand-in, and a client of its API. Its events are held."""

    def __init__(self, stand_in: StandIn, client: httpx2.AsyncClient) -> None:
        self.stand_in = stand_in
        self.client = client
        self.told: list[Object] = []
        stand_in.deliveries.held = self.told

    @property
    def kinds(self) -> list[str]:
        """What happened, in order."""
        return [event["type"] for event in self.told]

    async def ask(self, method: str, path: str, **headers: str) -> httpx2.Response:
        """Ask without a form."""
        return await self.client.request(method, path, headers={**self._headers(), **headers})

    async def post(
        self, path: str, form: Mapping[str, str] | None = None, *, key: str | None = None
    ) -> httpx2.Response:
        """Send a form."""
        headers = self._headers() | ({} if key is None else {"idempotency-key": key})
        return await self.client.post(path, data=dict(form or {}), headers=headers)

    async def made(self, path: str, **form: Any) -> Object:
        """Send a form and return what was made."""
        answer = await self.post(path, form)
        assert answer.status_code == 200, answer.text
        found: Object = answer.json()
        return found

    async def checkout(self, mode: str = "subscription", **form: str) -> Object:
        """Begin a checkout of one thing; return it as the stand-in has it."""
        price = {k: v for k, v in PRICE.items() if mode == "subscription" or not k.startswith("recurring")}
        made = await self.made("/v1/prices", **price)
        line = {"line_items[0][price]": made["id"], "line_items[0][quantity]": "1"}
        session = await self.made(
            "/v1/checkout/sessions", **{"mode": mode, "success_url": "http://shop/paid", **line, **form}
        )
        return self.stand_in.ledger.get("checkout.session", session["id"])

    async def subscribed(self, **form: str) -> Object:
        """Go through a checkout; return the subscription as the stand-in has it."""
        session = await self.checkout(**form)
        self.stand_in.billing.complete(session)
        return self.stand_in.ledger.get("subscription", session["subscription"])

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.stand_in.ledger.skipped += seconds
        self.stand_in.billing.advance()

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {KEY}", "stripe-version": VERSION}


@asynccontextmanager
async def booth(**options: Any) -> AsyncIterator[Booth]:
    """Open one."""
    async with (
        serving(StandIn("http://127.0.0.1:9/nowhere", key=KEY, **options), alive=False) as stand_in,
        httpx2.AsyncClient(base_url=stand_in.base, trust_env=False) as client,
    ):
        yield Booth(stand_in, client)
