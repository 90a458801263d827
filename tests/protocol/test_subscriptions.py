"""How a subscription travels."""

from __future__ import annotations

import json

from protocol.codec import JSON
from protocol.subscriptions import GetSubscription, Subscription, SubscriptionFound, Tier
from tests.protocol.wires import read


def test_who_never_paid() -> None:
    """Whoever never subscribed is told their tier and nothing else."""
    found = SubscriptionFound(id=1, subscription=Subscription(tier=Tier.FREE))
    assert json.loads(JSON.encode(found)) == {
        "type": "subscription.found",
        "id": 1,
        "subscription": {"tier": "FREE"},
    }


def test_no_tier_can_be_set() -> None:
    """What one has paid for is asked for, never told: a tier that a client sends is not read."""
    assert read(type="subscription.get", tier="PREMIUM_YEARLY") == GetSubscription()
