"""Identities in Postgres: how people sign in through Google or Apple, and what binds that to an account.

An account is found by provider, issuer and subject, never by an address. An address that a provider has verified only says
that there is an account with it already: then nobody is let in, and nothing is made, until they have proven that account.

The cases of a sign-in, each with a test:

1. the identity is known: its account;
2. it is not, and nobody has its address: a new account;
3. it is not, and an account has proven its address, or is known through another provider by it: refused;
4. it is not, and an account only claims its address without having proven it: a new account, that one is left alone;
5. two at once with the same new identity: one account.

What was proven is spent in the same transaction, so it counts once; where the transaction is refused it is not spent, and may
still be used to link.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final
from uuid import UUID, uuid4

from msgspec import Struct

from protocol.envelope import Milliseconds, UserId
from protocol.refusals import ErrorCode, Refused
from storage.emails import forget_address
from storage.grants import Granted, keep_token, let_tokens_go
from storage.jobs import Job, enqueue
from storage.people import (
    ACCOUNT,
    ADDRESS,
    LOCK_PERSON,
    Account,
    account_from,
    address_index,
    address_of,
)
from storage.postgres.pool import Connection, Pool, answering
from storage.sealing import Sealer
from storage.waitlist import accept_address

SPEND = """
insert into spent_proofs (hash, expires_at) values ($1, to_timestamp($2)) on conflict do nothing returning true
"""

FIND_IDENTITY = f"""
select {ACCOUNT}, i.subject, i.sealed_address
from identities known
join users u on u.id = known.user_id
left join identities i on i.user_id = u.id and i.provider = 'EMAIL'
where known.provider = $1::auth_provider and known.issuer = $2 and known.subject = $3
"""

WAIT_FOR_IDENTITY = """
select pg_advisory_xact_lock(hashtextextended('looprooms identity ' || $1, 0))
"""

ADDRESS_IS_TAKEN = """
select exists (select from identities where provider = 'EMAIL' and issuer = '' and subject = any($1::text[]))
    or exists (select from identities where address_index = $2)
"""

CREATE_PERSON = """
insert into users (id, name) values ($1, $2) returning id, name, avatar, role::text, tier::text
"""

REMOVE_PERSON = """
delete from users where id = $1
"""

ADD_IDENTITY = """
insert into identities (user_id, provider, issuer, subject, sealed_address, address_index, hides_address)
values ($1, $2::auth_provider, $3, $4, $5, $6, $7)
on conflict do nothing
returning true
"""

RENEW_ADDRESS = """
update identities set sealed_address = $4, address_index = $5, hides_address = $6
where provider = $1::auth_provider and issuer = $2 and subject = $3
  and (sealed_address is null or address_index is distinct from $5)
"""

OWNER_OF_IDENTITY = """
select user_id from identities where provider = $1::auth_provider and issuer = $2 and subject = $3
"""

CLAIMS_AN_ADDRESS = """
select exists (select from identities where user_id = $1 and provider = 'EMAIL' and issuer <> '')
"""

WAYS_IN = """
select provider::text, subject, sealed_address, hides_address, provider <> 'EMAIL' or issuer = '' as lasts,
       (extract(epoch from created_at) * 1000)::bigint as linked
from identities where user_id = $1
order by created_at, provider
"""

REMOVE_IDENTITY = """
delete from identities where user_id = $1 and provider = $2::auth_provider
"""

FORGET_SPENT = """
delete from spent_proofs where expires_at < now()
"""

EMAIL: Final = "EMAIL"


class Known(Struct, frozen=True, kw_only=True):
    """Who somebody is at a provider, as it is kept. `address` is normalised, and only there if the provider verified it.

    `hidden` says that it is one the provider only forwards from.
    """

    provider: str
    issuer: str
    subject: str
    address: str | None
    hidden: bool


class Spent(Struct, frozen=True):
    """What is used up by a sign-in: the hash of the proof, and when it would have expired, in seconds since 1970."""

    hash: bytes
    expires_at: float


class Linked(Job, tag="letters.linked"):
    """A person has linked a provider, and is told."""

    user: UUID


class WayIn(Struct, frozen=True):
    """One way to sign in to an account. `linked` is when it was added; `hidden` says that the provider hides the address.

    One that `lasts` nobody else can take: of an address that is only claimed somebody else may prove that it is theirs.
    """

    provider: str
    address: str | None
    hidden: bool
    lasts: bool
    linked: Milliseconds


async def enter(
    pool: Pool,
    sealer: Sealer,
    known: Known,
    spent: Spent,
    *,
    name: str,
    granted: Granted | None,
    invited: bool,
) -> Account:
    """Find the account of an identity, or make one with `name`; if only who is `invited` may have one, by the proven address.

    Raises `Refused`: ``sign_in_refused`` for a proof that was used, ``account_exists``, ``invitation_required``, and ``forbidden``
    for who is banned.
    """
    async with answering(pool) as connection, connection.transaction():
        await _spend(connection, spent)
        row = await connection.fetchrow(FIND_IDENTITY, *_key(known))
        if row is None:  # of two at once the second waits, and then finds what the first has made
            await connection.execute(WAIT_FOR_IDENTITY, "\n".join(_key(known)))
            row = await connection.fetchrow(FIND_IDENTITY, *_key(known))
        account = None if row is not None else await _create(connection, sealer, known, name, invited=invited)
        if account is None:
            if row is None:  # it was linked to an account meanwhile
                row = await connection.fetchrow(FIND_IDENTITY, *_key(known))
            assert row is not None
            if row["banned"]:
                raise Refused(ErrorCode.FORBIDDEN, "This account may not sign in.")
            account = account_from(row, address_of(sealer, row))
            if known.address is not None:
                await connection.execute(RENEW_ADDRESS, *_key(known), *_address(sealer, account.id, known))
        if granted is not None:
            await keep_token(connection, sealer, account.id, known.provider, granted)
    return account


async def link(
    pool: Pool, sealer: Sealer, user: UserId, known: Known, spent: Spent, *, granted: Granted | None
) -> None:
    """Add an identity to an account whose owner has proven that it is theirs. Twice is once.

    Raises `Refused`: ``sign_in_refused`` for a proof that was used, ``identity_taken``, and ``email_unverified``: whoever claims
    an address that is not theirs must not put a way in of their own beside it, and wait for the owner to prove it.
    """
    async with answering(pool) as connection, connection.transaction():
        await _spend(connection, spent)
        if await connection.fetchval(LOCK_PERSON, user) is None:
            raise Refused(ErrorCode.SESSION_ENDED)
        if await connection.fetchval(CLAIMS_AN_ADDRESS, user):
            raise Refused(ErrorCode.EMAIL_UNVERIFIED)
        added = await connection.fetchval(ADD_IDENTITY, user, *_key(known), *_address(sealer, user, known))
        if not added and await connection.fetchval(OWNER_OF_IDENTITY, *_key(known)) != user:
            raise Refused(ErrorCode.IDENTITY_TAKEN)
        if added:
            await enqueue(connection, Linked(user=user))
        if granted is not None:
            await keep_token(connection, sealer, user, known.provider, granted)


async def demand_proof(pool: Pool, user: UserId) -> None:
    """Raise `Refused` (email_unverified) for somebody whose address is only claimed: they may be anybody, and come without end."""
    async with answering(pool) as connection:
        if await connection.fetchval(CLAIMS_AN_ADDRESS, user):
            raise Refused(ErrorCode.EMAIL_UNVERIFIED)


async def ways_in(pool: Pool, sealer: Sealer, user: UserId) -> list[WayIn]:
    """List how a person can sign in, in the order in which it was added."""
    async with answering(pool) as connection:
        return await _ways_in(connection, sealer, user)


async def address_of_provider(pool: Pool, sealer: Sealer, user: UserId) -> str | None:
    """Return the oldest address by which a provider knows a person. None when none has verified one."""
    ways = await ways_in(pool, sealer, user)
    return next((way.address for way in ways if way.provider != EMAIL and way.address is not None), None)


async def unlink(pool: Pool, sealer: Sealer, user: UserId, provider: str, offered: Collection[str]) -> None:
    """Take an identity away, and have revoked what its provider gave. Only `offered` providers are a way in that stays.

    Raises `Refused`: ``not_found``, ``last_identity``.
    """
    async with answering(pool) as connection, connection.transaction():
        await connection.execute(LOCK_PERSON, user)
        ways = await _ways_in(connection, sealer, user)
        if provider not in {way.provider for way in ways}:
            raise Refused(ErrorCode.NOT_FOUND)
        if not {way.provider for way in ways if way.lasts and way.provider != provider} & {EMAIL, *offered}:
            raise Refused(ErrorCode.LAST_IDENTITY)
        await connection.execute(REMOVE_IDENTITY, user, provider)
        await let_tokens_go(connection, user, provider)
        if provider == EMAIL:
            await forget_address(connection, user)


async def forget_spent(pool: Pool) -> None:
    """Forget proofs that have expired: they count for nothing anyway."""
    async with answering(pool) as connection:
        await connection.execute(FORGET_SPENT)


async def _spend(connection: Connection, spent: Spent) -> None:
    if await connection.fetchval(SPEND, spent.hash, spent.expires_at) is None:
        raise Refused(ErrorCode.SIGN_IN_REFUSED)


async def _create(
    connection: Connection, sealer: Sealer, known: Known, name: str, *, invited: bool
) -> Account | None:
    """Make an account. None: the identity has one since a moment ago."""
    if known.address is not None and not known.hidden:
        index = address_index(sealer, known.address)
        if await connection.fetchval(ADDRESS_IS_TAKEN, [index, known.address], index):
            raise Refused(ErrorCode.ACCOUNT_EXISTS)
    if invited and (known.address is None or not await accept_address(connection, sealer, known.address)):
        raise Refused(ErrorCode.INVITATION_REQUIRED)
    user = UserId(uuid4())
    row = await connection.fetchrow(CREATE_PERSON, user, name)
    if not await connection.fetchval(ADD_IDENTITY, user, *_key(known), *_address(sealer, user, known)):
        await connection.execute(REMOVE_PERSON, user)
        return None
    assert row is not None
    return Account(**row)


async def _ways_in(connection: Connection, sealer: Sealer, user: UserId) -> list[WayIn]:
    found = []
    for row in await connection.fetch(WAYS_IN, user):
        address = row["subject"] if row["provider"] == EMAIL else None
        if (sealed := row["sealed_address"]) is not None:
            address = sealer.open(ADDRESS, user, sealed)
        found.append(WayIn(row["provider"], address, row["hides_address"], row["lasts"], row["linked"]))
    return found


def _key(known: Known) -> tuple[str, str, str]:
    return known.provider, known.issuer, known.subject


def _address(sealer: Sealer, user: UserId, known: Known) -> tuple[bytes | None, str | None, bool]:
    if known.address is None:
        return None, None, False
    index = None if known.hidden else address_index(sealer, known.address)
    return sealer.seal(ADDRESS, user, known.address), index, known.hidden
