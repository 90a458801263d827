"""Payouts in Postgres: what a creator has earned is set aside, transferred, and booked as paid, once for each month.

The steps are transactions of their own, because between them the provider is asked. The cases, each with a test:

1. never begun, and enough is earned: it is set aside, under the lock of the creator's row;
2. begun before, by a node that died at whatever point: the same payout goes on, under the same name at the provider;
3. paid: nothing happens;
4. declined by the provider: the money is the creator's again, and it is begun anew, as another attempt, when they can be paid;
5. not enough, or they can't be paid yet: nothing happens, what was earned waits.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from msgspec import Struct

from protocol.envelope import UserId
from storage.jobs import Job
from storage.ledger import CARDS, Booking, balance, book, creator_of, earnings
from storage.postgres.pool import Pool, answering

LEAST_OF_LEFT: Final = 1
"""Who has left for good is paid whatever there is."""

ACCOUNT = """
select id, account, payable from creators where user_id = $1
"""

KEEP_ACCOUNT = """
update creators set account = $2 where id = $1 and account is null
"""

SET_PAYABLE = """
update creators set payable = $2 where account = $1
"""

KNOWN_ACCOUNT = """
select exists (select from creators where account = $1)
"""

# What was earned is a credit, which is negative.
DUE = """
select c.id, $2::text as period from creators c
where c.payable and -coalesce((select sum(cents) from ledger_entries where account = 'earnings:' || c.id), 0)
    >= case when c.user_id is null then 1 else $1::bigint end
union
select payee_id, period from payouts where state = 'begun'
"""

LOCK_CREATOR = """
select account, payable, user_id is null as gone from creators where id = $1 for update
"""

FIND = """
select attempt, cents, account, state from payouts where payee_id = $1 and period = $2
"""

BEGIN = """
insert into payouts (payee_id, period, cents, account, state) values ($1, $2, $3, $4, 'begun')
on conflict (payee_id, period) do update set
    attempt = payouts.attempt + 1, cents = excluded.cents, account = excluded.account, state = 'begun', begun_at = now()
returning attempt
"""

END = """
update payouts set state = $3, transfer = $4 where payee_id = $1 and period = $2 and attempt = $5 and state = 'begun'
returning true
"""

# Nobody is asked for an account any more that belongs to nobody.
FORGET_ACCOUNTS = """
update creators c set account = null, payable = false
where user_id is null and account is not null
  and not exists (select from payouts where payee_id = c.id and state = 'begun')
  and (not payable or coalesce((select sum(cents) from ledger_entries where account = 'earnings:' || c.id), 0) >= 0)
"""


class PayCreator(Job, tag="payouts.pay"):
    """A creator is paid what they have earned until now, as the payout of a month."""

    creator: UUID
    period: str


class Account(Struct, frozen=True):
    """Where a creator is paid. `id` is theirs in the ledger, `account` the provider's."""

    id: UUID
    account: str | None
    payable: bool


class Payout(Struct, frozen=True):
    """A payout that has begun: its money is set aside."""

    creator: UUID
    period: str
    attempt: int
    cents: int
    account: str

    @property
    def name(self) -> str:
        """What it is called at the provider, and in the ledger."""
        return f"payout-{self.creator}-{self.period}-{self.attempt}"


async def account_of(pool: Pool, user: UserId) -> Account:
    """Return where a creator is paid; whoever asks stands in the ledger from now on."""
    async with answering(pool) as connection:
        creator = await creator_of(connection, user)
        row = await connection.fetchrow(ACCOUNT, user)
    if row is None:
        return Account(creator or UUID(int=0), None, payable=False)
    return Account(row["id"], row["account"], row["payable"])


async def keep_account(pool: Pool, creator: UUID, account: str) -> None:
    """Note where a creator is paid, unless that is known."""
    async with answering(pool) as connection:
        await connection.execute(KEEP_ACCOUNT, creator, account)


async def set_payable(pool: Pool, account: str, *, payable: bool) -> None:
    """Note whether an account can be paid to."""
    async with answering(pool) as connection:
        await connection.execute(SET_PAYABLE, account, payable)


async def known_account(pool: Pool, account: str) -> bool:
    """Say whether an account is one of our creators'."""
    async with answering(pool) as connection:
        known: bool = await connection.fetchval(KNOWN_ACCOUNT, account)
    return known


async def due(pool: Pool, period: str, least: int) -> list[PayCreator]:
    """Return what is to be done for a month: for those with at least so many cents, and what has begun in any month."""
    async with answering(pool) as connection:
        await connection.execute(FORGET_ACCOUNTS)
        rows = await connection.fetch(DUE, least, period)
    return [PayCreator(creator=row["id"], period=row["period"]) for row in rows]


async def begin(pool: Pool, creator: UUID, period: str, least: int) -> Payout | None:
    """Set aside what a creator is to be paid, or find the payout that has begun. None when there is nothing to do."""
    async with answering(pool) as connection, connection.transaction():
        who = await connection.fetchrow(LOCK_CREATOR, creator)
        if who is None:
            return None
        row = await connection.fetchrow(FIND, creator, period)
        if row is not None and row["state"] == "begun":
            return Payout(creator, period, row["attempt"], row["cents"], row["account"])
        if (row is not None and row["state"] == "paid") or not who["payable"] or who["account"] is None:
            return None
        cents = -await balance(connection, earnings(creator))
        if cents < (LEAST_OF_LEFT if who["gone"] else least):
            return None
        attempt = await connection.fetchval(BEGIN, creator, period, cents, who["account"])
        payout = Payout(creator, period, attempt, cents, who["account"])
        entries = {earnings(creator): cents, _under_way(creator): -cents}
        await book(connection, Booking(cause=f"begun:{payout.name}", kind="payout", entries=entries))
    return payout


async def finish(pool: Pool, payout: Payout, transfer: str) -> None:
    """Book that a payout was transferred."""
    async with answering(pool) as connection, connection.transaction():
        creator, cents = payout.creator, payout.cents
        await connection.fetchrow(LOCK_CREATOR, creator)
        await connection.fetchval(END, creator, payout.period, "paid", transfer, payout.attempt)
        entries = {_under_way(creator): cents, CARDS: -cents}
        await book(connection, Booking(cause=f"paid:{payout.name}", kind="transfer", entries=entries))


async def decline(pool: Pool, payout: Payout) -> None:
    """Give back what was set aside: the provider takes nothing for this account now."""
    async with answering(pool) as connection, connection.transaction():
        creator, cents = payout.creator, payout.cents
        await connection.fetchrow(LOCK_CREATOR, creator)
        if await connection.fetchval(END, creator, payout.period, "declined", None, payout.attempt) is None:
            return
        await connection.execute(SET_PAYABLE, payout.account, False)
        entries = {_under_way(creator): cents, earnings(creator): -cents}
        await book(connection, Booking(cause=f"declined:{payout.name}", kind="payout", entries=entries))


def _under_way(creator: UUID) -> str:
    return f"transfers:{creator}"
