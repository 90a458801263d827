"""What an operator does once, from the command line: on the embedded stores, or on those of the settings.

Where it is said, the embedded stores may be those of a server that runs.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from protocol.moderation import Role
from protocol.refusals import Refused
from server.emails import normalised_email
from server.gateways.standin.embedded import pretending
from server.node import Node
from server.person_events import publish_once
from server.plans import CURRENCY
from server.process.keys import SEALING_KEYS, put_first
from server.process.keys import new_key as make_key
from server.process.serving import CannotStart, migrated, run, seed, stores
from server.resealing import seal_all, told
from server.settings import Settings, variable
from server.subscriptions import Reconciled, reconcile
from storage import jobs, payouts, waitlist
from storage.moderation import set_role
from storage.pools import months
from storage.postgres.pool import Pool, open_pool
from storage.resealing import fields_by_key
from storage.sealing import open_sealer


@asynccontextmanager
async def database(completed: Settings, command: str) -> AsyncIterator[Pool]:
    """Bring the database up to date and have it open until the block ends. Postgres knows the `command` by its name."""
    await migrated(completed)
    pool = await open_pool(completed.database_url, size=2, application_name=f"looprooms {command}")
    try:
        yield pool
    finally:
        await pool.close()


def bring_up_to_date(settings: Settings) -> list[str]:
    """Bring the database up to date; return the names of what was applied. Raises `CannotStart`."""

    async def bring_up() -> list[str]:
        async with stores(settings, redis=False, running=True) as (completed, _):
            return await migrated(completed)

    return run(bring_up())


def put_demo_in(settings: Settings, password: str | None) -> None:
    """Put the demo into the database. Without `password` nobody can sign in as its people. Raises `CannotStart`."""

    async def put_in() -> None:
        async with stores(settings, redis=False, running=True) as (completed, _):
            await migrated(completed)
            await seed(completed, password or secrets.token_urlsafe(32), renew=password is not None)

    run(put_in())


def seal_anew(settings: Settings, *, new_key: bool) -> str:
    """Seal all personal fields under the newest key; return what became of them. Raises `CannotStart`.

    `new_key` makes one first, where the keys are kept in the data folder.
    """

    async def seal() -> str:
        async with stores(settings, redis=False) as (completed, folder):
            if new_key:
                if folder is None or settings.sealing_keys:
                    raise CannotStart(f"A new key goes into {variable('sealing_keys')}, first of the list.")
                completed = msgspec.structs.replace(
                    completed, sealing_keys=tuple(put_first(folder / SEALING_KEYS, make_key()))
                )
            async with database(completed, "keys reseal") as pool:
                sealed = await seal_all(pool, await open_sealer(pool, completed.sealing_keys))
                return told(sealed, await fields_by_key(pool), completed.sealing_keys)

    return run(seal())


def give_role(settings: Settings, address: str, role: Role) -> bool:
    """Give the person with an address a role; say whether that changed anything. Raises `CannotStart`."""

    async def change() -> bool:
        async with (
            stores(settings, running=True) as (completed, _),
            database(completed, "role") as pool,
        ):
            sealer = await open_sealer(pool, completed.sealing_keys)
            try:
                told = await set_role(pool, sealer, normalised_email(address), role)
            except Refused as refused:
                if refused.code.retryable:
                    raise
                raise CannotStart(refused.message) from None
            await publish_once(completed.redis_url, told)
            return bool(told)

    return run(change())


def send_invitation(settings: Settings, address: str) -> None:
    """Invite somebody by a letter, which a running server sends. Raises `CannotStart`."""
    try:
        email = normalised_email(address)
    except Refused as refused:
        raise CannotStart(refused.message) from None

    async def invite() -> None:
        async with (
            stores(settings, redis=False, running=True) as (completed, _),
            database(completed, "invite") as pool,
        ):
            await waitlist.invite(pool, await open_sealer(pool, completed.sealing_keys), email)

    run(invite())


def compare_payments(settings: Settings, days: float) -> Reconciled:
    """Compare everything that is paid with the payment provider. Raises `CannotStart`."""

    async def compare() -> Reconciled:
        async with stores(settings, running=True) as (completed, folder):
            await migrated(completed)
            async with pretending(completed, None if settings.database_url else folder) as paid:
                node = await Node.open(paid)
                try:
                    if node.cards is None:
                        raise CannotStart(
                            f"Nothing is paid here: {variable('stripe_secret_key')} is not set."
                        )
                    return await reconcile(node, node.cards, days=days)
                except Refused as refused:
                    raise CannotStart(f"It is not finished: {refused.message}") from None
                finally:
                    await node.aclose()

    return run(compare())


def look_at_payouts(settings: Settings, *, retry: bool) -> list[str]:
    """Have what is not paid tried again, if wanted; say which payouts wait, were declined, are blocked or done. Raises `CannotStart`."""

    async def look() -> list[str]:
        async with (
            stores(settings, redis=False, running=True) as (completed, _),
            database(completed, "payouts") as pool,
        ):
            return await told_of_payouts(pool, completed.payout_cents_least, retry=retry)

    return run(look())


async def told_of_payouts(pool: Pool, least: int, *, retry: bool) -> list[str]:
    """See `look_at_payouts`. The provider's ids are what an operator finds creators by; names are not told."""
    said = []
    kind = jobs.kind_of(payouts.PayCreator)
    if retry:
        await jobs.revive(pool, kind)
        number = await payouts.enqueue_due(pool, months(time.time(), 1)[0], least)
        await jobs.hasten(pool, kind)
        said.append(f"{number} are tried now, by a server that runs")
    said += [
        f"{one.period} {_dollars(one.cents)} to {one.account}: {one.state} {one.age // 3600} h ago, "
        f"{one.reason or 'under way'}"
        for one in await payouts.unpaid(pool)
    ]
    said += [
        f"{_dollars(one.cents)} earned, {f'{one.account} takes nothing' if one.account else 'no account yet'}"
        for one in await payouts.blocked(pool, least)
    ]
    said += [f"{one.jobs} failed for good: {one.reason}" for one in await jobs.dead(pool) if one.kind == kind]
    return said + [
        f"{one.name} {_dollars(one.cents)} paid to {one.payouts}" for one in await payouts.paid(pool)
    ]


def _dollars(cents: int) -> str:
    return f"{cents / 100:.2f} {CURRENCY.upper()}"


def look_at_jobs(settings: Settings, retry: str | None) -> list[str]:
    """Have the dead jobs of a kind tried anew, if one is named; say what waits and what is dead. Raises `CannotStart`."""

    async def look() -> list[str]:
        async with (
            stores(settings, redis=False, running=True) as (completed, _),
            database(completed, "jobs") as pool,
        ):
            said = [f"{await jobs.revive(pool, retry)} of {retry} are tried anew"] if retry else []
            counts, dead = await jobs.count(pool), await jobs.dead(pool)
        said += [f"{kind}: {one.waiting} waiting" for kind, one in counts.items() if one.waiting]
        return said + [f"{one.kind}: {one.jobs} dead, {one.reason}" for one in dead]

    return run(look())
