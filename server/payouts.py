"""Payouts: creators are paid every month what they have earned, exactly once, whatever dies or stands still in between."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final

from protocol.refusals import Refused
from server.gateways.cards import Declined, Gone, NotAtHand, TransferOrder
from server.jobs import DAY, GiveUp, TryAgain, performs
from server.payments import Taking, takes
from storage import jobs, payouts
from storage.jobs import Job, Periodic
from storage.payment_objects import AccountObject, TransferObject
from storage.payouts import ANEW_HOURS, PayCreator, TakeBack, Transfer
from storage.pools import months
from storage.postgres.pool import answering

if TYPE_CHECKING:
    from server.node import Node

_LOGGER = logging.getLogger("looprooms.payouts")


ASK_SECONDS: Final = 30.0
"""How long after it was looked for, and noted, a transfer is asked for: of the hours after which a payout is begun anew the least part."""
COUNT_SECONDS: Final = 60.0
NOT_AT_HAND: Final = "balance_insufficient"
"""Why a payout waits: what was paid is not at hand yet. The provider's own word, which an operator finds in its documents."""


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
    """Enqueue the payouts of this month; who was paid this month waits for the next one.

    Accounts that can't be paid to are looked at, too: word that they are complete may have been lost.
    """
    if node.cards is not None:
        async with answering(node.stores.pool) as connection, connection.transaction():
            for account in await payouts.unready(connection):
                await jobs.enqueue(connection, LookAtAccount(account=account), key=account)
        await enqueue_payouts(node, months(int(time.time()), 1)[0])


async def enqueue_payouts(node: Node, period: str) -> None:
    """Have everyone paid who is to be paid, as their payout of a month."""
    await payouts.enqueue_due(node.stores.pool, period, node.settings.payout_cents_least)


class PayoutCounts:
    """How many payouts there are by their state, over all nodes, as read lately."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.by_state: dict[str, int] = {}

    async def run(self) -> None:
        """Read it every `COUNT_SECONDS`, for ever."""
        while True:
            with contextlib.suppress(Refused):
                await self.count()
            await asyncio.sleep(COUNT_SECONDS)

    async def count(self) -> None:
        """Read it now. Raises `Refused`."""
        pool = self._node.stores.pool
        counted = {one.name: one.payouts for one in await payouts.states(pool)}
        counted["blocked"] = len(await payouts.blocked(pool, self._node.settings.payout_cents_least))
        self.by_state = dict.fromkeys(("begun", "declined", "paid", "blocked"), 0) | counted


@performs(PayCreator, attempts=100, backoff=60.0)
async def pay(node: Node, job: PayCreator) -> None:
    """Pay one creator for one month, or go on where a node died."""
    if node.cards is None:
        raise GiveUp("nothing is paid here")
    pool = node.stores.pool
    payout = await payouts.begin(pool, job.creator, job.period, node.settings.payout_cents_least)
    if payout is None:
        return
    transfer = await node.cards.transferred(payout.name)
    if transfer is None:
        if payout.wait:
            raise TryAgain(NOT_AT_HAND, after=payout.wait)
        until = node.cards.clock() + ASK_SECONDS
        order = TransferOrder(cents=payout.cents, account=payout.account, name=payout.name, until=until)
        if not await payouts.ask(pool, payout):
            return  # somebody else was faster
        try:
            transfer = await node.cards.transfer(order)
        except (Declined, Gone) as no:
            _LOGGER.warning("a payout of %s was declined: its creator's account takes nothing", job.period)
            await payouts.decline(pool, payout, no.code if isinstance(no, Declined) else "account_gone")
            return
        except NotAtHand:
            await payouts.wait(pool, payout, NOT_AT_HAND)
            raise TryAgain(NOT_AT_HAND, after=ANEW_HOURS * 3600.0) from None
    await payouts.finish(pool, payout, transfer)


@takes("transfer")
async def transfer_made(taking: Taking) -> None:
    """Book a transfer that nobody was left to book, and what an operator took back of one; take back one that is not the payout's."""
    transfer = taking.object(TransferObject)
    if transfer.amount_reversed:
        await payouts.reversed_by_hand(taking.connection, transfer.id, transfer.amount_reversed)
    payout = payouts.payout_of(transfer.transfer_group or "")
    if payout is not None and taking.event.type == "transfer.created":
        await payouts.found(taking.connection, *payout, Transfer(transfer.id, transfer.amount))


@performs(TakeBack, attempts=100, backoff=60.0)
async def take_back(node: Node, job: TakeBack) -> None:
    """Reverse a transfer that is no payout's."""
    if node.cards is None:
        raise GiveUp("nothing is paid here")
    _LOGGER.error("a creator was given money twice, and it is taken back")
    try:
        await node.cards.take_back(job.transfer)
    except Gone:
        raise GiveUp("the provider does not have it") from None
    except NotAtHand:
        raise TryAgain(NOT_AT_HAND, after=ANEW_HOURS * 3600.0) from None
