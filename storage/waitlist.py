"""The waitlist: who would like to have an account, and who is invited to make one.

An address is on it once, however often it was asked for. Nobody is told whether it was there before, is confirmed, or is
invited; the one who reads its mailbox gets what is theirs.
"""

from __future__ import annotations

from uuid import UUID, uuid4

from msgspec import Struct

from protocol.envelope import UserId
from protocol.refusals import ErrorCode, Refused
from storage import people
from storage.emails import proving
from storage.jobs import Job, enqueue
from storage.links import Purpose, make_link, subject_of_link, use_link
from storage.people import Account, insert_account
from storage.postgres.pool import Connection, Pool, answering
from storage.sealing import Sealer

ADDRESS = "waitlist.sealed_address"
"""Where addresses are sealed; the row is the entry's."""

ADD_ENTRY = """
insert into waitlist (id, subject, sealed_address) values ($1, $2, $3) on conflict (subject) do nothing
"""

FIND_ENTRY = """
select id from waitlist where subject = $1
"""

ENTRY = """
select sealed_address, invited_at is not null as invited
from waitlist where id = $1
"""

CONFIRM_ENTRY = """
update waitlist set confirmed_at = coalesce(confirmed_at, now()) where id = $1
"""

INVITE_ENTRY = """
update waitlist set invited_at = coalesce(invited_at, now()) where id = $1
"""

IS_INVITED = """
select exists (select from waitlist where subject = $1 and invited_at is not null)
"""

DROP_ENTRY = """
delete from waitlist where id = $1
"""

DROP_INVITED = """
delete from waitlist where subject = $1 and invited_at is not null returning id
"""

ADDRESSES_OF = """
select sealed_address from identities
where user_id = $1 and provider = 'EMAIL' and issuer = '' and sealed_address is not null
"""

LEAVE_ENTRIES = """
delete from waitlist where subject = any($1::text[])
"""

FORGET_ENTRIES = """
delete from waitlist
where confirmed_at is null and invited_at is null and requested_at < now() - make_interval(secs => $1)
"""


class Waiting(Job, tag="letters.waitlist"):
    """An address asked for a place."""

    entry: UUID


class Invited(Job, tag="letters.invitation"):
    """An address is invited."""

    entry: UUID


class Waiter(Struct, frozen=True):
    """Whom a letter of the waitlist goes to. `token` is of the link; `invited` says that it invites."""

    email: str
    token: str
    invited: bool


async def ask_for_place(pool: Pool, sealer: Sealer, email: str) -> None:
    """Put `email` (normalised) on the list, and have a letter sent to it."""
    async with answering(pool) as connection, connection.transaction():
        entry = await _entry(connection, sealer, email)
        await enqueue(connection, Waiting(entry=entry), key=str(entry))


async def invite(pool: Pool, sealer: Sealer, email: str) -> None:
    """Invite `email` (normalised), on the list or not, by a letter. Again sends another one."""
    async with answering(pool) as connection, connection.transaction():
        entry = await _entry(connection, sealer, email)
        await connection.execute(INVITE_ENTRY, entry)
        await enqueue(connection, Invited(entry=entry), key=str(entry))


async def waiter(pool: Pool, sealer: Sealer, entry: UUID) -> Waiter | None:
    """Prepare a letter to an entry: it invites who is invited, else it asks for a confirmation. None when there is no such entry."""
    async with answering(pool) as connection, connection.transaction():
        row = await connection.fetchrow(ENTRY, entry)
        if row is None:
            return None
        purpose = Purpose.INVITATION if row["invited"] else Purpose.WAITLIST
        token = await make_link(connection, purpose, entry=entry)
    return Waiter(sealer.open(ADDRESS, entry, row["sealed_address"]), token, row["invited"])


async def confirm_place(pool: Pool, token: str) -> None:
    """Confirm the entry that a link is of. Raises `Refused` (link_invalid)."""
    async with answering(pool) as connection, connection.transaction():
        await connection.execute(CONFIRM_ENTRY, await use_link(connection, Purpose.WAITLIST, token))


async def is_invited(pool: Pool, sealer: Sealer, email: str) -> bool:
    """Say whether `email` (normalised), which must have been proven, may make an account where one needs an invitation."""
    async with answering(pool) as connection:
        return bool(await connection.fetchval(IS_INVITED, _subject(sealer, email)))


async def invited_address(pool: Pool, sealer: Sealer, token: str) -> str:
    """Return the address that an invitation was mailed to. Raises `Refused` (link_invalid)."""
    entry = await subject_of_link(pool, Purpose.INVITATION, token)
    async with answering(pool) as connection:
        row = await connection.fetchrow(ENTRY, entry)
    if row is None:
        raise Refused(ErrorCode.LINK_INVALID)
    return sealer.open(ADDRESS, entry, row["sealed_address"])


async def accept(
    pool: Pool, sealer: Sealer, token: str, email: str, password_hash: str, name: str
) -> Account:
    """Create the person who was invited; their address is proven, and no longer on the list.

    `email` is what `invited_address` returned. Raises `Refused`: link_invalid, email_taken.
    """
    async with proving(pool) as connection:
        entry = await use_link(connection, Purpose.INVITATION, token)
        await connection.execute(DROP_ENTRY, entry)
        user = UserId(uuid4())
        return await insert_account(connection, sealer, user, email, password_hash, name, claimant="")


async def accept_address(connection: Connection, sealer: Sealer, email: str) -> bool:
    """Take an address that was invited off the list: whoever has proven it otherwise needs no invitation. False: it was not."""
    return await connection.fetchval(DROP_INVITED, _subject(sealer, email)) is not None


async def forget_entries(pool: Pool, after: float) -> None:
    """Delete addresses that were never confirmed, `after` seconds after they were asked for."""
    async with answering(pool) as connection:
        await connection.execute(FORGET_ENTRIES, after)


async def _entry(connection: Connection, sealer: Sealer, email: str) -> UUID:
    """Return the entry of an address, which is made if there is none."""
    subject, entry = _subject(sealer, email), uuid4()
    await connection.execute(ADD_ENTRY, entry, subject, sealer.seal(ADDRESS, entry, email))
    found: UUID = await connection.fetchval(FIND_ENTRY, subject)
    return found


def _subject(sealer: Sealer, email: str) -> str:
    return sealer.index("waitlist", email).hex()


async def leave_waitlist(connection: Connection, sealer: Sealer, user: UserId) -> None:
    """Take the address of somebody who leaves for good off the list, in the transaction in which they do.

    One that they only claimed may be somebody else's, who waits for a place.
    """
    rows = await connection.fetch(ADDRESSES_OF, user)
    emails = [sealer.open(people.ADDRESS, user, row["sealed_address"]) for row in rows]
    await connection.execute(LEAVE_ENTRIES, [_subject(sealer, email) for email in emails])
