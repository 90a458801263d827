"""The gateway through Stripe's own library, against the stand-in over a real socket."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import msgspec
import pytest

from protocol.envelope import RoomId, UserId
from protocol.refusals import ErrorCode, Refused
from protocol.subscriptions import Tier
from server.gateways.cards import (
    Cards,
    Declined,
    Gone,
    NotAtHand,
    Order,
    PassOrder,
    TransferOrder,
    open_cards,
)
from server.gateways.gate import TOGETHER, WAITING
from server.gateways.standin.standin import Trouble
from server.gateways.stripe import StripeCards
from server.plans import plans
from server.settings import Settings
from tests.gateways.standin.booth import KEY, Booth

USER = UserId(UUID(int=7))


@asynccontextmanager
async def cards_of(stall: Booth, **settings: Any) -> AsyncIterator[StripeCards]:
    """Open the gateway to a stand-in."""
    chosen = Settings(
        stripe_secret_key=settings.pop("stripe_secret_key", KEY),
        stripe_webhook_secret="x",
        stripe_api_base=settings.pop("stripe_api_base", stall.stand_in.base),
        **settings,
    )
    cards = open_cards(chosen)
    assert isinstance(cards, StripeCards)
    try:
        yield cards
    finally:
        await cards.aclose()


@pytest.fixture
async def cards(stall: Booth) -> AsyncIterator[StripeCards]:
    """Give the gateway."""
    async with cards_of(stall) as opened:
        yield opened


def order(customer: str, tier: Tier = Tier.PREMIUM_MONTHLY, **changes: Any) -> Order:
    """Return what somebody wants."""
    wanted = Order(
        user=USER,
        customer=customer,
        plan=plans(Settings())[tier],
        key="checkout-1",
        trial=False,
        paid_url="http://shop/pay?paid",
        left_url="http://shop/pay",
    )
    return msgspec.structs.replace(wanted, **changes)


async def test_one_key_is_one_object(stall: Booth, cards: StripeCards) -> None:
    """A customer and a checkout, however often they are asked for; another wish under the same key is refused."""
    customer = await cards.customer(USER, "customer-1")
    assert await cards.customer(USER, "customer-1") == customer
    page = await cards.checkout(order(customer))
    assert await cards.checkout(order(customer)) == page
    with pytest.raises(Refused) as refused:
        await cards.checkout(order(customer, Tier.CREATOR_PRO))
    assert refused.value.code is ErrorCode.KEY_REUSED
    sessions = list(stall.stand_in.ledger.all("checkout.session"))
    assert [session["id"] for session in sessions] == [page.id]
    assert sessions[0]["client_reference_id"] == str(USER)


@pytest.mark.parametrize(
    ("tier", "cents", "interval"),
    [
        (Tier.PREMIUM_MONTHLY, 999, "month"),
        (Tier.PREMIUM_YEARLY, 9900, "year"),
        (Tier.CREATOR_PRO, 2900, "month"),
    ],
)
async def test_prices_are_those_of_our_table(
    stall: Booth, cards: StripeCards, tier: Tier, cents: int, interval: str
) -> None:
    """Made once, found again by whoever comes later, and marked with their tier."""
    customer = await cards.customer(USER, "c")
    for number in range(2):
        async with cards_of(stall) as other:
            await other.checkout(order(customer, tier, key=f"k{number}"))
    (price,) = list(stall.stand_in.ledger.all("price"))
    assert (price["unit_amount"], price["currency"], price["recurring"]["interval"]) == (
        cents,
        "usd",
        interval,
    )
    assert price["metadata"] == {"looprooms_tier": tier.value}


async def test_another_price_is_another_object(stall: Booth) -> None:
    """A price that was paid once is never changed."""
    for cents in (2900, 3900):
        async with cards_of(stall, creator_pro_cents=cents) as cards:
            customer = await cards.customer(USER, "c")
            plan = plans(Settings(creator_pro_cents=cents))[Tier.CREATOR_PRO]
            await cards.checkout(order(customer, plan=plan, key=f"k{cents}"))
    assert sorted(price["unit_amount"] for price in stall.stand_in.ledger.all("price")) == [2900, 3900]


async def test_a_trial_is_asked_for(stall: Booth, cards: StripeCards) -> None:
    """With the plan's days, for who may have one."""
    customer = await cards.customer(USER, "c")
    for trial in (True, False):
        await cards.checkout(order(customer, key=f"k{trial}", trial=trial))
    days = [
        session["standin"]["subscription_data"].get("trial_period_days")
        for session in stall.stand_in.ledger.all("checkout.session")
    ]
    assert days == [None, 7]


async def test_what_is_there_is_read(stall: Booth, cards: StripeCards) -> None:
    """Every subscription, also those that are over, over several pages; every event since a moment; a portal."""
    subscriptions = [await stall.subscribed() for _ in range(3)]
    stall.stand_in.billing.cancel(subscriptions[0])
    found = [one.id async for one in cards.subscriptions()]
    assert sorted(found) == sorted(one["id"] for one in subscriptions)
    assert (await cards.subscription(subscriptions[0]["id"])).over
    events = [event.type async for page in cards.events(0) for event in page]
    assert events[::-1] == stall.kinds
    assert [page async for page in cards.events(int(time.time()) + 60)] == [[]]
    url = await cards.portal(subscriptions[0]["customer"], "http://shop/pay")
    assert url.startswith(f"{stall.stand_in.base}/p/session/bps_")


async def test_pages_follow_each_other(
    stall: Booth, cards: StripeCards, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are, each object comes once."""
    from server.gateways import stripe as gateway

    monkeypatch.setattr(gateway, "PAGE", 2)
    for _ in range(5):
        await stall.subscribed()
    found = [one.id async for one in cards.subscriptions()]
    assert len(found) == len(set(found)) == 5
    events = [event.id async for page in cards.events(0) for event in page]
    assert len(events) == len(set(events)) == len(stall.told)


GONE: list[Callable[[Cards], Awaitable[object]]] = [
    lambda cards: cards.checkout(order("cus_none")),
    lambda cards: cards.portal("cus_none", "http://x"),
    lambda cards: cards.subscription("sub_none"),
]


@pytest.mark.parametrize("ask", GONE)
async def test_what_is_gone_is_said(cards: StripeCards, ask: Callable[[Cards], Awaitable[object]]) -> None:
    """It is no failure of the provider."""
    for _ in range(9):
        with pytest.raises(Gone):
            await ask(cards)
    assert not cards.breaker.open


async def test_a_failure_is_tried_once_more(stall: Booth, cards: StripeCards) -> None:
    """By the library, under the same key: so it is done once."""
    stall.stand_in.trouble.append(Trouble("fail"))
    await cards.customer(USER, "c")
    assert len(list(stall.stand_in.ledger.all("customer"))) == 1


async def test_an_answer_that_was_lost_is_asked_for_again(stall: Booth) -> None:
    """The customer was made, nobody heard of it: the same key finds it."""
    async with cards_of(stall, stripe_timeout_seconds=0.5) as cards:
        stall.stand_in.trouble.append(Trouble("mute"))
        with pytest.raises(Refused) as refused:
            await cards.customer(USER, "c")
        assert refused.value.code is ErrorCode.UNAVAILABLE
        (made,) = list(stall.stand_in.ledger.all("customer"))
        assert await cards.customer(USER, "c") == made["id"]


async def test_nobody_waits_longer_than_the_deadline(stall: Booth) -> None:
    """However long Stripe hangs; after a few of those nobody waits at all, until it works again."""
    async with cards_of(stall, stripe_timeout_seconds=0.3) as cards:
        await cards.customer(USER, "first")  # the library is there
        stall.stand_in.trouble.append(Trouble("hang", times=3))
        for _ in range(3):
            with pytest.raises(Refused):
                await asyncio.wait_for(cards.customer(USER, "c"), 2.0)
        assert cards.breaker.open
        asked = len(stall.stand_in.api.asked)
        with pytest.raises(Refused) as refused:
            await cards.customer(USER, "c")
        assert (refused.value.code, len(stall.stand_in.api.asked)) == (ErrorCode.UNAVAILABLE, asked)
        assert refused.value.retry_after is not None


async def test_few_wait(stall: Booth) -> None:
    """Places and the queue are bounded; who finds neither is told at once."""
    async with cards_of(stall, stripe_timeout_seconds=0.5) as cards:
        await cards.customer(USER, "first")
        stall.stand_in.trouble.append(Trouble("hang", times=10_000))
        waiting = [asyncio.create_task(cards.customer(USER, f"c{n}")) for n in range(WAITING)]
        await asyncio.sleep(0)
        with pytest.raises(Refused):
            await cards.customer(USER, "one too many")
        assert sum(task.done() for task in waiting) == 0
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(one, Refused) for one in outcomes)
        assert len(stall.stand_in.ledger.keys) == 1
        assert cards._http is not None
        assert TOGETHER < WAITING


async def test_a_wrong_key_is_the_operators_business(stall: Booth, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged without the key, and people are told to come later."""
    async with cards_of(stall, stripe_secret_key="sk_test_PRIVATE") as cards:
        with pytest.raises(Refused) as refused:
            await cards.customer(USER, "c")
    assert refused.value.code is ErrorCode.UNAVAILABLE
    assert "does not take our key" in caplog.text
    assert "PRIVATE" not in caplog.text


async def test_nobody_there(stall: Booth) -> None:
    """A port that nobody listens on is a failure like any other."""
    async with cards_of(stall, stripe_api_base="http://127.0.0.1:9") as cards:
        with pytest.raises(Refused) as refused:
            await cards.customer(USER, "c")
    assert refused.value.code is ErrorCode.UNAVAILABLE


async def test_a_bug_of_ours_is_no_failure_of_stripe(stall: Booth, cards: StripeCards) -> None:
    """A parameter that Stripe does not know is raised as it is."""
    with pytest.raises(Exception, match="unknown parameter"):
        await cards._ask(
            lambda client: client.v1.customers.create_async({"emails": "x"})  # type: ignore[arg-type] # the point
        )
    assert not cards.breaker.open


def pass_order(customer: str, **changes: Any) -> PassOrder:
    """Return what somebody wants to come into."""
    wanted = PassOrder(
        user=USER,
        customer=customer,
        room=RoomId(UUID(int=9)),
        title="Evenings",
        cents=500,
        monthly=True,
        key="pass-1",
        paid_url="http://shop/pay?paid",
        left_url="http://shop/pay",
    )
    return msgspec.structs.replace(wanted, **changes)


@pytest.mark.parametrize(("monthly", "mode"), [(True, "subscription"), (False, "payment")])
async def test_a_pass(stall: Booth, cards: StripeCards, monthly: bool, mode: str) -> None:
    """It says whose it is and for what on all that comes of it, at the price that it is told."""
    customer = await cards.customer(USER, "c")
    page = await cards.checkout_pass(pass_order(customer, monthly=monthly))
    session = stall.stand_in.ledger.get("checkout.session", page.id)
    assert (session["mode"], session["amount_total"], session["currency"]) == (mode, 500, "usd")
    stall.stand_in.billing.complete(session)
    made = stall.stand_in.ledger.objects[session["subscription"] or session["payment_intent"]]
    mine = {"looprooms_user": str(USER), "looprooms_room": str(UUID(int=9))}
    assert session["metadata"] == made["metadata"] == mine
    if monthly:
        await cards.cancel(made["id"])
        assert made["status"] == "canceled"
        with pytest.raises(Gone):
            await cards.cancel(made["id"])
    with pytest.raises(Gone):
        await cards.checkout_pass(pass_order("cus_gone", key="other"))


async def test_an_account_and_its_money(stall: Booth, cards: StripeCards) -> None:
    """Made once, not ready before everything is told; what is given is given once, and found by its name."""
    account = await cards.account(USER, "account-1")
    assert account == await cards.account(USER, "account-1")
    assert not await cards.account_ready(account)
    assert account in await cards.account_link(account, "http://shop/again", "http://shop/pay")
    order = TransferOrder(cents=700, account=account, name="payout-1", until=cards.clock() + 60)
    with pytest.raises(Declined):
        await cards.transfer(order)
    stall.stand_in.connect.onboard(stall.stand_in.ledger.get("account", account))
    assert await cards.account_ready(account)
    with pytest.raises(Declined):
        await cards.transfer(order)  # what was said is said for a day
    stall.pass_time(86400)
    with pytest.raises(NotAtHand):
        await cards.transfer(order)
    stall.stand_in.connect.top_up(700)
    stall.pass_time(86400)
    assert await cards.transferred("payout-1") is None
    made = await cards.transfer(order)
    assert made.cents == 700
    assert made == await cards.transfer(order) == await cards.transferred("payout-1")
    assert await cards.transferred("payout-2") is None
    with pytest.raises(Refused):
        await cards.transfer(msgspec.structs.replace(order, name="payout-2", until=cards.clock() - 1))
    assert await cards.transferred("payout-2") is None
    assert not cards.away
    for _ in range(2):
        await cards.take_back(made.id)
    assert [one["amount"] for one in stall.stand_in.ledger.all("transfer_reversal")] == [700]
    assert await cards.transferred("payout-1") is None
    for asking in (cards.account_ready("acct_gone"), cards.account_link("acct_gone", "http://a", "http://b")):
        with pytest.raises(Gone):
            await asking
