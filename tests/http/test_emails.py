"""Whose an address is, end to end: the letters arrive, their links are opened, and nobody learns what is not theirs to know."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from server.http.guesses import _known as known_at
from storage.redis.pool import get
from tests.http.conftest import Servers
from tests.http.letters import (
    NEW_PASSWORD,
    as_caller,
    mailing,
    our_log,
    page_of,
    press,
    proven,
    said,
    sign_in,
)
from tests.http.serving import PASSWORD, Site
from tests.http.test_families import hello, refresh
from tests.postbox import Postbox, link_in
from tests.redis.valkeys import Valkey
from tests.stores import valkey

__all__ = ["valkey"]  # a fixture


@pytest.fixture
async def mailed(servers: Servers) -> AsyncIterator[tuple[Site, Postbox]]:
    """Give a node whose letters arrive."""
    async with mailing(servers) as both:
        yield both


async def is_verified(site: Site, account: dict[str, Any]) -> bool:
    """Ask whether one's address is proven."""
    return bool((await site.me(account["access_token"])).json()["verified"])


async def everything_stored(site: Site) -> str:
    """Return what the database holds of letters, people and sessions."""
    rows = [
        str(dict(row))
        for table in ("users", "identities", "sessions", "mailed_links", "email_changes", "waitlist", "jobs")
        for row in await site.node.stores.pool.fetch(f"select * from {table}")
    ]
    return "\n".join(rows)


async def test_proving_an_address(mailed: tuple[Site, Postbox], caplog: pytest.LogCaptureFixture) -> None:
    """The link of the first letter proves the address, when the button is pressed and not before; what it says is kept nowhere."""
    site, box = mailed
    caplog.set_level(logging.DEBUG)
    account = await site.register()
    mail = await box.next(account["email"])
    assert mail["Subject"] == "Confirm your e-mail address"
    path, token = page_of(link_in(mail))
    for _ in range(3):  # whatever looks at the link on the way
        await site.client.get(path)
        await site.client.head(path)
    assert not await is_verified(site, account)
    assert token not in await everything_stored(site)
    page = await press(site, mail)
    assert (page.status_code, said(page)) == (200, "The address is confirmed. You can close this page.")
    assert await is_verified(site, account)
    assert token not in our_log(caplog)
    assert account["email"] not in await everything_stored(site)


async def test_once(mailed: tuple[Site, Postbox]) -> None:
    """A link is used up by its first use; of many at the same time one is it."""
    site, box = mailed
    account = await site.register()
    _, token = page_of(link_in(await box.next(account["email"])))
    answers = await asyncio.gather(*(site.post("/auth/email/verify", token=token) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [204, 410, 410, 410, 410]
    assert await is_verified(site, account)


async def test_not_for_ever_and_not_for_anything_else(mailed: tuple[Site, Postbox]) -> None:
    """A link that has expired, one for another purpose, and one that never was are refused alike."""
    site, box = mailed
    account = await site.register()
    _, token = page_of(link_in(await box.next(account["email"])))
    wrong = [await site.post(f"/auth/email/{use}", token=token) for use in ("confirm", "undo")]
    wrong.append(await site.post("/auth/password/reset", token=token, password=NEW_PASSWORD))
    wrong.append(await site.post("/waitlist/confirm", token=token))
    wrong.append(await site.post("/auth/email/verify", token="nonsense"))
    await site.node.stores.pool.execute("update mailed_links set expires_at = now()")
    wrong.append(await site.post("/auth/email/verify", token=token))
    assert {(answer.status_code, answer.json()["code"]) for answer in wrong} == {(410, "link_invalid")}
    assert len({answer.content for answer in wrong}) == 1
    assert not await is_verified(site, account)


async def test_sent_again(mailed: tuple[Site, Postbox]) -> None:
    """The link can be had again, and both are good; once the address is proven nothing is sent any more."""
    site, box = mailed
    account = await site.register()
    first = await box.next(account["email"])
    assert (await as_caller(site, account, "POST", "/me/email/verification")).status_code == 202
    second = await box.next(account["email"], 2)
    assert link_in(first) != link_in(second)
    assert (await press(site, first)).status_code == 200
    assert (await as_caller(site, account, "POST", "/me/email/verification")).status_code == 202
    assert (await site.post("/me/email/verification")).status_code == 401
    assert await site.node.stores.pool.fetchval("select count(*) from jobs where kind like 'letters%'") == 0
    assert len(box.of(account["email"])) == 2


async def test_registering_tells_nothing(mailed: tuple[Site, Postbox]) -> None:
    """With an address that somebody has: the same answer, the same statements, and a letter to the one who has it."""
    site, box = mailed
    owner = await proven(site, box)
    statements: list[str] = []
    pool = site.node.stores.pool
    for connection in [await pool.acquire() for _ in range(pool.get_max_size())]:
        connection.add_query_logger(
            lambda query: statements.append(query.query) if "identities" in query.query else None
        )
        await pool.release(connection)

    async def attempt(email: str) -> tuple[int, set[str], dict[str, Any], list[str], int]:
        statements.clear()
        hashed = site.passwords.hashed
        answer = await site.post("/auth/register", email=email, password="another one of mine", name="Eve")
        user = answer.json()["user"]
        return (
            answer.status_code,
            set(answer.json()),
            {name: user[name] for name in user if name not in ("id", "email")},
            [one for one in statements if "insert" in one],
            site.passwords.hashed - hashed,
        )

    taken = await attempt(owner["email"].upper())
    assert await attempt("nobody@example.org") == taken
    assert taken[0] == 201
    letter = await box.next(owner["email"], 2)
    assert letter["Subject"] == "You already have an account"
    assert "nobody@example.org" in {mail["To"] for mail in box.mails} or await box.next("nobody@example.org")
    assert (await sign_in(site, owner["email"])).json()["user"]["id"] == owner["user"]["id"]
    other = await sign_in(site, owner["email"], "another one of mine")
    assert other.json()["user"]["id"] != owner["user"]["id"]


async def test_who_claims_early_has_nothing_of_it(mailed: tuple[Site, Postbox]) -> None:
    """Somebody registers with a stranger's address first: the stranger proves it for themselves, and a reset is theirs."""
    site, box = mailed
    email = "victim@example.org"
    eve = (await site.post("/auth/register", email=email, password="eves own password", name="Eve")).json()
    early = link_in(await box.next(email))
    victim = (await site.post("/auth/register", email=email, password=PASSWORD, name="V")).json()
    assert (await press(site, await box.next(email, 2))).status_code == 200
    assert await is_verified(site, victim)
    page = await press(site, early)
    assert page.status_code == 409
    assert not await is_verified(site, eve)
    await as_caller(site, eve, "POST", "/me/email/verification")
    assert (await box.next(email, 3))["Subject"] == "You already have an account"
    await site.post("/auth/password/forgot", email=email)
    assert (await press(site, await box.next(email, 4), password=NEW_PASSWORD)).status_code == 200
    assert (await sign_in(site, email, NEW_PASSWORD)).json()["user"]["id"] == victim["user"]["id"]
    assert (await sign_in(site, email, "eves own password")).json()["user"]["id"] == eve["user"]["id"]


async def test_who_only_claims_an_address_is_not_known_at_it(servers: Servers, valkey: Valkey) -> None:
    """An address from which a claimant signed in is none from which the owner's password may be guessed more freely."""
    async with mailing(servers, REDIS_URL=valkey.url) as (site, box):
        owner = await proven(site, box)
        await site.post("/auth/register", email=owner["email"], password="eves own password", name="Eve")
        redis, place = site.node.stores.redis, known_at("127.0.0.1", owner["email"])
        assert (await sign_in(site, owner["email"], "eves own password")).status_code == 200
        assert await redis.run(get(place)) is None
        assert (await sign_in(site, owner["email"])).status_code == 200
        assert await redis.run(get(place)) is not None


async def test_two_who_prove_one_address(mailed: tuple[Site, Postbox]) -> None:
    """Of two links to one mailbox that are opened at the same moment one gets the address; the other hears why."""
    site, box = mailed
    for name in ("One", "Two"):
        await site.post("/auth/register", email="ada@example.org", password=PASSWORD, name=name)
    tokens = [page_of(link_in(await box.next("ada@example.org", nth)))[1] for nth in (1, 2)]
    answers = await asyncio.gather(*(site.post("/auth/email/verify", token=token) for token in tokens))
    assert sorted(answer.status_code for answer in answers) == [204, 409]
    proven_ones = await site.node.stores.pool.fetchval("select count(*) from identities where issuer = ''")
    assert proven_ones == 1


async def change(site: Site, account: dict[str, Any], email: str, password: str = PASSWORD) -> int:
    """Ask for another address."""
    answer = await as_caller(site, account, "POST", "/me/email", email=email, password=password)
    return answer.status_code


async def test_changing_an_address(mailed: tuple[Site, Postbox]) -> None:
    """It needs the password, counts once it is confirmed from the new address, and the old one is told."""
    site, box = mailed
    account = await proven(site, box)
    assert await change(site, account, "new@example.org", "not my password") == 401
    assert await change(site, account, "new@example.org") == 202
    mail = await box.next("new@example.org")
    assert (await site.me(account["access_token"])).json()["email"] == account["email"]
    assert (await press(site, mail)).status_code == 200
    me = (await site.me(account["access_token"])).json()
    assert (me["email"], me["verified"]) == ("new@example.org", True)
    assert (await sign_in(site, "new@example.org")).status_code == 200
    assert (await sign_in(site, account["email"])).status_code == 401
    assert (await box.next(account["email"], 2))["Subject"] == "Your account has another e-mail address now"
    assert "new@example.org" not in await everything_stored(site)


async def test_a_change_that_was_asked_for_again(mailed: tuple[Site, Postbox]) -> None:
    """Who asks for another address once more means the last one: the link of the one before is worth nothing."""
    site, box = mailed
    account = await proven(site, box)
    await change(site, account, "one@example.org")
    first = await box.next("one@example.org")
    await change(site, account, "two@example.org")
    second = await box.next("two@example.org")
    assert (await press(site, first)).status_code == 410
    assert (await press(site, second)).status_code == 200
    assert (await site.me(account["access_token"])).json()["email"] == "two@example.org"


async def test_taking_a_change_back(mailed: tuple[Site, Postbox]) -> None:
    """The old address takes its account back: everybody is out, the password is none, and a link for a new one comes."""
    site, box = mailed
    account = await proven(site, box)
    await change(site, account, "thief@example.org")
    await press(site, await box.next("thief@example.org"))
    warning = await box.next(account["email"], 2)
    connection = await hello(site, account)
    assert (await press(site, warning)).status_code == 200
    async with asyncio.timeout(1):
        await connection.wait_closed()
    assert (await refresh(site, account["refresh_token"])).json()["code"] == "session_ended"
    for email in (account["email"], "thief@example.org"):
        assert (await sign_in(site, email)).status_code == 401
    reset = await box.next(account["email"], 3)
    assert (await press(site, reset, password=NEW_PASSWORD)).status_code == 200
    back = await sign_in(site, account["email"], NEW_PASSWORD)
    assert back.json()["user"]["id"] == account["user"]["id"]
    assert (await press(site, warning)).status_code == 410


async def test_a_thief_who_changes_twice(mailed: tuple[Site, Postbox]) -> None:
    """However often an address was changed since, the first one takes its account back, and what came after is void."""
    site, box = mailed
    account = await proven(site, box)
    for email in ("b@example.org", "c@example.org"):
        assert await change(site, account, email) == 202
        assert (await press(site, await box.next(email))).status_code == 200
    second_warning = await box.next("b@example.org", 2)
    assert await change(site, account, "d@example.org") == 202
    pending = await box.next("d@example.org")
    assert (await press(site, await box.next(account["email"], 2))).status_code == 200
    for void in (second_warning, pending):
        assert (await press(site, void)).status_code == 410
    await press(site, await box.next(account["email"], 3), password=NEW_PASSWORD)
    assert (await sign_in(site, account["email"], NEW_PASSWORD)).status_code == 200


async def test_an_address_that_was_never_proven_takes_nothing_back(mailed: tuple[Site, Postbox]) -> None:
    """Who mistyped their address and corrects it gives the stranger at the first one no hold on the account."""
    site, box = mailed
    account = await site.register()
    typo = await box.next(account["email"])
    await change(site, account, "right@example.org")
    assert (await press(site, await box.next("right@example.org"))).status_code == 200
    assert await site.node.stores.pool.fetchval("select count(*) from jobs where kind like 'letters%'") == 0
    assert len(box.of(account["email"])) == 1
    assert (await press(site, typo)).status_code == 410
    assert (await site.me(account["access_token"])).json()["email"] == "right@example.org"


async def test_changing_to_somebodys_address(mailed: tuple[Site, Postbox]) -> None:
    """The answer is as ever; the one who has the address is told, and it stays theirs."""
    site, box = mailed
    owner, account = await proven(site, box), await proven(site, box)
    assert await change(site, account, owner["email"]) == 202
    letter = await box.next(owner["email"], 2)
    assert letter["Subject"] == "This address has an account already"
    assert "/account/" not in letter.as_string()
    assert (await sign_in(site, owner["email"])).json()["user"]["id"] == owner["user"]["id"]


async def test_a_new_address_that_is_proven_meanwhile(mailed: tuple[Site, Postbox]) -> None:
    """Between asking and confirming somebody else proves the address: it is theirs, and nothing of mine changes."""
    site, box = mailed
    account = await proven(site, box)
    await change(site, account, "wanted@example.org")
    mine = await box.next("wanted@example.org")
    await site.post("/auth/register", email="wanted@example.org", password=PASSWORD, name="Quick")
    await press(site, await box.next("wanted@example.org", 2))
    page = await press(site, mine)
    assert page.status_code == 409
    assert (await site.me(account["access_token"])).json()["email"] == account["email"]


async def test_a_mailbox_is_not_flooded(servers: Servers, valkey: Valkey) -> None:
    """However its address is spelled, a mailbox gets a few letters that anybody may ask for; registering goes on without them."""
    async with mailing(servers, REDIS_URL=valkey.url, LOOPROOMS_LIMITS_FACTOR="1") as (site, box):
        spellings = ["ada@example.org", "a.d.a@example.org", "ada+1@example.org", "ADA@EXAMPLE.ORG"] * 2
        answers = [await site.post("/auth/password/forgot", email=email) for email in spellings]
        assert [answer.status_code for answer in answers] == [202] * 6 + [429] * 2
        assert answers[-1].json()["retry_after"] > 60
        answer = await site.post("/auth/register", email="ada@example.org", password=PASSWORD, name="Ada")
        assert answer.status_code == 201
        assert (await site.post("/auth/password/forgot", email="bob@example.org")).status_code == 202
        await box.next("bob@example.org")
        assert 4 <= len(box.mails) <= 7  # what is asked for while one waits is one


async def test_nobody_sends_letters_to_everybody(servers: Servers, valkey: Valkey) -> None:
    """One address asks for a few letters, however many mailboxes they go to, and by whatever door."""
    async with mailing(servers, REDIS_URL=valkey.url, LOOPROOMS_LIMITS_FACTOR="0.2") as (site, _):
        asked = [("/auth/password/forgot", f"a{number}@example.org") for number in range(2)]
        asked += [("/waitlist", f"b{number}@example.org") for number in range(2)]
        assert [(await site.post(path, email=email)).status_code for path, email in asked] == [202] * 4
        for path in ("/auth/password/forgot", "/waitlist"):
            assert (await site.post(path, email="c@example.org")).status_code == 429
        page = await site.client.post("/account/forgot", data={"email": "c@example.org"})
        assert page.status_code == 429


async def test_guessing_the_password_of_a_borrowed_device(servers: Servers, valkey: Valkey) -> None:
    """Who holds somebody's session can't try passwords without end: it counts like signing in."""
    async with mailing(servers, REDIS_URL=valkey.url, LOOPROOMS_LIMITS_FACTOR="0.2") as (site, box):
        account = await site.register()
        statuses = [await change(site, account, "eve@example.org", "guess guess") for _ in range(6)]
        assert statuses == [401] * 4 + [429] * 2
        assert await change(site, account, "eve@example.org") == 429
        assert box.of("eve@example.org") == []
