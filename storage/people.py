"""People in Postgres: accounts, and the identities that they are found by.

An address is personal and nobody else's business: it is sealed, and found by its index. What a person is called and how
they look, and what they say in a room, is what others see, so it stands as it is. Rows of before have the address itself
where the index belongs now; they are found too, until `seal_addresses` has been over them.
"""

from __future__ import annotations

from typing import Annotated
from uuid import uuid4

import asyncpg
from msgspec import Meta, Struct

from protocol.envelope import NOBODY, Person, SessionId, UserId
from protocol.people import Anonymity
from protocol.refusals import ErrorCode, Refused
from storage import person_events
from storage.person_events import NewEvent, Told
from storage.personal import Part
from storage.postgres.pool import Connection, Pool, answering
from storage.sealing import Sealer

ACCOUNT = """u.id, u.name, u.avatar, u.role::text, u.tier::text, u.banned_at is not null as banned,
    coalesce(i.issuer = '', false) as verified"""
"""The columns of an account: of `users u` and its e-mail identity `i`."""

INSERT_ACCOUNT = """
with u as (
    insert into users (id, name) values ($1, $2) returning id, name, avatar, role, tier
), i as (
    insert into identities (user_id, provider, issuer, subject, sealed_address, password_hash)
    select id, 'EMAIL', $3, $4, $5, $6 from u
    returning user_id, issuer
)
select u.id, u.name, u.avatar, u.role::text, u.tier::text, i.issuer = '' as verified from u join i on i.user_id = u.id
"""

# A row of before, whose address is not sealed yet, would not stand in the way of its own index.
IS_THERE_UNSEALED = """
select exists (select from identities where provider = 'EMAIL' and issuer = '' and subject = $1)
"""

FIND_BY_EMAIL = f"""
select {ACCOUNT}, i.password_hash
from identities i join users u on u.id = i.user_id
where i.provider = 'EMAIL' and i.issuer = '' and i.subject = any($1::text[])
"""

ACCOUNT_OF_SESSION = f"""
select {ACCOUNT}, i.subject, i.sealed_address, s.ended_at is not null as ended
from sessions s
join users u on u.id = s.user_id
left join identities i on i.user_id = u.id and i.provider = 'EMAIL'
where s.id = $1
limit 1
"""

# Whoever adds or removes a way in has this row; so two who each remove the other's last one wait for each other.
LOCK_PERSON = """
select true from users where id = $1 for no key update
"""

SET_ANONYMITY = """
update users set anonymous = $2 where id = $1 and anonymous <> $2 returning true
"""

SET_HASH = """
update identities set password_hash = $2
where user_id = $1 and provider = 'EMAIL' and ($3::text is null or password_hash = $3)
returning user_id
"""

REHASH = """
update identities set password_hash = $3
where user_id = $1 and provider = 'EMAIL' and password_hash = $2
"""


UNSEALED_ADDRESSES = """
select user_id, subject from identities
where provider = 'EMAIL' and sealed_address is null
limit $1 for update skip locked
"""

SEAL_ADDRESSES = """
update identities i set subject = n.subject, sealed_address = n.sealed
from unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[]) as n (user_id, address, subject, sealed)
where i.user_id = n.user_id and i.provider = 'EMAIL' and i.subject = n.address
"""

ADDRESS = "identities.sealed_address"
"""Where addresses are sealed; the row is the person's."""

PARTS = (
    Part(
        name="profile",
        columns=("users.id",),
        rows="select * from users where id = $1",
    ),
    Part(
        name="identities",
        columns=("identities.user_id",),
        rows="""
        select provider::text, issuer,
               case when provider <> 'EMAIL' or sealed_address is null then subject end as subject,
               user_id as bound_to, sealed_address, created_at
        from identities where user_id = $1 order by provider, issuer, subject
        """,
        sealed=(ADDRESS,),
    ),
)


class Account(Struct, kw_only=True):
    """A person as they see themselves."""

    id: Annotated[UserId, Meta(description="Never changes.")]
    name: Annotated[str, Meta(description="What others see.")]
    avatar: Annotated[str | None, Meta(description="URL of a picture.")] = None
    email: Annotated[str | None, Meta(description="Seen by nobody else.")] = None
    verified: Annotated[
        bool, Meta(description="Whether a link that was mailed to the address has been opened.")
    ] = False
    role: Annotated[str, Meta(description="MEMBER, CREATOR, MODERATOR or ADMIN.")]
    tier: Annotated[str, Meta(description="FREE, PREMIUM_MONTHLY, PREMIUM_YEARLY or CREATOR_PRO.")]


class Credentials(Struct, frozen=True):
    """An account that was found by its address, and what its password is checked against."""

    account: Account
    password_hash: str
    banned: bool


class SessionAccount(Struct, frozen=True):
    """The account of a session, and whether the session still counts."""

    account: Account
    ended: bool
    banned: bool


def address_index(sealer: Sealer, email: str) -> str:
    """Return the `subject` of the identity that an address (normalised) is found by."""
    return sealer.index("address", email).hex()


async def create_account(pool: Pool, sealer: Sealer, email: str, password_hash: str, name: str) -> Account:
    """Create a person whose address (normalised) needs no proof. Raises `Refused` (email_taken)."""
    async with answering(pool) as connection:
        try:
            if not await connection.fetchval(IS_THERE_UNSEALED, email):
                user = UserId(uuid4())
                return await insert_account(connection, sealer, user, email, password_hash, name, claimant="")
        except asyncpg.UniqueViolationError:
            pass
    raise Refused(ErrorCode.EMAIL_TAKEN)


async def insert_account(
    connection: Connection,
    sealer: Sealer,
    user: UserId,
    email: str,
    password_hash: str,
    name: str,
    *,
    claimant: str,
) -> Account:
    """Insert a person who signs in with `email` (normalised): their own when `claimant` is empty, else claimed by that id.

    Raises asyncpg's `UniqueViolationError` when it is somebody else's own.
    """
    sealed = sealer.seal(ADDRESS, user, email)
    index = address_index(sealer, email)
    row = await connection.fetchrow(INSERT_ACCOUNT, user, name, claimant, index, sealed, password_hash)
    assert row is not None
    return account_from(row, email)


async def find_by_email(pool: Pool, sealer: Sealer, email: str) -> Credentials | None:
    """Find whose address `email` (normalised) is."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(FIND_BY_EMAIL, [address_index(sealer, email), email])
    return None if row is None else Credentials(account_from(row, email), row["password_hash"], row["banned"])


async def account_of_session(pool: Pool, sealer: Sealer, session: SessionId) -> SessionAccount | None:
    """Find whose session this is."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(ACCOUNT_OF_SESSION, session)
    if row is None:
        return None
    return SessionAccount(account_from(row, address_of(sealer, row)), row["ended"], row["banned"])


async def seal_addresses(pool: Pool, sealer: Sealer, limit: int = 200) -> int:
    """Seal addresses of rows of before, at most `limit`; return how many there were."""
    async with answering(pool) as connection, connection.transaction():
        rows = await connection.fetch(UNSEALED_ADDRESSES, limit)
        users = [row["user_id"] for row in rows]
        addresses = [row["subject"] for row in rows]
        await connection.execute(
            SEAL_ADDRESSES,
            users,
            addresses,
            [address_index(sealer, address) for address in addresses],
            [sealer.seal(ADDRESS, user, address) for user, address in zip(users, addresses, strict=True)],
        )
    return len(rows)


async def set_anonymity(pool: Pool, user: UserId, *, on: bool) -> list[Told]:
    """Let a person be anonymous, or not; return what is to be published. Nothing, if they were already."""
    async with answering(pool) as connection, connection.transaction():
        if not await connection.fetchval(SET_ANONYMITY, user, on):
            return []
        event = NewEvent(user, Anonymity(anonymous=on), changes_session=True)
        return await person_events.append(connection, [event])


async def keep_new_hash(pool: Pool, user: UserId, old: str, new: str) -> None:
    """Replace the hash of a password that has not changed; if it has meanwhile, leave it."""
    async with answering(pool) as connection:
        await connection.execute(REHASH, user, old, new)


def person(user: UserId | None, name: str | None, avatar: str | None) -> Person:
    """Return a person as others see them, as they were found by an outer join: nobody when they are not there any more."""
    return NOBODY if user is None or name is None else Person(id=user, name=name, avatar=avatar)


def address_of(sealer: Sealer, row: asyncpg.Record) -> str | None:
    """Return the address in a row of a person with their e-mail identity, if they have one; of before, it is not sealed."""
    sealed = row["sealed_address"]
    email: str | None = row["subject"] if sealed is None else sealer.open(ADDRESS, row["id"], sealed)
    return email


def account_from(row: asyncpg.Record, email: str | None) -> Account:
    """Make an account of a row."""
    return Account(
        id=row["id"],
        name=row["name"],
        avatar=row["avatar"],
        email=email,
        verified=row["verified"],
        role=row["role"],
        tier=row["tier"],
    )
