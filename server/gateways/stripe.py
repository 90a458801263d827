"""Stripe through its own library, which is slow to import: that is done by the first who needs it, off the loop."""

from __future__ import annotations

import asyncio
import importlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import httpx2
import msgspec

from protocol.envelope import UserId
from protocol.refusals import ErrorCode, Refused
from server.gateways.cards import CheckoutPage, Declined, Gone, NotAtHand, Order, PassOrder, TransferOrder
from server.gateways.gate import TOGETHER, Gate, Unanswered
from server.gateways.outside import authorities
from server.plans import CURRENCY, Plan
from server.settings import Settings
from storage.payment_objects import (
    ROOM,
    TIER,
    USER,
    AccountObject,
    InvoicePaymentObject,
    PaymentEvent,
    SubscriptionObject,
    read_event,
)
from storage.payouts import Transfer

if TYPE_CHECKING:
    import stripe

    StripeClient = stripe.StripeClient

_LOGGER = logging.getLogger("looprooms.stripe")
# At INFO it logs the address of each request, and ids of customers stand in them.
logging.getLogger("httpx2").setLevel(logging.WARNING)

PAGE: Final = 100
RETRIES: Final = 1
DECLINED: Final = ("insufficient_capabilities_for_transfer", "account_invalid", "transfers_not_allowed")
"""Codes of what is not done before an account was changed."""

RETURNED: Final = ("charge_already_refunded", "charge_disputed")
"""Codes of what needs no refund: the money has gone back, or its bank has it."""

AnswerT = TypeVar("AnswerT")


class StripeCards:
    """See `server.gateways.cards.Cards`."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._key = settings.stripe_secret_key
        self._base = settings.stripe_api_base
        self._seconds = settings.stripe_timeout_seconds
        self._http = httpx2.AsyncClient(
            timeout=self._seconds,
            verify=authorities(),
            trust_env=False,
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=TOGETHER),
        )
        self._library: asyncio.Task[StripeClient] | None = None
        self._prices: dict[str, str] = {}
        self.gate = Gate("The payment provider", clock, seconds=self._seconds)
        self.breaker = self.gate.breaker

    @property
    def away(self) -> bool:
        """See `Cards`."""
        return self.breaker.open

    async def customer(self, user: UserId, key: str) -> str:
        """See `Cards`. Nothing personal is told: the address for receipts is asked for at the checkout."""
        made = await self._ask(
            lambda client: client.v1.customers.create_async(
                {"metadata": {USER: str(user)}}, {"idempotency_key": key}
            )
        )
        return made.id

    async def checkout(self, order: Order) -> CheckoutPage:
        """See `Cards`."""
        price = await self._price(order.plan)
        mine = {USER: str(order.user)}
        subscription: stripe.params.checkout.SessionCreateParamsSubscriptionData = {"metadata": mine}
        if order.trial and order.plan.trial_days:
            subscription["trial_period_days"] = order.plan.trial_days
        made = await self._ask(
            lambda client: client.v1.checkout.sessions.create_async(
                {
                    "mode": "subscription",
                    "customer": order.customer,
                    "client_reference_id": str(order.user),
                    "line_items": [{"price": price, "quantity": 1}],
                    "metadata": mine,
                    "subscription_data": subscription,
                    "success_url": order.paid_url,
                    "cancel_url": order.left_url,
                },
                {"idempotency_key": order.key},
            )
        )
        return CheckoutPage(made.id, made.url or "")

    async def checkout_pass(self, order: PassOrder) -> CheckoutPage:
        """See `Cards`. The price is told with the order: it is the host's, and a pass is bought at the one of that moment."""
        mine = {USER: str(order.user), ROOM: str(order.room)}
        price: stripe.params.checkout.SessionCreateParamsLineItemPriceData = {
            "currency": CURRENCY,
            "unit_amount": order.cents,
            "product_data": {"name": order.title, "metadata": {ROOM: str(order.room)}},
        }
        wanted: stripe.params.checkout.SessionCreateParams = {
            "mode": "payment",
            "customer": order.customer,
            "client_reference_id": str(order.user),
            "line_items": [{"price_data": price, "quantity": 1}],
            "metadata": mine,
            "success_url": order.paid_url,
            "cancel_url": order.left_url,
        }
        if order.monthly:
            price["recurring"] = {"interval": "month"}
            wanted["mode"] = "subscription"
            wanted["subscription_data"] = {"metadata": mine}
        else:
            wanted["payment_intent_data"] = {"metadata": mine}
        made = await self._ask(
            lambda client: client.v1.checkout.sessions.create_async(wanted, {"idempotency_key": order.key})
        )
        return CheckoutPage(made.id, made.url or "")

    async def checkout_page(self, id: str) -> CheckoutPage:  # noqa: A002 - the provider's name
        """See `Cards`."""
        found = await self._ask(lambda client: client.v1.checkout.sessions.retrieve_async(id))
        return CheckoutPage(found.id, found.url or "", paid=found.status == "complete")

    async def expire(self, id: str) -> CheckoutPage:  # noqa: A002 - the provider's name
        """See `Cards`. One that is over can't be ended, and the provider has no code for it."""
        page = await self.checkout_page(id)
        if not page.url:
            return page
        try:
            await self._ask(lambda client: client.v1.checkout.sessions.expire_async(id))
        except importlib.import_module("stripe").InvalidRequestError:
            _LOGGER.info("a checkout was over when it was to be ended")
        return await self.checkout_page(id)

    async def payments_of(self, invoice: str) -> list[tuple[str, int]]:
        """See `Cards`."""
        page = await self._ask(
            lambda client: client.v1.invoice_payments.list_async({"invoice": invoice, "limit": PAGE})
        )
        payments = [msgspec.convert(one.to_dict(), InvoicePaymentObject) for one in page.data]
        return [
            (one.payment.payment_intent, one.amount_paid or 0)
            for one in payments
            if one.payment.payment_intent is not None and one.status == "paid"
        ]

    async def refund(self, payment: str, key: str) -> None:
        """See `Cards`."""
        try:
            await self._ask(
                lambda client: client.v1.refunds.create_async(
                    {"payment_intent": payment}, {"idempotency_key": key}
                )
            )
        except importlib.import_module("stripe").InvalidRequestError as error:
            if error.code not in RETURNED:
                raise

    async def cancel(self, id: str) -> None:  # noqa: A002 - the provider's name
        """See `Cards`."""
        await self._ask(lambda client: client.v1.subscriptions.cancel_async(id))

    async def cancel_at_end(self, id: str) -> None:  # noqa: A002 - the provider's name
        """See `Cards`."""
        await self._ask(
            lambda client: client.v1.subscriptions.update_async(id, {"cancel_at_period_end": True})
        )

    async def portal(self, customer: str, return_url: str) -> str:
        """See `Cards`."""
        made = await self._ask(
            lambda client: client.v1.billing_portal.sessions.create_async(
                {"customer": customer, "return_url": return_url}
            )
        )
        return made.url

    async def forget(self, customer: str) -> None:
        """See `Cards`."""
        await self._ask(lambda client: client.v1.customers.delete_async(customer))

    async def subscription(self, id: str) -> SubscriptionObject:  # noqa: A002 - the provider's name
        """See `Cards`."""
        found = await self._ask(lambda client: client.v1.subscriptions.retrieve_async(id))
        return msgspec.convert(found.to_dict(), SubscriptionObject)

    async def account(self, user: UserId, key: str) -> str:
        """See `Cards`. What the provider must know of a creator it asks them itself."""
        made = await self._ask(
            lambda client: client.v1.accounts.create_async(
                {
                    "type": "express",
                    "capabilities": {"transfers": {"requested": True}},
                    "metadata": {USER: str(user)},
                },
                {"idempotency_key": key},
            )
        )
        return made.id

    async def account_link(self, account: str, again_url: str, return_url: str) -> str:
        """See `Cards`."""
        made = await self._ask(
            lambda client: client.v1.account_links.create_async(
                {
                    "account": account,
                    "type": "account_onboarding",
                    "refresh_url": again_url,
                    "return_url": return_url,
                }
            )
        )
        return made.url

    async def account_ready(self, account: str) -> bool:
        """See `Cards`."""
        found = await self._ask(lambda client: client.v1.accounts.retrieve_async(account))
        return msgspec.convert(found.to_dict(), AccountObject).ready

    async def transfer(self, order: TransferOrder) -> Transfer:
        """See `Cards`.

        The moment is looked at when there is nothing left to wait for but the connection: one that was idle for long its other
        end has closed, and a new one takes turns of the loop in which the deadline is noticed.
        """

        def in_time(client: StripeClient) -> Awaitable[stripe.Transfer]:
            if self.clock() > order.until:
                raise self.breaker.refused()
            return client.v1.transfers.create_async(
                {
                    "amount": order.cents,
                    "currency": CURRENCY,
                    "destination": order.account,
                    "transfer_group": order.name,
                },
                {"idempotency_key": order.name},
            )

        made = await self._ask(in_time)
        return Transfer(made.id, made.amount)

    async def transferred(self, name: str) -> Transfer | None:
        """See `Cards`. The newest is the first of a page, and more than one is what never happens: so a page has them all."""
        page = await self._ask(
            lambda client: client.v1.transfers.list_async({"transfer_group": name, "limit": PAGE})
        )
        kept = [one for one in page.data if not one.reversed]
        return Transfer(kept[-1].id, kept[-1].amount) if kept else None

    async def take_back(self, transfer: str) -> None:
        """See `Cards`."""
        found = await self._ask(lambda client: client.v1.transfers.retrieve_async(transfer))
        if not found.reversed:
            await self._ask(
                lambda client: client.v1.transfers.reversals.create_async(
                    transfer, {}, {"idempotency_key": f"take-back-{transfer}"}
                )
            )

    async def subscriptions(self) -> AsyncIterator[SubscriptionObject]:
        """See `Cards`."""
        after: dict[str, str] = {}
        while True:
            page = await self._ask(
                lambda client, after=after: client.v1.subscriptions.list_async(  # type: ignore[misc] # bound now
                    {"status": "all", "limit": PAGE, **after}
                )
            )
            for one in page.data:
                yield msgspec.convert(one.to_dict(), SubscriptionObject)
            if not page.has_more:
                return
            after = {"starting_after": page.data[-1].id}

    async def events(self, since: int) -> AsyncIterator[list[PaymentEvent]]:
        """See `Cards`."""
        after: dict[str, str] = {}
        while True:
            page = await self._ask(
                lambda client, after=after: client.v1.events.list_async(  # type: ignore[misc] # bound now
                    {"created": {"gte": since}, "limit": PAGE, **after}
                )
            )
            yield [read_event(msgspec.json.encode(one.to_dict())) for one in page.data]
            if not page.has_more:
                return
            after = {"starting_after": page.data[-1].id}

    async def aclose(self) -> None:
        """See `Cards`."""
        if self._library is not None:
            self._library.cancel()
        await self._http.aclose()

    async def _price(self, plan: Plan) -> str:
        """Return the id of a plan's price, which is made by the first who needs it."""
        key = plan.lookup_key
        if key not in self._prices:
            found = await self._ask(
                lambda client: client.v1.prices.list_async({"lookup_keys": [key], "active": True, "limit": 1})
            )
            self._prices[key] = found.data[0].id if found.data else await self._make_price(plan)
        return self._prices[key]

    async def _make_price(self, plan: Plan) -> str:
        product = await self._ask(
            lambda client: client.v1.products.create_async(
                {"name": plan.name, "metadata": {TIER: plan.tier}},
                {"idempotency_key": f"product-{plan.lookup_key}"},
            )
        )
        price = await self._ask(
            lambda client: client.v1.prices.create_async(
                {
                    "product": product.id,
                    "currency": plan.currency,
                    "unit_amount": plan.cents,
                    "recurring": {"interval": plan.interval},
                    "lookup_key": plan.lookup_key,
                    "metadata": {TIER: plan.tier},
                },
                {"idempotency_key": f"price-{plan.lookup_key}"},
            )
        )
        return price.id

    # Asking.

    async def _ask(self, call: Callable[[StripeClient], Awaitable[AnswerT]]) -> AnswerT:
        """Ask once, within the deadline. Raises `Refused` (unavailable, key_reused), `Gone`, `Declined` and `NotAtHand`."""

        async def asking() -> AnswerT | Exception:
            client = await self._client()
            try:
                return await call(client)
            except Exception as error:  # noqa: BLE001 - what is none of Stripe's is raised again
                return self._meaning(error)

        answer = await self.gate.ask(asking)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _meaning(self, error: Exception) -> Exception:
        """Return what an error of the library is to the caller. Raises `Unanswered`, and what is a bug of ours."""
        stripe = importlib.import_module("stripe")
        if isinstance(error, stripe.IdempotencyError):
            return Refused(ErrorCode.KEY_REUSED)
        if isinstance(error, stripe.InvalidRequestError):
            if error.code == "resource_missing":
                return Gone()
            if error.code in DECLINED:
                return Declined(error.code)
            if error.code == "balance_insufficient":
                return NotAtHand()
            raise error
        if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
            _LOGGER.error("Stripe does not take our key: %s", error.code)
            raise Unanswered("it does not take our key", after=60.0)
        if isinstance(error, stripe.StripeError):
            raise Unanswered(f"{type(error).__name__}, status {error.http_status}")
        raise error

    async def _client(self) -> StripeClient:
        if self._library is None:
            self._library = asyncio.get_running_loop().create_task(self._import())
        return await asyncio.shield(self._library)

    async def _import(self) -> StripeClient:
        await asyncio.to_thread(importlib.import_module, "stripe")
        import stripe

        http = self._http

        class Http(stripe.HTTPClient):
            """Carries the library's requests; it has one of its own for another version of our HTTP client."""

            name = "httpx2"

            async def request_async(
                self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
            ) -> tuple[bytes, int, Mapping[str, str]]:
                try:
                    answer = await http.request(method, url, headers=dict(headers), content=post_data or None)
                except httpx2.HTTPError as error:
                    problem: stripe.StripeError = stripe.APIConnectionError(  # type: ignore[no-untyped-call] # theirs
                        type(error).__name__, should_retry=True
                    )
                    raise problem from error
                return answer.content, answer.status_code, answer.headers

            async def sleep_async(self, secs: float) -> None:
                await asyncio.sleep(secs)

            async def close_async(self) -> None:
                await http.aclose()

        return stripe.StripeClient(
            self._key,
            http_client=Http(),
            base_addresses={"api": self._base},
            max_network_retries=RETRIES,
        )
