"""Whose an e-mail address is: claimed, proven, changed, taken back.

Whoever makes an account claims an address, and has it once they have opened the link that was mailed to it. Claims stand in
nobody's way: with an address that somebody else has proven one can register as with any other, so that registering tells
nothing, and the one who could read it in the mailbox is told there. And whoever claims a stranger's address early has nothing of it,
because the stranger, when they come, proves it for an account of their own.

What follows from a change here - a letter to somebody - is enqueued in its transaction (`storage.jobs`). Whatever changes how a
person signs in locks their identity before anything else of theirs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import asyncpg
from msgspec import Struct

from protocol.envelope import UserId
from protocol.refusals import ErrorCode, Refused
from storage.grants import let_tokens_go
from storage.jobs import Job, enqueue
from storage.links import Purpose, link_hash, make_link, use_link, void_links
from storage.people import (
    ACCOUNT,
    ADDRESS,
    LOCK_PERSON,
    SET_HASH,
    Account,
    Credentials,
    account_from,
    address_index,
    address_of,
    insert_account,
)
from storage.personal import Part
from storage.postgres.pool import Connection, Pool, answering
from storage.sealing import Sealer
from storage.session import DROP_REQUESTS, END_SESSIONS

OLD_ADDRESS = "email_changes.sealed_old"
NEW_ADDRESS = "email_changes.sealed_new"
"""Where the addresses of a change are sealed; the row is the change's."""

PARTS = (
    Part(
        name="email_changes",
        columns=("email_changes.user_id",),
        rows="""
        select id as bound_to, sealed_new, sealed_old, requested_at, confirmed_at
        from email_changes where user_id = $1 order by requested_at, id
        """,
        sealed=(OLD_ADDRESS, NEW_ADDRESS),
    ),
)

CANDIDATES = f"""
select distinct on (i.issuer = '') {ACCOUNT}, i.password_hash
from identities i join users u on u.id = i.user_id
where i.provider = 'EMAIL' and i.subject = any($1::text[])
order by i.issuer = '' desc, i.created_at desc
"""

LOCK_IDENTITY = f"""
select {ACCOUNT}, i.subject, i.sealed_address, i.password_hash
from identities i join users u on u.id = i.user_id
where i.user_id = $1 and i.provider = 'EMAIL'
for update of i
"""

IS_PROVEN = """
select exists (
    select from identities where provider = 'EMAIL' and issuer = '' and subject = any($1::text[]) and user_id <> $2
)
"""

PROVE = """
update identities set issuer = '' where user_id = $1 and provider = 'EMAIL'
"""

SET_ADDRESS = """
update identities set subject = $2, sealed_address = $3, issuer = '' where user_id = $1 and provider = 'EMAIL'
"""

ADD_ADDRESS = """
insert into identities (user_id, provider, subject, sealed_address, password_hash) values ($1, 'EMAIL', $2, $3, $4)
"""

REQUEST_CHANGE = """
insert into email_changes (id, user_id, subject, sealed_new, password_hash) values ($1, $2, $3, $4, $5)
"""

OWNER_OF_LINK = """
select coalesce(l.user_id, c.user_id)
from mailed_links l left join email_changes c on c.id = l.change_id
where l.hash = $1 and l.purpose = $2::link_purpose and l.expires_at > now()
"""

LOCK_CHANGE = """
select user_id, subject, sealed_new, sealed_old, password_hash, requested_at, confirmed_at
from email_changes where id = $1 for update
"""

CONFIRM_CHANGE = """
update email_changes set confirmed_at = now(), sealed_old = $2, password_hash = null where id = $1
"""

DROP_CHANGES = """
delete from email_changes where user_id = $1
"""

DROP_CHANGES_SINCE = """
delete from email_changes where user_id = $1 and requested_at >= $2
"""

DROP_WAYS_SINCE = """
delete from identities where user_id = $1 and provider <> 'EMAIL' and created_at >= $2 returning provider::text
"""

FORGET_CHANGES = """
delete from email_changes where coalesce(confirmed_at, requested_at) < now() - make_interval(secs => $1)
"""


class Welcome(Job, tag="letters.welcome"):
    """A new account claims an address: its link, or, if somebody has proven it already, word to them."""

    user: UUID


class TakenBack(Job, tag="letters.taken-back"):
    """An address was taken back: its person needs a new password."""

    user: UUID


class ChangeAsked(Job, tag="letters.change"):
    """A person wants another address, which has to be proven."""

    change: UUID


class ChangeMade(Job, tag="letters.changed"):
    """A person has another address; the old one is told, and can take it back."""

    change: UUID


class AddressAdded(Job, tag="letters.added"):
    """A person who came through Google or Apple has an address and a password, too."""

    user: UUID


class Addressee(Struct, frozen=True):
    """Whom a letter goes to. `taken`: the address is proven by somebody else than the one that it is about. `token` is of a link.

    `first`: who wants the address has had none.
    """

    email: str
    token: str | None = None
    taken: bool = False
    first: bool = False


class Identity(Struct, frozen=True):
    """How a person signs in with a password."""

    account: Account
    email: str
    password_hash: str


async def claim_address(
    pool: Pool, sealer: Sealer, email: str, password_hash: str, name: str, *, letter: bool = True
) -> Account:
    """Create a person who claims `email` (normalised). The letter that follows can be left out."""
    user = UserId(uuid4())
    async with answering(pool) as connection, connection.transaction():
        account = await insert_account(
            connection, sealer, user, email, password_hash, name, claimant=str(user)
        )
        if letter:
            await enqueue(connection, Welcome(user=user))
    return account


async def candidates(pool: Pool, sealer: Sealer, email: str) -> tuple[Credentials | None, Credentials | None]:
    """Find who may sign in with `email` (normalised): whoever has proven it, and whoever claimed it last."""
    async with answering(pool) as connection:
        rows = await connection.fetch(CANDIDATES, _subjects(sealer, email))
    found = {
        row["verified"]: Credentials(account_from(row, email), row["password_hash"], row["banned"])
        for row in rows
    }
    return found.get(True), found.get(False)


async def welcome(pool: Pool, sealer: Sealer, user: UserId) -> Addressee | None:
    """Prepare the letter to the address that a person claims. None when there is nothing to prove any more."""
    async with answering(pool) as connection, connection.transaction():
        identity = await lock_identity(connection, sealer, user)
        if identity is None or identity.account.verified:
            return None
        email = identity.email
        if await connection.fetchval(IS_PROVEN, _subjects(sealer, email), user):
            return Addressee(email, taken=True)
        return Addressee(email, await make_link(connection, Purpose.VERIFY, user=user))


async def ask_for_welcome(pool: Pool, user: UserId) -> None:
    """Have the letter sent again. While one waits to be sent there is no second one."""
    async with answering(pool) as connection:
        await enqueue(connection, Welcome(user=user), key=str(user))


async def verify(pool: Pool, sealer: Sealer, token: str) -> UserId:
    """Prove the address of the person that a link is of. Raises `Refused`: link_invalid, email_taken."""
    async with proving(pool) as connection:
        identity, _ = await open_link(connection, sealer, Purpose.VERIFY, token)
        user = identity.account.id
        await connection.execute(PROVE, user)
    return user


# Changes of address.


async def ask_for_change(pool: Pool, sealer: Sealer, user: UserId, email: str) -> None:
    """Have a letter sent to `email` (normalised), which becomes the person's address when it is confirmed from there."""
    async with answering(pool) as connection, connection.transaction():
        await lock_identity(connection, sealer, user)
        await _request(connection, sealer, user, email, None)


async def ask_for_first(pool: Pool, sealer: Sealer, user: UserId, email: str, password_hash: str) -> None:
    """Have a letter sent to `email` (normalised), with which a person who has no password signs in, too, once it is confirmed.

    Raises `Refused` (identity_taken) for one who has an address.
    """
    async with answering(pool) as connection, connection.transaction():
        await connection.execute(LOCK_PERSON, user)
        if await lock_identity(connection, sealer, user) is not None:
            raise Refused(ErrorCode.IDENTITY_TAKEN)
        await _request(connection, sealer, user, email, password_hash)


async def _request(
    connection: Connection, sealer: Sealer, user: UserId, email: str, password_hash: str | None
) -> None:
    change = uuid4()
    sealed = sealer.seal(NEW_ADDRESS, change, email)
    await connection.execute(DROP_REQUESTS, user)
    await connection.execute(
        REQUEST_CHANGE, change, user, address_index(sealer, email), sealed, password_hash
    )
    await enqueue(connection, ChangeAsked(change=change))


async def change_asked(pool: Pool, sealer: Sealer, change: UUID) -> Addressee | None:
    """Prepare the letter to the new address. None when the change is no longer wanted, or made."""
    async with answering(pool) as connection, connection.transaction():
        row = await connection.fetchrow(LOCK_CHANGE, change)
        if row is None or row["confirmed_at"] is not None:
            return None
        email = sealer.open(NEW_ADDRESS, change, row["sealed_new"])
        if await connection.fetchval(IS_PROVEN, _subjects(sealer, email), row["user_id"]):
            return Addressee(email, taken=True)
        token = await make_link(connection, Purpose.CHANGE, change=change)
        return Addressee(email, token, first=row["password_hash"] is not None)


async def confirm_change(pool: Pool, sealer: Sealer, token: str) -> UserId:
    """Give a person the address that a link was mailed to. Raises `Refused`: link_invalid, email_taken."""
    async with proving(pool) as connection:
        user = await _owner(connection, Purpose.CHANGE, token)
        await connection.execute(LOCK_PERSON, user)
        identity = await lock_identity(connection, sealer, user)
        change = await use_link(connection, Purpose.CHANGE, token)
        row = await connection.fetchrow(LOCK_CHANGE, change)
        if row is None or row["confirmed_at"] is not None:
            raise Refused(ErrorCode.LINK_INVALID)
        first: str | None = row["password_hash"]
        if (identity is None) is (first is None):  # they have got another way in since, or lost this one
            raise Refused(ErrorCode.LINK_INVALID)
        old = None
        if identity is not None and identity.account.verified:
            # An address that was only claimed has no right to take anything back.
            old = sealer.seal(OLD_ADDRESS, change, identity.email)
            await enqueue(connection, ChangeMade(change=change))
        await connection.execute(CONFIRM_CHANGE, change, old)
        email = sealer.open(NEW_ADDRESS, change, row["sealed_new"])
        if first is None:
            await _give_address(connection, sealer, user, email)
        else:
            sealed = sealer.seal(ADDRESS, user, email)
            await connection.execute(ADD_ADDRESS, user, address_index(sealer, email), sealed, first)
            await enqueue(connection, AddressAdded(user=user))
    return user


async def forget_address(connection: Connection, user: UserId) -> None:
    """Make worthless what was mailed to somebody's address, and what was asked for it: they sign in without one now."""
    await void_links(connection, user, Purpose.VERIFY, Purpose.RESET)
    await connection.execute(DROP_CHANGES, user)


async def change_made(pool: Pool, sealer: Sealer, change: UUID) -> Addressee | None:
    """Prepare the letter to the old address. None when there is nothing to take back."""
    async with answering(pool) as connection, connection.transaction():
        row = await connection.fetchrow(LOCK_CHANGE, change)
        if row is None or row["sealed_old"] is None:
            return None
        email = sealer.open(OLD_ADDRESS, change, row["sealed_old"])
        return Addressee(email, await make_link(connection, Purpose.UNDO, change=change))


async def undo_change(pool: Pool, sealer: Sealer, token: str, password_hash: str) -> UserId:
    """Give a person their old address back, whatever happened since, with a password that nobody knows.

    All their sessions end, later changes and their links are void, and no provider that was linked since lets anybody in.
    Raises `Refused`: link_invalid, email_taken.
    """
    async with proving(pool) as connection:
        identity, change = await open_link(connection, sealer, Purpose.UNDO, token)
        user = identity.account.id
        row = await connection.fetchrow(LOCK_CHANGE, change)
        if row is None or row["sealed_old"] is None:
            raise Refused(ErrorCode.LINK_INVALID)
        await _give_address(connection, sealer, user, sealer.open(OLD_ADDRESS, change, row["sealed_old"]))
        await connection.execute(SET_HASH, user, password_hash, None)
        await connection.execute(END_SESSIONS, user, "address taken back", None)
        await connection.execute(DROP_CHANGES_SINCE, user, row["requested_at"])
        for way in await connection.fetch(DROP_WAYS_SINCE, user, row["requested_at"]):
            await let_tokens_go(connection, user, way["provider"])
        await enqueue(connection, TakenBack(user=user))
    return user


async def forget_changes(pool: Pool, after: float) -> None:
    """Delete changes that were made, or asked for in vain, more than `after` seconds ago."""
    async with answering(pool) as connection:
        await connection.execute(FORGET_CHANGES, after)


async def _give_address(connection: Connection, sealer: Sealer, user: UserId, email: str) -> None:
    """Make `email` the proven address of a person; what was mailed to the one before is void."""
    sealed = sealer.seal(ADDRESS, user, email)
    await connection.execute(SET_ADDRESS, user, address_index(sealer, email), sealed)
    await void_links(connection, user, Purpose.VERIFY, Purpose.RESET)


async def lock_identity(connection: Connection, sealer: Sealer, user: UserId) -> Identity | None:
    """Read and lock how a person signs in: what is mailed to their address now is for the address that they have."""
    row = await connection.fetchrow(LOCK_IDENTITY, user)
    if row is None:
        return None
    email = address_of(sealer, row)
    assert email is not None
    return Identity(account_from(row, email), email, row["password_hash"])


async def open_link(
    connection: Connection, sealer: Sealer, purpose: Purpose, token: str
) -> tuple[Identity, UUID]:
    """Lock the identity of whom a link is of, and use it up; return what it is of, too. Raises `Refused` (link_invalid)."""
    identity = await lock_identity(connection, sealer, await _owner(connection, purpose, token))
    if identity is None:
        raise Refused(ErrorCode.LINK_INVALID)
    return identity, await use_link(connection, purpose, token)


async def _owner(connection: Connection, purpose: Purpose, token: str) -> UserId:
    user: UserId | None = await connection.fetchval(OWNER_OF_LINK, link_hash(token), purpose.value)
    if user is None:
        raise Refused(ErrorCode.LINK_INVALID)
    return user


@asynccontextmanager
async def proving(pool: Pool) -> AsyncIterator[Connection]:
    """Give a connection in a transaction. Raises `Refused` (email_taken) when somebody else has proven the address."""
    try:
        async with answering(pool) as connection, connection.transaction():
            yield connection
    except asyncpg.UniqueViolationError:
        raise Refused(ErrorCode.EMAIL_TAKEN) from None


def _subjects(sealer: Sealer, email: str) -> list[str]:
    """Return what an address may be found by: its index, or, in a row of before, itself."""
    return [address_index(sealer, email), email]
