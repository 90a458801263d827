"""What was paid twice all the same: the later one goes back, once, and its person is told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from protocol.client import Client
from protocol.subscriptions import PaymentReturned
from server.checkouts import end_doubled, give_back
from server.gateways.standin.ledger import Object
from storage.doubles import EndDoubled, GiveBack
from storage.postgres.pool import Pool
from tests.backstage import Backstage, backstage
from tests.meeting import Guest
from tests.redis.valkeys import Valkey
from tests.shop import shop
from tests.waiting import until


@pytest.fixture
async def back(database_url: str, valkey: Valkey, pool: Pool) -> AsyncIterator[Backstage]:
    """Give a creator with an exclusive room, on two nodes that are paid."""
    async with shop(database_url, valkey.url, pool, 2, trial_days=0) as running:
        yield await backstage(running)


async def two_pages(back: Backstage, guest: Guest, *wanted: str) -> list[Object]:
    """Begin to pay twice for the same thing, as if neither knew of the other."""
    pages = []
    for what in wanted:
        page = await (back.checkout(guest, what) if what.islower() else back.shop.checkout(guest, what))
        pages.append(page)
        await back.shop.pool.execute("update checkouts set turn = turn + 1, session = null")
    return pages


def told(guest: Guest, client: Client) -> list[PaymentReturned]:
    """Return what somebody was told of payments that went back."""
    return [one for one in guest.heard[client] if isinstance(one, PaymentReturned)]


async def quiet(back: Backstage, guest: Guest, client: Client) -> None:
    """Wait until they were told, and nothing is left to be done or to be sent."""
    await until(lambda: told(guest, client))
    deliveries, ledger = back.shop.stand_in.deliveries, back.shop.stand_in.ledger
    await until(lambda: {one["id"] for one in ledger.all("event")} <= set(deliveries.taken))

    async def done() -> bool:
        left: int = await back.shop.pool.fetchval(
            "select count(*) from jobs where split_part(kind, '.', 1) in ('doubles', 'sales', 'checkouts')"
        )
        return not left

    await until(done)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ("PREMIUM_MONTHLY", "PREMIUM_MONTHLY", {"cards": 999, "pool": -999}),
        ("PREMIUM_YEARLY", "CREATOR_PRO", {"cards": 9900, "pool": -9900}),
        ("month", "month", {"cards": 1500, "earnings": -1275, "platform": -225}),
    ],
)
async def test_two_subscriptions(
    back: Backstage, first: str, second: str, kept: dict[str, int], seed: int
) -> None:
    """The later one is canceled and given back, whatever is told first, however often: the books have one."""
    ada = await back.shop.guest()
    client = await back.shop.nodes.come(ada, back.shop.sites[1])
    held = back.shop.hold()
    pages = await two_pages(back, ada, first, second)
    for page in pages:
        back.shop.stand_in.ledger.skipped += 2
        back.shop.stand_in.billing.complete(page)
    events = [*held, *held]
    random.Random(seed).shuffle(events)
    back.shop.stand_in.deliveries.held = None
    for number, event in enumerate(events):
        await back.shop.deliver([event], number % 2)
    await quiet(back, ada, client)
    ledger = back.shop.stand_in.ledger
    states = [ledger.get("subscription", page["subscription"])["status"] for page in pages]
    assert states == ["active", "canceled"]
    price = pages[1]["amount_total"]
    assert [one["amount"] for one in ledger.all("refund")] == [price]
    room = back.room if first.islower() else None
    assert [(one.cents, one.room) for one in told(ada, client)] == [(price, room)]
    assert await back.sums() == kept
    if room is None:
        assert (await back.shop.standing(ada)).tier == first
        notices = "select count(*) from person_events where body like '%notification.notice%refunded%'"
        assert await back.shop.pool.fetchval(notices) == 1
    else:
        assert await back.shop.pool.fetchval("select count(*) from passes where open") == 1


@pytest.mark.parametrize("kinds", [("session", "session"), ("month", "session")])
async def test_two_passes(back: Backstage, kinds: tuple[str, str]) -> None:
    """The one that is paid once goes back, and what was there before counts on."""
    ada = await back.shop.guest()
    client = await back.shop.nodes.come(ada, back.shop.sites[0])
    pages = await two_pages(back, ada, *kinds)
    for page in pages:
        back.shop.stand_in.billing.complete(page)
        await until(lambda: back.shop.pool.fetchval("select count(*) from passes"))
    await quiet(back, ada, client)
    assert [(one.cents, one.room) for one in told(ada, client)] == [(400, back.room)]
    price = {"session": 400, "month": 1500}[kinds[0]]
    await until(lambda: _sums(back, price))
    rows = await back.shop.pool.fetch("select open, taken_back from passes order by open")
    assert [tuple(row) for row in rows] == [(False, True), (True, False)]


async def _sums(back: Backstage, price: int) -> bool:
    fee = price * 15 // 100
    return await back.sums() == {"cards": price, "platform": -fee, "earnings": fee - price}


async def test_what_is_done_twice_is_done_once(back: Backstage) -> None:
    """Jobs that are performed again, by two nodes at the same time, after keys were forgotten, give nothing back again."""
    ada = await back.shop.guest()
    client = await back.shop.nodes.come(ada, back.shop.sites[0])
    pages = await two_pages(back, ada, "PREMIUM_MONTHLY", "PREMIUM_MONTHLY", "session", "session")
    for page in pages:
        back.shop.stand_in.ledger.skipped += 2
        back.shop.stand_in.billing.complete(page)
    await until(lambda: len(told(ada, client)) == 2)
    first, second = pages[:2]
    refunds = back.shop.stand_in.ledger.all("refund")
    last = next(one for one in refunds if one["amount"] == 400)  # of two passes that which was told of last
    end = EndDoubled(user=ada.user, subscription=second["subscription"], other=first["subscription"])
    give = GiveBack(user=ada.user, room=back.room, payment=last["payment_intent"], cents=400)
    for forgets in (False, True):
        if forgets:
            back.shop.stand_in.ledger.keys.clear()
        await asyncio.gather(*(end_doubled(site.node, end) for site in back.shop.sites))
        await asyncio.gather(*(give_back(site.node, give) for site in back.shop.sites))
    assert sorted(one["amount"] for one in back.shop.stand_in.ledger.all("refund")) == [400, 999]
    assert len(told(ada, client)) == 2


async def test_the_earlier_one_has_ended_meanwhile(back: Backstage) -> None:
    """Then the later one is all that there is, and stays."""
    ada = await back.shop.guest()
    subscriptions: list[Any] = [await back.shop.subscribe(ada)]
    await until(lambda: back.shop.pool.fetchval("select count(*) from subscriptions"))
    back.shop.stand_in.billing.cancel(subscriptions[0])
    await back.shop.stands(ada, "FREE", "EXPIRED", "canceled")
    back.shop.stand_in.ledger.skipped += 2
    subscriptions.append(await back.shop.subscribe(ada))
    job = EndDoubled(user=ada.user, subscription=subscriptions[1]["id"], other=subscriptions[0]["id"])
    await end_doubled(back.shop.sites[0].node, job)
    assert subscriptions[1]["status"] == "active"
    assert list(back.shop.stand_in.ledger.all("refund")) == []
