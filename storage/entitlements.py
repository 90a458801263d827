"""What somebody is entitled to: a pure function of the subscriptions that were seen at the payment provider, and of the moment.

Webhooks come in any order, again and again, and late; so nothing is ever computed from *what happened*, only from the newest
state of each object. Which of two states is newer is decided by `newer`, a total order: so the one that is left in the end is
the same, whatever came first. A provider tells moments in whole seconds; two states of the same second are put into the
order of a subscription's life, and are `tied`: who can ask the provider asks it.

The rules:

- a trial counts to its end, a paid period to its end; canceled at the end of its period, a subscription counts until then;
- one that renews counts `grace` seconds past its end, because word of the renewal may be late;
- after a payment that failed it counts `grace` seconds from the end of what was paid;
- ended is ended, and what never began (its first payment was not made) is nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from protocol.subscriptions import Reason, SubscriptionStatus, Tier
from storage.payment_objects import SubscriptionObject

_LIFE: Final = (
    "incomplete",
    "trialing",
    "active",
    "past_due",
    "unpaid",
    "paused",
    "incomplete_expired",
    "canceled",
)
_TIERS: Final = (Tier.FREE, Tier.PREMIUM_MONTHLY, Tier.PREMIUM_YEARLY, Tier.CREATOR_PRO)
_ENDED: Final = {
    "payment_failed": Reason.PAYMENT_FAILED,
    "payment_disputed": Reason.DISPUTED,
    "cancellation_requested": Reason.CANCELED,
}


class Seen(Struct, frozen=True):
    """A subscription, and when it was so (seconds since 1970)."""

    at: int
    subscription: SubscriptionObject


class Standing(Struct, frozen=True, kw_only=True):
    """How a person's subscription stands. Moments are in seconds since 1970; it changes by itself at `changes_at`."""

    tier: Tier
    status: SubscriptionStatus
    until: int
    renews: bool
    reason: Reason
    changes_at: int | None


def newer(one: Seen, other: Seen) -> Seen:
    """Return the state that counts of two of the same subscription."""
    return max(one, other, key=_order)


def tied(one: Seen, other: Seen) -> bool:
    """Say whether their order is a guess: they are of the same second, and differ.

    It is none where one of them can only be the first of a life, as at every beginning that is paid at once, or the last.
    """
    states = one.subscription, other.subscription
    sure = any(state.over or state.status == _LIFE[0] for state in states)
    return one.at == other.at and states[0] != states[1] and not sure


def _order(seen: Seen) -> tuple[bool, int, int, int, bool, bytes]:
    subscription = seen.subscription
    life = _LIFE.index(subscription.status) if subscription.status in _LIFE else -1
    content = hashlib.sha256(msgspec.json.encode(subscription, order="sorted")).digest()
    return (
        subscription.over,  # nothing comes after the end, whatever its moment says
        seen.at,
        life,
        subscription.period_end,
        subscription.cancel_at_period_end,
        content,
    )


def standing(seen: Iterable[SubscriptionObject], now: int, grace: int) -> Standing | None:
    """Return what follows from subscriptions at `now`; None when there was none that ever counted. `grace` is in seconds."""
    found = [
        one
        for subscription in seen
        if subscription.tier in _TIERS and subscription.tier != Tier.FREE  # of our table
        if (one := _standing(subscription, Tier(subscription.tier), now, grace)) is not None
    ]
    return max(found, key=_worth, default=None)


def paid_for(subscription: SubscriptionObject, now: int, grace: int) -> Standing | None:
    """Return how a subscription to something else than a tier stands, by the same rules; None when it never counted."""
    return _standing(subscription, Tier.FREE, now, grace)


def _worth(one: Standing) -> tuple[int, int, int, str]:
    return _TIERS.index(one.tier), one.until, int(one.renews), one.status


def _standing(subscription: SubscriptionObject, tier: Tier, now: int, grace: int) -> Standing | None:
    status, end = subscription.status, subscription.period_end
    if status in ("active", "trialing"):
        ends = subscription.cancel_at or (end if subscription.cancel_at_period_end else None)
        if ends is not None:
            return _until(tier, SubscriptionStatus.CANCELED, Reason.CANCELED, ends, now, renews=False)
        trial = status == "trialing"
        kind = SubscriptionStatus.TRIAL if trial else SubscriptionStatus.ACTIVE
        reason = Reason.TRIAL if trial else Reason.PAID
        if now < end + grace:
            return Standing(
                tier=tier, status=kind, until=end, renews=True, reason=reason, changes_at=end + grace
            )
        return _ended(end + grace, Reason.ENDED)
    if status == "past_due":
        ends = subscription.period_start + grace
        return _until(tier, SubscriptionStatus.ACTIVE, Reason.PAYMENT_FAILED, ends, now, renews=True)
    if status in ("unpaid", "paused"):
        return _ended(subscription.period_start, Reason.PAYMENT_FAILED)
    if status == "canceled":
        return _canceled(subscription)
    return None


def _canceled(subscription: SubscriptionObject) -> Standing:
    details, end = subscription.cancellation_details, subscription.period_end
    ended = end if subscription.ended_at is None else subscription.ended_at
    why = _ENDED.get(details.reason or "", Reason.ENDED) if details is not None else Reason.ENDED
    if why is Reason.CANCELED and ended >= end:  # it ran to its end, as our own clock has told already
        return _ended(end, Reason.ENDED)
    return _ended(ended, why)


def _until(
    tier: Tier, status: SubscriptionStatus, reason: Reason, ends: int, now: int, *, renews: bool
) -> Standing:
    if now >= ends:
        return _ended(ends, Reason.PAYMENT_FAILED if reason is Reason.PAYMENT_FAILED else Reason.ENDED)
    return Standing(tier=tier, status=status, until=ends, renews=renews, reason=reason, changes_at=ends)


def _ended(at: int, reason: Reason) -> Standing:
    return Standing(
        tier=Tier.FREE,
        status=SubscriptionStatus.EXPIRED,
        until=at,
        renews=False,
        reason=reason,
        changes_at=None,
    )
