"""Creators over HTTP: who may, onboarding at the provider, and statements that nobody else sees."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from storage.postgres.pool import Pool
from tests.backstage import Backstage, backstage
from tests.redis.valkeys import Valkey
from tests.shop import shop

ROUTES = (
    ("POST", "/creators/account"),
    ("GET", "/creators/account"),
    ("GET", "/creators/statements"),
    ("GET", "/creators/statements/2026-11"),
)


@pytest.fixture
async def back(database_url: str, valkey: Valkey, pool: Pool) -> AsyncIterator[Backstage]:
    """Give a creator."""
    async with shop(database_url, valkey.url, pool) as running:
        yield await backstage(running)


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_creators_may(back: Backstage, method: str, path: str) -> None:
    """And nobody else, not even an admin: it is about one's own money. The role counts as it is now."""
    for role, expected in (("MEMBER", 403), ("MODERATOR", 403), ("ADMIN", 403), ("CREATOR", 200)):
        await back.shop.pool.execute(
            "update users set role = $2::user_role where id = $1", back.host.user, role
        )
        answer = await back.shop.ask(back.host, method, path)
        assert answer.status_code == expected + (method == "POST" and expected == 200)
        assert expected == 200 or answer.json()["code"] == "forbidden"
    assert (await back.shop.ask(None, method, path)).json()["code"] == "token_invalid"
    await back.shop.pool.execute("update users set banned_at = now()")
    assert (await back.shop.ask(back.host, method, path)).json()["code"] == "session_ended"


async def test_onboarding(back: Backstage) -> None:
    """One account, however often one asks, with a link for each visit; nothing personal is told to the provider."""
    first, again = [await back.shop.ask(back.host, "POST", "/creators/account") for _ in range(2)]
    assert first.json()["url"] != again.json()["url"]
    (account,) = list(back.shop.stand_in.ledger.all("account"))
    assert (account["email"], account["metadata"]) == (None, {"looprooms_user": str(back.host.user)})
    assert first.json()["url"].startswith(f"{back.shop.stand_in.base}/o/{account['id']}/")
    found = (await back.shop.ask(back.host, "GET", "/creators/account")).json()
    assert found == {"begun": True, "payable": False, "balance": 0}


async def test_an_answer_that_was_lost(back: Backstage) -> None:
    """The account that was made is found again, as long as the provider knows the key."""
    assert (await back.shop.ask(back.host, "POST", "/creators/account")).status_code == 201
    await back.shop.pool.execute("update creators set account = null")
    assert (await back.shop.ask(back.host, "POST", "/creators/account")).status_code == 201
    assert len(list(back.shop.stand_in.ledger.all("account"))) == 1


async def test_ones_own_statements(back: Backstage) -> None:
    """A creator sees what they have earned, and another one nothing of it."""
    other = await backstage(back.shop, slug="other")
    ada = await back.shop.guest()
    held = back.shop.hold()
    await back.buy(ada)
    await back.shop.deliver(held)
    mine = (await back.shop.ask(back.host, "GET", "/creators/statements")).json()["months"]
    (month,) = mine
    assert {name: month[name] for name in ("earned", "returned", "paid_out", "balance")} == {
        "earned": 340,
        "returned": 0,
        "paid_out": 0,
        "balance": 340,
    }
    path = f"/creators/statements/{month['period']}"
    statement = (await back.shop.ask(back.host, "GET", path)).json()
    assert (statement["sum"], [line["cents"] for line in statement["lines"]]) == (340, [340])
    assert statement["lines"][0]["looproom"] == "exclusive"
    assert (await back.shop.ask(other.host, "GET", "/creators/statements")).json() == {"months": []}
    assert (await back.shop.ask(other.host, "GET", path)).json()["lines"] == []


@pytest.mark.parametrize(
    "period", ["2026-1", "x", "2026-13", "2026-11%00", "2026-11%0A", "'; drop table users", "9" * 3000]
)
async def test_no_such_month(back: Backstage, period: str) -> None:
    """What is no month is not there."""
    answer = await back.shop.ask(back.host, "GET", f"/creators/statements/{period}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_where_nothing_is_paid(back: Backstage) -> None:
    """It is said; what was earned is seen all the same."""
    node = back.shop.sites[0].node
    cards, node.cards = node.cards, None
    try:
        answer = await back.shop.ask(back.host, "POST", "/creators/account")
        assert answer.json()["code"] == "payments_off"
        assert (await back.shop.ask(back.host, "GET", "/creators/statements")).status_code == 200
    finally:
        node.cards = cards
