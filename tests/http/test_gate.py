"""Limits over HTTP: by person, by address and by tier, told in every answer."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from uuid import UUID

import httpx2
import pytest

from protocol.envelope import SessionId, UserId
from tests.http.conftest import Servers
from tests.http.serving import PASSWORD, Site, serving
from tests.redis.valkeys import Valkey
from tests.stores import valkey

__all__ = ["valkey"]

PROXY = "LOOPROOMS_TRUSTED_PROXIES"


@pytest.fixture
async def strict(servers: Servers, valkey: Valkey) -> AsyncIterator[Site]:
    """Give a node behind a proxy on loopback, with a tenth of the usual limits: little comes back while a test runs."""
    settings = await servers.settings(
        REDIS_URL=valkey.url, LOOPROOMS_LIMITS_FACTOR="0.1", **{PROXY: "127.0.0.1"}
    )
    async with serving(settings) as site:
        yield site


def left(answer: httpx2.Response) -> dict[str, int]:
    """Read `RateLimit`: what is left of each limit."""
    return {name: int(r) for name, r in re.findall(r'"([\w-]+)";r=(\d+);t=\d+', answer.headers["ratelimit"])}


async def ask(site: Site, address: str, token: str | None = None) -> httpx2.Response:
    """Ask for something from an address."""
    headers = {"x-forwarded-for": address}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    return await site.client.get("/me", headers=headers)


async def guess(site: Site, address: str, path: str = "/auth/login", number: int = 1) -> httpx2.Response:
    """Try to sign in, or to register, from an address."""
    body = {"email": f"p{number}@example.org", "password": PASSWORD, "name": "x"}
    return await site.client.post(path, json=body, headers={"x-forwarded-for": address})


async def test_every_answer_tells(strict: Site) -> None:
    """What may be asked and what is left stands in good answers and in refusals, one entry for each limit."""
    answer = await ask(strict, "1.2.3.4")
    assert answer.status_code == 401
    assert answer.headers["ratelimit-policy"] == '"requests";q=20;w=10'
    assert answer.headers["ratelimit"] == '"requests";r=19;t=1'
    answer = await guess(strict, "1.2.3.5", "/auth/register")
    assert answer.status_code == 201
    assert answer.headers["ratelimit-policy"] == '"requests";q=20;w=10, "registrations";q=3;w=600'
    assert left(answer) == {"requests": 19, "registrations": 2}
    for path in ("/health/live", "/metrics", "/docs"):
        assert "ratelimit" not in (await strict.client.get(path)).headers


async def test_an_address_that_asks_too_much(strict: Site) -> None:
    """Past its bucket an address is told when to come again; others, and what it says of itself, don't matter."""
    statuses = [(await ask(strict, "2001:db8::1")).status_code for _ in range(20)]
    assert set(statuses) == {401}
    network = [
        f"2001:db8::{number:x}" if number % 2 else f"9.9.9.{number}, 2001:DB8::{number:x}:1"
        for number in range(100)
    ]
    answers = [await ask(strict, address) for address in network]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert len(refused) > 50
    assert refused[-1].json()["code"] == "rate_limited"
    assert 0 < refused[-1].json()["retry_after"] <= 1
    assert int(refused[-1].headers["retry-after"]) == 1
    assert left(refused[-1]) == {"requests": 0}
    assert (await ask(strict, "2001:db8:0:1::1")).status_code == 401


async def test_a_person_is_one_at_every_address(strict: Site) -> None:
    """Who is signed in has one bucket on all devices and addresses, and does not use up that of the address."""
    account = await strict.register()
    tokens = [account["access_token"]]
    login = await strict.post("/auth/login", email=account["email"], password=PASSWORD)
    tokens.append(login.json()["access_token"])
    counts = [left(await ask(strict, f"1.2.3.{n}", tokens[n % 2]))["requests"] for n in range(10)]
    assert counts[0] == 19
    assert counts[-1] <= 12
    assert left(await ask(strict, "1.2.3.0"))["requests"] == 19
    assert left(await ask(strict, "1.2.3.0", tokens[0] + "x"))["requests"] == 18


@pytest.mark.parametrize(
    ("role", "tier", "expected"),
    [("MEMBER", "PREMIUM_MONTHLY", 40), ("ADMIN", "FREE", 200), ("MEMBER", "CREATOR_PRO", 80)],
)
async def test_who_pays_may_ask_more(strict: Site, role: str, tier: str, expected: int) -> None:
    """Tier and role count in a person's own limit."""
    account = await strict.register()
    me = UserId(UUID(account["user"]["id"]))
    token = account["access_token"]
    session = strict.node.tokens.verify(token).session
    better, _ = strict.node.tokens.sign(user=me, session=SessionId(session), role=role, tier=tier)
    answer = await ask(strict, "1.2.3.4", better)
    assert answer.headers["ratelimit-policy"] == f'"requests";q={expected};w=10'
    assert left(answer) == {"requests": expected - 1}


async def test_signing_in_is_the_same_for_all(strict: Site) -> None:
    """Attempts are counted by address whatever token comes along, and no more are read once they are used up."""
    for number in range(6):
        assert (await guess(strict, "1.2.3.4", number=number)).status_code in (401, 429)
    hashed = strict.passwords.hashed
    account_token = strict.node.tokens.sign(
        user=UserId(UUID(int=1)), session=SessionId(UUID(int=2)), role="ADMIN", tier="CREATOR_PRO"
    )[0]
    answer = await strict.client.post(
        "/auth/login",
        json={"email": "p1@example.org", "password": PASSWORD},
        headers={"x-forwarded-for": "1.2.3.4", "authorization": f"Bearer {account_token}"},
    )
    assert answer.status_code == 429
    assert left(answer)["sign-ins"] == 0
    assert strict.passwords.hashed == hashed


async def test_making_accounts(strict: Site) -> None:
    """One address makes a few accounts and then waits."""
    statuses = [(await guess(strict, "1.2.3.4", "/auth/register", 1)).status_code for _ in range(4)]
    assert statuses == [201, 201, 201, 429]
    assert (await guess(strict, "1.2.3.5", "/auth/register", 2)).status_code == 201


async def test_a_header_of_a_stranger_is_nothing(servers: Servers, valkey: Valkey) -> None:
    """Where no proxy is listed, `X-Forwarded-For` gives nobody a new bucket, from loopback neither."""
    settings = await servers.settings(REDIS_URL=valkey.url, LOOPROOMS_LIMITS_FACTOR="0.1")
    async with serving(settings) as site:
        counts = [left(await ask(site, f"1.2.3.{n}"))["requests"] for n in range(10)]
    assert counts[-1] <= 12


async def test_limits_hold_over_nodes(servers: Servers, valkey: Valkey) -> None:
    """Two nodes count sign-ins together, to the last one."""
    settings = await servers.settings(REDIS_URL=valkey.url, LOOPROOMS_LIMITS_FACTOR="0.1")
    async with serving(settings) as first, serving(settings) as second:
        statuses = [
            (await guess((first, second)[n % 2], "1.2.3.4", number=n)).headers["ratelimit"] for n in range(8)
        ]
        assert [re.findall(r'"sign-ins";r=(\d+)', one) for one in statuses[:6]] == [
            [str(n)] for n in (5, 4, 3, 2, 1, 0)
        ]
