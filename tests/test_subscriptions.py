"""Subscriptions: what the payment provider tells, in any order; what our own clock ends; and what a reconciliation repairs."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from protocol.refusals import ErrorCode
from protocol.rooms import Departure, JoinRoom, RoomUnlocked
from protocol.subscriptions import (
    GetSubscription,
    Reason,
    Subscription,
    SubscriptionFound,
    SubscriptionStatus,
    Tier,
)
from server import subscriptions as domain
from server.gateways.standin.billing import DAY, FAILS_LATER
from server.gateways.standin.deliveries import encoded
from server.gateways.standin.ledger import Object
from server.gateways.standin.standin import StandIn, Trouble
from server.payments import TAKERS, take, takes
from server.subscriptions import RECONCILED_DAYS, Reconciled, reconcile
from storage import subscriptions
from storage.departures import remove_person
from storage.payment_objects import read_event
from storage.postgres.pool import Pool
from storage.subscriptions import ForgetCustomers
from tests.hosting import make_room
from tests.http.serving import Site
from tests.meeting import Guest
from tests.redis.valkeys import Valkey
from tests.shop import Shop, changes, shop
from tests.standing import Standing
from tests.waiting import until

MONTH = 30 * DAY
TRIAL = ("PREMIUM_MONTHLY", "TRIAL", "trial")
PAID = ("PREMIUM_MONTHLY", "ACTIVE", "paid")


@pytest.fixture
async def open_shop(database_url: str, valkey: Valkey, pool: Pool) -> AsyncIterator[Shop]:
    """Run a node that is paid."""
    async with shop(database_url, valkey.url, pool, trial_days=0) as running:
        yield running


async def rows(pool: Pool) -> dict[str, list[tuple[Any, ...]]]:
    """Return everything that follows from events, but for how often people were told."""
    found = {}
    for table in ("subscriptions", "payment_subscriptions", "payment_customers"):
        columns = {"payment_customers": "id, user_id"}.get(table, "*")
        found[table] = [tuple(row) for row in await pool.fetch(f"select {columns} from {table} order by 1")]
    found["users"] = [tuple(row) for row in await pool.fetch("select id, tier from users order by 1")]
    return found


def let_pass(stand_in: StandIn, seconds: float) -> None:
    """Let time pass at the provider."""
    stand_in.ledger.skipped += seconds
    stand_in.billing.advance()


async def forget_everything(pool: Pool) -> None:
    """Forget all that was taken."""
    await pool.execute("delete from payment_events")
    await pool.execute("delete from payment_subscriptions")
    await pool.execute("delete from subscriptions")
    await pool.execute("update users set tier = 'FREE'")


async def test_one_sees_ones_own_subscription(nodes: Standing) -> None:
    """Who never subscribed is free; who did sees until when. Where nothing can be paid there is no page to pay on."""
    client = await nodes.north.client("Ada")
    found = await client.call(GetSubscription())
    assert found == SubscriptionFound(Subscription(tier=Tier.FREE), id=found.id)
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


async def test_who_pays_is_told_and_let_in(open_shop: Shop) -> None:
    """From the checkout to the premium room that opens while one is in it."""
    room = await make_room(open_shop.pool, "premium", preview=60)
    ada = await open_shop.guest()
    client = await open_shop.nodes.come(ada, open_shop.sites[0])
    found = await client.call(GetSubscription())
    assert found.pay == "http://127.0.0.1:8000/pay"
    assert (await client.call(JoinRoom(str(room)))).preview_ends_in is not None
    await open_shop.subscribe(ada)
    heard = ada.heard[client]
    await until(lambda: any(isinstance(one, RoomUnlocked) for one in heard))
    paid = await open_shop.standing(ada)
    assert (paid.tier, paid.status, paid.renews) == (Tier.PREMIUM_MONTHLY, SubscriptionStatus.ACTIVE, True)
    assert changes(heard)[-1] == paid == (await client.call(GetSubscription())).subscription
    assert paid.until is not None
    assert paid.until / 1000 == pytest.approx(time.time() + MONTH, abs=60)


async def test_a_life(open_shop: Shop) -> None:
    """Paid, renewed, a payment that fails, paid after all, canceled, gone on, canceled, ended."""
    ada = await open_shop.guest()
    stand_in, billing = open_shop.stand_in, open_shop.stand_in.billing
    subscription = await open_shop.subscribe(ada)
    await open_shop.stands(ada, *PAID)
    first = (await open_shop.standing(ada)).until
    let_pass(stand_in, MONTH)
    await until_moved(open_shop, ada, first)
    billing.set_method(subscription, FAILS_LATER)
    let_pass(stand_in, MONTH)
    await open_shop.stands(ada, "PREMIUM_MONTHLY", "ACTIVE", "payment_failed")
    billing.set_method(subscription, "pm_card_visa")
    let_pass(stand_in, DAY)
    await open_shop.stands(ada, *PAID)
    billing.cancel_at_end(subscription, cancel=True)
    await open_shop.stands(ada, "PREMIUM_MONTHLY", "CANCELED", "canceled")
    let_pass(stand_in, 2)
    billing.cancel_at_end(subscription, cancel=False)
    await open_shop.stands(ada, *PAID)
    let_pass(stand_in, 2)
    billing.cancel_at_end(subscription, cancel=True)
    let_pass(stand_in, MONTH)
    await open_shop.stands(ada, "FREE", "EXPIRED", "ended")


async def until_moved(open_shop: Shop, guest: Guest, before: int | None) -> None:
    """Wait until the end of what is paid has moved on."""
    async with asyncio.timeout(5):
        while (await open_shop.standing(guest)).until == before:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)


async def test_a_payment_that_fails_for_good_ends_it(open_shop: Shop) -> None:
    """After the provider has given up."""
    ada = await open_shop.guest()
    await open_shop.subscribe(ada, method=FAILS_LATER)
    await open_shop.stands(ada, *PAID)
    let_pass(open_shop.stand_in, MONTH + 9 * DAY)
    await open_shop.stands(ada, "FREE", "EXPIRED", "payment_failed")


async def test_plans_are_changed(open_shop: Shop) -> None:
    """Another price is another tier."""
    ada, bo = await open_shop.guest(), await open_shop.guest()
    subscription = await open_shop.subscribe(ada)
    await open_shop.subscribe(bo, "PREMIUM_YEARLY")
    yearly = next(open_shop.stand_in.ledger.all("price", unit_amount=9900))
    open_shop.stand_in.billing.change_price(subscription, yearly)
    for guest in (ada, bo):
        await open_shop.stands(guest, "PREMIUM_YEARLY", "ACTIVE", "paid")


async def test_a_trial_is_for_who_never_subscribed(database_url: str, valkey: Valkey, pool: Pool) -> None:
    """It becomes a paid period by itself; a second subscription begins with its payment."""
    async with shop(database_url, valkey.url, pool, trial_days=7) as running:
        ada = await running.guest()
        subscription = await running.subscribe(ada)
        await running.stands(ada, *TRIAL)
        let_pass(running.stand_in, 7 * DAY)
        await running.stands(ada, *PAID)
        running.stand_in.billing.cancel(subscription)
        await running.stands(ada, "FREE", "EXPIRED", "canceled")
        await running.subscribe(ada)
        await running.stands(ada, *PAID)


FIVE = (
    "customer.subscription.created",
    "customer.subscription.updated",
    "invoice.payment_failed",
    "customer.subscription.updated",
    "customer.subscription.deleted",
)


async def lifecycle(open_shop: Shop, guest: Guest) -> list[Object]:
    """Return the five events of a life: begun, paid, not renewed, canceled, ended; each a day or more after the one before."""
    held = open_shop.hold()
    stand_in = open_shop.stand_in
    subscription = await open_shop.subscribe(guest)
    stand_in.billing.set_method(subscription, FAILS_LATER)
    let_pass(stand_in, MONTH)
    stand_in.ledger.skipped += 60
    stand_in.billing.cancel(subscription)
    told = [one for one in held if one["type"] in FIVE]
    by_status = {
        one["data"]["object"]["status"]: one for one in told if one["type"] != "invoice.payment_failed"
    }
    failed = next(one for one in told if one["type"] == "invoice.payment_failed")
    return [
        by_status["incomplete"],
        by_status["active"],
        failed,
        by_status["past_due"],
        by_status["canceled"],
    ]


async def test_all_orders_of_a_life_end_the_same(open_shop: Shop) -> None:
    """All 120 orders of five events, the last of each sent again: one state, byte for byte."""
    ada = await open_shop.guest()
    events = await lifecycle(open_shop, ada)
    assert [event["type"] for event in events] == [FIVE[0], FIVE[1], FIVE[2], FIVE[3], FIVE[4]]
    node = open_shop.sites[0].node
    outcomes = []
    for order in itertools.permutations(events):
        await forget_everything(open_shop.pool)
        for event in (*order, order[0], order[4]):
            await take(node, read_event(encoded(event)))
        outcomes.append(await rows(open_shop.pool))
    assert len(outcomes) == 120
    assert all(outcome == outcomes[0] for outcome in outcomes)
    await open_shop.stands(ada, "FREE", "EXPIRED", "canceled")


async def test_stale_objects_change_nothing(open_shop: Shop) -> None:
    """Each beginning of the life, then all that is older again under new ids: as if they had not come."""
    ada = await open_shop.guest()
    events = await lifecycle(open_shop, ada)
    node = open_shop.sites[0].node
    for count in range(1, 6):
        await forget_everything(open_shop.pool)
        for event in events[:count]:
            await take(node, read_event(encoded(event)))
        expected = await rows(open_shop.pool)
        for number, event in enumerate(reversed(events[:count])):
            await take(node, read_event(encoded({**event, "id": f"evt_again_{count}_{number}"})))
        assert await rows(open_shop.pool) == expected


async def test_one_event_has_one_effect(database_url: str, valkey: Valkey, pool: Pool) -> None:
    """A hundred times, at once, on two nodes: each is answered well, and the person is told once."""
    async with shop(database_url, valkey.url, pool, 2, trial_days=0) as running:
        ada = await running.guest()
        client = await running.nodes.come(ada, running.sites[0])
        held = running.hold()
        await running.subscribe(ada)
        active = next(one for one in held if one["data"]["object"].get("status") == "active")
        deliveries = running.stand_in.deliveries

        async def send(site: Site) -> int:
            deliveries.url = f"http://127.0.0.1:{site.port}/payments/webhook"
            return await deliveries.send(active)

        statuses = await asyncio.gather(*(send(running.sites[turn % 2]) for turn in range(100)))
        assert statuses == [204] * 100
        await until(lambda: changes(ada.heard[client]))
        told = await pool.fetch("select body::jsonb ->> 'type' from person_events order by \"offset\"")
        assert [row[0] for row in told] == ["subscription.changed", "notification.notice"]
        assert [
            tuple(row.values())
            for row in await pool.fetch("select user_id, kind, outcome, count from notifications")
        ] == [(ada.user, "payment", "paid", 1)]
        assert await pool.fetchval("select count(*) from payment_events where id = $1", active["id"]) == 1


async def test_a_tie_is_looked_at(open_shop: Shop) -> None:
    """Two different states of one second: the provider is asked, and the present one counts."""
    ada = await open_shop.guest()
    held = open_shop.hold()
    subscription = await open_shop.subscribe(ada)
    billing = open_shop.stand_in.billing
    billing.cancel_at_end(subscription, cancel=True)
    billing.cancel_at_end(subscription, cancel=False)
    second = max(one["created"] for one in held)
    mine = [one for one in held if one["type"].startswith("customer.subscription")]
    for event in mine:
        event["created"] = second
    choose = random.Random(3)
    choose.shuffle(mine)
    await open_shop.deliver(mine)
    await open_shop.stands(ada, *PAID, within=15.0)
    assert f"GET /v1/subscriptions/{subscription['id']}" in open_shop.stand_in.api.asked


async def test_what_is_nobodys_is_taken_and_left(open_shop: Shop) -> None:
    """A subscription that was made by hand, one of somebody who is gone, and events that nobody here knows."""
    ledger, billing = open_shop.stand_in.ledger, open_shop.stand_in.billing
    ada = await open_shop.guest()
    held = open_shop.hold()
    subscription = await open_shop.subscribe(ada)
    await open_shop.pool.execute("delete from payment_customers")
    await open_shop.pool.execute("delete from users where id = $1", ada.user)
    stranger = ledger.add("customer", email=None, name=None, metadata={}, deleted=False)
    subscription["customer"], subscription["metadata"] = stranger["id"], {"looprooms_user": "nonsense"}
    billing.cancel(subscription)
    ledger.tell("balance.available", {"object": "balance"})
    await open_shop.deliver(held)
    assert await open_shop.pool.fetchval("select count(*) from subscriptions") == 0
    assert await open_shop.pool.fetchval("select count(*) from payment_events") == len(held)


async def test_only_prices_of_our_table_count(open_shop: Shop) -> None:
    """A subscription to a price that somebody made at the provider opens nothing, whatever it costs."""
    ada = await open_shop.guest()
    held = open_shop.hold()
    subscription = await open_shop.subscribe(ada)
    for event in held:
        for item in event["data"]["object"].get("items", {}).get("data", []):
            item["price"]["metadata"] = {"tier": "CREATOR_PRO"}
    await open_shop.deliver(held)
    assert await open_shop.pool.fetchval("select id from payment_subscriptions") == subscription["id"]
    assert await open_shop.standing(ada) == Subscription(tier=Tier.FREE)


async def test_what_has_ended_ends_by_our_own_clock(open_shop: Shop) -> None:
    """At the end of what was paid, without a word of the provider: the room is left with the reason and the way to pay."""
    room = await make_room(open_shop.pool, "premium", preview=0)
    ada = await open_shop.guest()
    client = await open_shop.nodes.come(ada, open_shop.sites[0])
    subscription = await open_shop.subscribe(ada)
    await open_shop.stands(ada, *PAID)
    looks = "select count(*) from jobs where kind = 'subscriptions.look'"
    assert await open_shop.pool.fetchval(looks) == 0  # nobody but the clock
    heard = ada.heard[client]
    await until(lambda: changes(heard) and changes(heard)[-1].tier is Tier.PREMIUM_MONTHLY)
    await open_until(client, room)
    open_shop.stand_in.deliveries.lost = True
    await end_in(open_shop, subscription, 2)
    await until(lambda: any(isinstance(one, Departure) for one in heard), within=6.0)
    (left,) = [one for one in heard if isinstance(one, Departure)]
    assert (left.code, left.pay) == (ErrorCode.SUBSCRIPTION_ENDED, "http://127.0.0.1:8000/pay")
    ended = changes(heard)[-1]
    assert (ended.tier, ended.status, ended.reason) == (Tier.FREE, SubscriptionStatus.EXPIRED, Reason.ENDED)
    assert ended.until is not None
    assert ended.until <= time.time() * 1000


async def open_until(client: Any, room: Any) -> None:
    """Enter a premium room as soon as it is open."""
    async with asyncio.timeout(5):
        while True:
            try:
                joined = await client.call(JoinRoom(str(room)))
            except Exception:  # noqa: BLE001 - refused until the session is read again
                await asyncio.sleep(0.01)
            else:
                assert joined.preview_ends_in is None
                return


async def end_in(open_shop: Shop, subscription: Object, seconds: int) -> None:
    """Let the node know that a subscription ends so soon."""
    subscription["items"]["data"][0]["current_period_end"] = int(time.time()) + seconds
    deliveries = open_shop.stand_in.deliveries
    deliveries.lost, deliveries.held = False, []
    open_shop.stand_in.ledger.skipped += 5
    open_shop.stand_in.billing.cancel_at_end(subscription, cancel=True)
    await open_shop.deliver(deliveries.held)


async def test_grace_ends_by_our_own_clock(database_url: str, valkey: Valkey, pool: Pool) -> None:
    """A payment failed, and nothing more is heard."""
    async with shop(database_url, valkey.url, pool, trial_days=0, grace_days=2 / DAY) as running:
        ada = await running.guest()
        held = running.hold()
        subscription = await running.subscribe(ada)
        await running.deliver(held)
        await running.stands(ada, *PAID)
        item = subscription["items"]["data"][0]
        item["current_period_start"] = int(time.time())
        subscription["status"] = "past_due"
        held.clear()
        running.stand_in.ledger.skipped += 5
        running.stand_in.billing.set_method(subscription, FAILS_LATER)
        await running.deliver(held)
        await running.stands(ada, "PREMIUM_MONTHLY", "ACTIVE", "payment_failed")
        await running.stands(ada, "FREE", "EXPIRED", "payment_failed", within=6.0)


async def test_three_lost_days_are_repaired(open_shop: Shop) -> None:
    """Beginnings, failures, changes and ends that nobody was told of: one reconciliation, and all stand as they should."""
    guests = [await open_shop.guest() for _ in range(6)]
    stand_in, billing = open_shop.stand_in, open_shop.stand_in.billing
    held = open_shop.hold()
    known = [await open_shop.subscribe(guest) for guest in guests[:5]]
    await open_shop.deliver(held)
    for guest in guests[:5]:
        await open_shop.stands(guest, *PAID)
    stand_in.deliveries.held = None
    stand_in.deliveries.lost = True
    stand_in.ledger.skipped += 5
    billing.cancel(known[0])
    billing.cancel_at_end(known[1], cancel=True)
    stand_in.ledger.skipped += 5
    await open_shop.subscribe(guests[5], "CREATOR_PRO")
    node = open_shop.sites[0].node
    assert node.cards is not None
    client = await open_shop.nodes.come(guests[0], open_shop.sites[0])
    found = await reconcile(node, node.cards, days=RECONCILED_DAYS)
    expected: Sequence[Sequence[str]] = (
        ("FREE", "EXPIRED", "canceled"),
        ("PREMIUM_MONTHLY", "CANCELED", "canceled"),
        PAID,
        PAID,
        PAID,
        ("CREATOR_PRO", "ACTIVE", "paid"),
    )
    for guest, standing in zip(guests, expected, strict=True):
        await open_shop.stands(guest, *standing)
    assert found.looked_at == 6
    assert found.missed > 3
    await until(lambda: changes(guests[0].heard[client]))
    again = await reconcile(node, node.cards, days=RECONCILED_DAYS)
    assert (again.missed, again.changed) == (0, 0)


async def test_states_alone_repair_it(open_shop: Shop) -> None:
    """Events that the provider has forgotten, too: the present state of each subscription is enough."""
    open_shop.stand_in.deliveries.lost = True
    ada = await open_shop.guest()
    await open_shop.subscribe(ada)
    objects = open_shop.stand_in.ledger.objects
    for event in list(open_shop.stand_in.ledger.all("event")):
        del objects[event["id"]]
    node = open_shop.sites[0].node
    assert node.cards is not None
    found = await reconcile(node, node.cards, days=RECONCILED_DAYS)
    assert (found.looked_at, found.changed) == (1, 1)
    await open_shop.stands(ada, *PAID)


async def test_no_more_than_a_page_is_held(open_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much was missed: a page of it is taken before the next one is asked for."""
    open_shop.stand_in.deliveries.lost = True
    for _ in range(250):
        open_shop.stand_in.ledger.tell("customer.created", {"object": "customer"})
    steps: list[str] = []

    async def noted(node: Any, event: Any) -> Any:
        steps.append(str(sum(one == "GET /v1/events" for one in open_shop.stand_in.api.asked)))
        return await take(node, event)

    monkeypatch.setattr(domain, "take", noted)
    node = open_shop.sites[0].node
    assert node.cards is not None
    assert (await reconcile(node, node.cards, days=1)).missed == 250
    assert "".join(steps) == "1" * 100 + "2" * 100 + "3" * 50


async def test_the_nightly_job_reconciles(open_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """With four days of events; and where nothing is paid it does nothing."""
    asked: list[float] = []

    async def noted(node: Any, cards: Any, *, days: float) -> Reconciled:
        asked.append(days)
        return Reconciled()

    monkeypatch.setattr(domain, "reconcile", noted)
    node = open_shop.sites[0].node
    await domain.reconcile_nightly(node, domain.Reconcile(period=0))
    assert asked == [RECONCILED_DAYS]
    assert RECONCILED_DAYS > 3
    monkeypatch.setattr(node, "cards", None)
    await domain.reconcile_nightly(node, domain.Reconcile(period=0))
    assert asked == [RECONCILED_DAYS]


async def test_a_reconciliation_that_can_not_ask_says_so(open_shop: Shop) -> None:
    """Half of it is no harm: what was taken is taken."""
    node = open_shop.sites[0].node
    assert node.cards is not None
    open_shop.stand_in.trouble.append(Trouble("fail", "/v1/subscriptions", times=9))
    with pytest.raises(Exception, match="does not answer"):
        await reconcile(node, node.cards, days=1)


@pytest.mark.parametrize("how", ["refund", "dispute"])
async def test_money_that_goes_back_takes_the_tier(open_shop: Shop, how: str) -> None:
    """All that was paid for the present: it ends at the provider, too. A part of it, or what was paid for the past, changes nothing."""
    stand_in = open_shop.stand_in
    ada = await open_shop.guest()
    subscription = await open_shop.subscribe(ada, "PREMIUM_YEARLY")
    await open_shop.stands(ada, "PREMIUM_YEARLY", "ACTIVE", "paid")
    first = next(stand_in.ledger.all("charge"))
    stand_in.ledger.skipped += 12 * 30 * DAY
    stand_in.billing.advance()
    await until(lambda: open_shop.pool.fetchval("select count(*) = 2 from sales"))
    second = next(stand_in.ledger.all("charge"))
    assert second is not first
    stand_in.billing.refund(first, None, {})
    stand_in.billing.refund(second, 9899, {})
    await until(lambda: open_shop.pool.fetchval("select sum(returned_cents) = 2 * 9900 - 1 from sales"))
    assert not await open_shop.pool.fetchval("select count(*) from jobs where kind = 'sales.end'")
    assert subscription["status"] == "active"
    if how == "refund":
        stand_in.billing.refund(second, 1, {})
    else:
        stand_in.billing.dispute(second)
    await open_shop.stands(ada, "FREE", "EXPIRED", "canceled")
    assert subscription["status"] == "canceled"


async def test_what_creators_sell_at_their_own_accounts_is_theirs(open_shop: Shop) -> None:
    """Whatever they write into it: of connected accounts nothing is believed but that they have changed."""
    held = open_shop.hold()
    ada = await open_shop.guest()
    await open_shop.subscribe(ada)
    theirs = [{**event, "id": f"{event['id']}_theirs", "account": "acct_theirs"} for event in held]
    await open_shop.deliver(theirs)
    assert (await open_shop.standing(ada)).status is None
    assert not await open_shop.pool.fetchval("select count(*) from jobs where kind like 'sales.%'")
    await open_shop.deliver(held)
    await open_shop.stands(ada, *PAID)


async def test_other_money_is_not_booked(open_shop: Shop) -> None:
    """What was paid in another currency is not so many cents of ours."""
    held = open_shop.hold()
    ada = await open_shop.guest()
    await open_shop.subscribe(ada)
    for event in held:
        if event["type"] == "invoice.paid":
            event["data"]["object"]["currency"] = "jpy"
    await open_shop.deliver(held)
    await open_shop.stands(ada, *PAID)
    assert not await open_shop.pool.fetchval("select count(*) from jobs where kind = 'sales.invoice'")
    assert not await open_shop.pool.fetchval("select count(*) from sales")


async def test_who_leaves_for_good_pays_no_more(open_shop: Shop) -> None:
    """The provider ends what they paid for and forgets them, even when it could not be asked at once."""
    ada = await open_shop.guest()
    subscription = await open_shop.subscribe(ada)
    await open_shop.stands(ada, *PAID)
    open_shop.stand_in.trouble.append(Trouble("fail", "/v1/customers", times=2))
    assert await remove_person(open_shop.pool, open_shop.sites[0].node.stores.sealer, ada.user) is not None
    await until(lambda: subscription["status"] == "canceled", within=15.0)
    (customer,) = [one for one in open_shop.stand_in.ledger.objects.values() if one["object"] == "customer"]
    assert customer["deleted"] is True
    for table in ("subscriptions", "payment_customers", "payment_subscriptions"):
        assert await open_shop.pool.fetchval(f"select count(*) from {table}") == 0
    await domain.forget_customers(open_shop.sites[0].node, ForgetCustomers(customers=[customer["id"]]))


async def test_an_event_that_is_not_understood_stops_nobody(open_shop: Shop) -> None:
    """It is refused when it comes, and passed over by a reconciliation."""
    ada = await open_shop.guest()
    open_shop.stand_in.deliveries.lost = True
    await open_shop.subscribe(ada)
    odd = open_shop.stand_in.ledger.tell("customer.subscription.updated", {"object": "subscription"})
    open_shop.stand_in.deliveries.lost = False
    assert await open_shop.stand_in.deliveries.send(odd) == 422
    node = open_shop.sites[0].node
    assert node.cards is not None
    await reconcile(node, node.cards, days=1)
    await open_shop.stands(ada, *PAID)
    assert not await open_shop.pool.fetchval("select count(*) from payment_events where id = $1", odd["id"])


async def test_old_events_are_forgotten(pool: Pool) -> None:
    """What is so old that it can't come again."""
    await pool.execute("insert into payment_events (id, kind) values ('evt_1', 'x'), ('evt_2', 'x')")
    await pool.execute("update payment_events set taken_at = now() - interval '91 days' where id = 'evt_1'")
    await subscriptions.forget_events(pool, 90 * DAY)
    assert [row["id"] for row in await pool.fetch("select id from payment_events")] == ["evt_2"]


def test_each_kind_of_object_is_taken_by_one() -> None:
    """Two takers would each believe to be the only one."""
    with pytest.raises(TypeError, match="subscription"):
        takes("subscription")(TAKERS["subscription"])
