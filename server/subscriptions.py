"""Subscriptions: what a person has paid for."""

from __future__ import annotations

from protocol.subscriptions import GetSubscription, SubscriptionFound
from server.hub.dispatch import Call, handles
from storage import subscriptions


@handles(GetSubscription)
async def get(call: Call, command: GetSubscription) -> SubscriptionFound:
    """Say how one's own subscription stands."""
    found = await subscriptions.find(call.node.stores.pool, call.session.user_id)
    return SubscriptionFound(id=command.id, subscription=found)
