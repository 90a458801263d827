"""The payment provider, as far as this project asks it: customers, checkouts, a portal, and what has become of them.

Whoever waits for the provider waits for `stripe_timeout_seconds` at most, with few others; after some failures in a row a
breaker says no at once. What is created is created with an idempotency key that a second attempt has again, so that a call
whose answer was lost makes one object. Health never asks the provider.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator
from typing import Final, Protocol

from msgspec import Struct

from protocol.envelope import RoomId, UserId
from protocol.refusals import ErrorCode, Refused
from server.gateways.gate import Gate
from server.plans import Plan
from server.settings import Settings
from storage.payment_objects import PaymentEvent, SubscriptionObject
from storage.payouts import Transfer

TOLERANCE_SECONDS: Final = 300
"""How old a signature may be, so that a webhook that somebody has copied is worth nothing soon."""


class Gone(Exception):  # noqa: N818 - it says what became of it
    """The provider has no such object."""


class Declined(Exception):  # noqa: N818 - it says what became of it
    """The provider does not do it, and will not until somebody has done something about it. `code` is its word for why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class NotAtHand(Exception):  # noqa: N818 - it says what became of it
    """What was paid lies at the provider, but is not at hand yet: in some days it will be."""


class Order(Struct, frozen=True, kw_only=True):
    """What somebody wants to subscribe to. `key` makes it once, whatever becomes of the answer."""

    user: UserId
    customer: str
    plan: Plan
    key: str
    trial: bool
    paid_url: str
    left_url: str


class PassOrder(Struct, frozen=True, kw_only=True):
    """What somebody wants to come into: a looproom, for `cents` each month, or once."""

    user: UserId
    customer: str
    room: RoomId
    title: str
    cents: int
    monthly: bool
    key: str
    paid_url: str
    left_url: str


class TransferOrder(Struct, frozen=True, kw_only=True):
    """What a creator is to be given. `name` makes it once, and is what it is found by.

    After `until` (by the gateway's clock) it is not asked for any more: whoever stood still so long knows nothing of what others did.
    """

    cents: int
    account: str
    name: str
    until: float


class CheckoutPage(Struct, frozen=True):
    """Where somebody pays. The `url` is empty when it is over: `paid`, or expired."""

    id: str
    url: str
    paid: bool = False


class Cards(Protocol):
    """What the provider can be asked. All may raise `Refused`: unavailable, key_reused."""

    @property
    def away(self) -> bool:
        """Whether it is left alone for a while, because it does not answer."""

    @property
    def gate(self) -> Gate:
        """Through which it is asked."""

    def clock(self) -> float:
        """Return the moment, in seconds of a clock that only goes forward."""

    async def customer(self, user: UserId, key: str) -> str:
        """Make a customer of a person, once for each key; return its id."""

    async def checkout(self, order: Order) -> CheckoutPage:
        """Begin a checkout. Raises `Gone` when there is no such customer."""

    async def checkout_pass(self, order: PassOrder) -> CheckoutPage:
        """Begin the checkout of a pass. Raises `Gone` when there is no such customer."""

    async def checkout_page(self, id: str) -> CheckoutPage:  # noqa: A002 - the provider's name
        """Return a checkout as it is now. Raises `Gone`."""

    async def expire(self, id: str) -> CheckoutPage:  # noqa: A002 - the provider's name
        """End a checkout, unless it is over already; return it as it is then. Raises `Gone`."""

    async def payments_of(self, invoice: str) -> list[tuple[str, int]]:
        """Return the payments of an invoice, each with its cents."""

    async def refund(self, payment: str, key: str) -> None:
        """Give back all of a payment, once. Raises `Gone`."""

    async def cancel(self, id: str) -> None:  # noqa: A002 - the provider's name
        """End a subscription now. Raises `Gone` when it has ended, or never was."""

    async def cancel_at_end(self, id: str) -> None:  # noqa: A002 - the provider's name
        """Let a subscription end with what is paid. Raises `Gone`."""

    async def portal(self, customer: str, return_url: str) -> str:
        """Return the page on which a customer changes or ends what they have. Raises `Gone`."""

    async def forget(self, customer: str) -> None:
        """End all that a customer pays for, at once, and forget them. Raises `Gone`."""

    async def subscription(self, id: str) -> SubscriptionObject:  # noqa: A002 - the provider's name
        """Return a subscription as it is now. Raises `Gone`."""

    async def account(self, user: UserId, key: str) -> str:
        """Make an account of a creator, once for each key; return its id."""

    async def account_link(self, account: str, again_url: str, return_url: str) -> str:
        """Return the page on which a creator tells all that is asked of them. Raises `Gone`."""

    async def account_ready(self, account: str) -> bool:
        """Say whether an account can be paid to. Raises `Gone`."""

    async def transfer(self, order: TransferOrder) -> Transfer:
        """Give money to a creator, once. What was said, a no too, is said again for a day. Raises `Declined`, `Gone`, `NotAtHand`."""

    async def transferred(self, name: str) -> Transfer | None:
        """Return the transfer that was made under a name, if it was; the first of several."""

    async def take_back(self, transfer: str) -> None:
        """Reverse all of a transfer, once. Raises `Gone`, `NotAtHand`."""

    def subscriptions(self) -> AsyncIterator[SubscriptionObject]:
        """Yield every subscription as it is now, those that are over too."""

    def events(self, since: int) -> AsyncIterator[list[PaymentEvent]]:
        """Yield what happened since a moment (seconds since 1970) in pages, the newest first."""

    async def aclose(self) -> None:
        """Let go of the connections."""


def open_cards(settings: Settings) -> Cards | None:
    """Return the payment provider of these settings; None where nothing is paid."""
    if not settings.stripe_secret_key:
        return None
    from server.gateways.stripe import StripeCards

    return StripeCards(settings)


def check_signature(body: bytes, header: str, secrets: tuple[str, ...], now: float) -> None:
    """Make sure that the provider has signed `body` lately, with one of the secrets. Raises `Refused` (signature_refused).

    While secrets are changed there are two signatures of which one is made with ours. Each place that it sends from has its own.
    """
    parts = [part.strip().partition("=") for part in header.split(",")]
    moments = [value for name, _, value in parts if name == "t"]
    signatures = [value for name, _, value in parts if name == "v1"]
    moment = moments[0] if len(moments) == 1 else ""
    if not moment.isascii() or not moment.isdecimal() or len(moment) > 12:
        raise Refused(ErrorCode.SIGNATURE_REFUSED)
    signed = moment.encode() + b"." + body
    expected = [hmac.new(one.encode(), signed, hashlib.sha256).hexdigest().encode() for one in secrets]
    matches = [hmac.compare_digest(one, found.encode()) for found in signatures for one in expected]
    if not any(matches) or abs(now - int(moment)) > TOLERANCE_SECONDS:
        raise Refused(ErrorCode.SIGNATURE_REFUSED)
