"""Whoever was in somebody's account has nothing left in it: no change that waits, no way in of their own, and not unnoticed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

import pytest

from server.http.callers import FRESH_SECONDS
from tests.http.conftest import Servers
from tests.http.letters import NEW_PASSWORD, as_caller, press, sign_in
from tests.http.provider import Someone
from tests.http.serving import PASSWORD
from tests.http.test_devices import sign_in as through
from tests.http.test_identities import link, ways
from tests.http.world import World, a_world
from tests.postbox import Postbox, postbox
from tests.waiting import until

EVE = "eve@evil.example"
EVES = Someone("eve-at-the-provider", "eve@gmail.example")


@dataclass
class Victim:
    """Ada, whose address is proven, and a world in which Eve has a session of hers and her password."""

    world: World
    box: Postbox
    account: dict[str, Any]
    eve: dict[str, Any]

    @property
    def email(self) -> str:
        """Ada's address."""
        return str(self.account["email"])

    async def mail(self, subject: str) -> EmailMessage:
        """Wait for a mail to Ada."""
        found: list[EmailMessage] = []

        def there() -> bool:
            found[:] = [mail for mail in self.box.of(self.email) if mail["Subject"] == subject]
            return bool(found)

        await until(there)
        return found[-1]


@pytest.fixture
async def victim(servers: Servers) -> AsyncIterator[Victim]:
    """Give them."""
    async with postbox() as box, a_world(servers, LOOPROOMS_SMTP_URL=box.url) as world:
        account = await world.site.register()
        await press(world.site, await box.next(account["email"]))
        eve = (await sign_in(world.site, account["email"])).json()
        yield Victim(world, box, account, eve)


async def _resets(victim: Victim) -> None:
    await victim.world.site.post("/auth/password/forgot", email=victim.email)
    mail = await victim.mail("Choose a new password")
    assert (await press(victim.world.site, mail, password=NEW_PASSWORD)).status_code == 200


async def _changes(victim: Victim) -> None:
    body = {"password": PASSWORD, "new_password": NEW_PASSWORD}
    assert (
        await as_caller(victim.world.site, victim.account, "POST", "/me/password", **body)
    ).status_code == 204


async def _signs_others_out(victim: Victim) -> None:
    answer = await as_caller(victim.world.site, victim.account, "DELETE", "/me/sessions")
    assert answer.status_code == 204


@pytest.mark.parametrize(
    "throws_out", [_resets, _changes, _signs_others_out], ids=["reset", "change", "sign out"]
)
async def test_a_change_that_waits(victim: Victim, throws_out: Callable[[Victim], Awaitable[None]]) -> None:
    """Whoever is thrown out can't give the account another address any more, by a link that they were mailed before."""
    site = victim.world.site
    asked = await as_caller(site, victim.eve, "POST", "/me/email", email=EVE, password=PASSWORD)
    assert asked.status_code == 202
    mail = await victim.box.next(EVE)
    await throws_out(victim)
    assert (await press(site, mail)).status_code == 410
    found = await site.node.stores.pool.fetchval("select count(*) from email_changes")
    assert found == 0


async def test_a_first_password_that_waits(victim: Victim) -> None:
    """The same with a password that somebody adds to an account that has none."""
    site = victim.world.site
    owner = (await through(victim.world, "google", Someone("ada", "ada@gmail.example"))).json()
    thief = (await through(victim.world, "google", Someone("ada", "ada@gmail.example"))).json()
    body = {"email": EVE, "password": PASSWORD}
    assert (await as_caller(site, thief, "POST", "/me/identities/email", **body)).status_code == 202
    mail = await victim.box.next(EVE)
    assert (await as_caller(site, owner, "DELETE", "/me/sessions")).status_code == 204
    assert (await press(site, mail)).status_code == 410
    assert await ways(victim.world, owner) == ["google"]


@pytest.mark.parametrize("kind", ["google", "apple"])
async def test_taking_it_back_takes_all_of_it(victim: Victim, kind: str) -> None:
    """With the old address everything that came since goes: a provider that was linked lets nobody in, and is let go."""
    site, world = victim.world.site, victim.world
    ben = Someone("ada-herself", "ada@gmail.example")
    other = "apple" if kind == "google" else "google"
    assert (await link(world, other, victim.account, ben)).status_code == 204
    await site.node.stores.pool.execute("update identities set created_at = created_at - interval '1 hour'")
    asked = await as_caller(site, victim.eve, "POST", "/me/email", email=EVE, password=PASSWORD)
    assert asked.status_code == 202
    await press(site, await victim.box.next(EVE))
    more = {"code": world.apple.app_code(EVES)} if kind == "apple" else {}
    assert (await link(world, kind, victim.eve, EVES, **more)).status_code == 204
    undo = await victim.mail("Your account has another e-mail address now")
    assert (await press(site, undo)).status_code == 200
    came = await through(world, kind, EVES)
    assert came.json()["user"]["id"] != victim.account["user"]["id"]
    back = await through(world, other, ben)
    assert back.json()["user"]["id"] == victim.account["user"]["id"]
    if kind == "apple":
        await until(lambda: world.apple.revoked)


async def test_linking_is_told(victim: Victim) -> None:
    """Whoever has a proven address hears there that a provider lets one in, too."""
    assert (await link(victim.world, "google", victim.eve, EVES)).status_code == 204
    mail = await victim.mail("There is another way in to your account")
    assert "gmail" not in str(mail.get_body(("plain",)))


async def test_what_hashes_is_limited(victim: Victim) -> None:
    """Whatever looks at a password takes from one bucket: also a right one, sent without end, leaves room for others."""
    site = victim.world.site
    described = (await site.client.get("/openapi.json")).json()["paths"]
    hashing = [
        (method, path)
        for path, methods in described.items()
        for method, operation in methods.items()
        if "`credentials_refused`" in str(operation["responses"])
    ]
    assert len(hashing) >= 6
    for method, path in hashing:
        answer = await site.client.request(method, path.replace("{provider}", "google"), json={})
        assert (
            '"sign-ins"' in answer.headers["ratelimit"] or '"letters-asked"' in answer.headers["ratelimit"]
        ), path


@pytest.mark.parametrize("path", ["/me/identities", "/me/identities/google"])
async def test_linking_needs_proof(victim: Victim, path: str) -> None:
    """A session that was left open somewhere adds no way in: it takes the password, or a sign-in of a moment ago."""
    world, site = victim.world, victim.world.site
    await site.node.stores.pool.execute(
        "update sessions set created_at = created_at - make_interval(secs => $1)", FRESH_SECONDS + 1
    )

    async def tries(**more: str) -> tuple[int, str]:
        if path == "/me/identities":
            answer = await link(world, "google", victim.eve, EVES, **more)
        else:
            answer = await as_caller(site, victim.eve, "POST", path, then="/", **more)
        return answer.status_code, answer.json()["code"] if answer.status_code >= 400 else ""

    assert await tries() == (403, "proof_required")
    assert await tries(password="not hers at all") == (401, "credentials_refused")
    assert (await tries(password=PASSWORD))[0] in (200, 204)
