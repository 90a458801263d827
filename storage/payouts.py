"""Payouts in Postgres: what a creator has earned is set aside, transferred, and booked as paid, once for each month.

The steps are transactions of their own, because between them the provider is asked. The cases, each with a test:

1. never begun, and enough is earned: it is set aside, under the lock of the creator's row;
2. begun before, by a node that died at whatever point: the same payout goes on, under the same name at the provider;
3. paid: nothing happens;
4. declined by the provider: the money is the creator's again, and it is begun anew, as another attempt, when they can be paid;
5. not enough, or they can't be paid yet: nothing happens, what was earned waits.

Why nobody is paid twice, although a node may stand still between any two steps while others go on:

- A payout has one name for ever, of its creator and month and not of its attempt. It is the key of the transfer, and the group
  that the transfer is found by. The provider remembers a key for at least a day, and within that does what was asked with it
  once: whoever else asks gets the same answer, or is refused because the order is another one.
- Whoever asks has noted it before (`ask`), by Postgres' clock, while the attempt was the one that counts, and does it within a
  minute of their own clock, which began before the note, or not at all. No clocks are compared, only how long a minute and a day
  are. So `ANEW_HOURS` after the last note nobody asks any more, and not earlier is a payout begun anew, or asked for again after a
  no, which the provider remembers as well. Then it is looked for by its group first: a transfer that was made meanwhile is booked,
  for what it was, and no other is made.
- While a payout of a creator is declined no other one of theirs is begun: it is that one that is begun anew. So the money that
  was set aside for it is in no other.
- Only a machine whose clock stands still as well does not see its minute pass. When it goes on more than a day after somebody
  else's transfer, what it asks for is made. The provider tells of each transfer, and one that is not the payout's is taken back
  (`found`).
"""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from msgspec import Struct

from protocol.envelope import UserId
from storage.jobs import Job, enqueue
from storage.ledger import CARDS, Booking, balance, book, creator_of, earnings
from storage.postgres.pool import Connection, Pool, answering

LEAST_OF_LEFT: Final = 1
"""Who has left for good is paid whatever there is."""
ANEW_HOURS: Final = 25
"""After so long an answer of the provider is forgotten, its own clock and ours being an hour apart at most."""

_NAME: Final = re.compile("payout-([0-9a-f-]{36})-([0-9]{4}-[0-9]{2})")

ACCOUNT = """
select id, account, payable from creators where user_id = $1
"""

KEEP_ACCOUNT = """
update creators set account = $2 where id = $1 and account is null
"""

SET_PAYABLE = """
update creators set payable = $2 where account = $1
"""

OF_TRANSFER = """
select payee_id from payouts where transfer = $1
"""

REVERSE = """
update payouts p set reversed_cents = $2 from payouts before
where p.transfer = $1 and before.payee_id = p.payee_id and before.period = p.period and before.reversed_cents < $2
returning $2 - before.reversed_cents as cents
"""

UNREADY = """
select account from creators where account is not null and not payable order by id
"""

KNOWN_ACCOUNT = """
select exists (select from creators where account = $1)
"""

# What was earned is a credit, which is negative.
DUE = """
select c.id, coalesce((select min(period) from payouts where payee_id = c.id and state = 'declined'), $2::text) as period
from creators c
where c.payable and -coalesce((select sum(cents) from ledger_entries where account = 'earnings:' || c.id), 0)
    >= case when c.user_id is null then 1 else $1::bigint end
union
select payee_id, period from payouts where state = 'begun'
"""

LOCK_CREATOR = """
select account, payable, user_id is null as gone from creators where id = $1 for update
"""

FIND = f"""
select attempt, cents, account, state, transfer,
    case when reason is null then 0 else greatest(0, coalesce(
        extract(epoch from asked_at + make_interval(hours => {ANEW_HOURS}) - clock_timestamp()), 0
    )) end::float8 as wait
from payouts where payee_id = $1 and period = $2
"""

STATES = """
select state, count(*) as payouts, sum(cents)::bigint as cents from payouts group by state
"""

# Creators who have earned enough, and can't be paid.
BLOCKED = """
select c.account, -sum(e.cents)::bigint as cents
from creators c join ledger_entries e on e.account = 'earnings:' || c.id
where not c.payable and (c.user_id is not null or c.account is not null)
group by c.id having -sum(e.cents) >= $1 order by c.id
"""

OPEN = """
select period, cents, account, state, reason, (extract(epoch from now() - begun_at))::bigint as age
from payouts where state <> 'paid' order by period, payee_id
"""

PAID = """
select period, count(*) as payouts, sum(cents)::bigint as cents from payouts where state = 'paid' group by period order by period
"""

OTHER_DECLINED = """
select exists (select from payouts where payee_id = $1 and period <> $2 and state = 'declined')
"""

BEGIN = """
insert into payouts (payee_id, period, cents, account, state) values ($1, $2, $3, $4, 'begun')
on conflict (payee_id, period) do update set
    attempt = payouts.attempt + 1, cents = excluded.cents, account = excluded.account, state = 'begun', begun_at = now(),
    reason = null
returning attempt
"""

ASK = """
update payouts set asked_at = clock_timestamp() where payee_id = $1 and period = $2 and attempt = $3 and state = 'begun'
returning true
"""

WAIT = """
update payouts set reason = $4 where payee_id = $1 and period = $2 and attempt = $3 and state = 'begun'
"""

DECLINE = """
update payouts set state = 'declined', reason = $4 where payee_id = $1 and period = $2 and attempt = $3 and state = 'begun'
returning true
"""

PAY = """
update payouts set state = 'paid', transfer = $3, reason = null where payee_id = $1 and period = $2
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
    """A payout that has begun: its money is set aside. The provider has said no, and says nothing else for `wait` seconds."""

    creator: UUID
    period: str
    attempt: int
    cents: int
    account: str
    wait: float = 0.0

    @property
    def name(self) -> str:
        """What it is called at the provider, and in the ledger."""
        return name_of(self.creator, self.period)

    @property
    def attempt_name(self) -> str:
        """What this attempt at it is called in the ledger."""
        return f"{self.name}-{self.attempt}"


class Transfer(Struct, frozen=True):
    """Money that was given to a creator, as the provider has it."""

    id: str
    cents: int


class TakeBack(Job, tag="payouts.take_back"):
    """A transfer was made that is no payout's."""

    transfer: str


def name_of(creator: UUID, period: str) -> str:
    """Name a payout."""
    return f"payout-{creator}-{period}"


def payout_of(name: str) -> tuple[UUID, str] | None:
    """Return the creator and the month of a payout's name; None when it is none."""
    match = _NAME.fullmatch(name)
    return None if match is None else (UUID(match[1]), match[2])


class Unpaid(Struct, frozen=True):
    """A payout that is not done: `begun`, or `declined`; and why, in the provider's word. It began `age` seconds ago."""

    period: str
    cents: int
    account: str
    state: str
    reason: str | None
    age: int


class Sum(Struct, frozen=True):
    """Payouts of one month, or in one state."""

    name: str
    payouts: int
    cents: int


class Blocked(Struct, frozen=True):
    """A creator who has earned enough and can't be paid: without an account, or with one that takes nothing."""

    account: str | None
    cents: int


async def states(pool: Pool) -> list[Sum]:
    """Sum up payouts by their state."""
    async with answering(pool) as connection:
        return [Sum(*row.values()) for row in await connection.fetch(STATES)]


async def blocked(pool: Pool, least: int) -> list[Blocked]:
    """List who has earned at least so many cents and can't be paid."""
    async with answering(pool) as connection:
        return [Blocked(*row.values()) for row in await connection.fetch(BLOCKED, least)]


async def unpaid(pool: Pool) -> list[Unpaid]:
    """List the payouts that are not done, by month."""
    async with answering(pool) as connection:
        return [Unpaid(*row.values()) for row in await connection.fetch(OPEN)]


async def paid(pool: Pool) -> list[Sum]:
    """Sum up what was paid, by month."""
    async with answering(pool) as connection:
        return [Sum(*row.values()) for row in await connection.fetch(PAID)]


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


async def unready(connection: Connection) -> list[str]:
    """List the accounts that can't be paid to."""
    return [row["account"] for row in await connection.fetch(UNREADY)]


async def due(pool: Pool, period: str, least: int) -> list[PayCreator]:
    """Return what is to be done for a month: for those with at least so many cents, and what has begun in any month."""
    async with answering(pool) as connection:
        await connection.execute(FORGET_ACCOUNTS)
        rows = await connection.fetch(DUE, least, period)
    return [PayCreator(creator=row["id"], period=row["period"]) for row in rows]


async def enqueue_due(pool: Pool, period: str, least: int) -> int:
    """Enqueue what is to be done for a month; return how many payouts that are."""
    wanted = await due(pool, period, least)
    async with answering(pool) as connection, connection.transaction():
        for one in wanted:
            await enqueue(connection, one, key=f"{one.creator} {one.period}")
    return len(wanted)


async def begin(pool: Pool, creator: UUID, period: str, least: int) -> Payout | None:
    """Set aside what a creator is to be paid, or find the payout that has begun. None when there is nothing to do."""
    async with answering(pool) as connection, connection.transaction():
        who = await connection.fetchrow(LOCK_CREATOR, creator)
        if who is None:
            return None
        row = await connection.fetchrow(FIND, creator, period)
        if row is not None and row["state"] == "begun":
            return Payout(creator, period, row["attempt"], row["cents"], row["account"], row["wait"])
        if row is not None and (row["state"] == "paid" or row["wait"]):
            return None
        if not who["payable"] or who["account"] is None:
            return None
        if await connection.fetchval(OTHER_DECLINED, creator, period):
            return None
        cents = -await balance(connection, earnings(creator))
        if cents < (LEAST_OF_LEFT if who["gone"] else least):
            return None
        attempt = await connection.fetchval(BEGIN, creator, period, cents, who["account"])
        payout = Payout(creator, period, attempt, cents, who["account"])
        entries = {earnings(creator): cents, _under_way(creator): -cents}
        await book(connection, Booking(cause=f"begun:{payout.attempt_name}", kind="payout", entries=entries))
    return payout


async def ask(pool: Pool, payout: Payout) -> bool:
    """Note that the provider is asked from now on; False when this attempt does not count any more. Ask within the deadline, or not."""
    async with answering(pool) as connection:
        return await connection.fetchval(ASK, payout.creator, payout.period, payout.attempt) is not None


async def wait(pool: Pool, payout: Payout, reason: str) -> None:
    """Note why a payout is not transferred yet. It stays set aside."""
    async with answering(pool) as connection:
        await connection.execute(WAIT, payout.creator, payout.period, payout.attempt, reason)


async def finish(pool: Pool, payout: Payout, transfer: Transfer) -> None:
    """Book that a payout was transferred."""
    async with answering(pool) as connection, connection.transaction():
        await found(connection, payout.creator, payout.period, transfer)


async def found(connection: Connection, creator: UUID, period: str, transfer: Transfer) -> None:
    """Book a transfer that was made for a payout, whatever became of that meanwhile, once; one too many is taken back.

    It may be one of an attempt before, that was believed to be declined: it is booked for what it was.
    """
    if await connection.fetchrow(LOCK_CREATOR, creator) is None:
        return
    row = await connection.fetchrow(FIND, creator, period)
    if row is None:
        return
    if row["state"] == "paid":
        if row["transfer"] != transfer.id:
            await enqueue(connection, TakeBack(transfer=transfer.id), key=transfer.id)
        return
    await connection.execute(PAY, creator, period, transfer.id)
    name = name_of(creator, period)
    if more := transfer.cents - (row["cents"] if row["state"] == "begun" else 0):
        entries = {earnings(creator): more, _under_way(creator): -more}
        await book(connection, Booking(cause=f"corrected:{name}", kind="payout", entries=entries))
    entries = {_under_way(creator): transfer.cents, CARDS: -transfer.cents}
    await book(connection, Booking(cause=f"paid:{name}", kind="transfer", entries=entries))


async def reversed_by_hand(connection: Connection, transfer: str, cents: int) -> None:
    """Book that so many cents of a payout's transfer, in all, were taken back: the creator has them no more, so they are theirs again."""
    creator = await connection.fetchval(OF_TRANSFER, transfer)
    if creator is None:
        return
    await connection.fetchrow(LOCK_CREATOR, creator)
    more = await connection.fetchval(REVERSE, transfer, cents)
    if more is not None:
        entries = {CARDS: more, earnings(creator): -more}
        await book(connection, Booking(cause=f"reversed:{transfer}:{cents}", kind="payout", entries=entries))


async def decline(pool: Pool, payout: Payout, reason: str) -> None:
    """Give back what was set aside: the provider takes nothing for this account now."""
    async with answering(pool) as connection, connection.transaction():
        creator, cents = payout.creator, payout.cents
        await connection.fetchrow(LOCK_CREATOR, creator)
        if await connection.fetchval(DECLINE, creator, payout.period, payout.attempt, reason) is None:
            return
        await connection.execute(SET_PAYABLE, payout.account, False)
        entries = {_under_way(creator): cents, earnings(creator): -cents}
        await book(
            connection, Booking(cause=f"declined:{payout.attempt_name}", kind="payout", entries=entries)
        )


def _under_way(creator: UUID) -> str:
    return f"transfers:{creator}"
