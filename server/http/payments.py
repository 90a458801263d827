"""Paying over HTTP: what there is to buy, the way to the provider's pages, and what the provider tells.

Nobody says what anything costs but our own table, and nobody says for whom but the access token. A webhook is believed for
its signature alone, and is answered with 2xx when its effect is committed, never before.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request

from protocol.envelope import IdempotencyKey
from protocol.refusals import ErrorCode, Refused
from protocol.subscriptions import Subscription, SubscriptionStatus, Tier
from server.gateways.cards import Cards, CheckoutPage, Gone, Order, check_signature
from server.http.callers import REFUSALS, caller_of
from server.http.checkouts import page_for
from server.http.endpoint import JSON, Endpoint, Link, Parameter, read_body
from server.payments import TAKERS, take
from server.plans import Plan, plans
from storage import subscriptions
from storage.checkouts import Want, thing_of
from storage.payment_objects import PaymentEvent, read_event
from storage.redis.limits import Limit

if TYPE_CHECKING:
    from server.node import Node

MOST_WEBHOOK_BYTES: Final = 262144
VISITS: Final = Limit("payments", burst=20, rate=1 / 6)
"""Ways to the provider's pages from one address: each is a call to the provider."""


class Plans(Struct, kw_only=True):
    """What one can subscribe to. Where nothing can be paid there are no plans."""

    plans: Annotated[list[Plan], Meta(description="Each with its price.")]
    pretend: Annotated[
        bool, Meta(description="The money is pretended: this server has a stand-in for Stripe.")
    ]


class Checkout(Struct):
    """Subscribe to a plan."""

    tier: Annotated[
        Literal["PREMIUM_MONTHLY", "PREMIUM_YEARLY", "CREATOR_PRO"], Meta(description="Which plan.")
    ]
    key: Annotated[
        IdempotencyKey, Meta(description="Made once for each wish; sent again, it is the same checkout.")
    ]


class Visit(Struct):
    """A page of the payment provider. Send the browser there."""

    url: Annotated[str, Meta(description="It is good for some minutes, and for this person alone.")]


class Event(Struct):
    """An event, as Stripe describes it. What else it holds is read by what it is about."""

    id: Annotated[str, Meta(description="One event has one id, however often it comes.")]
    type: Annotated[str, Meta(description="What happened, as `customer.subscription.updated`.")]
    created: Annotated[int, Meta(description="When: seconds since 1970.")]
    data: Annotated[dict[str, Any], Meta(description="With `object`: what it happened to.")]


class Payments:
    """The operations on payments, of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._plans = plans(node.settings)
        self._secrets = tuple(filter(None, map(str.strip, node.settings.stripe_webhook_secret.split(","))))

    async def list_plans(self, _: Request) -> Plans:
        """List what one can subscribe to, with its price."""
        if self._node.cards is None:
            return Plans(plans=[], pretend=False)
        return Plans(plans=list(self._plans.values()), pretend=self._node.settings.pretends)

    async def checkout(self, request: Request, body: Checkout) -> Visit:
        """Begin to subscribe: the answer is the page on which one pays. What comes of it is told over the websocket."""
        user = (await caller_of(self._node, request)).account.id
        cards = self._cards()
        pool = self._node.stores.pool
        if (await subscriptions.find(pool, user)).status not in (None, SubscriptionStatus.EXPIRED):
            raise Refused(ErrorCode.ALREADY_SUBSCRIBED)
        pay = f"{self._node.settings.home}/pay"
        trial = not await subscriptions.subscribed_before(pool, user)
        plan = self._plans[Tier(body.tier)]

        async def begin(customer: str, key: str) -> CheckoutPage:
            order = Order(
                user=user,
                customer=customer,
                plan=plan,
                key=key,
                trial=trial,
                paid_url=f"{pay}?paid",
                left_url=pay,
            )
            return await cards.checkout(order)

        want = Want(user, thing_of(None), f"{plan.lookup_key}{'+trial' if trial else ''}", body.key)
        return Visit((await page_for(pool, cards, want, begin, had=ErrorCode.ALREADY_SUBSCRIBED)).url)

    async def portal(self, request: Request) -> Visit:
        """Change or end a subscription, or see its invoices: the answer is the page where one does."""
        user = (await caller_of(self._node, request)).account.id
        cards = self._cards()
        customers = await subscriptions.customers_of(self._node.stores.pool, user)
        if not customers:
            raise Refused(ErrorCode.NOT_SUBSCRIBED)
        try:
            return Visit(await cards.portal(customers[0], f"{self._node.settings.home}/pay"))
        except Gone:
            await subscriptions.drop_customer(self._node.stores.pool, customers[0])
            raise Refused(ErrorCode.NOT_SUBSCRIBED) from None

    async def subscription(self, request: Request) -> Subscription:
        """Return how one's own subscription stands."""
        user = (await caller_of(self._node, request)).account.id
        return await subscriptions.find(self._node.stores.pool, user)

    async def webhook(self, request: Request) -> None:
        """Take what the payment provider tells. An event has its effect once, however often it comes.

        It is signed: with the secret of this server, over the time and the very bytes of the body.
        """
        self._cards()
        body = await read_body(request, most=MOST_WEBHOOK_BYTES)
        header = request.headers.get("stripe-signature", "")
        kind = "unknown"
        outcome = "failed"
        try:
            check_signature(body, header, self._secrets, time.time())
            event = _read(body)
            kind = event.about if event.about in TAKERS else "other"
            outcome = "again" if await take(self._node, event) is None else "taken"
        except Refused as refused:
            outcome = refused.code
            raise
        finally:
            self._node.webhooks[kind, outcome] += 1

    def _cards(self) -> Cards:
        if self._node.cards is None:
            raise Refused(ErrorCode.PAYMENTS_OFF)
        return self._node.cards


def _read(body: bytes) -> PaymentEvent:
    try:
        return read_event(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Refused(ErrorCode.MALFORMED, "Send an event of the payment provider.") from None


def endpoints(payments: Payments) -> list[Endpoint]:
    """List the operations on payments."""
    paying = (*REFUSALS, ErrorCode.PAYMENTS_OFF, ErrorCode.RATE_LIMITED)
    return [
        Endpoint(
            method="GET",
            path="/payments/plans",
            summary="What there is to subscribe to",
            handle=payments.list_plans,
            answer=Plans,
            group="Payments",
        ),
        Endpoint(
            method="POST",
            path="/payments/checkout",
            summary="Subscribe",
            handle=payments.checkout,
            body=Checkout,
            example=Checkout("PREMIUM_MONTHLY", "checkout-7d1f0c52"),
            answer=Visit,
            links=(Link(operation="subscription", meaning="See whether the payment counts by now."),),
            status=201,
            refuses=(*paying, ErrorCode.ALREADY_SUBSCRIBED, ErrorCode.KEY_REUSED),
            signed_in=True,
            limits=(VISITS,),
            group="Payments",
        ),
        Endpoint(
            method="POST",
            path="/payments/portal",
            summary="Manage a subscription",
            handle=payments.portal,
            answer=Visit,
            status=201,
            refuses=(*paying, ErrorCode.NOT_SUBSCRIBED),
            signed_in=True,
            limits=(VISITS,),
            group="Payments",
        ),
        Endpoint(
            method="GET",
            path="/payments/subscription",
            summary="What have I paid for",
            handle=payments.subscription,
            answer=Subscription,
            refuses=(*REFUSALS, ErrorCode.NOT_FOUND),
            signed_in=True,
            group="Payments",
        ),
        Endpoint(
            method="POST",
            path="/payments/webhook",
            summary="What the payment provider tells",
            handle=payments.webhook,
            parameters=(
                Parameter("Stripe-Signature", "header", "`t=` seconds since 1970, and `v1=` an HMAC-SHA256."),
            ),
            body=Event,
            reads=JSON,
            status=204,
            refuses=(
                ErrorCode.SIGNATURE_REFUSED,
                ErrorCode.MALFORMED,
                ErrorCode.INVALID,
                ErrorCode.TOO_LARGE,
                ErrorCode.MEDIA_TYPE_REFUSED,
                ErrorCode.PAYMENTS_OFF,
                ErrorCode.UNAVAILABLE,
            ),
            unlimited=True,
            group="Payments",
        ),
    ]
