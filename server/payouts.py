"""Payouts: creators are paid every month what they have earned, exactly once, whatever dies in between."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from server.gateways.cards import Declined, Gone, TransferOrder
from server.jobs import DAY, GiveUp, performs
from server.payments import Taking, takes
from storage import jobs, payouts
from storage.jobs import Job, Periodic
from storage.payment_objects import AccountObject
from storage.payouts import PayCreator
from storage.pools import months
from storage.postgres.pool import answering

if TYPE_CHECKING:
    from server.node import Node

_LOGGER = logging.getLogger("looprooms.payouts")


class LookAtAccount(Job, tag="payouts.account"):
    """Ask the provider whether an account can be paid to: its word of a change may be older than another one."""

    account: str


@takes("account")
async def account_changed(taking: Taking) -> None:
    """Have a creator's account looked at."""
    account = taking.object(AccountObject).id
    await jobs.enqueue(taking.connection, LookAtAccount(account=account), key=account)


@performs(LookAtAccount, attempts=20)
async def look(node: Node, job: LookAtAccount) -> None:
    """Take the present state of an account for what it is."""
    if node.cards is None:
        raise GiveUp("nothing is paid here")
    if not await payouts.known_account(node.stores.pool, job.account):
        return
    try:
        payable = await node.cards.account_ready(job.account)
    except Gone:
        payable = False
    await payouts.set_payable(node.stores.pool, job.account, payable=payable)


class PayCreators(Periodic, tag="payouts.begin"):
    """Has everyone paid who is to be paid."""


@performs(PayCreators, every=DAY, at=6 * 3600, together=1)
async def pay_creators(node: Node, job: PayCreators) -> None:  # noqa: ARG001 - whichever day it is
    """Enqueue the payouts of this month; who was paid this month waits for the next one."""
    if node.cards is not None:
        await enqueue_payouts(node, months(int(time.time()), 1)[0])


async def enqueue_payouts(node: Node, period: str) -> None:
    """Have everyone paid who is to be paid, as their payout of a month."""
    due = await payouts.due(node.stores.pool, period, node.settings.payout_cents_least)
    async with answering(node.stores.pool) as connection, connection.transaction():
        for one in due:
            await jobs.enqueue(connection, one, key=f"{one.creator} {one.period}")


@performs(PayCreator, attempts=100, backoff=60.0)
async def pay(node: Node, job: PayCreator) -> None:
    """Pay one creator for one month, or go on where a node died."""
    if node.cards is None:
        raise GiveUp("nothing is paid here")
    pool = node.stores.pool
    payout = await payouts.begin(pool, job.creator, job.period, node.settings.payout_cents_least)
    if payout is None:
        return
    # The provider knows an idempotency key for a day. A transfer that was made before is found by its group for ever.
    transfer = await node.cards.transferred(payout.name)
    if transfer is None:
        order = TransferOrder(cents=payout.cents, account=payout.account, name=payout.name)
        try:
            transfer = await node.cards.transfer(order)
        except (Declined, Gone):
            _LOGGER.warning("a payout of %s was declined: its creator's account takes nothing", job.period)
            await payouts.decline(pool, payout)
            return
    await payouts.finish(pool, payout, transfer)
