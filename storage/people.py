"""People in Postgres: accounts, and the identities that they are found by."""

from __future__ import annotations

from typing import Annotated

import asyncpg
from msgspec import Meta, Struct

from protocol.envelope import SessionId, UserId
from protocol.refusals import ErrorCode, Refused
from storage.postgres.pool import Pool, answering

_ACCOUNT = "u.id, u.name, u.avatar, u.role::text, u.tier::text, u.banned_at is not null as banned"

CREATE_ACCOUNT = """
with u as (
    insert into users (name) values ($3) returning id, name, avatar, role, tier
), identity as (
    insert into identities (user_id, provider, subject, password_hash) select id, 'EMAIL', $1, $2 from u
)
select u.id, u.name, u.avatar, u.role::text, u.tier::text, $1::text as email from u
"""

FIND_BY_EMAIL = f"""
select {_ACCOUNT}, i.subject as email, i.password_hash
from identities i join users u on u.id = i.user_id
where i.provider = 'EMAIL' and i.issuer = '' and i.subject = $1
"""

ACCOUNT_OF_SESSION = f"""
select {_ACCOUNT}, i.subject as email, s.ended_at is not null as ended
from sessions s
join users u on u.id = s.user_id
left join identities i on i.user_id = u.id and i.provider = 'EMAIL'
where s.id = $1
limit 1
"""

REHASH = """
update identities set password_hash = $3
where user_id = $1 and provider = 'EMAIL' and password_hash = $2
"""


class Account(Struct, kw_only=True):
    """A person as they see themselves."""

    id: UserId
    name: Annotated[str, Meta(description="What others see.")]
    avatar: Annotated[str | None, Meta(description="URL of a picture.")] = None
    email: Annotated[str | None, Meta(description="Seen by nobody else.")] = None
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


async def create_account(pool: Pool, email: str, password_hash: str, name: str) -> Account:
    """Create a person who signs in with `email` (normalised) and a password. Raises `Refused` (email_taken)."""
    async with answering(pool) as connection:
        try:
            row = await connection.fetchrow(CREATE_ACCOUNT, email, password_hash, name)
        except asyncpg.UniqueViolationError:
            raise Refused(ErrorCode.EMAIL_TAKEN) from None
    assert row is not None
    return _account(row)


async def find_by_email(pool: Pool, email: str) -> Credentials | None:
    """Find who signs in with `email` (normalised)."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(FIND_BY_EMAIL, email)
    return None if row is None else Credentials(_account(row), row["password_hash"], row["banned"])


async def account_of_session(pool: Pool, session: SessionId) -> SessionAccount | None:
    """Find whose session this is."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(ACCOUNT_OF_SESSION, session)
    return None if row is None else SessionAccount(_account(row), row["ended"], row["banned"])


async def keep_new_hash(pool: Pool, user: UserId, old: str, new: str) -> None:
    """Replace the hash of a password that has not changed; if it has meanwhile, leave it."""
    async with answering(pool) as connection:
        await connection.execute(REHASH, user, old, new)


def _account(row: asyncpg.Record) -> Account:
    return Account(
        id=row["id"],
        name=row["name"],
        avatar=row["avatar"],
        email=row["email"],
        role=row["role"],
        tier=row["tier"],
    )
