"""Payouts, while nodes are killed: each creator is paid once, whatever was under way."""

from __future__ import annotations

import asyncio
import random

import pytest

from server.gateways.standin.standin import Trouble
from tests.nodes.cluster import Cluster
from tests.nodes.test_money import opened
from tests.waiting import until

pytestmark = [pytest.mark.nodes, pytest.mark.patient, pytest.mark.timeout(170)]

CREATORS = 12


async def test_killed_while_paying(cluster: Cluster) -> None:
    """Twelve creators are paid by two nodes, one of which is killed again and again: twelve transfers, and the books are even."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choose = random.Random(seed)
    async with opened(cluster) as till:
        nodes = await till.start(2)
        accounts = []
        for number in range(CREATORS):
            account = till.stand_in.ledger.add(
                "account", metadata={}, payouts_enabled=True, capabilities={"transfers": "active"}
            )
            accounts.append((account["id"], 5000 + number))
            till.stand_in.connect.top_up(5000 + number)
        async with cluster.connection() as connection, connection.transaction():
            for account_id, cents in accounts:
                creator = await connection.fetchval(
                    "insert into creators (account, payable) values ($1, true) returning id", account_id
                )
                sale = await connection.fetchval(
                    "insert into ledger_transactions (cause, kind) values ($1, 'sale') returning id",
                    account_id,
                )
                await connection.execute(
                    "insert into ledger_entries values ($1, 'cards', $3), ($1, $2, -$3)",
                    sale,
                    f"earnings:{creator}",
                    cents,
                )
                await connection.execute(
                    "insert into jobs (kind, run_at, payload) values ('payouts.pay', now(), "
                    "jsonb_build_object('type', 'payouts.pay', 'creator', $1::uuid, 'period', '2026-11'))",
                    creator,
                )
            till.stand_in.trouble.append(Trouble("mute", "/v1/transfers", times=4))
            await connection.execute("select pg_notify('looprooms_jobs', '')")
        for _ in range(3):
            await asyncio.sleep(choose.uniform(0.05, 0.5))
            nodes[0].kill()
            nodes[0].launch()
            await nodes[0].ready()

        async def left() -> int:
            async with cluster.connection() as connection:
                number: int = await connection.fetchval(
                    "update jobs set run_at = now() where not running and died_at is null returning 1"
                ) or await connection.fetchval("select count(*) from payouts where state = 'begun'")
                return number or await connection.fetchval(
                    "select count(*) from jobs where kind = 'payouts.pay'"
                )

        async with asyncio.timeout(120):
            while await left():  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.5)
        made = [(one["destination"], one["amount"]) for one in till.stand_in.ledger.all("transfer")]
        assert sorted(made) == sorted(accounts)
        async with cluster.connection() as connection:
            uneven = await connection.fetch(
                "select account, sum(cents) from ledger_entries group by 1 having sum(cents) <> 0"
            )
            assert [tuple(row) for row in uneven] == []
        await until(lambda: not till.stand_in.trouble)
