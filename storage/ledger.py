"""The ledger in Postgres: whose the money is that customers have paid, by double entry, in integer cents.

Debits are positive and credits negative. What lies at the payment provider (`CARDS`) is a debit; whose it is - the
platform's, a creator's, that of a period's pool - are credits. Each transaction sums to zero, which Postgres itself sees to at
the commit, and has a cause, which is booked once however often it comes. Nothing is changed afterwards.

Creators stand in it by an id that is known nowhere else once they have left: nothing here is personal.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Final, TypeVar
from uuid import UUID

from msgspec import Struct

from protocol.envelope import RoomId, UserId
from storage.personal import Part
from storage.postgres.pool import Connection

CARDS: Final = "cards"
"""What lies at the payment provider."""
PLATFORM: Final = "platform"
"""What the platform keeps."""

BOOK = """
insert into ledger_transactions (cause, kind, room_id) values ($1, $2, $3) on conflict do nothing returning id
"""

ENTER = """
insert into ledger_entries (transaction_id, account, cents)
select $1, account, cents from unnest($2::text[], $3::bigint[]) as e (account, cents)
"""

ENTRIES_OF = """
select e.account, e.cents
from ledger_entries e join ledger_transactions t on t.id = e.transaction_id
where t.cause = $1 order by e.account
"""

BALANCE = """
select coalesce(sum(cents), 0)::bigint from ledger_entries where account = $1
"""

CREATOR = """
insert into creators as c (user_id) select id from users where id = $1
on conflict (user_id) do update set user_id = c.user_id
returning id
"""

PARTS = (
    Part(
        name="creator",
        columns=("creators.user_id",),
        rows="""
        select c.created_at, coalesce(
            (select -sum(e.cents) from ledger_entries e where e.account = 'earnings:' || c.id), 0
        )::bigint as earnings_cents
        from creators c where c.user_id = $1
        """,
        stays="what was earned, and paid out, in the ledger: without whose it was; and the account at the payment provider, until all "
        "of it is paid",
    ),
)

KeyT = TypeVar("KeyT", bound=Hashable)


class Booking(Struct, frozen=True, kw_only=True):
    """A transaction: what it is because of, of which kind, and how many cents for which account."""

    cause: str
    kind: str
    entries: dict[str, int]
    room: RoomId | None = None


def earnings(creator: UUID) -> str:
    """Name the account of what a creator has earned and was not paid."""
    return f"earnings:{creator}"


def split(cents: int, weights: Mapping[KeyT, int]) -> dict[KeyT, int]:
    """Share cents out by weights, to the cent: what rounding leaves goes to the largest remainders, one each.

    Of equal ones the first is first. Nothing is shared out where all weights are 0.
    """
    whole = sum(weights.values())
    if not whole:
        return {}
    shares = {key: cents * weight // whole for key, weight in weights.items()}
    remainders = sorted(weights, key=lambda key: -(cents * weights[key] % whole))
    for key in remainders[: cents - sum(shares.values())]:
        shares[key] += 1
    return shares


async def book(connection: Connection, booking: Booking) -> bool:
    """Book a transaction, in the one that `connection` is in; False when its cause is booked already.

    Whoever books the same cause at the same time waits here for the other one's commit.
    """
    entries = {account: cents for account, cents in booking.entries.items() if cents}
    if not entries:
        return False
    made = await connection.fetchval(BOOK, booking.cause, booking.kind, booking.room)
    if made is None:
        return False
    await connection.execute(ENTER, made, list(entries), list(entries.values()))
    return True


async def entries_of(connection: Connection, cause: str) -> dict[str, int]:
    """Return what was booked because of something; nothing if nothing was."""
    return {row["account"]: row["cents"] for row in await connection.fetch(ENTRIES_OF, cause)}


async def balance(connection: Connection, account: str) -> int:
    """Return the sum of an account."""
    cents: int = await connection.fetchval(BALANCE, account)
    return cents


async def creator_of(connection: Connection, user: UserId) -> UUID | None:
    """Return as whom a person stands in the ledger, from now on. None for one who is not there."""
    creator: UUID | None = await connection.fetchval(CREATOR, user)
    return creator
