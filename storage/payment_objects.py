"""What is read of the payment provider's objects (Stripe's, by its names): the fields that count, everything else is left."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

TIER: Final = "looprooms_tier"
"""In the metadata of a price: which tier it pays for. Only we can write it."""
USER: Final = "looprooms_user"
"""In the metadata of a customer, a checkout and a subscription: whose it is. Only we can write it."""

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
    """A checkout that was completed."""

    id: str
    mode: str
    customer: str | None = None
    subscription: str | None = None
    client_reference_id: str | None = None
    metadata: dict[str, str] = {}


class _About(Struct, frozen=True):
    object: str


class _Data(Struct, frozen=True):
    object: msgspec.Raw


class PaymentEvent(Struct, frozen=True):
    """Something that happened at the provider, at `created` (seconds since 1970)."""

    id: str
    type: str
    created: int
    data: _Data

    @property
    def about(self) -> str:
        """The kind of its object, such as ``subscription``."""
        return msgspec.json.decode(self.data.object, type=_About).object


_event = msgspec.json.Decoder(PaymentEvent).decode


def read_event(body: bytes) -> PaymentEvent:
    """Read an event. Raises `msgspec.MsgspecError` and `UnicodeDecodeError`."""
    event = _event(body)
    _ = event.about
    return event
