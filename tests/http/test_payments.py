"""Paying over HTTP: who may, what it costs, and whom a webhook must be from."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx2
import msgspec
import pytest

from server.gateways.standin.deliveries import encoded, signature
from server.gateways.standin.ledger import Object
from server.gateways.standin.standin import Trouble
from server.gateways.stripe import StripeCards
from server.http.payments import MOST_WEBHOOK_BYTES
from storage.postgres.pool import Pool
from tests.http.serving import Site
from tests.http.test_page import Outline
from tests.meeting import Guest, meeting
from tests.redis.valkeys import Valkey
from tests.shop import SECRET, Shop, shop


@pytest.fixture
async def open_shop(database_url: str, valkey: Valkey, pool: Pool) -> AsyncIterator[Shop]:
    """Run a node that is paid; whatever it is told is held back."""
    async with shop(database_url, valkey.url, pool, stripe_timeout_seconds=2) as running:
        running.hold()
        yield running


def code(answer: httpx2.Response) -> str:
    """Return why a request was refused."""
    assert answer.headers["content-type"] == "application/problem+json"
    found: str = answer.json()["code"]
    return found


async def checkout(open_shop: Shop, guest: Guest, **body: Any) -> httpx2.Response:
    """Begin to subscribe."""
    wanted = {"tier": "PREMIUM_MONTHLY", "key": uuid4().hex, **body}
    return await open_shop.ask(guest, "POST", "/payments/checkout", **wanted)


async def test_plans_have_the_prices_of_our_table(open_shop: Shop) -> None:
    """In integer cents, for everyone to see; and whether the money is real."""
    answer = await open_shop.ask(None, "GET", "/payments/plans")
    found = {
        plan["tier"]: (plan["cents"], plan["currency"], plan["interval"]) for plan in answer.json()["plans"]
    }
    assert found == {
        "PREMIUM_MONTHLY": (999, "usd", "month"),
        "PREMIUM_YEARLY": (9900, "usd", "year"),
        "CREATOR_PRO": (2900, "usd", "month"),
    }
    assert answer.json()["pretend"] is True


async def test_a_checkout_leads_to_the_provider(open_shop: Shop) -> None:
    """With the price of our table, for the one who asks, and back to us; the same key is the same checkout."""
    ada = await open_shop.guest()
    first = await checkout(open_shop, ada, key="one")
    again = await checkout(open_shop, ada, key="one")
    assert (first.status_code, first.json()) == (201, again.json())
    (session,) = list(open_shop.stand_in.ledger.all("checkout.session"))
    assert first.json()["url"] == session["url"]
    assert (session["amount_total"], session["currency"]) == (999, "usd")
    assert session["client_reference_id"] == str(ada.user)
    assert (session["success_url"], session["cancel_url"]) == (
        "http://127.0.0.1:8000/pay?paid",
        "http://127.0.0.1:8000/pay",
    )
    other = await checkout(open_shop, ada, key="one", tier="PREMIUM_YEARLY")
    assert (other.status_code, code(other)) == (409, "key_reused")
    assert len(list(open_shop.stand_in.ledger.all("customer"))) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"tier": "FREE"},
        {"tier": "GOLD"},
        {"tier": ["PREMIUM_MONTHLY"]},
        {"tier": None},
        {"key": ""},
        {"key": "k" * 65},
        {"key": "a\n"},
    ],
)
async def test_nothing_else_can_be_bought(open_shop: Shop, body: dict[str, Any]) -> None:
    """What is not in our table is refused before anybody is asked."""
    answer = await checkout(open_shop, await open_shop.guest(), **body)
    assert (answer.status_code, code(answer)) == (422, "invalid")
    assert open_shop.stand_in.api.asked == []


async def test_nobody_says_what_it_costs(open_shop: Shop) -> None:
    """Prices, amounts, customers and people that somebody sends along change nothing."""
    ada, bo = await open_shop.guest(), await open_shop.guest()
    answer = await checkout(
        open_shop,
        ada,
        price="price_mine",
        cents=1,
        amount=1,
        trial_days=365,
        user=str(bo.user),
        customer="cus_theirs",
        success_url="http://evil.example",
    )
    assert answer.status_code == 201
    (session,) = list(open_shop.stand_in.ledger.all("checkout.session"))
    assert (session["amount_total"], session["client_reference_id"]) == (999, str(ada.user))
    assert session["success_url"].startswith("http://127.0.0.1:8000/")
    assert session["standin"]["subscription_data"]["trial_period_days"] == 7


async def test_who_has_a_subscription_manages_it(open_shop: Shop) -> None:
    """A second one is refused; the portal is where it is changed. When it has ended one may subscribe again."""
    ada = await open_shop.guest()
    empty = await open_shop.ask(ada, "POST", "/payments/portal")
    assert (empty.status_code, code(empty)) == (409, "not_subscribed")
    held = open_shop.hold()
    subscription = await open_shop.subscribe(ada)
    await open_shop.deliver(held)
    second = await checkout(open_shop, ada, tier="CREATOR_PRO")
    assert (second.status_code, code(second)) == (409, "already_subscribed")
    portal = await open_shop.ask(ada, "POST", "/payments/portal")
    assert portal.status_code == 201
    assert "/p/session/bps_" in portal.json()["url"]
    standing = (await open_shop.ask(ada, "GET", "/payments/subscription")).json()
    assert (standing["tier"], standing["status"], standing["reason"]) == ("PREMIUM_MONTHLY", "TRIAL", "trial")
    held.clear()
    open_shop.stand_in.billing.cancel(subscription)
    await open_shop.deliver(held)
    assert (await checkout(open_shop, ada, tier="CREATOR_PRO")).status_code == 201


async def test_a_customer_who_is_gone_is_made_anew(open_shop: Shop) -> None:
    """Somebody deleted them at the provider: the next checkout makes another, the portal says that there is nothing."""
    ada = await open_shop.guest()
    assert (await checkout(open_shop, ada)).status_code == 201
    (first,) = list(open_shop.stand_in.ledger.all("customer"))
    open_shop.stand_in.billing.expire(next(open_shop.stand_in.ledger.all("checkout.session")))
    first["deleted"] = True
    portal = await open_shop.ask(ada, "POST", "/payments/portal")
    assert (portal.status_code, code(portal)) == (409, "not_subscribed")
    open_shop.stand_in.ledger.keys.clear()
    assert (await checkout(open_shop, ada)).status_code == 201
    first["deleted"] = False
    assert len(list(open_shop.stand_in.ledger.all("customer"))) == 2


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/payments/checkout"), ("POST", "/payments/portal"), ("GET", "/payments/subscription")],
)
async def test_one_must_sign_in(open_shop: Shop, method: str, path: str) -> None:
    """Without a token, and with one whose session has ended."""
    wanted = {"tier": "PREMIUM_MONTHLY", "key": "k"}
    body: dict[str, Any] = wanted if path.endswith("checkout") else {}
    nobody = await open_shop.ask(None, method, path, **body)
    assert (nobody.status_code, code(nobody)) == (401, "token_invalid")
    ada = await open_shop.guest()
    await open_shop.ask(ada, "GET", "/payments/subscription")
    await open_shop.pool.execute("update sessions set ended_at = now()")
    gone = await open_shop.ask(ada, method, path, **body)
    assert (gone.status_code, code(gone)) == (401, "session_ended")


async def test_a_provider_that_does_not_answer(open_shop: Shop) -> None:
    """Is waited for as long as is said and no longer; then nobody waits. The node is ready all the while."""
    ada = await open_shop.guest()
    assert (await checkout(open_shop, ada)).status_code == 201
    open_shop.stand_in.trouble.append(Trouble("hang", times=100))
    began = time.monotonic()
    answers = [await checkout(open_shop, ada) for _ in range(5)]
    assert [(answer.status_code, code(answer)) for answer in answers] == [(503, "unavailable")] * 5
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers)
    assert time.monotonic() - began < 5 * 2.0
    asked = len(open_shop.stand_in.api.asked)
    cards = open_shop.sites[0].node.cards
    assert isinstance(cards, StripeCards)
    assert cards.breaker.open
    metrics = (await open_shop.sites[0].client.get("/metrics")).text
    assert re.search(r'outside_away\{node="\w+",service="stripe"\} 1', metrics)
    assert re.search(r'outside_calls_total\{node="\w+",outcome="failed",service="stripe"\} 3', metrics)
    for path in ("/health/ready", "/health/live", "/payments/plans", "/metrics"):
        assert (await open_shop.sites[0].client.get(path)).status_code == 200
    assert (await open_shop.ask(ada, "GET", "/payments/subscription")).status_code == 200
    assert len(open_shop.stand_in.api.asked) == asked


async def test_where_nothing_is_paid(database_url: str, valkey: Valkey, pool: Pool) -> None:
    """With a database of one's own and no key of Stripe there is nothing to buy, and nobody to believe."""
    async with meeting(database_url, valkey.url, pool) as met:
        (site,) = met.sites
        ada = await met.guest()
        headers = {"authorization": f"Bearer {await met.token(ada, site)}"}
        wanted = {"tier": "PREMIUM_MONTHLY", "key": "k"}
        for path, body in (("checkout", wanted), ("portal", None), ("webhook", {"id": "evt_1"})):
            answer = await site.client.post(f"/payments/{path}", headers=headers, json=body)
            assert (answer.status_code, code(answer)) == (501, "payments_off"), path
        assert (await site.client.get("/payments/plans")).json() == {"plans": [], "pretend": False}
        standing = await site.client.get("/payments/subscription", headers=headers)
        assert standing.json() == {"tier": "FREE"}


# Webhooks.


async def hook(open_shop: Shop, body: bytes, header: str | None, **more: str) -> httpx2.Response:
    """Send a webhook."""
    headers = {"content-type": "application/json", **more}
    if header is not None:
        headers["stripe-signature"] = header
    return await open_shop.sites[0].client.post("/payments/webhook", content=body, headers=headers)


async def paid_event(open_shop: Shop, guest: Guest) -> Object:
    """Return the event by which somebody's subscription begins to count."""
    held = open_shop.hold()
    await open_shop.subscribe(guest)
    return next(one for one in held if one["type"] == "customer.subscription.created")


async def test_only_what_is_signed_is_believed(open_shop: Shop) -> None:
    """Another secret, an old signature, other bytes: refused, and nothing happens. One right signature of two is enough."""
    ada = await open_shop.guest()
    body = encoded(await paid_event(open_shop, ada))
    now = time.time()
    good = signature(body, SECRET, now)
    again = json.dumps(json.loads(body)).encode()
    for sent, header in (
        (body, None),
        (body, signature(body, "whsec_other", now)),
        (body, signature(body, SECRET, now - 301)),
        (again, good),
        (body + b" ", good),
        (body.replace(b"trialing", b"active"), good),
    ):
        refused = await hook(open_shop, sent, header)
        assert (refused.status_code, code(refused)) == (400, "signature_refused")
    assert (await open_shop.standing(ada)).status is None
    other = signature(body, "whsec_other", now).partition(",")[2]
    assert (await hook(open_shop, body, f"{good},{other}")).status_code == 204
    await open_shop.stands(ada, "PREMIUM_MONTHLY", "TRIAL", "trial")
    assert (await hook(open_shop, body, good)).status_code == 204
    metrics = (await open_shop.sites[0].client.get("/metrics")).text
    counted = re.findall(r'webhooks_total\{kind="(\w+)",node="\w+",outcome="(\w+)"\} (\d+)', metrics)
    assert sorted(counted) == [
        ("subscription", "again", "1"),
        ("subscription", "taken", "1"),
        ("unknown", "signature_refused", "6"),
    ]


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (b"", 400, "malformed"),
        (b"{", 400, "malformed"),
        (b"[]", 400, "malformed"),
        (b'{"id": "evt_1"}', 400, "malformed"),
        (b'{"id": "evt_1", "type": "x", "created": 1, "data": {"object": 1}}', 400, "malformed"),
        (
            b'{"id": "evt_1", "type": "x", "created": 1, "data": {"object": {"object": "subscription"}}}',
            422,
            "invalid",
        ),
        (b"[" * 10_000, 400, "malformed"),
        (b'{"id": "\xff"}', 400, "malformed"),
        (b" " * (MOST_WEBHOOK_BYTES + 1), 413, "too_large"),
    ],
)
async def test_signed_nonsense(open_shop: Shop, body: bytes, status: int, expected: str) -> None:
    """Is refused, and not remembered as taken."""
    answer = await hook(open_shop, body, signature(body, SECRET, time.time()))
    assert (answer.status_code, code(answer)) == (status, expected)
    assert await open_shop.pool.fetchval("select count(*) from payment_events") == 0


async def test_an_unknown_event_is_taken(open_shop: Shop) -> None:
    """So that it does not come again and again; and so is one about an object that nobody here looks at."""
    for kind in ("balance", "something.new"):
        event = {"id": f"evt_{kind}", "type": "new", "created": 1, "data": {"object": {"object": kind}}}
        body = msgspec.json.encode(event)
        assert (await hook(open_shop, body, signature(body, SECRET, time.time()))).status_code == 204
    assert await open_shop.pool.fetchval("select count(*) from payment_events") == 2


async def test_nothing_is_said_before_the_commit(open_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Postgres does not commit there is no answer; when it can't, the answer is to come again."""
    ada = await open_shop.guest()
    event = await paid_event(open_shop, ada)
    async with open_shop.pool.acquire() as connection:
        lock = connection.transaction()
        await lock.start()
        await connection.execute("select 1 from users where id = $1 for update", ada.user)
        sending = asyncio.create_task(open_shop.stand_in.deliveries.send(event))
        done, _ = await asyncio.wait({sending}, timeout=0.5)
        assert done == set()
        assert await open_shop.pool.fetchval("select count(*) from payment_events") == 0
        assert await sending == 503
        await lock.rollback()
    assert await open_shop.pool.fetchval("select count(*) from payment_events") == 0
    assert await open_shop.stand_in.deliveries.send(event) == 204
    await open_shop.stands(ada, "PREMIUM_MONTHLY", "TRIAL", "trial")


async def test_the_page(standing: Site) -> None:
    """It is whole, needs nothing from elsewhere and nothing inline, and has all that its script looks for."""
    page = await standing.client.get("/pay")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    outline = Outline()
    outline.feed(page.text)
    assert outline.open == []
    assert outline.inline == []
    assert sorted(outline.loaded) == ["/home.css", "/pay.css", "/pay.js"]
    script = (await standing.client.get("/pay.js")).text
    style = await standing.client.get("/pay.css")
    assert style.headers["content-type"].startswith("text/css")
    for text in (script, style.text):
        assert not any(word in text for word in ("https://", "@import", "eval(", "innerHTML", "localStorage"))
    used = {part.split('"')[0] for part in script.split('at("')[1:]} | {
        part.split('"')[0] for part in script.split('show("')[1:]
    }
    assert used <= set(outline.ids)
