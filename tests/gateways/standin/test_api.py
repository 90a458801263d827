"""The stand-in asks for what the real one asks for: a key, a version, idempotency, and no parameter that it does not know."""

from __future__ import annotations

import asyncio

import pytest

from server.gateways.standin.standin import Trouble
from tests.gateways.standin.booth import PRICE, Booth


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"authorization": "Bearer sk_test_wrong"}, 401, "api_key_invalid"),
        ({"authorization": "Basic x"}, 401, "api_key_invalid"),
        ({"stripe-version": "2019-01-01"}, 400, "api_version_invalid"),
        ({"content-type": "application/json"}, 400, "content_type_invalid"),
    ],
)
async def test_who_asks(stall: Booth, headers: dict[str, str], status: int, code: str) -> None:
    """A wrong key, an unknown version and a body that is no form are refused, and nothing is made."""
    answer = await stall.client.post(
        "/v1/customers",
        content="email=a",
        headers={
            "authorization": "Bearer sk_test_booth",
            "content-type": "application/x-www-form-urlencoded",
            **headers,
        },
    )
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert list(stall.stand_in.ledger.all("customer")) == []


async def test_a_key_makes_one(stall: Booth) -> None:
    """The same again is the same answer; something else under it is refused; without a key there are two."""
    first = await stall.post("/v1/customers", {"email": "a@example.org"}, key="k")
    again = await stall.post("/v1/customers", {"email": "a@example.org"}, key="k")
    assert first.json() == again.json()
    assert (first.headers.get("idempotent-replayed"), again.headers["idempotent-replayed"]) == (None, "true")
    other = await stall.post("/v1/customers", {"email": "b@example.org"}, key="k")
    assert (other.status_code, other.json()["error"]["type"]) == (400, "idempotency_error")
    elsewhere = await stall.post("/v1/products", {"name": "x"}, key="k")
    assert elsewhere.json()["error"]["type"] == "idempotency_error"
    for _ in range(2):
        await stall.post("/v1/customers")
    assert len(list(stall.stand_in.ledger.all("customer"))) == 3
    stall.stand_in.ledger.skipped += 86401
    assert (await stall.post("/v1/customers", {"email": "b@example.org"}, key="k")).is_success
    long = await stall.post("/v1/customers", key="k" * 256)
    assert long.status_code == 400


async def test_a_refused_request_uses_no_key_up(stall: Booth) -> None:
    """What was not begun may be tried again, mended."""
    wrong = await stall.post("/v1/products", {"names": "x"}, key="k")
    assert wrong.json()["error"] == {
        "type": "invalid_request_error",
        "code": "parameter_unknown",
        "message": "Received unknown parameter: names",
        "param": "names",
    }
    assert (await stall.post("/v1/products", {"name": "x"}, key="k")).is_success


async def test_what_is_not_there(stall: Booth) -> None:
    """Objects, kinds of objects, methods, and paths."""
    for method, path, status in (
        ("GET", "/v1/customers/cus_none", 404),
        ("GET", "/v1/subscriptions/cus_none", 404),
        ("GET", "/v1/unknown", 404),
        ("DELETE", "/v1/customers/cus_1", 404),
        ("GET", "/v1/events?limit=0", 400),
        ("GET", "/v1/events?starting_after=evt_none", 404),
    ):
        assert (await stall.ask(method, path)).status_code == status, path
    assert (await stall.client.post("/v1/customers", content=b"\xff" * 300_000)).status_code == 400


async def test_lists_are_read_page_by_page(stall: Booth) -> None:
    """The newest first, each once."""
    made = [(await stall.made("/v1/customers"))["id"] for _ in range(5)]
    found: list[str] = []
    after = ""
    while True:
        page = (await stall.ask("GET", f"/v1/events?limit=2&type=customer.created{after}")).json()
        found += [event["data"]["object"]["id"] for event in page["data"]]
        if not page["has_more"]:
            break
        after = f"&starting_after={page['data'][-1]['id']}"
    assert found == made[::-1]


async def test_prices(stall: Booth) -> None:
    """A lookup key finds one price, and belongs to one."""
    made = await stall.made("/v1/prices", lookup_key="k", **PRICE)
    assert (made["unit_amount"], made["type"]) == (999, "recurring")
    found = (await stall.ask("GET", "/v1/prices?lookup_keys[]=k&lookup_keys[]=x&active=true")).json()["data"]
    assert [price["id"] for price in found] == [made["id"]]
    again = await stall.post("/v1/prices", {"lookup_key": "k", **PRICE})
    assert again.json()["error"]["param"] == "lookup_key"
    bare = await stall.post("/v1/prices", {"currency": "usd", "unit_amount": "1"})
    assert bare.json()["error"]["code"] == "parameter_missing"
    strange = await stall.post("/v1/prices", {"currency": "usd", "unit_amount": "1", "product": "prod_none"})
    assert strange.status_code == 404


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "gift"},
        {"mode": "payment"},
        {"customer": "cus_none"},
        {"line_items[0][quantity]": "0"},
        {"line_items[0][price]": "price_none"},
        {"line_items[0][amount]": "1"},
        {"price": "1"},
    ],
)
async def test_a_checkout_that_can_not_be(stall: Booth, change: dict[str, str]) -> None:
    """Another mode, a price that does not fit, nobody's customer, an amount of one's own."""
    price = await stall.made("/v1/prices", **PRICE)
    form = {
        "mode": "subscription",
        "success_url": "http://x",
        "line_items[0][price]": price["id"],
        "line_items[0][quantity]": "1",
    }
    assert (await stall.post("/v1/checkout/sessions", form)).status_code == 200
    assert (await stall.post("/v1/checkout/sessions", {**form, **change})).status_code in (400, 404)


async def test_what_it_keeps_for_itself_is_not_shown(stall: Booth) -> None:
    """Neither in answers nor in events."""
    subscription = await stall.subscribed()
    shown = (await stall.ask("GET", f"/v1/subscriptions/{subscription['id']}")).text
    assert "standin" in subscription
    assert "standin" not in shown
    assert all("standin" not in event["data"]["object"] for event in stall.told)


async def test_it_misbehaves(stall: Booth) -> None:
    """It fails, does not answer, or does what it is asked and does not say so; as often as it is told to."""
    stall.stand_in.trouble.append(Trouble("fail", times=2))
    assert [(await stall.post("/v1/customers")).status_code for _ in range(3)] == [500, 500, 200]
    for kind, made in (("hang", 1), ("mute", 2)):
        stall.stand_in.trouble.append(Trouble(kind))  # type: ignore[arg-type] # one of the words
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stall.post("/v1/customers"), 0.3)
        assert len(list(stall.stand_in.ledger.all("customer"))) == made
