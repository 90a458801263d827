"""Payouts by nodes that stand still between any two steps, while others go on: a creator has in the end what they have earned.

Steps are taken in an order that a test says, or that is drawn from a seed: nothing is left to chance, so what fails fails again.
The provider is the stand-in, through Stripe's own library.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextvars import ContextVar
from itertools import combinations
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import msgspec
import pytest

from protocol.refusals import Refused
from server import payouts as paying
from server.gateways.cards import Cards, TransferOrder
from server.jobs import TryAgain
from storage import payouts
from storage.ledger import Booking, book, earnings
from storage.payouts import PayCreator, Payout, Transfer
from storage.postgres.pool import Pool
from tests.gateways.standin.booth import Booth, booth
from tests.gateways.test_stripe import cards_of

MONTH = "2026-11"
EARNED = 5000
STEPS = 5
"""Of one worker: begin, look, note, ask, and book what came of it."""


class Worker:
    """One attempt at the job. It goes one step when it is told to, and stands still otherwise; `asleep`, its clock does, too."""

    def __init__(self, world: World, *, asleep: bool = False) -> None:
        self._world = world
        self._asleep = asleep
        self._go = asyncio.Semaphore(0)
        self._stands = asyncio.Event()
        self._task = asyncio.create_task(self._pay())
        self.left = False
        """Whether it has ended with something that is tried again."""

    async def _pay(self) -> None:
        node = SimpleNamespace(
            cards=self,
            stores=SimpleNamespace(pool=self._world.pool),
            settings=SimpleNamespace(payout_cents_least=1),
        )
        self._world.at.set(self)
        await self.step()
        try:
            await paying.pay(cast("Any", node), PayCreator(creator=self._world.creator, period=MONTH))
        except (Refused, TryAgain):
            self.left = True

    async def step(self) -> None:
        """Stand still until it is let go on."""
        self._stands.set()
        await self._go.acquire()

    async def go(self) -> bool:
        """Let it take one step; False when there is none left."""
        if self._task.done():
            return False
        self._stands.clear()
        self._go.release()
        stands = asyncio.create_task(self._stands.wait())
        await asyncio.wait((self._task, stands), return_when=asyncio.FIRST_COMPLETED)
        stands.cancel()
        if self._task.done():
            self._task.result()
        if self._world.forgets_no:
            keys = self._world.stall.stand_in.ledger.keys
            for key in [key for key, kept in keys.items() if kept["status"] != 200]:
                del keys[key]
        return True

    async def run(self, steps: int = STEPS + 1) -> None:
        """Let it take so many steps, or all that are left."""
        for _ in range(steps):
            if not await self.go():
                return

    async def transferred(self, name: str) -> Transfer | None:
        """See `Cards`."""
        await self.step()
        return await self._world.cards.transferred(name)

    async def transfer(self, order: TransferOrder) -> Transfer:
        """See `Cards`."""
        await self.step()
        until = order.until + (1e9 if self._asleep else 0)
        return await self._world.cards.transfer(msgspec.structs.replace(order, until=until))

    def clock(self) -> float:
        """See `Cards`."""
        return self._world.cards.clock()


class World:
    """A creator who has earned something, an account, and workers who want to pay it."""

    def __init__(self, pool: Pool, stall: Booth, cards: Cards) -> None:
        self.pool = pool
        self.stall = stall
        self.cards = cards
        self.now = 0.0
        self.creator = UUID(int=0)
        self.account: dict[str, Any] = {}
        self.forgets_no = False
        """Whether the provider keeps no answers that are errors: it does not say of which it does."""
        self.at: ContextVar[Worker] = ContextVar("at")

    async def begin(self) -> None:
        """Forget everything, and let a creator earn something."""
        ledger = self.stall.stand_in.ledger
        ledger.objects.clear()
        ledger.keys.clear()
        self.stall.told.clear()
        self.account = ledger.add("account", metadata={}, capabilities={}, payouts_enabled=True)
        self.takes(anything=True)
        self.stall.stand_in.connect.top_up(EARNED * 10)
        self.creator = await self.pool.fetchval(
            "insert into creators (account, payable) values ($1, true) returning id", self.account["id"]
        )
        entries = {"cards": EARNED, earnings(self.creator): -EARNED}
        async with self.pool.acquire() as connection, connection.transaction():
            await book(connection, Booking(cause=f"sale:{uuid4()}", kind="sale", entries=entries))

    def takes(self, *, anything: bool) -> None:
        """Let the account take money, or none."""
        self.account["capabilities"] = {"transfers": "active" if anything else "inactive"}

    async def a_day_passes(self) -> None:
        """Let a day and a little more pass; the creator has seen to their account meanwhile."""
        self.stall.stand_in.ledger.skipped += 25 * 3600
        self.now += 25 * 3600
        await self.pool.execute("update payouts set asked_at = asked_at - interval '25 hours'")
        self.takes(anything=True)
        await payouts.set_payable(self.pool, self.account["id"], payable=True)

    async def end(self) -> None:
        """Let a last worker pay what is left to be paid, whatever comes of the others, and the provider tell what it did."""
        await Worker(self).run()
        await self.a_day_passes()
        await Worker(self).run()
        for event in self.stall.told:
            made = event["data"]["object"]
            if event["type"] == "transfer.created":
                async with self.pool.acquire() as connection, connection.transaction():
                    found = payouts.payout_of(made["transfer_group"])
                    assert found is not None
                    await payouts.found(connection, *found, Transfer(made["id"], made["amount"]))
        rows = await self.pool.fetch(
            "delete from jobs where kind = 'payouts.take_back' returning payload::text as payload"
        )
        for row in rows:
            transfer = row["payload"].rpartition(': "')[2].rstrip('"}')
            await self.cards.take_back(transfer)

    def given(self) -> list[int]:
        """Return how many cents are left of each transfer."""
        made = self.stall.stand_in.ledger.all("transfer")
        return [one["amount"] - one["amount_reversed"] for one in made]

    async def owed(self) -> dict[str, int]:
        """Return the balances that are not even."""
        rows = await self.pool.fetch(
            "select account, sum(cents)::int as cents from ledger_entries group by 1 having sum(cents) <> 0"
        )
        return {row["account"]: row["cents"] for row in rows}

    async def paid_once(self) -> None:
        """Make sure that the creator has what they earned, once, and that the books say so."""
        assert await self.owed() == {}
        (state,) = await self.pool.fetch("select state, cents from payouts where payee_id = $1", self.creator)
        assert state["state"] == "paid"


@pytest.fixture
async def world(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """Give one, whose workers stand still before each step in Postgres, too."""
    async with booth() as stall, cards_of(stall) as cards:
        found = World(pool, stall, cards)
        cards.clock = lambda: found.now
        for name in ("ask", "finish", "decline", "wait"):
            monkeypatch.setattr(payouts, name, _stopping(found, getattr(payouts, name)))
        yield found


def _stopping(world: World, act: Any) -> Any:
    async def stopped(pool: Pool, payout: Payout, *more: object) -> object:
        if (worker := world.at.get(None)) is not None:
            await worker.step()
        return await act(pool, payout, *more)

    return stopped


async def test_two_workers_in_every_order(world: World) -> None:
    """Both find the same payout; one transfer, whoever comes first at each step."""
    for places in combinations(range(2 * STEPS - 1), STEPS - 1):
        await world.begin()
        workers = [Worker(world), Worker(world)]
        await workers[0].go()  # the other way round is the same
        for place in range(2 * STEPS - 1):
            await workers[int(place not in places)].go()
        for worker in workers:
            await worker.run()
        await world.end()
        assert world.given() == [EARNED], places
        await world.paid_once()


@pytest.mark.parametrize("forgets_no", [False, True])
async def test_declined_and_begun_anew_while_one_stands_still(world: World, forgets_no: bool) -> None:
    """At every step of the one, with the next one at every step of theirs: never a second transfer."""
    world.forgets_no = forgets_no
    for stopped in range(1, STEPS + 1):
        for met in range(STEPS + 1):
            await world.begin()
            late, other, anew = (Worker(world) for _ in range(3))
            await late.run(stopped)
            world.takes(anything=False)
            await other.run()
            await world.a_day_passes()
            await anew.run(met)
            await late.run()
            await anew.run()
            await world.end()
            assert world.given() == [EARNED], (stopped, met)
            await world.paid_once()


async def test_at_random(world: World) -> None:
    """Four workers, an account that now takes money and now does not, and days that pass; each schedule from its seed."""
    for seed in range(60):
        choose = random.Random(seed)
        world.forgets_no = choose.random() < 0.5
        await world.begin()
        workers = [Worker(world) for _ in range(4)]
        days = 1
        for _ in range(6 * STEPS):
            if choose.random() < 0.15:
                world.takes(anything=choose.random() < 0.6)
            elif days and choose.random() < 0.05:
                days -= 1
                await world.a_day_passes()
            await choose.choice(workers).go()
        for worker in workers:
            await worker.run()
        await world.end()
        assert world.given() == [EARNED], seed
        await world.paid_once()


async def test_a_machine_that_has_slept_for_days(world: World) -> None:
    """Its transfer is made, because the provider has forgotten the key; it is found, and taken back."""
    await world.begin()
    late, other = Worker(world, asleep=True), Worker(world)
    await late.run(STEPS - 2)
    await other.run()
    assert world.given() == [EARNED]
    await world.a_day_passes()
    await late.run()
    assert world.given() == [EARNED, EARNED]
    await world.end()
    assert world.given() == [0, EARNED]
    await world.paid_once()
