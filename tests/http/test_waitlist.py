"""The waitlist: asked for, confirmed, invited; and a server that only those can join who were."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from storage.waitlist import forget_entries, invite, is_invited
from tests.http.conftest import Servers
from tests.http.letters import mailing, page_of, press, proven, said, sign_in
from tests.http.serving import PASSWORD, Site
from tests.postbox import Postbox, link_in


@pytest.fixture
async def closed(servers: Servers) -> AsyncIterator[tuple[Site, Postbox]]:
    """Give a node on which one needs an invitation."""
    async with mailing(servers, LOOPROOMS_REGISTRATION="invited") as both:
        yield both


async def entries(site: Site) -> list[dict[str, Any]]:
    """Return what is on the list."""
    return [dict(row) for row in await site.node.stores.pool.fetch("select * from waitlist")]


async def invited(site: Site, email: str) -> None:
    """Invite somebody, as the operator does."""
    await invite(site.node.stores.pool, site.node.stores.sealer, email)


async def register(site: Site, email: str, **fields: str) -> tuple[int, dict[str, Any]]:
    """Try to make an account."""
    answer = await site.post("/auth/register", email=email, password=PASSWORD, name="Ada", **fields)
    return answer.status_code, answer.json()


async def test_a_place(closed: tuple[Site, Postbox]) -> None:
    """Asked for however often, an address is on the list once, and confirmed by the link that it was mailed."""
    site, box = closed
    for email in ("ada@example.org", "ADA@example.org"):
        answer = await site.post("/waitlist", email=email)
        assert (answer.status_code, answer.content) == (202, b"")
    mail = await box.next("ada@example.org")
    (entry,) = await entries(site)
    assert entry["confirmed_at"] is None
    assert "ada@example.org" not in str(entry)
    page = await press(site, mail)
    assert said(page) == "Your place is confirmed. You can close this page."
    (entry,) = await entries(site)
    assert entry["confirmed_at"] is not None
    assert (await site.post("/waitlist", email="nonsense")).status_code == 422


async def test_a_link_that_is_too_old(closed: tuple[Site, Postbox]) -> None:
    """After its week a place can't be confirmed, but asked for again."""
    site, box = closed
    await site.post("/waitlist", email="ada@example.org")
    mail = await box.next("ada@example.org")
    await site.node.stores.pool.execute("update mailed_links set expires_at = now()")
    assert (await press(site, mail)).status_code == 410
    await site.post("/waitlist", email="ada@example.org")
    assert (await press(site, await box.next("ada@example.org", 2))).status_code == 200


async def test_it_tells_nothing(closed: tuple[Site, Postbox]) -> None:
    """Waiting, confirmed, invited, a member or unknown: the same answer and the same statements."""
    site, box = closed
    await site.post("/waitlist", email="confirmed@example.org")
    await press(site, await box.next("confirmed@example.org"))
    await site.post("/waitlist", email="waiting@example.org")
    await box.next("waiting@example.org")
    for email in ("invited@example.org", "member@example.org"):
        await invited(site, email)
    mail = await box.next("member@example.org")
    await press(site, mail, name="Member", password=PASSWORD)
    await box.next("invited@example.org")
    answers = [
        await site.post("/waitlist", email=f"{who}@example.org")
        for who in ("confirmed", "waiting", "invited", "member", "unknown")
    ]
    assert len({(answer.status_code, answer.content) for answer in answers}) == 1
    assert (await box.next("invited@example.org", 2))["Subject"] == "There is a place for you"


async def test_many_at_once(closed: tuple[Site, Postbox]) -> None:
    """Twenty who ask for one address at the same moment make one entry."""
    site, box = closed
    answers = await asyncio.gather(*(site.post("/waitlist", email="ada@example.org") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len(await entries(site)) == 1
    await box.next("ada@example.org")


async def test_who_was_not_invited(closed: tuple[Site, Postbox]) -> None:
    """Without an invitation nobody registers, and nobody learns whether an address is invited."""
    site, box = closed
    await invited(site, "ada@example.org")
    await box.next("ada@example.org")
    hashed = site.passwords.hashed
    refusals = [await register(site, email) for email in ("ada@example.org", "eve@example.org")]
    assert refusals[0] == refusals[1]
    assert (refusals[0][0], refusals[0][1]["code"]) == (403, "invitation_required")
    status, problem = await register(site, "eve@example.org", invitation="nonsense")
    assert (status, problem["code"]) == (410, "link_invalid")
    assert await site.node.stores.pool.fetchval("select count(*) from users") == 0
    assert site.passwords.hashed == hashed


async def test_an_invitation(closed: tuple[Site, Postbox]) -> None:
    """Its link makes one account, for its own address, which is proven by that; the address leaves the list."""
    site, box = closed
    await invited(site, "ada@example.org")
    mail = await box.next("ada@example.org")
    assert mail["Subject"] == "There is a place for you"
    _, token = page_of(link_in(mail))
    status, problem = await register(site, "eve@example.org", invitation=token)
    assert (status, problem["code"], problem["path"]) == (410, "link_invalid", "$.email")
    weak = await press(site, mail, name="Ada", password="password")
    assert weak.status_code == 422
    assert "8 to 1,024" in said(weak)
    assert 'value="Ada"' in weak.text
    assert 'value="password"' not in weak.text
    page = await press(site, mail, name="Ada", password=PASSWORD)
    assert (page.status_code, said(page)) == (
        200,
        "Your account is made. Sign in with your e-mail address and your password.",
    )
    user = (await sign_in(site, "ada@example.org")).json()["user"]
    assert (user["name"], user["verified"]) == ("Ada", True)
    assert await entries(site) == []
    assert (await register(site, "ada@example.org", invitation=token))[1]["code"] == "link_invalid"


async def test_an_invitation_in_an_app(closed: tuple[Site, Postbox]) -> None:
    """An app that opens the link itself registers with what stands in it, and is signed in; of many at once one is."""
    site, box = closed
    await invited(site, "ada@example.org")
    _, token = page_of(link_in(await box.next("ada@example.org")))
    results = await asyncio.gather(*(register(site, "Ada@example.org", invitation=token) for _ in range(4)))
    assert sorted(status for status, _ in results) == [201, 410, 410, 410]
    made = next(answer for status, answer in results if status == 201)
    assert (await site.me(made["access_token"])).json()["verified"]


async def test_somebody_who_has_an_account_is_invited(servers: Servers) -> None:
    """An invitation gives nobody a second account with one address."""
    async with mailing(servers) as (site, box):
        account = await proven(site, box)
        await invited(site, account["email"])
        page = await press(site, await box.next(account["email"], 2), name="Again", password=PASSWORD)
        assert page.status_code == 409
        assert await site.node.stores.pool.fetchval("select count(*) from users") == 1


async def test_invited_again(closed: tuple[Site, Postbox]) -> None:
    """An operator may send the invitation again: both links are good, for one account."""
    site, box = closed
    await invited(site, "ada@example.org")
    first = await box.next("ada@example.org")
    await invited(site, "ada@example.org")
    second = await box.next("ada@example.org", 2)
    assert (await press(site, first, name="Ada", password=PASSWORD)).status_code == 200
    assert (await press(site, second, name="Ada", password=PASSWORD)).status_code == 410


async def test_who_is_invited(closed: tuple[Site, Postbox]) -> None:
    """Who proves an address elsewhere can be asked for by it; and who never confirmed is forgotten, but no invitation is."""
    site, box = closed
    pool, sealer = site.node.stores.pool, site.node.stores.sealer
    await invited(site, "ada@example.org")
    await site.post("/waitlist", email="bob@example.org")
    await box.next("bob@example.org")
    assert await is_invited(pool, sealer, "ada@example.org")
    assert not await is_invited(pool, sealer, "bob@example.org")
    assert not await is_invited(pool, sealer, "eve@example.org")
    await pool.execute("update waitlist set requested_at = now() - interval '10 days'")
    await forget_entries(pool, 9 * 86400)
    assert len(await entries(site)) == 1
    assert await is_invited(pool, sealer, "ada@example.org")
