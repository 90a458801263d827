"""Subscriptions: what a person has paid for; taken from the provider's events, ended by our own clock, repaired by asking.

Word of the provider may be lost, so nothing depends on it alone: what ends by itself ends when its moment has come
(`Expiry`), and every night all that the provider knows is compared with what is known here (`reconcile`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from protocol.envelope import UserId
from protocol.refusals import ErrorCode, Refused
from protocol.subscriptions import GetSubscription, SubscriptionFound
from server.gateways.cards import Cards, Gone
from server.hub.dispatch import Call, handles
from server.jobs import DAY, GiveUp, performs
from server.payments import Taking, grace_seconds, in_their_moments, now, take, takes
from server.plans import CURRENCY
from storage import checkouts, jobs, sales, subscriptions
from storage.jobs import Job, Periodic
from storage.payment_objects import CheckoutObject, SubscriptionObject
from storage.person_events import Told
from storage.postgres.pool import answering
from storage.subscriptions import ForgetCustomers

if TYPE_CHECKING:
    from server.node import Node

_LOGGER = logging.getLogger("looprooms.subscriptions")

TIE_SECONDS: Final = 3.0
"""After so long the provider is asked about two states of one second: the answer must be of another one."""
RECONCILED_DAYS: Final = 4.0
"""How far back the nightly reconciliation reads events: more than three days may be lost."""


@handles(GetSubscription)
async def get(call: Call, command: GetSubscription) -> SubscriptionFound:
    """Say how one's own subscription stands."""
    node = call.node
    found = await subscriptions.find(node.stores.pool, call.session.user_id)
    pay = None if node.cards is None else f"{node.settings.home}/pay"
    return SubscriptionFound(id=command.id, subscription=found, pay=pay)


# What the provider tells.


@takes("subscription")
async def subscription_changed(taking: Taking) -> None:
    """Let a person stand as the newest state of their subscription says, whichever came first."""
    seen = taking.object(SubscriptionObject)
    owner = await subscriptions.owner_of(taking.connection, seen.customer, seen.metadata)
    if owner is None:
        _LOGGER.warning("the subscription %s is nobody's here", seen.id)
        return
    sighting = await subscriptions.see(
        taking.connection, owner, taking.event.created, seen, now=now(), grace=grace_seconds(taking.node)
    )
    taking.told += sighting.told
    if sighting.unsure:
        await jobs.enqueue(
            taking.connection, LookAtSubscription(subscription=seen.id), key=seen.id, delay=TIE_SECONDS
        )


@takes("checkout.session")
async def checked_out(taking: Taking) -> None:
    """Note whose customer has paid, and give them what they have paid for once. The page is not to be paid on again."""
    session = taking.object(CheckoutObject)
    owner = await subscriptions.owner_of(taking.connection, session.customer, session.metadata)
    await checkouts.ended(taking.connection, session, owner)
    if owner is not None and session.mode == "payment" and session.currency == CURRENCY:
        settings = taking.node.settings
        taking.told += await sales.sell_once(
            taking.connection,
            session,
            owner,
            at=taking.event.created,
            now=now(),
            fee=settings.room_fee_percent,
            seconds=int(settings.session_pass_hours * 3600),
        )


class LookAtSubscription(Job, tag="subscriptions.look"):
    """Ask the provider how one subscription stands: two of its states came with the same second."""

    subscription: str


@performs(LookAtSubscription)
async def look(node: Node, job: LookAtSubscription) -> None:
    """Take the present state for what it is."""
    if node.cards is None:
        raise GiveUp("nothing is paid here")
    asked = now()
    try:
        found = await node.cards.subscription(job.subscription)
    except Gone:
        raise GiveUp("the provider does not have it") from None
    await _present(node, found, asked)


async def _present(node: Node, found: SubscriptionObject, asked: int) -> list[Told]:
    """Take a state that the provider gave when it was asked at `asked`; return what its person was told."""
    async with answering(node.stores.pool) as connection, connection.transaction():
        owner = await subscriptions.owner_of(connection, found.customer, found.metadata)
        if owner is None:
            return []
        sighting = await subscriptions.see(
            connection, owner, asked, found, now=now(), grace=grace_seconds(node)
        )
    node.person_events.publish(sighting.told)
    return sighting.told


@performs(ForgetCustomers, attempts=1000)
async def forget_customers(node: Node, job: ForgetCustomers) -> None:
    """Let the provider end what somebody paid for who has left. It is tried for weeks: nobody is left who could end it by hand."""
    if node.cards is None:
        raise GiveUp("nothing is paid here")
    for customer in job.customers:
        with contextlib.suppress(Gone):
            await node.cards.forget(customer)


# What our own clock says.


class Expiry:
    """Ends what has ended, in its moment."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.ended = 0

    async def run(self) -> None:
        """Look whose subscription changes by itself, for ever."""
        pool = self._node.stores.pool
        await in_their_moments(self._settle, lambda: subscriptions.next_due(pool))

    async def _settle(self) -> None:
        """Let all stand as they do now."""
        node = self._node
        pool = node.stores.pool
        for user in await subscriptions.due(pool, time.time()):
            told = await subscriptions.settle(pool, user, now=now(), grace=grace_seconds(node))
            node.person_events.publish(told)
            self.ended += bool(told)


# What is repaired.


class Reconciled(Struct, kw_only=True):
    """What a reconciliation has found: events that were missed, subscriptions that were looked at, and people who stand anew."""

    missed: int = 0
    looked_at: int = 0
    changed: int = 0


class Reconcile(Periodic, tag="subscriptions.reconcile"):
    """Compares everything with the provider."""


@performs(Reconcile, every=DAY, at=3 * 3600, together=1, within=3600.0, attempts=5, backoff=300.0)
async def reconcile_nightly(node: Node, job: Reconcile) -> None:  # noqa: ARG001 - whichever night it is
    """Repair what was missed since the night before, and the nights before that."""
    if node.cards is not None:
        found = await reconcile(node, node.cards, days=RECONCILED_DAYS)
        _LOGGER.info("reconciled: %d events were missed, %d people stand anew", found.missed, found.changed)


async def reconcile(node: Node, cards: Cards, *, days: float) -> Reconciled:
    """Take the events of the last `days` that were missed, then the present state of every subscription.

    The events serve the domains that live on them; for subscriptions alone their states would do. They are taken page by page, the
    newest page first, because any order of them has the same end. Raises `Refused`.
    """
    found = Reconciled()
    changed: set[UserId] = set()
    async for page in cards.events(int(time.time() - days * DAY)):
        for event in reversed(page):
            try:
                told = await take(node, event)
            except Refused as refused:
                if refused.code is not ErrorCode.INVALID:
                    raise
                continue  # it was logged; the others are not to wait for it
            if told is not None:
                found.missed += 1
                changed |= {one.user for one in told}
    asked = now()
    async for subscription in cards.subscriptions():
        found.looked_at += 1
        changed |= {one.user for one in await _present(node, subscription, asked)}
    found.changed = len(changed)
    return found
