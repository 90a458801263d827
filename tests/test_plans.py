"""What one can subscribe to, and for how much."""

from __future__ import annotations

from protocol.subscriptions import Tier
from server.plans import plans
from server.settings import Settings


def test_prices_are_integer_cents() -> None:
    """Those of premium are the product's; that of creators is a setting, and so is how long one may try."""
    found = plans(Settings(creator_pro_cents=4900, trial_days=3))
    assert {tier: (plan.cents, plan.interval, plan.trial_days) for tier, plan in found.items()} == {
        Tier.PREMIUM_MONTHLY: (999, "month", 3),
        Tier.PREMIUM_YEARLY: (9900, "year", 3),
        Tier.CREATOR_PRO: (4900, "month", 0),
    }


def test_another_price_has_another_key() -> None:
    """So that what somebody pays already is never changed under them."""
    keys = {plans(Settings(creator_pro_cents=cents))[Tier.CREATOR_PRO].lookup_key for cents in (2900, 4900)}
    assert keys == {"looprooms_creator_pro_usd_2900", "looprooms_creator_pro_usd_4900"}
