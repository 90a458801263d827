"""What the stand-in does when it is asked: one function for each operation of `table`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from server.gateways.standin.billing import OVER, Billing
from server.gateways.standin.connect import Connect
from server.gateways.standin.ledger import Ledger, Object
from server.gateways.standin.problems import StripeProblem

_PAGING: Final = ("limit", "starting_after")

Run = Callable[[dict[str, Any], dict[str, str]], Object]
"""Takes the parameters and what the path holds."""


class Operations:
    """All of them. `base` is where the stand-in's pages are."""

    def __init__(self, ledger: Ledger, billing: Billing, connect: Connect, base: Callable[[], str]) -> None:
        self._ledger = ledger
        self._billing = billing
        self._connect = connect
        self._base = base

    def getter(self, kind: str) -> Run:
        """Return what returns an object of a kind."""
        return lambda _, path: self._ledger.get(kind, path["id"])

    def lister(self, kind: str, url: str) -> Run:
        """Return what lists the objects of a kind, by the values of fields."""

        def listed(given: dict[str, Any], _: dict[str, str]) -> Object:
            equal = {name: value for name, value in given.items() if name not in _PAGING}
            return self._page(url, list(self._ledger.all(kind, **equal)), given)

        return listed

    def _page(self, url: str, found: list[Object], given: Mapping[str, Any]) -> Object:
        return self._ledger.page(url, found, given.get("limit", 10), given.get("starting_after"))

    def customer(self, given: dict[str, Any], _: dict[str, str]) -> Object:
        """Make a customer."""
        customer = self._ledger.add(
            "customer",
            email=given.get("email"),
            name=given.get("name"),
            metadata=given.get("metadata", {}),
            deleted=False,
        )
        self._ledger.tell("customer.created", customer)
        return customer

    def delete_customer(self, _: dict[str, Any], path: dict[str, str]) -> Object:
        """Forget a customer, and end what they have."""
        customer = self._ledger.get("customer", path["id"])
        for subscription in self._ledger.all("subscription", customer=customer["id"]):
            if subscription["status"] not in OVER:
                self._billing.cancel(subscription)
        customer.update(deleted=True, email=None, name=None)
        self._ledger.tell("customer.deleted", customer)
        return {"id": customer["id"], "object": "customer", "deleted": True}

    def product(self, given: dict[str, Any], _: dict[str, str]) -> Object:
        """Make a product."""
        return self._ledger.add(
            "product", name=given["name"], metadata=given.get("metadata", {}), active=True
        )

    def price(self, given: dict[str, Any], _: dict[str, str]) -> Object:
        """Make a price of a product."""
        key = given.get("lookup_key")
        if key is not None and next(self._ledger.all("price", lookup_key=key), None) is not None:
            raise StripeProblem(
                400, "resource_already_exists", "A price has this lookup key.", param="lookup_key"
            )
        if "product" in given:
            product = self._ledger.get("product", given["product"], "product")
        elif "product_data" in given:
            product = self.product(given["product_data"], {})
        else:
            raise StripeProblem(400, "parameter_missing", "Missing required param: product.", param="product")
        recurring = given.get("recurring")
        return self._ledger.add(
            "price",
            active=True,
            currency=given["currency"],
            unit_amount=given["unit_amount"],
            product=product["id"],
            recurring=recurring,
            type="recurring" if recurring else "one_time",
            lookup_key=key,
            metadata=given.get("metadata", {}),
        )

    def prices(self, given: dict[str, Any], _: dict[str, str]) -> Object:
        """Find prices."""
        found = [
            price
            for price in self._ledger.all("price")
            if price["lookup_key"] in given.get("lookup_keys", [price["lookup_key"]])
            and price["active"] == given.get("active", price["active"])
        ]
        return self._page("/v1/prices", found, given)

    def checkout(self, given: dict[str, Any], _: dict[str, str]) -> Object:
        """Begin a checkout: somebody goes to its `url` and pays."""
        mode = given["mode"]
        if mode not in ("subscription", "payment"):
            raise StripeProblem(400, "parameter_invalid", "Invalid mode", param="mode")
        items = [self._line(line) for line in given["line_items"]]
        if not items or any(
            (item["price"]["type"] == "recurring") != (mode == "subscription") for item in items
        ):
            raise StripeProblem(
                400, "parameter_invalid", "The prices do not fit the mode.", param="line_items"
            )
        if given.get("customer") is not None:
            self._ledger.get("customer", given["customer"], "customer")
        total = sum(item["price"]["unit_amount"] * item["quantity"] for item in items)
        session = self._ledger.add(
            "checkout.session",
            mode=mode,
            status="open",
            payment_status="unpaid",
            customer=given.get("customer"),
            client_reference_id=given.get("client_reference_id"),
            metadata=given.get("metadata", {}),
            success_url=given["success_url"],
            cancel_url=given.get("cancel_url"),
            currency=items[0]["price"]["currency"],
            amount_total=total,
            subscription=None,
            payment_intent=None,
            standin={
                "items": items,
                "subscription_data": given.get("subscription_data", {}),
                "payment_intent_data": given.get("payment_intent_data", {}),
            },
        )
        session["url"] = f"{self._base()}/c/pay/{session['id']}"
        return session

    def _line(self, line: dict[str, Any]) -> Object:
        if line["quantity"] < 1:
            raise StripeProblem(400, "parameter_invalid_integer", "Invalid quantity", param="line_items")
        if "price" in line:
            price = self._ledger.get("price", line["price"], "line_items[0][price]")
        elif "price_data" in line:
            price = self.price(line["price_data"], {})
        else:
            raise StripeProblem(400, "parameter_missing", "Missing price.", param="line_items")
        return {"price": price, "quantity": line["quantity"]}

    def expire(self, _: dict[str, Any], path: dict[str, str]) -> Object:
        """End a checkout that nobody paid."""
        session = self._ledger.get("checkout.session", path["id"])
        self._billing.expire(session)
        return session

    def portal(self, given: dict[str, Any], _: dict[str, str]) -> Object:
        """Let a customer manage what they have."""
        customer = self._ledger.get("customer", given["customer"], "customer")
        session = self._ledger.add(
            "billing_portal.session",
            customer=customer["id"],
            return_url=given.get("return_url"),
        )
        session["url"] = f"{self._base()}/p/session/{session['id']}"
        return session

    def subscriptions(self, given: dict[str, Any], _: dict[str, str]) -> Object:
        """List subscriptions; without a `status` those that are over are left out."""
        status = given.get("status")
        found = [
            one
            for one in self._ledger.all("subscription")
            if one["customer"] == given.get("customer", one["customer"])
            and (status == "all" or (one["status"] == status if status else one["status"] != "canceled"))
        ]
        return self._page("/v1/subscriptions", found, given)

    def update_subscription(self, given: dict[str, Any], path: dict[str, str]) -> Object:
        """Change a subscription."""
        subscription = self._ledger.get("subscription", path["id"])
        if "default_payment_method" in given:
            self._billing.set_method(subscription, given["default_payment_method"])
        if "cancel_at_period_end" in given:
            self._billing.cancel_at_end(subscription, cancel=given["cancel_at_period_end"])
        subscription["metadata"].update(given.get("metadata", {}))
        return subscription

    def cancel_subscription(self, _: dict[str, Any], path: dict[str, str]) -> Object:
        """End a subscription now."""
        subscription = self._ledger.get("subscription", path["id"])
        self._billing.cancel(subscription)
        return subscription

    def pay_invoice(self, _: dict[str, Any], path: dict[str, str]) -> Object:
        """Try to be paid once more."""
        invoice = self._ledger.get("invoice", path["id"])
        self._billing.pay(invoice)
        return invoice

    def refund(self, given: dict[str, Any], _: dict[str, str]) -> Object:
        """Give money back."""
        if "charge" in given:
            charge = self._ledger.get("charge", given["charge"], "charge")
        elif "payment_intent" in given:
            intent = self._ledger.get("payment_intent", given["payment_intent"], "payment_intent")
            charge = self._ledger.get("charge", intent["latest_charge"], "payment_intent")
        else:
            raise StripeProblem(400, "parameter_missing", "Missing required param: charge.", param="charge")
        return self._billing.refund(charge, given.get("amount"), given.get("metadata", {}))

    def account(self, given: dict[str, Any], _: dict[str, str]) -> Object:
        """Begin a creator's account."""
        return self._ledger.add(
            "account",
            type=given.get("type", "express"),
            country=given.get("country", "US"),
            email=given.get("email"),
            metadata=given.get("metadata", {}),
            details_submitted=False,
            charges_enabled=False,
            payouts_enabled=False,
            capabilities={},
        )

    def account_link(self, given: dict[str, Any], _: dict[str, str]) -> Object:
        """Return where a creator tells what is asked of them. It is good for one visit, so it has no id."""
        account = self._ledger.get("account", given["account"], "account")
        account["standin"] = {"return_url": given["return_url"], "ticket": secrets.token_hex(12)}
        url = f"{self._base()}/o/{account['id']}/{account['standin']['ticket']}"
        now = self._ledger.now()
        return {"object": "account_link", "created": now, "expires_at": now + 300, "url": url}

    def transfer(self, given: dict[str, Any], _: dict[str, str]) -> Object:
        """Give money to a creator."""
        return self._connect.transfer(
            given["amount"],
            given["currency"],
            given["destination"],
            given.get("transfer_group"),
            given.get("metadata", {}),
        )

    def reverse(self, given: dict[str, Any], path: dict[str, str]) -> Object:
        """Take money back from a creator."""
        transfer = self._ledger.get("transfer", path["id"])
        return self._connect.reverse(transfer, given.get("amount"), given.get("metadata", {}))

    def events(self, given: dict[str, Any], _: dict[str, str]) -> Object:
        """List what happened, the newest first."""
        kinds = given.get("types") or ([given["type"]] if "type" in given else None)
        span = given.get("created", {})
        found = [
            event
            for event in self._ledger.all("event")
            if (kinds is None or event["type"] in kinds)
            and span.get("gte", 0) <= event["created"] <= span.get("lte", event["created"])
        ]
        return self._page("/v1/events", found, given)
