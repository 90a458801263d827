"""Checkouts: one page at a time on which somebody pays for the same thing, and what was paid twice goes back."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from server.gateways.cards import Gone
from server.jobs import GiveUp, performs
from storage.checkouts import ExpireCheckout
from storage.doubles import EndDoubled, GiveBack, pays, tell_returned
from storage.payment_objects import room_of
from storage.postgres.pool import answering

if TYPE_CHECKING:
    from protocol.envelope import RoomId, UserId
    from server.node import Node

_LOGGER = logging.getLogger("looprooms.checkouts")


@performs(ExpireCheckout, attempts=20)
async def expire(node: Node, job: ExpireCheckout) -> None:
    """End a page; one that was paid meanwhile is none of this."""
    if node.cards is None:
        raise GiveUp("nothing is paid here")
    with contextlib.suppress(Gone):
        await node.cards.expire(job.session)


@performs(EndDoubled, attempts=100, backoff=30.0)
async def end_doubled(node: Node, job: EndDoubled) -> None:
    """End the later one of two subscriptions, and give back what was paid for it, if the other one is paid for still."""
    if node.cards is None:
        raise GiveUp("nothing is paid here")
    try:
        later, other = [await node.cards.subscription(one) for one in (job.subscription, job.other)]
    except Gone:
        return
    if not pays(other):
        return
    with contextlib.suppress(Gone):  # it has ended already, perhaps by this
        await node.cards.cancel(later.id)
    cents = 0
    if later.latest_invoice is not None:
        for payment, paid in await node.cards.payments_of(later.latest_invoice):
            await node.cards.refund(payment, f"doubled-{payment}")
            cents += paid
    await _tell(node, job.user, later.id, room_of(later.metadata), cents)


@performs(GiveBack, attempts=100, backoff=30.0)
async def give_back(node: Node, job: GiveBack) -> None:
    """Give back what was paid for a pass that somebody had already."""
    if node.cards is None:
        raise GiveUp("nothing is paid here")
    with contextlib.suppress(Gone):
        await node.cards.refund(job.payment, f"doubled-{job.payment}")
        await _tell(node, job.user, job.payment, job.room, job.cents)


async def _tell(node: Node, user: UserId, cause: str, room: RoomId | None, cents: int) -> None:
    _LOGGER.warning("something was paid twice, and goes back")
    async with answering(node.stores.pool) as connection, connection.transaction():
        told = await tell_returned(connection, user, cause, room=room, cents=cents)
    node.person_events.publish(told)
