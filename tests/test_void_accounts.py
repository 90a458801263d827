"""Accounts of nobody: an address that somebody else has proven, and that nobody comes with any more, is claimed in vain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from protocol.envelope import UserId
from server.jobs import PERFORMERS
from server.privacy import RemoveVoidAccounts
from storage.departures import remove_person, void_accounts
from storage.jobs import kind_of
from storage.waitlist import ask_for_place
from tests.http.conftest import Servers, servers
from tests.leaving import Member, Town, town

__all__ = ["servers"]  # fixtures

DAY = 86400.0
LATER = "update sessions set last_seen_at = now() - interval '31 days' where user_id = $1"
OLD = "update identities set created_at = now() - interval '31 days' where user_id = $1"


@pytest.fixture
async def place(servers: Servers) -> AsyncIterator[Town]:
    """Give a node with a database of its own."""
    async with town(await servers.settings(), 1) as running:
        yield running


async def claimant(place: Town, owner: Member) -> Member:
    """Make an account that claims the address of somebody, and has not been used for long."""
    answer = await place.sites[0].post(
        "/auth/register", email=owner.email, password="another lamp for violets", name="Claimant"
    )
    member = Member(place.sites[0], answer.json() | {"email": owner.email})
    await place.pool.execute(LATER, member.id)
    await place.pool.execute(OLD, member.id)
    return member


async def an_hour(place: Town) -> None:
    """Do what is done every hour."""
    await PERFORMERS[kind_of(RemoveVoidAccounts)].perform(place.sites[0].node, RemoveVoidAccounts(period=0))
    await place.cleared()


async def exists(place: Town, *members: Member) -> list[bool]:
    """Say of each whether they are there."""
    found = "select exists (select from users where id = $1)"
    return [await place.pool.fetchval(found, member.id) for member in members]


async def test_claims_in_vain(place: Town) -> None:
    """They go, with what was said with them; the owner, and whoever claims what nobody has proven, stay."""
    owner, other = await place.member("Ada"), await place.member("Ben")
    await place.pool.execute("update identities set issuer = user_id::text where user_id = $1", other.id)
    alone = await claimant(place, other)
    void = [await claimant(place, owner) for _ in range(3)]
    room = await place.room()
    visitor = await void[0].come(None, room)
    await visitor.say(room, "said by nobody")
    await place.pool.execute(LATER, void[0].id)
    await place.pool.execute(
        "update sessions set last_seen_at = now() - interval '60 days' where user_id = $1", owner.id
    )
    await an_hour(place)
    assert await exists(place, owner, other, alone, *void) == [True, True, True, False, False, False]
    assert (
        await place.pool.fetchval("select text || coalesce(author_id::text, 'nobody') from chat_lines")
        == "nobody"
    )
    assert (await place.sites[0].me(void[0].access_token)).status_code == 401


@pytest.mark.parametrize(
    "still",
    [
        "update sessions set last_seen_at = now() where user_id = $1",
        "update identities set created_at = now() where user_id = $1",
        "update users set role = 'CREATOR' where id = $1",
        "insert into identities (user_id, provider, issuer, subject) values ($1, 'GOOGLE', 'google', 'sub')",
        "insert into subscriptions values ($1, 'FREE', 'EXPIRED', now(), false, 'canceled')",
        "update identities set subject = 'of nobody' where user_id = $1",
    ],
    ids=["visit", "age", "role", "google", "paid", "address"],
)
async def test_who_stays(place: Town, still: str) -> None:
    """Whoever comes, came lately, works or has paid here, has another way in or another address, is somebody: to the last moment."""
    void = await claimant(place, await place.member("Ada"))
    pool, sealer = place.pool, place.sites[0].node.stores.sealer
    assert await void_accounts(pool, 30 * DAY, 10) == [void.id]
    await pool.execute(still, void.id)
    assert await void_accounts(pool, 30 * DAY, 10) == []
    assert await remove_person(pool, sealer, UserId(void.id), void_for=30 * DAY) is None
    await an_hour(place)
    assert await exists(place, void) == [True]


async def test_a_claim_takes_nobodys_place(place: Town) -> None:
    """Whoever leaves takes off the waitlist what they have proven, and not what they only claimed."""
    stores = place.sites[0].node.stores

    async def waiting() -> Any:
        return await stores.pool.fetchval("select count(*) from waitlist")

    owner = await place.member("Ada")
    await ask_for_place(stores.pool, stores.sealer, owner.email)
    void = await claimant(place, owner)
    assert await remove_person(stores.pool, stores.sealer, UserId(void.id)) is not None
    assert await waiting() == 1
    assert await remove_person(stores.pool, stores.sealer, owner.id) is not None
    assert await waiting() == 0
