"""Checkouts in Postgres: on which page of the payment provider somebody pays, one at a time for the same thing.

Two pages for one thing could both be paid. So there are turns: each has one page at the provider, whose idempotency key is that of
the turn, and the next begins when it was paid, has expired, or was ended because something else is wanted. The cases, each with a
test:

1. none is open: one is begun;
2. the same is wanted again, in another tab: it is the open one;
3. something else is wanted: the open one is ended at the provider first;
4. the open one was paid, and word of it is still on its way: it is refused;
5. two are begun at the same moment: one is kept, the other one ended;
6. both were paid all the same: see `storage.doubles`.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from protocol.envelope import RoomId, UserId
from protocol.refusals import ErrorCode, Refused
from storage.jobs import Job, enqueue
from storage.payment_objects import CheckoutObject, room_of
from storage.personal import Part
from storage.postgres.pool import Connection, Pool, answering
from storage.sealing import Sealer

TIER: Final = "tier"
"""The thing that a subscription to the server itself is."""
OPEN_HOURS: Final = 23
"""A page that was opened longer ago is not sent to anybody: the provider ends it after a day."""

FIND = f"""
insert into checkouts as c (user_id, thing) select id, $2 from users where id = $1
on conflict (user_id, thing) do update set thing = c.thing
returning turn, session, wanted, key,
    coalesce(opened_at > clock_timestamp() - make_interval(hours => {OPEN_HOURS}), false) as fresh
"""

KEEP = """
update checkouts set session = $4, wanted = $5, key = $6, opened_at = clock_timestamp()
where user_id = $1 and thing = $2 and turn = $3 and (session is null or session = $4)
returning true
"""

END = """
update checkouts set turn = turn + 1, session = null where user_id = $1 and thing = $2 and turn = $3
"""

END_SESSION = """
update checkouts set turn = turn + 1, session = null where session = $1
"""

OTHER = """
select session from checkouts where user_id = $1 and thing = $2 and session is not null
"""

OPEN_OF = """
select session from checkouts where user_id = $1 and session is not null
"""

PARTS = (
    Part(
        name="checkouts",
        columns=("checkouts.user_id",),
        rows="select thing, wanted, opened_at from checkouts where user_id = $1 order by thing",
    ),
)


class ExpireCheckout(Job, tag="checkouts.expire"):
    """A page is not to be paid on any more."""

    session: str


class Want(Struct, frozen=True):
    """Who wants to pay for what: `wanted` tells apart what can be had of a `thing`. `key` is the one of the wish."""

    user: UserId
    thing: str
    wanted: str
    key: str


class Turn(Struct, frozen=True):
    """How it stands: which page is open, if any, for what, and who asked for it. It is `fresh` if it can still be paid on."""

    number: int
    session: str | None
    wanted: str | None
    key: str | None
    fresh: bool


def thing_of(room: RoomId | None) -> str:
    """Name what somebody pays for: a pass to a looproom, or a tier."""
    return TIER if room is None else f"room:{room}"


async def turn_of(pool: Pool, want: Want) -> Turn:
    """Return how it stands with the checkouts of a thing. Raises `Refused` (session_ended) for somebody who has left."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(FIND, want.user, want.thing)
    if row is None:
        raise Refused(ErrorCode.SESSION_ENDED)
    return Turn(*row.values())


async def keep(pool: Pool, want: Want, turn: Turn, session: str) -> bool:
    """Note the page of a turn; False when the turn is over, or has another one."""
    async with answering(pool) as connection:
        kept = await connection.fetchval(
            KEEP, want.user, want.thing, turn.number, session, want.wanted, want.key
        )
    return kept is not None


async def end(pool: Pool, want: Want, turn: Turn) -> None:
    """Begin the next turn, unless it has begun."""
    async with answering(pool) as connection:
        await connection.execute(END, want.user, want.thing, turn.number)


async def ended(connection: Connection, session: CheckoutObject, owner: UserId | None) -> None:
    """Take note that a page was paid or has expired. If another one is open for the same thing that was paid, it is ended."""
    await connection.execute(END_SESSION, session.id)
    if owner is not None and session.status == "complete":
        other = await connection.fetchval(OTHER, owner, thing_of(room_of(session.metadata)))
        if other is not None:
            await enqueue(connection, ExpireCheckout(session=other), key=other)


async def leave_checkouts(connection: Connection, sealer: Sealer, user: UserId) -> None:  # noqa: ARG001 - as all are called
    """Have the pages ended on which somebody could pay who leaves."""
    for row in await connection.fetch(OPEN_OF, user):
        await enqueue(connection, ExpireCheckout(session=row["session"]), key=row["session"])
