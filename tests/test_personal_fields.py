"""Personal fields of accounts in the database: sealed, found by their index, and rows of before among them."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from protocol.envelope import SessionId, UserId
from protocol.refusals import ErrorCode, Refused
from storage.people import account_of_session, create_account, find_by_email, seal_addresses
from storage.postgres.pool import Pool
from storage.sealing import Sealer, open_sealer
from storage.session import DEVICE, open_session, seal_devices
from tests.stores import SEALING_KEY, database_url, pool, postgres

__all__ = ["database_url", "pool", "postgres"]  # fixtures

EMAIL = "ada@example.org"


@pytest.fixture
async def sealer(pool: Pool) -> Sealer:
    """Open the database's sealer."""
    return await open_sealer(pool, (SEALING_KEY,))


async def old_row(pool: Pool, email: str) -> UserId:
    """Make an account as it was before addresses were sealed."""
    user = UserId(uuid4())
    await pool.execute("insert into users (id, name) values ($1, 'Ada')", user)
    await pool.execute(
        "insert into identities (user_id, provider, subject, password_hash) values ($1, 'EMAIL', $2, 'hash')",
        user,
        email,
    )
    return user


async def old_session(pool: Pool, user: UserId, device: str) -> SessionId:
    """Begin a session as it was before names of devices were sealed."""
    session = SessionId(uuid4())
    await pool.execute(
        "insert into sessions (id, user_id, device) values ($1, $2, $3)", session, user, device
    )
    return session


async def test_what_is_stored(pool: Pool, sealer: Sealer) -> None:
    """An account is found by its address and knows it, and the address is nowhere in its row."""
    made = await create_account(pool, sealer, EMAIL, "hash", "Ada")
    found = await find_by_email(pool, sealer, EMAIL)
    assert found is not None
    assert (found.account, made.email) == (made, EMAIL)
    session = await open_session(pool, sealer, made.id, "a telephone", bytes(32), lifetime=60)
    known = await account_of_session(pool, sealer, session)
    assert known is not None
    assert known.account == made
    row = await pool.fetchrow("select i.*, s.* from identities i join sessions s using (user_id)")
    assert row is not None
    assert EMAIL not in str(dict(row))
    assert "telephone" not in str(dict(row))
    assert sealer.open(DEVICE, session, row["sealed_device"]) == "a telephone"


async def test_an_address_is_taken_once(pool: Pool, sealer: Sealer) -> None:
    """Of many who register with one address at the same time one gets it."""
    results = await asyncio.gather(
        *(create_account(pool, sealer, EMAIL, "hash", f"Ada {number}") for number in range(10)),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, Refused)]
    assert [refusal.code for refusal in refused] == [ErrorCode.EMAIL_TAKEN] * 9
    assert await pool.fetchval("select count(*) from users") == 1


async def test_rows_of_before_are_found(pool: Pool, sealer: Sealer) -> None:
    """Who registered before addresses were sealed signs in as ever, and nobody else gets the address."""
    user = await old_row(pool, EMAIL)
    found = await find_by_email(pool, sealer, EMAIL)
    assert found is not None
    assert (found.account.id, found.account.email, found.password_hash) == (user, EMAIL, "hash")
    known = await account_of_session(pool, sealer, await old_session(pool, user, "a telephone"))
    assert known is not None
    assert known.account.email == EMAIL
    with pytest.raises(Refused) as refused:
        await create_account(pool, sealer, EMAIL, "hash", "Mallory")
    assert refused.value.code is ErrorCode.EMAIL_TAKEN
    assert await pool.fetchval("select count(*) from users") == 1


async def test_rows_of_before_are_sealed(pool: Pool, sealer: Sealer) -> None:
    """Sealing goes over all of them, some at a time, and changes nothing that anyone can see."""
    emails = [f"person{number}@example.org" for number in range(7)]
    users = [await old_row(pool, email) for email in emails]
    sessions = [await old_session(pool, user, f"device of {user}") for user in users]
    assert [await seal_addresses(pool, sealer, 3) for _ in range(4)] == [3, 3, 1, 0]
    assert [await seal_devices(pool, sealer, 3) for _ in range(4)] == [3, 3, 1, 0]
    stored = str(await pool.fetch("select * from identities join sessions using (user_id)"))
    assert "example.org" not in stored
    assert "device of" not in stored
    for email, user, session in zip(emails, users, sessions, strict=True):
        found = await find_by_email(pool, sealer, email)
        assert found is not None
        assert (found.account.id, found.account.email) == (user, email)
        sealed = await pool.fetchval("select sealed_device from sessions where id = $1", session)
        assert sealer.open(DEVICE, session, sealed) == f"device of {user}"
    with pytest.raises(Refused):
        await create_account(pool, sealer, emails[0], "hash", "Mallory")


async def test_two_nodes_seal_at_once(pool: Pool, sealer: Sealer) -> None:
    """Nodes that seal the same rows at the same time do each row once, and stand in nobody's way."""
    emails = [f"person{number}@example.org" for number in range(50)]
    for email in emails:
        await old_row(pool, email)
    while await pool.fetchval("select count(*) from identities where sealed_address is null"):
        await asyncio.gather(*(seal_addresses(pool, sealer, 10) for _ in range(4)))
    for email in emails:
        found = await find_by_email(pool, sealer, email)
        assert found is not None
        assert found.account.email == email
