"""What providers gave for people, and want back one day: kept sealed, and revoked there when the person leaves or unlinks them."""

from __future__ import annotations

from typing import Final
from uuid import UUID, uuid4

from msgspec import Struct

from protocol.envelope import UserId
from storage.jobs import Job, enqueue_all
from storage.people import LOCK_PERSON
from storage.personal import Part
from storage.postgres.pool import Connection, Pool, answering
from storage.sealing import Sealer

FIND_GRANT = """
select id from provider_tokens where user_id = $1 and provider = $2::auth_provider and client_id = $3 for update
"""

RENEW_GRANT = """
insert into provider_tokens (id, user_id, provider, client_id, sealed_token) values ($1, $2, $3::auth_provider, $4, $5)
on conflict (id) do update set sealed_token = excluded.sealed_token, created_at = now()
"""

LET_GRANTS_GO = """
update provider_tokens set user_id = null
where user_id = $1 and ($2::auth_provider is null or provider = $2::auth_provider)
returning id
"""

GRANT_TO_REVOKE = """
select provider::text, client_id, sealed_token from provider_tokens where id = $1 and user_id is null
"""

FORGET_GRANT = """
delete from provider_tokens where id = $1 and user_id is null
"""

GRANT: Final = "provider_tokens.sealed_token"
"""Where tokens of providers are sealed; the row is the token's own."""

PARTS = (
    Part(
        name="provider_tokens",
        columns=("provider_tokens.user_id",),
        rows="""
        select provider::text, client_id, created_at from provider_tokens where user_id = $1 order by provider, client_id
        """,
        stays="what Apple gave us for them, sealed and nobody's, until Apple has revoked it: moments, unless Apple is away",
    ),
)


class Granted(Struct, frozen=True):
    """What a provider gave that must be revoked one day, and the client id that it was given to."""

    token: str
    client: str


class RevokeToken(Job, tag="identity.revoke"):
    """A token of a provider is revoked there, because whose it was has left, or has unlinked the provider."""

    token: UUID


class ToRevoke(Struct, frozen=True):
    """A token that is nobody's any more."""

    provider: str
    client: str
    token: str


async def revoke_provider_tokens(connection: Connection, sealer: Sealer, user: UserId) -> None:  # noqa: ARG001 - as all that happens when somebody leaves
    """Have revoked what providers gave for a person; in the transaction in which they leave, while they are still there."""
    await let_tokens_go(connection, user, None)


async def token_to_revoke(pool: Pool, sealer: Sealer, token: UUID) -> ToRevoke | None:
    """Return a token that is nobody's any more. None: it is revoked, or somebody's."""
    async with answering(pool) as connection:
        row = await connection.fetchrow(GRANT_TO_REVOKE, token)
    if row is None:
        return None
    return ToRevoke(row["provider"], row["client_id"], sealer.open(GRANT, token, row["sealed_token"]))


async def forget_token(pool: Pool, token: UUID) -> None:
    """Forget a token that is worthless now."""
    async with answering(pool) as connection:
        await connection.execute(FORGET_GRANT, token)


async def keep_token(
    connection: Connection, sealer: Sealer, user: UserId, provider: str, granted: Granted
) -> None:
    """Keep what a provider gave for a person, instead of what it gave to that client before."""
    await connection.execute(LOCK_PERSON, user)
    token: UUID = await connection.fetchval(FIND_GRANT, user, provider, granted.client) or uuid4()
    sealed = sealer.seal(GRANT, token, granted.token)
    await connection.execute(RENEW_GRANT, token, user, provider, granted.client, sealed)


async def let_tokens_go(connection: Connection, user: UserId, provider: str | None) -> None:
    """Have revoked what a provider gave for a person, or all of them; it is nobody's from now on."""
    rows = await connection.fetch(LET_GRANTS_GO, user, provider)
    if rows:
        await enqueue_all(connection, [RevokeToken(token=row["id"]) for row in rows])
