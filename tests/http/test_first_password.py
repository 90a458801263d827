"""A first password: whoever came through Google or Apple adds an address, by a fresh sign-in and a mailed link, and takes it away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from server.http.callers import FRESH_SECONDS
from tests.http.conftest import Servers
from tests.http.letters import press, said
from tests.http.letters import sign_in as with_password
from tests.http.provider import Someone
from tests.http.serving import PASSWORD
from tests.http.test_devices import sign_in
from tests.http.test_identities import ask, ways
from tests.http.world import ADA, World, a_world
from tests.postbox import Postbox, postbox
from tests.waiting import until

EMAIL = "/me/identities/email"
ADDRESS = "ada@home.example"


@dataclass
class Home:
    """A world with a mailbox, and Ada, who came through Google."""

    world: World
    box: Postbox
    ada: dict[str, Any]

    async def wants(self, email: str = ADDRESS, password: str = PASSWORD) -> tuple[int, str | None]:
        """Ask for an address; return the status and the code."""
        answer = await ask(self.world, "POST", EMAIL, self.ada, {"email": email, "password": password})
        return answer.status_code, answer.json()["code"] if answer.content else None

    async def removes(self) -> tuple[int, str | None]:
        """Take it away."""
        answer = await ask(self.world, "DELETE", EMAIL, self.ada)
        return answer.status_code, answer.json()["code"] if answer.content else None

    async def ages(self) -> None:
        """Let some minutes pass since everybody signed in."""
        await self.world.site.node.stores.pool.execute(
            "update sessions set created_at = created_at - make_interval(secs => $1)", FRESH_SECONDS + 1
        )


@pytest.fixture
async def home(servers: Servers) -> AsyncIterator[Home]:
    """Run it."""
    async with postbox() as box, a_world(servers, LOOPROOMS_SMTP_URL=box.url) as world:
        answer = await sign_in(world, "google", ADA)
        assert answer.status_code == 200, answer.text
        yield Home(world, box, answer.json())


async def test_an_address_and_a_password(home: Home) -> None:
    """It counts once the link is opened; then one signs in to the same account, and is told so where Google knows them."""
    site = home.world.site
    assert await home.wants() == (202, None)
    assert await ways(home.world, home.ada) == ["google"]
    assert (await with_password(site, ADDRESS)).status_code == 401
    mail = await home.box.next(ADDRESS)
    assert mail["Subject"] == "Sign in with this address, too"
    page = await press(site, mail)
    assert (page.status_code, said(page)[:28]) == (200, "The address is yours now. If")
    assert (await press(site, mail)).status_code == 410
    found = await with_password(site, ADDRESS)
    assert found.json()["user"]["id"] == home.ada["user"]["id"]
    assert found.json()["user"]["verified"] is True
    assert await ways(home.world, home.ada) == ["google", "email"]
    told = await home.box.next("ada@example.org")
    assert told["Subject"] == "One signs in to your account with a password, too"
    left = await site.node.stores.pool.fetchval("select count(password_hash) from email_changes")
    assert left == 0


async def test_what_it_needs(home: Home) -> None:
    """A fresh sign-in, a good password, and no address so far: nothing that a borrowed device has, or that Google says."""
    assert await home.wants(password="password") == (422, "password_weak")
    assert await home.wants(email="nobody") == (422, "invalid")
    await home.ages()
    assert await home.wants() == (403, "proof_required")
    answer = await sign_in(home.world, "google", ADA)
    home.ada = answer.json()
    assert await home.wants(email="ada@example.org") == (
        202,
        None,
    )  # Google has verified it, and still it is mailed
    assert await ways(home.world, home.ada) == ["google"]
    await press(home.world.site, await home.box.next("ada@example.org"))
    assert await home.wants() == (409, "identity_taken")


async def test_an_address_of_somebody_else(home: Home) -> None:
    """The answer tells nothing; its owner is told, and nothing that was asked for before is good any more."""
    member = await home.world.member()
    assert await home.wants(email=member["email"]) == (202, None)
    word = "This address has an account already"
    await until(lambda: word in [mail["Subject"] for mail in home.box.of(member["email"])])
    assert await home.wants() == (202, None)
    first = await home.box.next(ADDRESS)
    assert await home.wants(email="ada@work.example") == (202, None)
    second = await home.box.next("ada@work.example")
    assert (await press(home.world.site, first)).status_code == 410
    assert (await press(home.world.site, second)).status_code == 200


async def test_taking_it_away(home: Home) -> None:
    """Freshly signed in one takes it away; others are signed out, what was mailed is void, and the last way in stays."""
    site = home.world.site
    assert await home.removes() == (404, "not_found")
    await home.wants()
    await press(site, await home.box.next(ADDRESS))
    other = (await with_password(site, ADDRESS)).json()
    await site.post("/auth/password/forgot", email=ADDRESS)
    reset = await home.box.next(ADDRESS, 2)
    await home.ages()
    assert await home.removes() == (403, "proof_required")
    home.ada = (await sign_in(home.world, "google", ADA)).json()
    assert await home.removes() == (204, None)
    assert (await site.me(other["access_token"])).status_code == 401
    assert (await with_password(site, ADDRESS)).status_code == 401
    assert (await press(site, reset, password="lanterns over a lake")).status_code == 410
    member = await home.world.member()
    answer = await ask(home.world, "DELETE", EMAIL, member)
    assert (answer.status_code, answer.json()["code"]) == (409, "last_identity")


async def test_a_hidden_address(home: Home) -> None:
    """Whoever came through Apple and hides their address can do so, too; they are told where Apple forwards from."""
    hidden = Someone("apple-ada", "x1@privaterelay.example", private=True)
    home.ada = (await sign_in(home.world, "apple", hidden)).json()
    assert await home.wants() == (202, None)
    await press(home.world.site, await home.box.next(ADDRESS))
    assert await home.box.next("x1@privaterelay.example")
