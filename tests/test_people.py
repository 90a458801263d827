"""People in Postgres: who has an address, whose session it is, and a hash that is renewed only if nobody was faster."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from protocol.envelope import SessionId, UserId
from protocol.refusals import ErrorCode, Refused
from storage.people import (
    account_of_session,
    create_account,
    find_by_email,
    insert_account,
    keep_new_hash,
    person,
)
from storage.postgres.pool import Pool
from storage.sealing import Sealer, open_sealer
from storage.session import open_session
from tests.stores import SEALING_KEY

EMAIL = "ada@example.org"


@pytest.fixture
async def sealer(pool: Pool) -> Sealer:
    """Open the database's sealer."""
    return await open_sealer(pool, (SEALING_KEY,))


async def test_an_address_is_one_person(pool: Pool, sealer: Sealer) -> None:
    """However many want it at once, one has it, and the others leave nothing behind."""
    outcomes = await asyncio.gather(
        *(create_account(pool, sealer, EMAIL, "hash", f"person {number}") for number in range(5)),
        return_exceptions=True,
    )
    refused = [one for one in outcomes if isinstance(one, Refused)]
    assert [one.code for one in refused] == [ErrorCode.EMAIL_TAKEN] * 4
    assert await pool.fetchval("select count(*) from users") == 1
    found = await find_by_email(pool, sealer, EMAIL)
    assert found is not None
    assert found.account in outcomes


async def test_a_claim_is_no_possession(pool: Pool, sealer: Sealer) -> None:
    """Whoever only says that an address is theirs is not found by it, and stands in nobody's way."""
    for user in (UserId(uuid4()), UserId(uuid4())):
        async with pool.acquire() as connection:
            claimed = await insert_account(
                connection, sealer, user, EMAIL, "hash", "claims it", claimant=str(user)
            )
        assert not claimed.verified
    assert await find_by_email(pool, sealer, EMAIL) is None
    owner = await create_account(pool, sealer, EMAIL, "hash", "has it")
    assert owner.verified
    found = await find_by_email(pool, sealer, EMAIL)
    assert found is not None
    assert found.account == owner


async def test_whose_session_it_is(pool: Pool, sealer: Sealer) -> None:
    """It is found with what ended it: its end, or a ban; one that was never there is nobody's."""
    made = await create_account(pool, sealer, EMAIL, "hash", "Ada")
    session = await open_session(pool, sealer, made.id, "a telephone", bytes(32), lifetime=60)

    async def state() -> tuple[bool, bool]:
        found = await account_of_session(pool, sealer, session)
        assert found is not None
        assert found.account == made
        return found.ended, found.banned

    assert await state() == (False, False)
    await pool.execute("update users set banned_at = now()")
    assert await state() == (False, True)
    await pool.execute("update sessions set ended_at = now()")
    assert await state() == (True, True)
    found = await find_by_email(pool, sealer, EMAIL)
    assert found is not None
    assert found.banned
    assert await account_of_session(pool, sealer, SessionId(uuid4())) is None


async def hash_of(pool: Pool, user: UserId) -> str:
    """Return what somebody's password is checked against."""
    return str(await pool.fetchval("select password_hash from identities where user_id = $1", user))


async def test_a_hash_is_renewed_if_it_is_still_the_one(pool: Pool, sealer: Sealer) -> None:
    """A password that was changed meanwhile is not overwritten with the one before."""
    made = await create_account(pool, sealer, EMAIL, "old", "Ada")
    other = await create_account(pool, sealer, "bo@example.org", "old", "Bo")
    await keep_new_hash(pool, made.id, "old", "renewed")
    assert [await hash_of(pool, one) for one in (made.id, other.id)] == ["renewed", "old"]
    await keep_new_hash(pool, made.id, "old", "late")
    assert await hash_of(pool, made.id) == "renewed"


def test_somebody_who_is_not_there_any_more() -> None:
    """What a person leaves behind when they are gone is nobody's: no name, no picture, no id of theirs."""
    gone = person(None, None, None)
    assert gone == person(UserId(uuid4()), None, "picture")
    assert gone.avatar is None
    known = person(UserId(uuid4()), "Ada", None)
    assert (known.name, known == gone) == ("Ada", False)
