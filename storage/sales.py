"""Sales in Postgres: what was paid, how it was shared out, and what of it has gone back.

The provider's words about a payment come in any order: that it has paid an invoice, that the invoice is paid, that its money
went back. Each is noted, and what is booked follows from all that is noted (`_settle`); so the last one to come makes it whole,
whichever it is. Words about one payment wait for one another, and so do those about one sale; payments are locked first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from protocol.envelope import RoomId, UserId
from protocol.subscriptions import Reason, Tier
from storage import passes, pools
from storage.doubles import GiveBack
from storage.jobs import Job, enqueue
from storage.ledger import CARDS, PLATFORM, Booking, book, creator_of, earnings, entries_of, split
from storage.payment_objects import CheckoutObject, SubscriptionObject, room_of
from storage.person_events import Told
from storage.postgres.pool import Connection

MONTHS: Final[Mapping[str, int]] = {Tier.PREMIUM_MONTHLY: 1, Tier.PREMIUM_YEARLY: 12}
"""Over how many months the price of a tier is shared out, whose revenue is pooled."""

LOCK = """
select pg_advisory_xact_lock(hashtextextended($1, 21))
"""

ADD_SALE = """
insert into sales (id, kind, cents, pass_id, subscription_id, paid_at) values ($1, $2, $3, $4, $5, $6)
on conflict do nothing returning id
"""

LINK = """
insert into sale_payments (payment, sale_id) values ($1, $2) on conflict do nothing
"""

SALE_OF = """
select sale_id from sale_payments where payment = $1
"""

RETURNED = """
insert into payment_returns as r (id, payment, cents, final, seen_at) values ($1, $2, $3, $4, $5)
on conflict (id) do update set cents = excluded.cents, final = excluded.final, seen_at = excluded.seen_at
where (excluded.final, excluded.seen_at, excluded.cents) > (r.final, r.seen_at, r.cents)
"""

STATE = """
select s.kind, s.cents, s.pass_id, s.returned_cents, s.returns, s.subscription_id,
    not exists (
        select from sales later where later.subscription_id = s.subscription_id and later.paid_at > s.paid_at
    ) as newest,
    least(s.cents, coalesce(
        (select sum(r.cents) from sale_payments p join payment_returns r on r.payment = p.payment where p.sale_id = s.id), 0
    ))::bigint as target
from sales s where s.id = $1
"""

SET_RETURNED = """
update sales set returned_cents = $2, returns = returns + 1 where id = $1
"""

HOST = """
select host_id from rooms where id = $1
"""

SUBSCRIPTION = """
select body::text from payment_subscriptions where id = $1
"""


class BookInvoice(Job, tag="sales.invoice"):
    """An invoice was paid: its money is shared out. It is a job, because its subscription may not be known yet."""

    invoice: str
    subscription: str
    cents: int
    at: int


class EndSubscription(Job, tag="sales.end"):
    """All that was paid for a pass, or for the present of a tier, has gone back: it ends, and nothing more is paid."""

    subscription: str


class Sale(Struct, frozen=True, kw_only=True):
    """What was paid at `at` (seconds since 1970): to a room's host, or for a tier. `fee` is the platform's, in percent."""

    id: str
    cents: int
    at: int
    room: RoomId | None = None
    pass_id: str | None = None
    subscription: str | None = None
    tier: str | None = None
    fee: int = 100


async def subscription_seen(connection: Connection, subscription: str) -> SubscriptionObject | None:
    """Return the newest state of a subscription that was seen."""
    body = await connection.fetchval(SUBSCRIPTION, subscription)
    return None if body is None else msgspec.json.decode(body, type=SubscriptionObject)


async def sell(connection: Connection, sale: Sale, *, now: int) -> list[Told]:
    """Share out what was paid, once."""
    await connection.execute(LOCK, f"sale {sale.id}")
    kind = "room" if sale.room is not None else (sale.tier or "other")
    columns = sale.id, kind, sale.cents, sale.pass_id, sale.subscription, sale.at
    if await connection.fetchval(ADD_SALE, *columns) is None:
        return []
    shares = await _shares(connection, sale, now)
    entries = {CARDS: sale.cents} | {account: -cents for account, cents in shares.items()}
    await book(connection, Booking(cause=f"sale:{sale.id}", kind="sale", entries=entries, room=sale.room))
    return await _settle(connection, sale.id, now)


async def sell_invoice(
    connection: Connection, job: BookInvoice, subscription: SubscriptionObject, *, now: int, fee: int
) -> list[Told]:
    """Share out an invoice of a subscription."""
    room = room_of(subscription.metadata)
    sale = Sale(
        id=job.invoice,
        cents=job.cents,
        at=job.at,
        room=room,
        pass_id=None if room is None else subscription.id,
        subscription=subscription.id,
        tier=subscription.tier,
        fee=fee,
    )
    return await sell(connection, sale, now=now)


async def link(connection: Connection, payment: str, sale: str, *, now: int) -> list[Told]:
    """Note which payment has paid what."""
    await connection.execute(LOCK, f"payment {payment}")
    await connection.execute(LINK, payment, sale)
    await connection.execute(LOCK, f"sale {sale}")
    return await _settle(connection, sale, now)


async def returned(
    connection: Connection, returned_by: str, payment: str, cents: int, *, final: bool, at: int, now: int
) -> list[Told]:
    """Note how many cents of a payment have gone back by a charge's refunds, or by a dispute."""
    await connection.execute(LOCK, f"payment {payment}")
    await connection.execute(RETURNED, returned_by, payment, cents, final, at)
    sale = await connection.fetchval(SALE_OF, payment)
    if sale is None:
        return []
    await connection.execute(LOCK, f"sale {sale}")
    return await _settle(connection, sale, now)


async def _shares(connection: Connection, sale: Sale, now: int) -> dict[str, int]:
    if sale.room is not None:
        host: UserId | None = await connection.fetchval(HOST, sale.room)
        creator: UUID | None = None if host is None else await creator_of(connection, host)
        if creator is None:
            return {PLATFORM: sale.cents}
        return split(sale.cents, {PLATFORM: sale.fee, earnings(creator): 100 - sale.fee})
    if sale.tier is not None and sale.tier in MONTHS:
        return await _pooled(connection, sale.cents, pools.months(sale.at, MONTHS[sale.tier]), now)
    return {PLATFORM: sale.cents}


async def _pooled(connection: Connection, cents: int, periods: Sequence[str], now: int) -> dict[str, int]:
    """Share a price out over its months; the part of one that is shared out already is the present one's."""
    (present,) = pools.months(now, 1)
    gone = await pools.closed(connection, {*periods, present})
    shares: dict[str, int] = {}
    for period, share in split(cents, dict.fromkeys(periods, 1)).items():
        account = pools.account(present if period in gone else period)
        shares[account] = shares.get(account, 0) + share
    return shares


async def _settle(connection: Connection, sale: str, now: int) -> list[Told]:
    """Book what has gone back of a sale, and was not booked yet; or what has come again, when a dispute was won."""
    row = await connection.fetchrow(STATE, sale)
    if row is None or row["target"] == row["returned_cents"]:
        return []
    entries = await entries_of(connection, f"sale:{sale}")
    shares = {account: -cents for account, cents in entries.items() if account != CARDS}
    before, after = split(row["returned_cents"], shares), split(row["target"], shares)
    gone = await pools.closed(
        connection, [one.partition(":")[2] for one in shares if one.startswith("pool:")]
    )
    back = {CARDS: row["returned_cents"] - row["target"]}
    for account in shares:
        payer = PLATFORM if account in map(pools.account, gone) else account
        back[payer] = back.get(payer, 0) + after[account] - before[account]
    await connection.execute(SET_RETURNED, sale, row["target"])
    await book(connection, Booking(cause=f"return:{sale}:{row['returns'] + 1}", kind="return", entries=back))
    if row["pass_id"] is None:
        if row["target"] == row["cents"] and row["newest"] and row["subscription_id"] is not None:
            job = EndSubscription(subscription=row["subscription_id"])
            await enqueue(connection, job, key=job.subscription)
        return []
    changed = await passes.settle(connection, row["pass_id"], now=now, reason=Reason.REFUNDED)
    if changed.taken_back and row["pass_id"] != sale:
        await enqueue(connection, EndSubscription(subscription=row["pass_id"]), key=row["pass_id"])
    return changed.told


async def sell_once(
    connection: Connection,
    session: CheckoutObject,
    buyer: UserId,
    *,
    at: int,
    now: int,
    fee: int,
    seconds: int,
) -> list[Told]:
    """Give somebody the pass that they have paid once for, which is good for `seconds` from `at` on; nothing for other checkouts."""
    room = room_of(session.metadata)
    payment, cents = session.payment_intent, session.amount_total
    if room is None or session.payment_status != "paid" or payment is None or not cents:
        return []
    await connection.execute(LOCK, f"payment {payment}")
    await connection.execute(LINK, payment, payment)
    sale = Sale(id=payment, cents=cents, at=at, room=room, pass_id=payment, fee=fee)
    told = await sell(connection, sale, now=now)
    told += await passes.grant(connection, payment, buyer, room, at + seconds, now)
    if await passes.holds_another(connection, buyer, room, payment):
        job = GiveBack(user=buyer, room=room, payment=payment, cents=cents)
        await enqueue(connection, job, key=payment)
    return told
