"""What can be asked of the stand-in: each operation with the parameters that it takes, and no others."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from server.gateways.standin.forms import Map, Required, Shape
from server.gateways.standin.operations import Operations, Run

_LIST: Final[Shape] = {"limit": int, "starting_after": str}
_RECURRING: Final[Shape] = {"interval": Required(str), "interval_count": int}
_PRICE_DATA: Final[Shape] = {
    "currency": Required(str),
    "unit_amount": Required(int),
    "product": str,
    "product_data": {"name": Required(str), "metadata": Map},
    "recurring": _RECURRING,
}
_TRANSFER_DATA: Final[Shape] = {"destination": Required(str), "amount": int}

_CAPABILITIES: Final[Shape] = {
    "transfers": {"requested": bool},
    "card_payments": {"requested": bool},
}


class Operation(Struct, frozen=True):
    """One method of one path, in which ``{id}`` stands for an id."""

    method: str
    path: str
    shape: Shape
    run: Run


def table(operations: Operations) -> list[Operation]:
    """List every operation."""
    return [
        Operation("POST", "/v1/customers", {"email": str, "name": str, "metadata": Map}, operations.customer),
        Operation("DELETE", "/v1/customers/{id}", {}, operations.delete_customer),
        Operation("POST", "/v1/products", {"name": Required(str), "metadata": Map}, operations.product),
        Operation(
            "POST",
            "/v1/prices",
            {
                "currency": Required(str),
                "unit_amount": Required(int),
                "product": str,
                "product_data": {"name": Required(str), "metadata": Map},
                "recurring": _RECURRING,
                "lookup_key": str,
                "metadata": Map,
            },
            operations.price,
        ),
        Operation("GET", "/v1/prices", {**_LIST, "lookup_keys": [str], "active": bool}, operations.prices),
        Operation(
            "POST",
            "/v1/checkout/sessions",
            {
                "mode": Required(str),
                "line_items": Required(
                    [{"price": str, "price_data": _PRICE_DATA, "quantity": Required(int)}]
                ),
                "success_url": Required(str),
                "cancel_url": str,
                "customer": str,
                "client_reference_id": str,
                "metadata": Map,
                "subscription_data": {"metadata": Map, "trial_period_days": int},
                "payment_intent_data": {
                    "metadata": Map,
                    "application_fee_amount": int,
                    "transfer_data": _TRANSFER_DATA,
                    "transfer_group": str,
                },
            },
            operations.checkout,
        ),
        Operation("POST", "/v1/checkout/sessions/{id}/expire", {}, operations.expire),
        Operation(
            "POST",
            "/v1/billing_portal/sessions",
            {"customer": Required(str), "return_url": str},
            operations.portal,
        ),
        Operation(
            "GET",
            "/v1/subscriptions",
            {**_LIST, "status": str, "customer": str},
            operations.subscriptions,
        ),
        Operation(
            "POST",
            "/v1/subscriptions/{id}",
            {"cancel_at_period_end": bool, "default_payment_method": str, "metadata": Map},
            operations.update_subscription,
        ),
        Operation("DELETE", "/v1/subscriptions/{id}", {}, operations.cancel_subscription),
        Operation("POST", "/v1/invoices/{id}/pay", {}, operations.pay_invoice),
        Operation(
            "POST",
            "/v1/refunds",
            {
                "charge": str,
                "payment_intent": str,
                "amount": int,
                "reason": str,
                "metadata": Map,
                "reverse_transfer": bool,
                "refund_application_fee": bool,
            },
            operations.refund,
        ),
        Operation(
            "POST",
            "/v1/accounts",
            {"type": str, "country": str, "email": str, "metadata": Map, "capabilities": _CAPABILITIES},
            operations.account,
        ),
        Operation(
            "POST",
            "/v1/account_links",
            {
                "account": Required(str),
                "type": Required(str),
                "refresh_url": Required(str),
                "return_url": Required(str),
            },
            operations.account_link,
        ),
        Operation(
            "POST",
            "/v1/transfers",
            {
                "amount": Required(int),
                "currency": Required(str),
                "destination": Required(str),
                "transfer_group": str,
                "source_transaction": str,
                "description": str,
                "metadata": Map,
            },
            operations.transfer,
        ),
        Operation(
            "POST", "/v1/transfers/{id}/reversals", {"amount": int, "metadata": Map}, operations.reverse
        ),
        Operation(
            "GET",
            "/v1/events",
            {**_LIST, "type": str, "types": [str], "created": {"gte": int, "lte": int}},
            operations.events,
        ),
        *_readers(operations),
    ]


def _readers(operations: Operations) -> list[Operation]:
    kinds = {
        "customer": "/v1/customers",
        "checkout.session": "/v1/checkout/sessions",
        "subscription": "/v1/subscriptions",
        "invoice": "/v1/invoices",
        "invoice_payment": "/v1/invoice_payments",
        "payment_intent": "/v1/payment_intents",
        "charge": "/v1/charges",
        "refund": "/v1/refunds",
        "dispute": "/v1/disputes",
        "account": "/v1/accounts",
        "transfer": "/v1/transfers",
        "event": "/v1/events",
    }
    readers = [
        Operation("GET", f"{path}/{{id}}", {}, operations.getter(kind)) for kind, path in kinds.items()
    ]
    for kind, fields in {
        "invoice": ("customer",),
        "invoice_payment": ("invoice",),
        "charge": ("customer", "payment_intent"),
        "refund": ("charge", "payment_intent"),
        "dispute": ("charge", "payment_intent"),
        "transfer": ("destination", "transfer_group"),
    }.items():
        shape = {**_LIST, **dict.fromkeys(fields, str)}
        readers.append(Operation("GET", kinds[kind], shape, operations.lister(kind, kinds[kind])))
    return readers
