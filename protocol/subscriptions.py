"""Subscriptions: what a person has paid for, and until when.

Paying itself happens over HTTP and on the payment provider's pages; what comes of it is told here, live, on every device.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from protocol.envelope import Answer, Command, Milliseconds, PersonEvent, RoomId


class Tier(StrEnum):
    """What one may use: everything but premium rooms is `FREE`."""

    FREE = "FREE"
    PREMIUM_MONTHLY = "PREMIUM_MONTHLY"
    PREMIUM_YEARLY = "PREMIUM_YEARLY"
    CREATOR_PRO = "CREATOR_PRO"


class SubscriptionStatus(StrEnum):
    """How a subscription stands: `CANCELED` still counts and will not go on, `EXPIRED` counts no more."""

    TRIAL = "TRIAL"
    ACTIVE = "ACTIVE"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"


class Reason(StrEnum):
    """Why a subscription stands as it does."""

    TRIAL = "trial"
    PAID = "paid"
    CANCELED = "canceled"
    PAYMENT_FAILED = "payment_failed"
    DISPUTED = "disputed"
    REFUNDED = "refunded"
    ENDED = "ended"


class Subscription(Struct, omit_defaults=True, kw_only=True):
    """What somebody has paid for. Who never subscribed is `FREE`, without a status.

    `tier` is what counts now. `until` is the end of what is paid (or was, or of the trial, or of the grace after a payment
    that failed); with `renews` it is expected to move on by itself, and `tier` counts until word comes that it did not.
    """

    tier: Annotated[Tier, Meta(description="What counts now.")]
    status: Annotated[
        SubscriptionStatus | None, Meta(description="How it stands; not there for who never subscribed.")
    ] = None
    until: Annotated[
        Milliseconds | None, Meta(description="The end of what is paid: milliseconds since 1970.")
    ] = None
    renews: Annotated[bool, Meta(description="Whether `until` is expected to move on by itself.")] = False
    reason: Annotated[Reason | None, Meta(description="Why it stands so.")] = None


class SubscriptionFound(Answer, tag="subscription.found"):
    """How your subscription stands. Where `pay` is there, it is the page on which one chooses a plan."""

    subscription: Subscription
    pay: str | None = None


class GetSubscription(Command[SubscriptionFound], tag="subscription.get"):
    """What have I paid for?"""


class SubscriptionChanged(PersonEvent, tag="subscription.changed"):
    """Your subscription has changed: premium rooms that you are in have opened or are left within the same second."""

    subscription: Subscription


class PaymentReturned(PersonEvent, tag="payment.returned", kw_only=True):
    """You have paid twice for the same: the later payment was canceled, and `cents` go back to you the way they came.

    With `room` it was a pass to that looproom, else a subscription. Nothing went back of a trial.
    """

    cents: Annotated[int, Meta(ge=0)]
    room: RoomId | None = None


Commands = GetSubscription
Answers = SubscriptionFound
Events = SubscriptionChanged | PaymentReturned
