"""Exclusive looprooms: who sells them, who may come in, live on all nodes, and what is taken back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from protocol.chat import RecallChat, SendChat
from protocol.client import Client
from protocol.notifications import Notice
from protocol.passes import OfferRoom, PassChanged
from protocol.presence import ListPresence
from protocol.reactions import AddReaction, Reaction, Target, TargetKind
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import Departure, GetRoom, JoinRoom
from protocol.subscriptions import GetSubscription, Reason, Tier
from server.gateways.standin.billing import DAY
from server.passes import EndUnsold, end_unsold
from storage.postgres.pool import Pool
from tests.backstage import Backstage, backstage
from tests.hosting import make_room
from tests.meeting import Guest
from tests.redis.valkeys import Valkey
from tests.shop import Shop, shop
from tests.waiting import until

MONTH = 30 * DAY
PAY = "http://127.0.0.1:8000/pay?room=exclusive"


@pytest.fixture
async def two(database_url: str, valkey: Valkey, pool: Pool) -> AsyncIterator[Shop]:
    """Run two nodes that are paid."""
    async with shop(database_url, valkey.url, pool, 2, trial_days=0) as running:
        yield running


@pytest.fixture
async def back(two: Shop) -> Backstage:
    """Give a creator with an exclusive room."""
    return await backstage(two)


def of(kind: type[Any], guest: Guest, client: Client) -> list[Any]:
    """Return the events of a kind that a client has heard."""
    return [one for one in guest.heard[client] if isinstance(one, kind)]


async def refused(asking: Awaitable[Any]) -> ErrorCode:
    """Return why something is refused."""
    with pytest.raises(Refused) as caught:
        await asking
    return caught.value.code


async def join(back: Backstage, client: Client) -> Any:
    """Enter the exclusive room."""
    return await client.call(JoinRoom(str(back.room)))


# Selling.


async def test_who_may_sell_a_room(two: Shop, back: Backstage) -> None:
    """Its host, who is a creator, and nobody else; for others a room that is hidden is not there."""
    draft = await make_room(two.pool, "draft", status="DRAFT")
    owned = await make_room(two.pool, "owned")
    member = await two.guest()
    await two.pool.execute("update rooms set host_id = $2 where id = $1", owned, member.user)
    guests = {"host": back.host, "host, no creator": member}
    for name, role in (
        ("creator", "CREATOR"),
        ("moderator", "MODERATOR"),
        ("admin", "ADMIN"),
        ("member", "MEMBER"),
    ):
        guests[name] = await two.guest()
        await two.pool.execute("update users set role = $2::user_role where id = $1", guests[name].user, role)
    found: dict[tuple[str, str], str] = {}
    for name, guest in guests.items():
        client = await two.nodes.come(guest, two.sites[0])
        for place in ("exclusive", "owned", "draft", "nowhere"):
            try:
                answer = await client.call(OfferRoom(place, month_cents=500))
                found[name, place] = str(answer.room.month_cents)
            except Refused as no:
                found[name, place] = no.code
    allowed = {("host", "exclusive"): "500"}
    for name in guests:
        for place in ("exclusive", "owned", "draft", "nowhere"):
            sees = place in ("exclusive", "owned") or (place == "draft" and name in ("moderator", "admin"))
            expected = "forbidden" if sees else "not_found"
            assert found[name, place] == allowed.get((name, place), expected), (name, place)
    assert await two.pool.fetchval("select month_cents from rooms where id = $1", draft) is None


@pytest.mark.parametrize("cents", [99, 50001])
async def test_prices_have_bounds(two: Shop, back: Backstage, cents: int) -> None:
    """Those of the settings."""
    client = await two.nodes.come(back.host, two.sites[0])
    for field in ("month_cents", "session_cents"):
        with pytest.raises(Refused) as caught:
            await client.call(OfferRoom("exclusive", **{field: cents}))
        assert (caught.value.code, caught.value.path) == (ErrorCode.INVALID, f"$.{field}")


async def test_a_room_becomes_exclusive_while_one_is_in_it(two: Shop) -> None:
    """On both nodes: the host and moderators stay, the others are taken out, with the way to pay; without a price it is open."""
    back = await backstage(two, month=None, session=None)
    guests = [await two.guest() for _ in range(3)]
    await two.pool.execute("update users set role = 'MODERATOR' where id = $1", guests[2].user)
    clients = [await two.nodes.come(guest, two.sites[number % 2]) for number, guest in enumerate(guests)]
    host = await two.nodes.come(back.host, two.sites[1])
    for client in (*clients, host):
        await join(back, client)
    offered = (await host.call(OfferRoom("exclusive", session_cents=300))).room
    assert (offered.month_cents, offered.session_cents, offered.exclusive) == (None, 300, True)
    required = ErrorCode.PASS_REQUIRED
    for guest, client in zip(guests[:2], clients[:2], strict=True):
        await until(lambda g=guest, c=client: of(Departure, g, c))  # type: ignore[misc] # early bound
        assert of(Departure, guest, client) == [Departure(back.room, required, required.advice, pay=PAY)]
        assert await refused(join(back, client)) is required
    assert [client.rooms for client in (clients[2], host)] == [[back.room]] * 2
    await host.call(OfferRoom("exclusive"))
    for client in clients:
        await join(back, client)
    assert two.sites[0].node.previews._rooms == {}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("month_cents = 1500", ErrorCode.PASS_REQUIRED),
        ("premium = true", ErrorCode.SUBSCRIPTION_ENDED),
        ("status = 'RESTRICTED'", ErrorCode.NOT_FOUND),
    ],
)
async def test_a_room_changes_while_redis_is_away(
    database_url: str, valkey: Valkey, pool: Pool, monkeypatch: pytest.MonkeyPatch, change: str, code: str
) -> None:
    """Who may not be in it any more is taken out on the other node, too, when that looks at its rooms the next time."""
    monkeypatch.setattr("server.rooms.SWEEP_SECONDS", 0.1)
    async with shop(database_url, valkey.url, pool, 2) as two:
        back = await backstage(two, month=None, session=None)
        ada, moderator = await two.guest(), await two.guest()
        await pool.execute("update users set role = 'MODERATOR' where id = $1", moderator.user)
        inside = [(one, await two.nodes.come(one, site)) for site in two.sites for one in (ada, moderator)]
        for _, client in inside:
            await join(back, client)
        host = await two.nodes.come(back.host, two.sites[0])
        valkey.kill()
        await until(lambda: not any(site.node.stores.broker.healthy for site in two.sites))
        if "month_cents" in change:
            await host.call(OfferRoom("exclusive", month_cents=1500))
        else:
            await pool.execute(f"update rooms set {change} where id = $1", back.room)
        for guest, client in inside:
            if guest is ada:
                await until(lambda c=client: of(Departure, ada, c))  # type: ignore[misc] # early bound
                (left,) = of(Departure, ada, client)
                assert (left.room, left.code) == (back.room, code)
        for guest, client in inside:
            if guest is moderator and change != "premium = true":
                assert of(Departure, guest, client) == []
                assert client.rooms == [back.room]


# Coming in.


async def test_without_a_pass_nothing_is_told(two: Shop, back: Backstage) -> None:
    """Whoever has none sees what the catalogue shows, and nothing that is said or shown inside; premium is no pass."""
    premium = await two.guest()
    await two.pool.execute("update users set tier = 'PREMIUM_YEARLY' where id = $1", premium.user)
    host = await two.nodes.come(back.host, two.sites[0])
    joined = await join(back, host)
    await host.call(SendChat("exclusive", text="only for you", key="k"))
    for guest in (premium, await two.guest()):
        client = await two.nodes.come(guest, two.sites[1])
        assert (await client.call(GetRoom("exclusive"))).room == joined.room
        target = Target(kind=TargetKind.LOOPROOM, id=back.room)
        for code, command in (
            (ErrorCode.PASS_REQUIRED, JoinRoom("exclusive")),
            (ErrorCode.NOT_IN_ROOM, AddReaction(target=target, reaction=Reaction.HEART)),
            (ErrorCode.NOT_IN_ROOM, RecallChat("exclusive")),
            (ErrorCode.NOT_IN_ROOM, ListPresence("exclusive")),
            (ErrorCode.NOT_IN_ROOM, SendChat("exclusive", text="hello", key="k")),
        ):
            assert await refused(client.call(command)) is code
        assert of(PassChanged, guest, client) == []
        assert all("only for you" not in repr(one) for one in guest.heard[client])


@pytest.mark.parametrize("kind", ["session", "month"])
async def test_a_pass_opens_the_room_everywhere(two: Shop, back: Backstage, kind: str) -> None:
    """Within a second of the payment, on every connection on every node, for its buyer alone."""
    ada, bo = await two.guest(), await two.guest()
    clients = [await two.nodes.come(ada, site) for site in two.sites]
    other = await two.nodes.come(bo, two.sites[0])
    await back.buy(ada, kind)
    for client in clients:
        await until(lambda c=client: of(PassChanged, ada, c), within=1.0)  # type: ignore[misc] # early bound
        (told,) = of(PassChanged, ada, client)
        assert (told.room, told.reason) == (back.room, Reason.PAID)
        assert told.until is not None
        assert (await join(back, client)).preview_ends_in is None
    assert await refused(join(back, other)) is ErrorCode.PASS_REQUIRED
    assert of(PassChanged, bo, other) == []
    price = {"session": 400, "month": 1500}[kind]
    await settled(back)
    fee = price * 15 // 100
    assert await back.sums() == {"cards": price, "platform": -fee, "earnings": fee - price}
    standing = (await clients[0].call(GetSubscription())).subscription
    assert standing.tier is Tier.FREE


async def settled(back: Backstage) -> None:
    """Wait until no invoice waits to be booked."""
    async with asyncio.timeout(5):
        while not await back.sums() or await back.shop.pool.fetchval(  # noqa: ASYNC110 - no event tells
            "select count(*) from jobs where kind like 'sales.%'"
        ):
            await asyncio.sleep(0.01)


async def test_a_pass_for_a_session_ends(database_url: str, valkey: Valkey, pool: Pool) -> None:
    """By our own clock, on both nodes: the room is left, with the reason and the way to pay."""
    async with shop(database_url, valkey.url, pool, 2, session_pass_hours=2 / 3600) as two:
        back = await backstage(two)
        ada = await two.guest()
        clients = [await two.nodes.come(ada, site) for site in two.sites]
        await back.buy(ada)
        for client in clients:
            await until(lambda c=client: of(PassChanged, ada, c))  # type: ignore[misc] # early bound
            await join(back, client)
        ended = ErrorCode.PASS_ENDED
        for client in clients:
            await until(lambda c=client: of(Departure, ada, c))  # type: ignore[misc] # early bound
            assert of(Departure, ada, client) == [Departure(back.room, ended, ended.advice, pay=PAY)]
            last = of(PassChanged, ada, client)[-1]
            assert (last.until, last.reason) == (None, Reason.ENDED)
            assert await refused(join(back, client)) is ErrorCode.PASS_REQUIRED
        notices = [one.notification for one in of(Notice, ada, clients[0])]
        assert [(one.kind, one.outcome, one.thing.id) for one in notices] == [
            ("payment", "paid", back.room),
            ("payment", "ended", back.room),
        ]


async def test_a_monthly_pass_goes_on_and_ends(two: Shop, back: Backstage) -> None:
    """Renewed it lasts longer, and is paid again; ended at the provider it is over, and nobody's tier has changed."""
    ada = await two.guest()
    client = await two.nodes.come(ada, two.sites[1])
    await back.buy(ada, "month")
    await until(lambda: of(PassChanged, ada, client))
    await join(back, client)
    billing, ledger = two.stand_in.billing, two.stand_in.ledger
    ledger.skipped += MONTH
    billing.advance()
    await until(lambda: len(of(PassChanged, ada, client)) == 2)
    first, second = of(PassChanged, ada, client)
    assert second.until == first.until + MONTH * 1000
    assert of(Departure, ada, client) == []
    await until_sums(back, {"cards": 3000, "platform": -450, "earnings": -2550})
    billing.cancel(next(ledger.all("subscription")))
    await until(lambda: of(Departure, ada, client))
    assert of(PassChanged, ada, client)[-1].until is None
    assert await two.pool.fetchval("select count(*) from subscriptions") == 0


async def until_sums(back: Backstage, expected: dict[str, int]) -> None:
    """Wait until the ledger's balances are these."""
    found: dict[str, int] = {}
    try:
        async with asyncio.timeout(5):
            while (found := await back.sums()) != expected:  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"expected {expected}, found {found}") from None


@pytest.mark.parametrize(
    ("change", "ends"),
    [
        ("month_cents = 9900", False),
        ("month_cents = null", False),
        ("month_cents = null, session_cents = null", True),
        ("status = 'RESTRICTED'", True),
        ("status = 'ARCHIVED', host_id = null", True),
    ],
)
async def test_what_is_not_sold_any_more_is_not_renewed(
    two: Shop, back: Backstage, change: str, ends: bool
) -> None:
    """Nobody pays again for a looproom that is withdrawn or open; as long as it is sold it goes on, at the price it was bought at."""
    ada = await two.guest()
    await back.buy(ada, "month")
    await until_sums(back, {"cards": 1500, "platform": -225, "earnings": -1275})
    await until(lambda: two.pool.fetchval("select count(*) from passes where open and renews"))
    subscription = next(two.stand_in.ledger.all("subscription"))
    await two.pool.execute(f"update rooms set {change} where id = $1", back.room)
    for site in two.sites:
        await end_unsold(site.node, EndUnsold(period=0))
    await until(lambda: _no_jobs(two))
    assert subscription["cancel_at_period_end"] is ends
    two.stand_in.ledger.skipped += MONTH
    two.stand_in.billing.advance()
    if ends:
        await until(lambda: two.pool.fetchval("select not renews from passes"))
        assert (await back.sums())["cards"] == 1500
    else:
        await until_sums(back, {"cards": 3000, "platform": -450, "earnings": -2550})


async def _no_jobs(two: Shop) -> bool:
    left: int = await two.pool.fetchval("select count(*) from jobs where kind = 'passes.end_renewal'")
    return not left


# Taking back.


@pytest.mark.parametrize("kind", ["session", "month"])
@pytest.mark.parametrize("how", ["refund", "dispute"])
async def test_money_that_goes_back_takes_the_pass(two: Shop, back: Backstage, kind: str, how: str) -> None:
    """Live: the room is left, nobody has earned anything, and nothing more is paid for it."""
    ada = await two.guest()
    client = await two.nodes.come(ada, two.sites[1])
    charge = await back.buy(ada, kind)
    await until(lambda: of(PassChanged, ada, client))
    await join(back, client)
    await settled(back)
    billing = two.stand_in.billing
    if how == "refund":
        billing.refund(charge, None, {})
    else:
        billing.dispute(charge)
    await until(lambda: of(Departure, ada, client))
    assert of(Departure, ada, client)[0].code == ErrorCode.PASS_ENDED
    last = of(PassChanged, ada, client)[-1]
    assert (last.until, last.reason) == (None, Reason.REFUNDED)
    await until_sums(back, {})
    if kind == "month":
        subscription = next(two.stand_in.ledger.all("subscription"))
        await until(lambda: subscription["status"] == "canceled")


async def test_a_dispute_that_is_won(two: Shop, back: Backstage) -> None:
    """The money comes again, and so does the pass."""
    ada = await two.guest()
    client = await two.nodes.come(ada, two.sites[0])
    charge = await back.buy(ada)
    paid = {"cards": 400, "platform": -60, "earnings": -340}
    await until_sums(back, paid)
    dispute = two.stand_in.billing.dispute(charge)
    await until_sums(back, {})
    two.stand_in.billing.close_dispute(dispute, won=True)
    await until_sums(back, paid)
    await until(lambda: len(of(PassChanged, ada, client)) == 3)
    await join(back, client)


async def test_a_part_that_goes_back_leaves_the_pass(two: Shop, back: Backstage) -> None:
    """Everybody gives their part of it."""
    ada = await two.guest()
    charge = await back.buy(ada)
    await until_sums(back, {"cards": 400, "platform": -60, "earnings": -340})
    two.stand_in.billing.refund(charge, 100, {})
    await until_sums(back, {"cards": 300, "platform": -45, "earnings": -255})
    client = await two.nodes.come(ada, two.sites[0])
    await join(back, client)


async def test_any_order_has_one_end(two: Shop, back: Backstage) -> None:
    """Whatever the provider tells first, and on whatever node, however often: the same passes and the same balances."""
    ada = await two.guest()
    held = two.hold()
    charge = await back.buy(ada, "month")
    two.stand_in.billing.refund(charge, 500, {})
    events = list(held)
    seen: list[Any] = []
    orders: list[Callable[[int], int]] = [lambda n: n, lambda n: -n, lambda n: (n * 5) % 7]
    for order in orders:
        for number, (_, event) in enumerate(sorted(enumerate(events), key=lambda one: order(one[0]))):
            await two.deliver([event], number % 2)
            await two.deliver([event], 1 - number % 2)
        await until_sums(back, {"cards": 1000, "platform": -150, "earnings": -850})
        seen.append(
            [
                tuple(row)
                for row in await two.pool.fetch("select id, until, ends_at, open, taken_back from passes")
            ]
        )
        await two.pool.execute("delete from payment_events")
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 1
    await until_sums(back, {"cards": 1000, "platform": -150, "earnings": -850})


async def test_who_leaves_for_good_takes_the_passes_along(two: Shop, back: Backstage) -> None:
    """The creator keeps what was earned; the ledger knows nobody."""
    ada = await two.guest()
    await back.buy(ada)
    await until_sums(back, {"cards": 400, "platform": -60, "earnings": -340})
    await two.pool.execute("delete from users where id = $1", ada.user)
    assert await two.pool.fetchval("select count(*) from passes") == 0
    assert await back.sums() == {"cards": 400, "platform": -60, "earnings": -340}
