"""What is read of the payment provider's objects (Stripe's, by its names): the fields that count, everything else is left."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from protocol.envelope import RoomId

TIER: Final = "looprooms_tier"
"""In the metadata of a price: which tier it pays for. Only we can write it."""
USER: Final = "looprooms_user"
"""In the metadata of a customer, a checkout and a subscription: whose it is. Only we can write it."""

ROOM: Final = "looprooms_room"
"""In the metadata of a checkout, a payment and a subscription: the looproom that it is a pass to. Only we can write it."""

OVER: Final = ("canceled", "incomplete_expired")
"""States that a subscription never leaves."""


class Price(Struct, frozen=True):
    """What is paid."""

    id: str
    metadata: dict[str, str] = {}

    @property
    def tier(self) -> str | None:
        """The tier that it pays for; None for a price that is not of our table."""
        return self.metadata.get(TIER)


class Item(Struct, frozen=True, kw_only=True):
    """A line of a subscription. Its period is in seconds since 1970."""

    price: Price
    current_period_start: int | None = None
    current_period_end: int | None = None


class Items(Struct, frozen=True):
    """All lines."""

    data: tuple[Item, ...]


class CancellationDetails(Struct, frozen=True):
    """Why a subscription ends."""

    reason: str | None = None


class SubscriptionObject(Struct, frozen=True, kw_only=True):
    """A subscription as it was at one moment. Moments are in seconds since 1970.

    Older versions of the API have the period on the subscription itself.
    """

    id: str
    customer: str
    status: str
    created: int
    items: Items
    cancel_at: int | None = None
    cancel_at_period_end: bool = False
    ended_at: int | None = None
    current_period_start: int | None = None
    current_period_end: int | None = None
    cancellation_details: CancellationDetails | None = None
    latest_invoice: str | None = None
    metadata: dict[str, str] = {}

    @property
    def over(self) -> bool:
        """Whether it will never count again."""
        return self.status in OVER

    @property
    def period_start(self) -> int:
        """When the running period began."""
        starts = [item.current_period_start for item in self.items.data]
        return next((start for start in (*starts, self.current_period_start) if start), self.created)

    @property
    def period_end(self) -> int:
        """When the running period ends."""
        ends = [item.current_period_end for item in self.items.data]
        return next((end for end in (*ends, self.current_period_end) if end), self.created)

    @property
    def tier(self) -> str | None:
        """The tier that it pays for; None when it is not of our table."""
        return next((tier for item in self.items.data if (tier := item.price.tier) is not None), None)


class CheckoutObject(Struct, frozen=True, kw_only=True):
    """A checkout that was paid, or has expired. `amount_total` is in cents."""

    id: str
    mode: str
    status: str | None = None
    created: int = 0
    payment_status: str = ""
    payment_intent: str | None = None
    amount_total: int | None = None
    currency: str | None = None
    customer: str | None = None
    subscription: str | None = None
    client_reference_id: str | None = None
    metadata: dict[str, str] = {}


class _OfSubscription(Struct, frozen=True):
    subscription: str


class _Parent(Struct, frozen=True):
    subscription_details: _OfSubscription | None = None


class InvoiceObject(Struct, frozen=True, kw_only=True):
    """An invoice. `amount_paid` is in cents."""

    id: str
    status: str | None
    amount_paid: int
    currency: str
    parent: _Parent | None = None

    @property
    def subscription(self) -> str | None:
        """The subscription whose period it is for."""
        details = None if self.parent is None else self.parent.subscription_details
        return None if details is None else details.subscription


class _Payment(Struct, frozen=True):
    payment_intent: str | None = None


class InvoicePaymentObject(Struct, frozen=True, kw_only=True):
    """What pays an invoice."""

    id: str
    invoice: str
    payment: _Payment
    status: str | None = None
    amount_paid: int | None = None


class ChargeObject(Struct, frozen=True, kw_only=True):
    """Money that was taken, and how many cents of it were given back."""

    id: str
    payment_intent: str | None = None
    amount_refunded: int = 0


class DisputeObject(Struct, frozen=True, kw_only=True):
    """A customer's bank asks for the money. It has it until the dispute is won."""

    id: str
    payment_intent: str | None = None
    amount: int
    status: str

    @property
    def held(self) -> int:
        """How many cents are with the bank."""
        return (
            0
            if self.status in ("won", "warning_needs_response", "warning_under_review", "warning_closed")
            else self.amount
        )

    @property
    def decided(self) -> bool:
        """Whether its state is its last."""
        return self.status in ("won", "lost", "warning_closed")


class AccountObject(Struct, frozen=True, kw_only=True):
    """A creator's account."""

    id: str
    payouts_enabled: bool = False
    capabilities: dict[str, str] = {}

    @property
    def ready(self) -> bool:
        """Whether it takes money, and gives it on."""
        return self.payouts_enabled and self.capabilities.get("transfers") == "active"


class TransferObject(Struct, frozen=True, kw_only=True):
    """Money that was given to a creator, and how much of it was taken back, in cents; the group is what it was made for."""

    id: str
    amount: int
    amount_reversed: int = 0
    transfer_group: str | None = None


def room_of(metadata: dict[str, str]) -> RoomId | None:
    """Return the looproom that something is a pass to."""
    try:
        return RoomId(UUID(metadata.get(ROOM, "")))
    except ValueError:
        return None


class _About(Struct, frozen=True):
    object: str


class _Data(Struct, frozen=True):
    object: msgspec.Raw


class PaymentEvent(Struct, frozen=True):
    """Something that happened at the provider, at `created` (seconds since 1970); with `account` at a creator's, not at ours."""

    id: str
    type: str
    created: int
    data: _Data
    account: str | None = None

    @property
    def about(self) -> str:
        """The kind of its object, such as ``subscription``."""
        return msgspec.json.decode(self.data.object, type=_About).object

    @property
    def ours(self) -> bool:
        """Whether it is about what is ours. Of creators' accounts nothing is believed but that they have changed."""
        return self.account is None or self.about == "account"


_event = msgspec.json.Decoder(PaymentEvent).decode


def read_event(body: bytes) -> PaymentEvent:
    """Read an event. Raises `msgspec.MsgspecError` and `UnicodeDecodeError`."""
    event = _event(body)
    _ = event.about
    return event
