"""How subscriptions and payments live: begun at a checkout, renewed at the end of each period, failed, canceled, given back.

Each step changes objects and makes the events that Stripe makes, in its order. Time is the ledger's; `advance` does what has
become due.
"""

from __future__ import annotations

from typing import Any, Final

from server.gateways.standin.ledger import Ledger, Object
from server.gateways.standin.problems import StripeProblem

DAY: Final = 86400
GOOD: Final = "pm_card_visa"
FAILS_LATER: Final = "pm_card_chargeCustomerFail"
DECLINED: Final = "pm_card_chargeDeclined"
OVER: Final = ("canceled", "incomplete_expired")
ATTEMPTS: Final = 4
"""How often a renewal is tried before the subscription is canceled."""


class Billing:
    """The lives of all objects. `month` is how many seconds a month lasts here; a year is twelve."""

    def __init__(self, ledger: Ledger, month: int = 30 * DAY) -> None:
        self._ledger = ledger
        self.month = month

    # Checkout.

    def complete(self, session: Object, method: str = GOOD) -> None:
        """Pay a checkout, as its customer does on the page. Raises `StripeProblem` when the card is declined."""
        if session["status"] != "open":
            raise StripeProblem(400, "checkout_session_not_open", "This Checkout Session is no longer open.")
        if method == DECLINED:
            raise StripeProblem(402, "card_declined", "Your card was declined.", kind="card_error")
        if session["customer"] is None:
            session["customer"] = self._ledger.add(
                "customer", email=None, name=None, metadata={}, deleted=False
            )["id"]
        if session["mode"] == "subscription":
            self._subscribe(session, method)
        else:
            self._pay_once(session, method)
        session["status"] = "complete"
        session["payment_status"] = "paid"
        session["url"] = None
        self._ledger.tell("checkout.session.completed", session)

    def expire(self, session: Object) -> None:
        """End a checkout that nobody paid."""
        if session["status"] != "open":
            raise StripeProblem(
                400, "checkout_session_not_open", "Only open Checkout Sessions can be expired."
            )
        session["status"] = "expired"
        session["url"] = None
        self._ledger.tell("checkout.session.expired", session)

    def _subscribe(self, session: Object, method: str) -> None:
        data = session["standin"]["subscription_data"]
        now = self._ledger.now()
        trial = data.get("trial_period_days")
        price = session["standin"]["items"][0]["price"]
        end = now + trial * DAY if trial else now + self._period(price)
        subscription = self._ledger.add(
            "subscription",
            customer=session["customer"],
            status="trialing" if trial else "incomplete",
            metadata=data.get("metadata", {}),
            cancel_at=None,
            cancel_at_period_end=False,
            canceled_at=None,
            ended_at=None,
            trial_start=now if trial else None,
            trial_end=end if trial else None,
            cancellation_details={"comment": None, "feedback": None, "reason": None},
            default_payment_method=method,
            latest_invoice=None,
            items={"object": "list", "has_more": False, "data": [self._item(price, now, end)]},
            standin={"attempts": 0},
        )
        session["subscription"] = subscription["id"]
        self._ledger.tell("customer.subscription.created", subscription)
        self._invoice(subscription, "subscription_create", 0 if trial else price["unit_amount"], paid=True)
        if not trial:
            self._change(subscription, status="active")

    def _item(self, price: Object, start: int, end: int) -> Object:
        return self._ledger.add(
            "subscription_item",
            price=price,
            quantity=1,
            current_period_start=start,
            current_period_end=end,
            metadata={},
        )

    def _pay_once(self, session: Object, method: str) -> None:
        data = session["standin"]["payment_intent_data"]
        intent = self._intent(
            session["amount_total"],
            session["currency"],
            session["customer"],
            data.get("metadata", {}),
            method,
            transfer_data=data.get("transfer_data"),
            application_fee_amount=data.get("application_fee_amount"),
        )
        session["payment_intent"] = intent["id"]

    def charge(
        self, amount: int, currency: str, customer: str, intent: str | None, metadata: dict[str, str]
    ) -> Object:
        """Take money."""
        charge = self._ledger.add(
            "charge",
            amount=amount,
            amount_captured=amount,
            amount_refunded=0,
            currency=currency,
            customer=customer,
            payment_intent=intent,
            metadata=metadata,
            paid=True,
            refunded=False,
            disputed=False,
            status="succeeded",
        )
        self._ledger.tell("charge.succeeded", charge)
        return charge

    # Subscriptions.

    def cancel_at_end(self, subscription: Object, *, cancel: bool) -> None:
        """Let a subscription end with its period, or go on after all."""
        self._must_live(subscription)
        now = self._ledger.now()
        self._change(
            subscription,
            cancel_at_period_end=cancel,
            cancel_at=self.period_end(subscription) if cancel else None,
            canceled_at=now if cancel else None,
            cancellation_details=self._details("cancellation_requested" if cancel else None),
        )

    def cancel(self, subscription: Object, reason: str = "cancellation_requested") -> None:
        """End a subscription now."""
        self._must_live(subscription)
        now = self._ledger.now()
        subscription.update(
            status="canceled",
            ended_at=now,
            canceled_at=subscription["canceled_at"] or now,
            cancellation_details=self._details(reason),
        )
        self._ledger.tell("customer.subscription.deleted", subscription)

    def change_price(self, subscription: Object, price: Object) -> None:
        """Change to another plan; a new period begins."""
        self._must_live(subscription)
        now = self._ledger.now()
        item = self._item(price, now, now + self._period(price))
        self._invoice(subscription, "subscription_update", price["unit_amount"], paid=True)
        self._change(subscription, items={"object": "list", "has_more": False, "data": [item]})

    def set_method(self, subscription: Object, method: str) -> None:
        """Pay with another card from now on."""
        self._change(subscription, default_payment_method=method)

    def period_end(self, subscription: Object) -> int:
        """Return when the period of a subscription ends."""
        end: int = subscription["items"]["data"][0]["current_period_end"]
        return end

    def advance(self) -> None:
        """Do what has become due, in its order."""
        while True:
            now = self._ledger.now()
            living = [one for one in self._ledger.all("subscription") if one["status"] not in OVER]
            due = [one for one in living if self._due(one) <= now]
            if not due:
                return
            self._step(min(due, key=self._due))

    def _due(self, subscription: Object) -> int:
        if subscription["status"] == "past_due":
            retry: int = subscription["standin"]["retry_at"]
            return retry
        return self.period_end(subscription)

    def _step(self, subscription: Object) -> None:
        if subscription["cancel_at_period_end"]:
            self.cancel(subscription)
        elif subscription["status"] == "past_due":
            self._try_again(subscription)
        else:
            self._renew(subscription)

    def _renew(self, subscription: Object) -> None:
        item = subscription["items"]["data"][0]
        start = item["current_period_end"]
        paid = subscription["default_payment_method"] != FAILS_LATER
        new = {
            **item,
            "current_period_start": start,
            "current_period_end": start + self._period(item["price"]),
        }
        changes: dict[str, Any] = {"items": {"object": "list", "has_more": False, "data": [new]}}
        if not paid:
            subscription["standin"].update(attempts=1, retry_at=start + DAY * self.month // (30 * DAY))
            changes["status"] = "past_due"
        elif subscription["status"] == "trialing":
            changes["status"] = "active"
        self._change(subscription, **changes)
        self._invoice(subscription, "subscription_cycle", item["price"]["unit_amount"], paid=paid)

    def _try_again(self, subscription: Object) -> None:
        invoice = self._ledger.get("invoice", subscription["latest_invoice"])
        kept = subscription["standin"]
        if subscription["default_payment_method"] != FAILS_LATER:
            self.pay(invoice)
        elif kept["attempts"] >= ATTEMPTS:
            self.cancel(subscription, "payment_failed")
        else:
            kept["attempts"] += 1
            kept["retry_at"] += DAY * self.month // (30 * DAY)
            invoice["attempt_count"] += 1
            self._ledger.tell("invoice.payment_failed", invoice)

    def _must_live(self, subscription: Object) -> None:
        if subscription["status"] in OVER:
            raise StripeProblem(
                400, "resource_missing", f"No such subscription: '{subscription['id']}'", param="id"
            )

    def _change(self, subscription: Object, **changes: Any) -> None:
        before = {name: subscription[name] for name in changes if subscription[name] != changes[name]}
        subscription.update(changes)
        if before:
            self._ledger.tell("customer.subscription.updated", subscription, before)

    def _details(self, reason: str | None) -> Object:
        return {"comment": None, "feedback": None, "reason": reason}

    def _period(self, price: Object) -> int:
        return self.month * (12 if price["recurring"]["interval"] == "year" else 1)

    # Invoices, and money that goes back.

    def _invoice(self, subscription: Object, why: str, amount: int, *, paid: bool) -> None:
        invoice = self._ledger.add(
            "invoice",
            customer=subscription["customer"],
            billing_reason=why,
            currency=subscription["items"]["data"][0]["price"]["currency"],
            amount_due=amount,
            amount_paid=0,
            attempt_count=1,
            status="open",
            parent={
                "type": "subscription_details",
                "subscription_details": {
                    "subscription": subscription["id"],
                    "metadata": subscription["metadata"],
                },
            },
        )
        subscription["latest_invoice"] = invoice["id"]
        self._ledger.tell("invoice.created", invoice)
        if paid:
            self.pay(invoice)
        else:
            self._ledger.tell("invoice.payment_failed", invoice)

    def pay(self, invoice: Object) -> None:
        """Pay an invoice; a subscription that waited for it goes on."""
        if invoice["status"] == "paid":
            raise StripeProblem(400, "invoice_already_paid", "Invoice is already paid")
        invoice.update(status="paid", amount_paid=invoice["amount_due"])
        if invoice["amount_due"]:
            self._pay_invoice(invoice)
        self._ledger.tell("invoice.paid", invoice)
        subscription = self._ledger.get(
            "subscription", invoice["parent"]["subscription_details"]["subscription"]
        )
        if subscription["status"] in ("past_due", "unpaid"):
            self._change(subscription, status="active")

    def _pay_invoice(self, invoice: Object) -> None:
        amount, currency, customer = invoice["amount_due"], invoice["currency"], invoice["customer"]
        intent = self._intent(amount, currency, customer, {}, GOOD)
        payment = self._ledger.add(
            "invoice_payment",
            invoice=invoice["id"],
            amount_paid=amount,
            amount_requested=amount,
            currency=currency,
            payment={"type": "payment_intent", "payment_intent": intent["id"]},
            status="paid",
        )
        self._ledger.tell("invoice_payment.paid", payment)

    def _intent(
        self,
        amount: int,
        currency: str,
        customer: str,
        metadata: dict[str, str],
        method: str,
        *,
        transfer_data: Object | None = None,
        application_fee_amount: int | None = None,
    ) -> Object:
        intent = self._ledger.add(
            "payment_intent",
            amount=amount,
            amount_received=amount,
            currency=currency,
            customer=customer,
            metadata=metadata,
            status="succeeded",
            payment_method=method,
            transfer_data=transfer_data,
            application_fee_amount=application_fee_amount,
            latest_charge=None,
        )
        charge = self.charge(amount, currency, customer, intent["id"], metadata)
        intent["latest_charge"] = charge["id"]
        self._ledger.tell("payment_intent.succeeded", intent)
        return intent

    def refund(self, charge: Object, amount: int | None, metadata: dict[str, str]) -> Object:
        """Give money back."""
        left = charge["amount"] - charge["amount_refunded"]
        amount = left if amount is None else amount
        if not 0 < amount <= left:
            raise StripeProblem(
                400, "charge_already_refunded", "The refund is more than what is left.", param="amount"
            )
        refund = self._ledger.add(
            "refund",
            amount=amount,
            currency=charge["currency"],
            charge=charge["id"],
            payment_intent=charge["payment_intent"],
            metadata=metadata,
            status="succeeded",
        )
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        self._ledger.tell("charge.refunded", charge)
        self._ledger.tell("refund.created", refund)
        return refund

    def dispute(self, charge: Object, reason: str = "fraudulent") -> Object:
        """Let the customer's bank take the money back."""
        charge["disputed"] = True
        dispute = self._ledger.add(
            "dispute",
            amount=charge["amount"],
            currency=charge["currency"],
            charge=charge["id"],
            payment_intent=charge["payment_intent"],
            reason=reason,
            status="needs_response",
        )
        self._ledger.tell("charge.dispute.created", dispute)
        return dispute

    def close_dispute(self, dispute: Object, *, won: bool) -> None:
        """Let the bank decide."""
        dispute["status"] = "won" if won else "lost"
        self._ledger.tell("charge.dispute.closed", dispute)
