"""Buying passes over HTTP: who may, and that nobody but the host says what it costs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from storage.postgres.pool import Pool
from storage.relations import block
from tests.backstage import Backstage, backstage
from tests.hosting import make_room
from tests.redis.valkeys import Valkey
from tests.shop import shop


@pytest.fixture
async def back(database_url: str, valkey: Valkey, pool: Pool) -> AsyncIterator[Backstage]:
    """Give a creator with an exclusive room."""
    async with shop(database_url, valkey.url, pool) as running:
        yield await backstage(running)


async def test_who_may_buy(back: Backstage) -> None:
    """Whoever is signed in and has none. Those who come in anyway need none; a room that is hidden is not there, nor that of a
    host between whom and oneself a block stands.
    """
    ada, mo = await back.shop.guest(), await back.shop.guest()
    apart = await back.shop.guest()
    await block(back.shop.pool, back.host.user, apart.user)
    await back.shop.pool.execute("update users set role = 'MODERATOR' where id = $1", mo.user)
    await make_room(back.shop.pool, "open")
    draft = await make_room(back.shop.pool, "draft", status="DRAFT")
    await back.shop.pool.execute("update rooms set month_cents = 100 where id = $1", draft)
    for guest, room, expected in (
        (None, "exclusive", (401, "token_invalid")),
        (ada, "exclusive", (201, None)),
        (ada, str(back.room), (201, None)),
        (ada, "open", (409, "not_for_sale")),
        (ada, "draft", (404, "not_found")),
        (ada, str(draft), (404, "not_found")),
        (ada, "nowhere", (404, "not_found")),
        (apart, "exclusive", (404, "not_found")),
        (back.host, "exclusive", (409, "pass_held")),
        (mo, "exclusive", (409, "pass_held")),
    ):
        answer = await back.ask(guest, "month", room=room)
        assert (answer.status_code, answer.json().get("code")) == expected, room


async def test_a_price_for_each_way(back: Backstage) -> None:
    """The host's of this moment, whatever somebody sends along; what has no price is not sold."""
    ada = await back.shop.guest()
    for kind, cents, mode in (("month", 1500, "subscription"), ("session", 400, "payment")):
        answer = await back.ask(ada, kind, cents=1, amount=1, user=str(back.host.user), fee=0)
        session = back.shop.stand_in.ledger.get("checkout.session", answer.json()["url"].rpartition("/")[2])
        assert (session["amount_total"], session["mode"]) == (cents, mode)
        assert session["client_reference_id"] == str(ada.user)
        assert session["success_url"] == "http://127.0.0.1:8000/pay?room=exclusive&paid"
    await back.shop.pool.execute("update rooms set month_cents = null")
    back.shop.sites[0].node.catalogue._known.clear()
    assert (await back.ask(ada, "month")).json()["code"] == "not_for_sale"


async def test_a_key_is_one_checkout(back: Backstage) -> None:
    """Sent again it is the same one; for something else it is refused."""
    ada = await back.shop.guest()
    first, again = [await back.ask(ada, key="one") for _ in range(2)]
    assert first.json() == again.json()
    assert (await back.ask(ada, "month", key="one")).json()["code"] == "key_reused"


async def test_a_pass_is_bought_once(back: Backstage) -> None:
    """Who has one is told so, and so is nobody else."""
    ada, bo = await back.shop.guest(), await back.shop.guest()
    held = back.shop.hold()
    await back.buy(ada)
    await back.shop.deliver(held)
    assert (await back.ask(ada, "month")).json()["code"] == "pass_held"
    assert (await back.ask(bo)).status_code == 201


async def test_a_customer_who_is_gone_is_made_anew(back: Backstage) -> None:
    """Somebody deleted them at the provider."""
    ada = await back.shop.guest()
    assert (await back.ask(ada)).status_code == 201
    (first,) = list(back.shop.stand_in.ledger.all("customer"))
    first["deleted"] = True
    back.shop.stand_in.ledger.keys.clear()
    assert (await back.ask(ada)).status_code == 201


@pytest.mark.parametrize(
    "body", [{"kind": "year"}, {"kind": None}, {"room": "a b"}, {"room": 5}, {"key": ""}, {"key": "k" * 65}]
)
async def test_nothing_else_can_be_bought(back: Backstage, body: dict[str, Any]) -> None:
    """What is not understood is refused before anybody is asked."""
    answer = await back.ask(await back.shop.guest(), **body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert back.shop.stand_in.api.asked == []


async def test_where_nothing_is_paid(back: Backstage) -> None:
    """It is said."""
    node = back.shop.sites[0].node
    cards, node.cards = node.cards, None
    try:
        assert (await back.ask(await back.shop.guest())).json()["code"] == "payments_off"
    finally:
        node.cards = cards
