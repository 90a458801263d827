"""What one can subscribe to: the only place where prices come from."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from protocol.subscriptions import Tier
from server.settings import Settings

CURRENCY: Final = "usd"
PREMIUM_MONTHLY_CENTS: Final = 999
PREMIUM_YEARLY_CENTS: Final = 9900


class Plan(Struct, frozen=True, kw_only=True):
    """One plan."""

    tier: Annotated[Tier, Meta(description="What it is called in `POST /payments/checkout`.")]
    name: Annotated[str, Meta(description="What people see.")]
    cents: Annotated[int, Meta(description="The price of a period, in cents.")]
    currency: Annotated[str, Meta(description="In three letters (ISO 4217), lower case.")] = CURRENCY
    interval: Annotated[Literal["month", "year"], Meta(description="How long a period is.")]
    trial_days: Annotated[int, Meta(description="Days that are free for who never subscribed.")] = 0

    @property
    def lookup_key(self) -> str:
        """What its price is found by at the payment provider. Another price is another key, so that none is ever changed."""
        return f"looprooms_{self.tier.lower()}_{self.currency}_{self.cents}"


def plans(settings: Settings) -> dict[Tier, Plan]:
    """Return all plans."""
    offered = (
        Plan(
            tier=Tier.PREMIUM_MONTHLY,
            name="Premium, monthly",
            cents=PREMIUM_MONTHLY_CENTS,
            interval="month",
            trial_days=settings.trial_days,
        ),
        Plan(
            tier=Tier.PREMIUM_YEARLY,
            name="Premium, yearly",
            cents=PREMIUM_YEARLY_CENTS,
            interval="year",
            trial_days=settings.trial_days,
        ),
        Plan(
            tier=Tier.CREATOR_PRO,
            name="Creator Pro",
            cents=settings.creator_pro_cents,
            interval="month",
        ),
    )
    return {plan.tier: plan for plan in offered}
