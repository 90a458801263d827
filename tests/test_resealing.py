"""Rotation of the keys of personal fields: everything moves to the newest key, under load, and one is told when the old one may go."""

from __future__ import annotations

import asyncio
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

from protocol.envelope import UserId
from server.node import Node
from server.resealing import seal_all
from server.settings import Settings
from storage.people import ADDRESS, account_of_session, create_account, find_by_email
from storage.postgres.pool import Pool
from storage.resealing import RESEAL_FIELDS, SEALED, Batch, Sealed, fields_by_key, reseal
from storage.sealing import Sealer, open_sealer
from storage.session import open_session
from tests.commands import looprooms
from tests.http.conftest import Servers, servers
from tests.http.serving import PASSWORD, Site, serving
from tests.stores import database_url, pool, postgres
from tests.test_sealing import new_key

__all__ = ["database_url", "pool", "postgres", "servers"]  # fixtures

SEALED_COLUMNS = """
select c.relname || '.' || a.attname
from pg_attribute a join pg_class c on c.oid = a.attrelid
where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace and a.attname like 'sealed%' and not a.attisdropped
"""
OLD, NEW = new_key("old"), new_key("new")
ADDRESSES = SEALED[0]
NEW_MAY_GO = (
    "Nothing is sealed under new any more: take it out of LOOPROOMS_SEALING_KEYS when every node has been started "
    "with old first. A backup of before is opened with the keys of before."
)


async def filled(pool: Pool, count: int) -> dict[str, UserId]:
    """Make accounts under the old key, with a session each; return them by their address."""
    sealer = await open_sealer(pool, (OLD,))
    made = {}
    for number in range(count):
        email = f"person{number}@example.org"
        account = await create_account(pool, sealer, email, "hash", f"Person {number}")
        await open_session(pool, sealer, account.id, f"phone {number}", uuid4().bytes * 2, lifetime=60)
        made[email] = account.id
    return made


async def readable(pool: Pool, sealer: Sealer, made: dict[str, UserId]) -> None:
    """See that everyone is found by their address, and that it opens."""
    for email, user in made.items():
        found = await find_by_email(pool, sealer, email)
        assert found is not None
        assert found.account.id == user
    for row in await pool.fetch("select id from sessions"):
        known = await account_of_session(pool, sealer, row["id"])
        assert known is not None
        assert made[known.account.email or ""] == known.account.id


async def test_every_sealed_column_is_known(pool: Pool) -> None:
    """A column that is named as a sealed one is sealed anew with the others; what is sealed anew is there."""
    columns = {row[0] for row in await pool.fetch(SEALED_COLUMNS)}
    assert {sealed.name for sealed in SEALED} == columns


async def test_everything_moves_to_the_newest_key(pool: Pool) -> None:
    """All fields are sealed anew, in batches; then the old key is of no use, and everything still opens."""
    made = await filled(pool, 450)
    both = await open_sealer(pool, (NEW, OLD))
    said: list[int] = []
    sealed = await seal_all(pool, both, said.append)
    assert (sealed.done, sealed.broken) == (901, 0)
    assert said == sorted(said)
    assert len(said) == 7
    assert await fields_by_key(pool) == {"new": 901}
    await readable(pool, await open_sealer(pool, (NEW,)), made)
    assert (await seal_all(pool, both)).done == 0


async def test_it_goes_on_where_it_was_stopped(pool: Pool) -> None:
    """What a run that was stopped has done is passed over by the next."""
    await filled(pool, 25)
    both = await open_sealer(pool, (NEW, OLD))
    batch = await reseal(pool, both, ADDRESSES, ADDRESSES.first, 10)
    assert (batch.count, batch.after is None) == (10, False)
    assert (await seal_all(pool, both)).done == 41


async def test_several_identities_of_a_person(pool: Pool) -> None:
    """Fields that are bound to one and the same row are all sealed anew, even where a batch ends between them."""
    sealer = await open_sealer(pool, (OLD,))
    account = await create_account(pool, sealer, "ada@example.org", "hash", "Ada")
    for provider in ("GOOGLE", "APPLE"):
        await pool.execute(
            "insert into identities (user_id, provider, subject, sealed_address) values ($1, $2::auth_provider, 'ada', $3)",
            account.id,
            provider,
            sealer.seal(ADDRESS, account.id, f"{provider}@example.org"),
        )
    both = await open_sealer(pool, (NEW, OLD))
    after = ADDRESSES.first
    counts = []
    while (batch := await reseal(pool, both, ADDRESSES, after, 1)).after is not None:
        counts.append(batch.count)
        after = batch.after
    assert counts == [1, 1, 1]


async def test_what_does_not_open_is_left(pool: Pool) -> None:
    """A field that was broken stands in nobody's way, is counted, and is not written over."""
    made = await filled(pool, 5)
    await pool.execute(
        "update identities set sealed_address = set_byte(sealed_address, 30, get_byte(sealed_address, 30) # 1) "
        "where user_id = $1",
        next(iter(made.values())),
    )
    sealed = await seal_all(pool, await open_sealer(pool, (NEW, OLD)))
    assert (sealed.done, sealed.broken) == (10, 1)
    assert await fields_by_key(pool) == {"new": 10, "old": 1}


async def test_what_changed_meanwhile_is_kept(pool: Pool) -> None:
    """A field that is no longer what was read is not written over."""
    made = await filled(pool, 1)
    user = next(iter(made.values()))
    kept = await pool.fetchval("select sealed_address from identities")
    await pool.execute(ADDRESSES.sql(RESEAL_FIELDS), [user], [b"what was read"], [b"what was made of it"])
    assert await pool.fetchval("select sealed_address from identities") == kept
    await pool.execute(ADDRESSES.sql(RESEAL_FIELDS), [user], [kept], [b"what was made of it"])
    assert await pool.fetchval("select sealed_address from identities") == b"what was made of it"


def with_keys(settings: Settings, *keys: str) -> Settings:
    """Return the settings of a node that has these keys."""
    return msgspec.structs.replace(settings, sealing_keys=keys)


async def people_come(site: Site, count: int) -> list[str]:
    """Register, and sign in again."""
    emails = []
    for _ in range(count):
        account = await site.register()
        answer = await site.post("/auth/login", email=account["email"], password=PASSWORD)
        assert answer.status_code == 200, answer.text
        emails.append(account["email"])
    return emails


async def test_keys_rotate_under_load(servers: Servers) -> None:
    """While people register and sign in on a node of before and on a new one, everything moves; nobody notices."""
    settings = await servers.settings()
    async with serving(with_keys(settings, OLD, NEW)) as before:
        emails = await people_come(before, 3)
        async with serving(with_keys(settings, NEW, OLD)) as after:
            after.number = 100
            old, new = await asyncio.gather(people_come(before, 5), people_come(after, 5))
    assert len({*emails, *old, *new}) == 13
    async with serving(with_keys(settings, NEW, OLD)) as site:
        while (await fields_by_key(site.node.stores.pool)).keys() != {"new"}:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)
    async with serving(with_keys(settings, NEW)) as site:
        for email in (*emails, *old, *new):
            assert (await site.post("/auth/login", email=email, password=PASSWORD)).status_code == 200


async def test_a_node_seals_rows_of_before(servers: Servers) -> None:
    """What was stored before its column was sealed is sealed when a node has started, without anyone asking."""
    settings = await servers.settings()
    user = uuid4()
    async with serving(settings) as site:
        pool = site.node.stores.pool
        await pool.execute("insert into users (id, name) values ($1, 'Ada')", user)
        await pool.execute(
            "insert into identities (user_id, provider, subject, password_hash) values ($1, 'EMAIL', 'ada@example.org', 'x')",
            user,
        )
    node = await Node.open(settings)
    try:
        while await node.stores.pool.fetchval("select sealed_address is null from identities"):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)
    finally:
        await node.aclose()


async def test_the_command_says_when_a_key_may_go(pool: Pool, database_url: str, tmp_path: Path) -> None:
    """`looprooms keys reseal` moves everything, counts, and names the key that nothing needs any more."""
    await filled(pool, 3)

    async def command(*keys: str) -> str:
        environment = {
            "DATABASE_URL": database_url,
            "LOOPROOMS_SIGNING_KEYS": OLD,
            "LOOPROOMS_SEALING_KEYS": ",".join(keys),
        }
        done = await asyncio.to_thread(looprooms, tmp_path, "keys", "reseal", **environment)
        return done.stdout + done.stderr

    assert (await command(OLD, NEW)).splitlines() == [
        "0 fields were sealed anew.",
        "          7 under old (newest)",
        NEW_MAY_GO,
    ]
    moved = await command(NEW, OLD)
    assert moved.startswith(
        "7 fields were sealed anew.\n          7 under new (newest)\nNothing is sealed under old any more"
    )
    assert OLD.partition(":")[2] not in moved
    assert (await command(NEW)).splitlines() == [
        "0 fields were sealed anew.",
        "          7 under new (newest)",
    ]
    assert "is sealed under the key 'new', which is not in the settings" in await command(OLD)


async def test_a_new_key_goes_into_the_setting(database_url: str, tmp_path: Path) -> None:
    """Where the keys are not kept in a data folder, the command makes none of its own."""
    environment = {"DATABASE_URL": database_url, "LOOPROOMS_SIGNING_KEYS": OLD, "LOOPROOMS_SEALING_KEYS": OLD}
    done = await asyncio.to_thread(looprooms, tmp_path, "keys", "reseal", "--new-key", **environment)
    assert (done.returncode, done.stderr) == (
        2,
        "A new key goes into LOOPROOMS_SEALING_KEYS, first of the list.\n",
    )


@pytest.mark.parametrize("sealed", SEALED, ids=lambda sealed: sealed.name)
async def test_a_pass_over_nothing(pool: Pool, sealed: Sealed) -> None:
    """A column without a stale field is done at once."""
    sealer = await open_sealer(pool, (OLD,))
    assert await reseal(pool, sealer, sealed, sealed.first) == Batch(0, 0, None)
