"""Subscriptions: what somebody has paid for."""

from __future__ import annotations

from protocol.subscriptions import (
    GetSubscription,
    Reason,
    Subscription,
    SubscriptionFound,
    SubscriptionStatus,
    Tier,
)
from tests.standing import Standing


async def test_one_sees_ones_own_subscription(nodes: Standing) -> None:
    """Who never subscribed is free; who did sees until when."""
    client = await nodes.north.client("Ada")
    assert await client.call(GetSubscription()) == SubscriptionFound(
        Subscription(tier=Tier.FREE), id=client.welcome.id + 1
    )
    user = client.user.id
    await nodes.pool.execute("update users set tier = 'PREMIUM_YEARLY' where id = $1", user)
    await nodes.pool.execute(
        "insert into subscriptions (user_id, tier, status, until, renews, reason) "
        "values ($1, 'PREMIUM_YEARLY', 'ACTIVE', to_timestamp(2000000000), true, 'paid')",
        user,
    )
    found = await client.call(GetSubscription())
    assert found.subscription == Subscription(
        tier=Tier.PREMIUM_YEARLY,
        status=SubscriptionStatus.ACTIVE,
        until=2_000_000_000_000,
        renews=True,
        reason=Reason.PAID,
    )
