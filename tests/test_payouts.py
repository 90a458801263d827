"""Payouts: what was earned waits until it can be paid, is paid once, and is in the statements to the cent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from protocol.refusals import ErrorCode, Refused
from server.gateways.cards import NotAtHand, TransferOrder
from server.gateways.standin.standin import Trouble
from server.payouts import PayCreators, enqueue_payouts, pay_creators
from server.process.operating import told_of_payouts
from storage import payouts, statements
from storage.ledger import Booking, book, earnings
from storage.payouts import Payout, Transfer
from storage.postgres.pool import Pool
from tests.backstage import Backstage, backstage
from tests.redis.valkeys import Valkey
from tests.shop import Shop, shop
from tests.waiting import until

MONTH = "2026-11"


@pytest.fixture
async def back(database_url: str, valkey: Valkey, pool: Pool) -> AsyncIterator[Backstage]:
    """Give a creator, on two nodes that are paid."""
    async with shop(database_url, valkey.url, pool, 2, stripe_timeout_seconds=1) as running:
        yield await backstage(running)


async def creator_id(back: Backstage) -> UUID:
    """Return as whom the host stands in the ledger."""
    return (await payouts.account_of(back.shop.pool, back.host.user)).id


async def earn(back: Backstage, cents: int) -> UUID:
    """Let the host earn something, which lies at the provider."""
    creator = await creator_id(back)
    back.shop.stand_in.connect.top_up(cents)
    entries = {"cards": cents, earnings(creator): -cents}
    async with back.shop.pool.acquire() as connection, connection.transaction():
        await book(connection, Booking(cause=f"sale:{uuid4()}", kind="sale", entries=entries, room=back.room))
    return creator


async def onboard(back: Backstage) -> dict[str, Any]:
    """Let the host tell all that is asked of them; return their account as the stand-in has it."""
    answer = await back.shop.ask(back.host, "POST", "/creators/account")
    assert answer.status_code == 201, answer.text
    account = next(back.shop.stand_in.ledger.all("account"))
    back.shop.stand_in.connect.onboard(account)
    await eventually(lambda: payable(back))
    return account


async def payable(back: Backstage) -> bool:
    """Say whether the host can be paid, as they are told."""
    answer = await back.shop.ask(back.host, "GET", "/creators/account", site=1)
    return bool(answer.json()["payable"])


async def eventually(condition: Callable[[], Awaitable[object]], within: float = 10.0) -> None:
    """Wait until something that must be asked for is so."""
    async with asyncio.timeout(within):
        while not await condition():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)


async def paid(back: Backstage, period: str = MONTH) -> None:
    """Have everyone paid, on both nodes, and wait until nothing is left to be done."""
    await asyncio.gather(*(enqueue_payouts(site.node, period) for site in back.shop.sites))

    async def done() -> bool:
        waiting: int = await back.shop.pool.fetchval("select count(*) from jobs where kind = 'payouts.pay'")
        return not waiting

    await eventually(done)


def transfers(back: Backstage) -> list[dict[str, Any]]:
    """Return the transfers that were made, as the stand-in has them."""
    return list(back.shop.stand_in.ledger.all("transfer"))


async def test_earnings_wait_for_an_account(back: Backstage) -> None:
    """Nothing is paid before the provider knows all that it must; then all of it is, once a month."""
    await earn(back, 5000)
    await paid(back)
    assert await back.shop.pool.fetchval("select count(*) from payouts") == 0
    account = await onboard(back)
    for _ in range(3):
        await paid(back)
    (transfer,) = transfers(back)
    assert (transfer["amount"], transfer["currency"], transfer["destination"]) == (5000, "usd", account["id"])
    assert await back.sums() == {}
    await earn(back, 3000)
    await paid(back)
    assert len(transfers(back)) == 1
    await paid(back, "2026-12")
    assert [transfer["amount"] for transfer in transfers(back)] == [3000, 5000]
    assert await back.sums() == {}


async def test_word_that_an_account_is_complete_is_lost(back: Backstage) -> None:
    """It is looked at every day, before anybody is paid."""
    back.shop.stand_in.deliveries.lost = True
    assert (await back.shop.ask(back.host, "POST", "/creators/account")).status_code == 201
    back.shop.stand_in.connect.onboard(next(back.shop.stand_in.ledger.all("account")))
    assert not await payable(back)
    await pay_creators(back.shop.sites[0].node, PayCreators(period=0))
    await eventually(lambda: payable(back))


async def test_less_than_the_least_waits(back: Backstage) -> None:
    """And so does what is owed: a refund after a payout is taken from what is earned next."""
    await onboard(back)
    creator = await earn(back, 2499)
    await paid(back)
    assert transfers(back) == []
    await earn(back, 1)
    await paid(back)
    assert [transfer["amount"] for transfer in transfers(back)] == [2500]
    entries = {"cards": -1000, earnings(creator): 1000}
    async with back.shop.pool.acquire() as connection, connection.transaction():
        await book(connection, Booking(cause="return:1", kind="return", entries=entries))
    await earn(back, 3000)
    await paid(back, "2026-12")
    assert len(transfers(back)) == 1
    await earn(back, 1000)
    await paid(back, "2027-01")
    assert [transfer["amount"] for transfer in transfers(back)] == [3000, 2500]


@pytest.mark.parametrize("kind", ["fail", "hang", "mute"])
async def test_a_call_that_went_wrong_is_made_once(
    back: Backstage, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    """Whether it was done and not answered, or not done: one transfer in the end. So it is when the key is forgotten, too."""
    monkeypatch.setattr("random.uniform", lambda *_: 0.001)
    await onboard(back)
    await earn(back, 5000)
    back.shop.stand_in.trouble.append(Trouble(kind, "/v1/transfers", times=2))
    await enqueue_payouts(back.shop.sites[0].node, MONTH)
    await until(lambda: not back.shop.stand_in.trouble, within=20.0)
    back.shop.stand_in.ledger.keys.clear()
    await paid(back)
    assert [transfer["amount"] for transfer in transfers(back)] == [5000]
    assert await back.sums() == {}


@pytest.mark.parametrize("step", ["begun", "transferred", "finished"])
async def test_whoever_comes_after_a_death_goes_on(back: Backstage, step: str) -> None:
    """A node that died at any point has left a payout that the next one ends: one transfer, of the money that was set aside."""
    account = await onboard(back)
    creator = await earn(back, 5000)
    pool = back.shop.pool
    begun = await payouts.begin(pool, creator, MONTH, 1)
    assert begun is not None
    if step != "begun":
        made = back.shop.stand_in.connect.transfer(5000, "usd", account["id"], begun.name, {})
        if step == "finished":
            await payouts.finish(pool, begun, Transfer(made["id"], 5000))
    await earn(back, 700)
    await paid(back, "2026-12")
    assert [transfer["amount"] for transfer in transfers(back)] == [5000]
    assert (await back.sums())["earnings"] == -700
    row = await pool.fetchrow("select state, cents, transfer from payouts")
    assert row is not None
    assert tuple(row) == ("paid", 5000, transfers(back)[0]["id"])


async def test_two_begin_at_the_same_time(back: Backstage) -> None:
    """They have the same payout, and its money is set aside once."""
    await onboard(back)
    creator = await earn(back, 5000)
    begun = await asyncio.gather(*(payouts.begin(back.shop.pool, creator, MONTH, 1) for _ in range(5)))
    assert begun == [begun[0]] * 5
    assert isinstance(begun[0], Payout)
    await asyncio.gather(
        *(payouts.finish(back.shop.pool, begun[0], Transfer("tr_1", 5000)) for _ in range(5))
    )
    assert await back.sums() == {}
    assert await payouts.begin(back.shop.pool, creator, MONTH, 1) is None


async def test_an_account_that_takes_nothing(back: Backstage) -> None:
    """The money is the creator's again, and is paid in the same month when the account takes it."""
    account = await onboard(back)
    await earn(back, 5000)
    account["capabilities"] = {"transfers": "inactive"}
    await paid(back)
    assert transfers(back) == []
    assert await back.sums() == {"cards": 5000, "earnings": -5000}
    assert not await payable(back)
    back.shop.stand_in.connect.onboard(account)
    await eventually(lambda: payable(back))
    await earn(back, 700)
    await paid(back)
    assert transfers(back) == [], "the provider says for a day what it has said"
    await a_day_passes(back)
    await paid(back, "2026-12")
    assert [transfer["amount"] for transfer in transfers(back)] == [5700]
    rows = await back.shop.pool.fetch("select period, state, attempt, reason from payouts")
    assert [tuple(row) for row in rows] == [(MONTH, "paid", 2, None)]


async def test_what_is_not_at_hand_yet(back: Backstage) -> None:
    """The payout waits, set aside, and is transferred when the money is there and the provider has forgotten its no: once."""
    await onboard(back)
    await earn(back, 5000)
    (top_up,) = back.shop.stand_in.ledger.all("topup")
    top_up["amount"] = 4999
    await enqueue_payouts(back.shop.sites[0].node, MONTH)
    pool = back.shop.pool

    async def waits() -> float | None:
        seconds: float | None = await pool.fetchval(
            "select extract(epoch from run_at - now())::float8 from jobs where kind = 'payouts.pay' and not running and attempts > 0"
        )
        return seconds

    await eventually(waits)
    assert 24 < (await waits() or 0) / 3600 <= 25
    row = await pool.fetchrow("select state, attempt, reason from payouts")
    assert row is not None
    assert tuple(row) == ("begun", 1, "balance_insufficient")
    assert await back.sums() == {"cards": 5000, "transfers": -5000}
    top_up["amount"] = 5000
    cards = back.shop.sites[0].node.cards
    assert cards is not None
    with pytest.raises(NotAtHand):
        await cards.transfer(
            TransferOrder(
                cents=5000, account=await account_of(back), name=await name(back), until=cards.clock() + 60
            )
        )
    await a_day_passes(back)
    await pool.execute("update jobs set run_at = now() where kind = 'payouts.pay'")
    await paid(back)
    assert [transfer["amount"] for transfer in transfers(back)] == [5000]
    assert await back.sums() == {}


async def test_what_is_taken_back_by_hand(back: Backstage) -> None:
    """At the provider, in parts, told again and in the wrong order: it pays what a creator owes, or is theirs again."""
    await onboard(back)
    creator = await earn(back, 5000)
    await paid(back)
    (transfer,) = back.shop.stand_in.ledger.all("transfer")
    entries = {"cards": -1000, earnings(creator): 1000}
    async with back.shop.pool.acquire() as connection, connection.transaction():
        await book(connection, Booking(cause="return:1", kind="return", entries=entries))
    held = back.shop.hold()
    for cents in (400, 600, 100):
        back.shop.stand_in.connect.reverse(transfer, cents, {})
    for event in (held[1], held[0], held[1]):
        await back.shop.deliver([event], 1)
    assert await back.sums() == {}
    await back.shop.deliver([held[2]])
    assert await back.sums() == {"cards": 100, "earnings": -100}


async def test_what_an_operator_sees(back: Backstage) -> None:
    """Who can't be paid, what waits or was declined and why, what has failed for good, and what was paid; and it is tried again."""
    pool, node = back.shop.pool, back.shop.sites[0].node
    await earn(back, 5000)

    async def told(*, retry: bool = False) -> list[str]:
        said = await told_of_payouts(pool, node.settings.payout_cents_least, retry=retry)
        await node.payouts.count()  # afterwards: it knows at least as much
        return [re.sub("acct_[0-9a-f]+", "acct_x", line) for line in said]

    assert await told() == ["50.00 USD earned, no account yet"]
    assert node.payouts.by_state == {"begun": 0, "declined": 0, "paid": 0, "blocked": 1}
    account = await onboard(back)
    assert await told() == []
    account["capabilities"] = {"transfers": "inactive"}
    await paid(back)
    assert await told() == [
        f"{MONTH} 50.00 USD to acct_x: declined 0 h ago, insufficient_capabilities_for_transfer",
        "50.00 USD earned, acct_x takes nothing",
    ]
    assert node.payouts.by_state == {"begun": 0, "declined": 1, "paid": 0, "blocked": 1}
    back.shop.stand_in.connect.onboard(account)
    await eventually(lambda: payable(back))
    (top_up,) = back.shop.stand_in.ledger.all("topup")
    top_up["amount"] = 0
    await a_day_passes(back)
    assert (await told(retry=True))[0] == "1 are tried now, by a server that runs"
    waits = f"{MONTH} 50.00 USD to acct_x: begun 0 h ago, balance_insufficient"
    await eventually(lambda: _says(told, waits))
    top_up["amount"] = 5000
    asked = back.shop.stand_in.api.asked
    tries = asked.count("POST /v1/transfers")
    await told(retry=True)
    job = "select count(*) from jobs where kind = 'payouts.pay' and run_at > now() + interval '20 hours'"
    await eventually(lambda: pool.fetchval(job))
    assert asked.count("POST /v1/transfers") == tries, "a no is not asked for again within a day"
    await pool.execute("update jobs set died_at = now(), reason = 'a bug' where kind = 'payouts.pay'")
    assert await told() == [waits, "1 failed for good: a bug"]
    await a_day_passes(back)
    await told(retry=True)
    await eventually(lambda: _says(told, f"{MONTH} 50.00 USD paid to 1"))
    assert node.payouts.by_state == {"begun": 0, "declined": 0, "paid": 1, "blocked": 0}
    assert len(transfers(back)) == 1


async def _says(told: Callable[[], Awaitable[list[str]]], line: str) -> bool:
    return line in await told()


async def account_of(back: Backstage) -> str:
    """Return where the host is paid."""
    return (await payouts.account_of(back.shop.pool, back.host.user)).account or ""


async def name(back: Backstage) -> str:
    """Return what the host's payout is called."""
    return payouts.name_of(await creator_id(back), MONTH)


async def a_day_passes(back: Backstage) -> None:
    """Let the provider forget its keys, and a little more."""
    back.shop.stand_in.ledger.skipped += 25 * 3600
    await back.shop.pool.execute("update payouts set asked_at = asked_at - interval '25 hours'")


async def test_who_leaves_for_good_is_paid_to_the_end(back: Backstage) -> None:
    """However little it is; then nobody knows their account any more. Who had none to be paid to leaves no account."""
    await onboard(back)
    await earn(back, 7)
    pool = back.shop.pool
    await pool.execute("delete from users where id = $1", back.host.user)
    await paid(back)
    assert [transfer["amount"] for transfer in transfers(back)] == [7]
    await paid(back, "2026-12")
    assert [tuple(row) for row in await pool.fetch("select user_id, account, payable from creators")] == [
        (None, None, False)
    ]


async def test_statements_sum_up(back: Backstage) -> None:
    """The lines of a month are by what the balance has changed; the months end with what is to be paid."""
    await onboard(back)
    ada = await back.shop.guest()
    charge = await back.buy(ada)
    await eventually(back.sums)
    back.shop.stand_in.billing.refund(charge, 100, {})
    await eventually(lambda: _returned(back.shop))
    creator = await earn(back, 5000)
    await paid(back)
    months = await statements.months(back.shop.pool, creator)
    assert [(one.earned, one.returned, one.paid_out, one.balance) for one in months] == [
        (5340, -85, -5255, 0)
    ]
    lines = await statements.lines(back.shop.pool, creator, months[0].period)
    assert [(line.kind, line.cents, line.number, line.looproom) for line in lines] == [
        ("payout", -5255, 1, None),
        ("return", -85, 1, None),
        ("sale", 5340, 2, "exclusive"),
    ]
    assert await statements.lines(back.shop.pool, creator, "1999-01") == []


async def _returned(shop: Shop) -> bool:
    found: bool = await shop.pool.fetchval("select exists (select from sales where returned_cents > 0)")
    return found


async def test_the_provider_is_away(back: Backstage) -> None:
    """Nothing is lost: what was set aside waits for it."""
    await onboard(back)
    creator = await earn(back, 5000)
    begun = await payouts.begin(back.shop.pool, creator, MONTH, 1)
    assert begun is not None
    back.shop.stand_in.trouble.append(Trouble("fail", "/v1/transfers", times=100))
    cards = back.shop.sites[0].node.cards
    assert cards is not None
    with pytest.raises(Refused) as refused:
        await cards.transferred(begun.name)
    assert refused.value.code is ErrorCode.UNAVAILABLE
