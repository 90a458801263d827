"""The ways in to an account: linking needs proof of it, unlinking leaves one, and what Apple gave is revoked."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import httpx2
import pytest

from server.http.cookies import REFRESH
from server.jobs import PERFORMERS
from storage.grants import RevokeToken
from storage.identities import forget_spent
from storage.jobs import kind_of
from storage.resealing import SEALED
from tests.http.browser import HOME, Browser, Stopped
from tests.http.conftest import Servers
from tests.http.provider import Someone
from tests.http.serving import PASSWORD
from tests.http.test_devices import hashed, sign_in
from tests.http.world import ADA, KINDS, World

SECONDS = 10.0


async def ask(
    world: World, method: str, path: str, account: dict[str, Any], body: dict[str, Any] | None = None
) -> httpx2.Response:
    """Send a request as somebody."""
    headers = {"authorization": f"Bearer {account['access_token']}"}
    return await world.site.client.request(method, path, headers=headers, json=body)


async def link(
    world: World, kind: str, account: dict[str, Any], someone: Someone = ADA, **more: str
) -> httpx2.Response:
    """Link an identity, as an app does."""
    nonce = secrets.token_urlsafe(16)
    token = world.of(kind).id_token(someone, nonce=hashed(nonce))
    body = {"provider": kind, "id_token": token, "nonce": nonce, **more}
    return await ask(world, "POST", "/me/identities", account, body)


async def ways(world: World, account: dict[str, Any]) -> list[str]:
    """Name the ways in."""
    answer = await ask(world, "GET", "/me/identities", account)
    return [way["provider"] for way in answer.json()["identities"]]


async def until(world: World, statement: str, expected: Any) -> None:
    """Wait until a statement gives what is expected."""
    async with asyncio.timeout(SECONDS):
        while (found := await world.site.node.stores.pool.fetchval(statement)) != expected:
            assert found is not None
            await asyncio.sleep(0.02)


async def test_link_after_the_password(world: World) -> None:
    """Refused for its address at first, the same token links the provider once one has signed in; then it lets one in."""
    account = await world.member()
    someone = Someone("ada", account["email"])
    nonce = secrets.token_urlsafe(16)
    body = {"id_token": world.google.id_token(someone, nonce=hashed(nonce)), "nonce": nonce}
    refused = await world.site.post("/auth/google/token", **body)
    assert (refused.status_code, refused.json()["code"]) == (409, "account_exists")
    proven = await world.site.post("/auth/login", email=account["email"], password=PASSWORD)
    linked = await ask(world, "POST", "/me/identities", proven.json(), {"provider": "google", **body})
    assert linked.status_code == 204, linked.text
    assert await ways(world, account) == ["email", "google"]
    came = await sign_in(world, "google", someone)
    assert came.json()["user"]["id"] == account["user"]["id"]
    assert came.json()["user"]["email"] == account["email"]


async def test_what_one_sees_of_them(world: World) -> None:
    """The address that the provider has verified, and whether it hides the real one; never more."""
    account = await world.member()
    hidden = Someone("ada", "x7@privaterelay.appleid.com", private=True)
    assert (await link(world, "apple", account, hidden)).status_code == 204
    assert (
        await link(world, "google", account, Someone("ada", "a@b.org", verified=False))
    ).status_code == 204
    found = (await ask(world, "GET", "/me/identities", account)).json()["identities"]
    assert [(way["provider"], way["address"], way["hidden"]) for way in found] == [
        ("email", account["email"], False),
        ("apple", "x7@privaterelay.appleid.com", True),
        ("google", None, False),
    ]
    assert set(found[0]) == {"provider", "address", "hidden", "linked"}


async def test_link_in_a_page(world: World) -> None:
    """A page is given where to send its browser; it comes back linked, and is still signed in as before."""
    account = await world.member()
    for kind in KINDS:
        world.of(kind).someone = Someone("ada", account["email"])
        begun = await world.browser.fetch(
            f"/me/identities/{kind}", {"then": "/settings"}, token=account["access_token"]
        )
        assert begun.status_code == 200, begun.text
        assert await world.browser.visit(begun.json()["url"]) == f"/settings#linked={kind}"
    assert REFRESH not in world.browser.kept
    assert await ways(world, account) == ["email", *KINDS]
    assert await world.people() == 1


async def test_whose_session_it_was(world: World) -> None:
    """What was begun on a session that has ended links nothing; nor does what another browser began."""
    account = await world.member()
    world.google.someone = ADA
    token = account["access_token"]
    begun = await world.browser.fetch("/me/identities/google", {"then": "/settings"}, token=token)
    other = Browser(world.site)
    with pytest.raises(Stopped):
        await other.visit(begun.json()["url"])
    await world.site.post("/auth/logout", refresh_token=account["refresh_token"])
    assert await world.browser.visit(begun.json()["url"]) == "/settings#error=session_ended"
    assert await world.site.node.stores.pool.fetchval("select count(*) from identities") == 1


async def test_an_identity_of_somebody_else(world: World) -> None:
    """What lets one person in can't be linked to another, nor a second one of the same provider; the same again is no error."""
    mine, theirs = await world.member(), await world.member()
    assert (await link(world, "google", mine)).status_code == 204
    assert (await link(world, "google", mine)).status_code == 204
    taken = await link(world, "google", theirs)
    assert (taken.status_code, taken.json()["code"]) == (409, "identity_taken")
    second = await link(world, "google", mine, Someone("another"))
    assert second.json()["code"] == "identity_taken"
    assert await ways(world, theirs) == ["email"]


async def test_a_proof_links_once(world: World) -> None:
    """An ID token that has linked does not let in, nor link again."""
    account = await world.member()
    nonce = secrets.token_urlsafe(16)
    body = {"id_token": world.google.id_token(ADA, nonce=hashed(nonce)), "nonce": nonce}
    first = await ask(world, "POST", "/me/identities", account, {"provider": "google", **body})
    again = await ask(world, "POST", "/me/identities", account, {"provider": "google", **body})
    came = await world.site.post("/auth/google/token", **body)
    assert [one.status_code for one in (first, again, came)] == [204, 401, 401]


async def test_a_claimed_address_links_nothing(world: World) -> None:
    """Whoever claims an address without having proven it can't put a way in beside it, to wait for its owner."""
    account = await world.site.register()
    answer = await link(world, "google", account)
    assert (answer.status_code, answer.json()["code"]) == (403, "email_unverified")
    owner = await sign_in(world, "google", Someone("owner", account["email"]))
    assert owner.status_code == 200
    assert owner.json()["user"]["id"] != account["user"]["id"]


async def test_unlinking(world: World) -> None:
    """What was taken away lets nobody in any more: it begins anew as somebody else; the rest stays."""
    account = await world.member()
    for kind in KINDS:
        assert (await link(world, kind, account)).status_code == 204
    assert (await ask(world, "DELETE", "/me/identities/google", account)).status_code == 204
    assert await ways(world, account) == ["email", "apple"]
    assert (await ask(world, "DELETE", "/me/identities/google", account)).json()["code"] == "not_found"
    assert (await ask(world, "DELETE", "/me/identities/other", account)).json()["code"] == "not_found"
    came = await sign_in(world, "google", Someone(ADA.subject))
    assert came.json()["user"]["id"] != account["user"]["id"]


async def test_the_last_way_in_stays(world: World) -> None:
    """Nobody locks themselves out; also not by taking two away at once."""
    account = (await sign_in(world, "google")).json()
    refused = await ask(world, "DELETE", "/me/identities/google", account)
    assert (refused.status_code, refused.json()["code"]) == (409, "last_identity")
    assert (await link(world, "apple", account)).status_code == 204
    both = await asyncio.gather(*(ask(world, "DELETE", f"/me/identities/{kind}", account) for kind in KINDS))
    assert sorted(one.status_code for one in both) == [204, 409]
    assert len(await ways(world, account)) == 1


async def test_a_provider_that_is_offered_no_more_is_no_way_in(world: World, servers: Servers) -> None:
    """What nobody can come through does not count as what is left."""
    account = (await sign_in(world, "google")).json()
    assert (await link(world, "apple", account)).status_code == 204
    del world.site.node.providers._by_name["apple"]
    refused = await ask(world, "DELETE", "/me/identities/google", account)
    assert refused.json()["code"] == "last_identity"
    assert (await ask(world, "DELETE", "/me/identities/apple", account)).status_code == 204


async def test_a_claimed_address_is_no_way_in(world: World) -> None:
    """A password beside an address that was never proven may be somebody's elsewhere tomorrow: it does not count as what is left."""
    account = await world.member()
    assert (await link(world, "google", account)).status_code == 204
    await world.site.node.stores.pool.execute(
        "update identities set issuer = user_id::text where provider = 'EMAIL'"
    )
    refused = await ask(world, "DELETE", "/me/identities/google", account)
    assert refused.json()["code"] == "last_identity"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/me/identities"),
        ("POST", "/me/identities"),
        ("POST", "/me/identities/google"),
        ("DELETE", "/me/identities/google"),
        ("DELETE", "/me/identities/email"),
    ],
)
async def test_nobody(world: World, method: str, path: str) -> None:
    """Without an access token nothing is shown, added or taken away."""
    body = {"provider": "google", "id_token": "x", "nonce": "n" * 16} if method == "POST" else None
    answer = await world.site.client.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")


async def test_unlinking_apple_revokes_its_token(world: World) -> None:
    """Apple forgets that somebody was here; while it is away the token is kept, and revoked when it is back."""
    account = await world.member()
    assert (await link(world, "apple", account, code=world.apple.app_code(ADA))).status_code == 204
    (token,) = world.apple.refresh_tokens
    world.apple.status = 503
    assert (await ask(world, "DELETE", "/me/identities/apple", account)).status_code == 204
    await until(world, "select count(*) from jobs where kind = 'identity.revoke' and reason is not null", 1)
    assert world.apple.revoked == []
    world.apple.status = 200
    world.site.node.providers.find("apple")._outside.breaker.worked()
    await world.site.node.stores.pool.execute("update jobs set run_at = now()")
    await until(world, "select count(*) from provider_tokens", 0)
    assert world.apple.revoked == [token]


async def test_leaving_revokes_all_tokens(world: World) -> None:
    """In the transaction in which somebody leaves their tokens become nobody's, and are revoked after it, once."""
    account = (await sign_in(world, "apple", code=world.apple.app_code(ADA))).json()
    assert await world.sign_in("apple") == "/after#signed_in=apple"
    tokens = set(world.apple.refresh_tokens)
    assert len(tokens) == 2  # of the app, and of the web
    assert (await ask(world, "DELETE", "/me", account, {})).status_code == 204
    await until(world, "select count(*) from provider_tokens", 0)
    assert set(world.apple.revoked) == tokens
    assert len(world.apple.revoked) == 2
    assert await world.site.node.stores.pool.fetchval("select count(*) from identities") == 0


async def test_a_later_token_takes_the_place_of_the_first(world: World) -> None:
    """One token for each client is kept, the newest."""
    for _ in range(2):
        assert (await sign_in(world, "apple", code=world.apple.app_code(ADA))).status_code == 200
    both = await asyncio.gather(*(sign_in(world, "apple", code=world.apple.app_code(ADA)) for _ in range(2)))
    assert [one.status_code for one in both] == [200, 200]
    assert await world.site.node.stores.pool.fetchval("select count(*) from provider_tokens") == 1


async def test_what_is_kept_is_sealed(world: World) -> None:
    """Neither an address nor a token stands in the database, and both are sealed anew with everything else."""
    await sign_in(world, "apple", Someone("s", "secret@example.org"), code=world.apple.app_code(ADA))
    pool = world.site.node.stores.pool
    rows = [
        str(dict(row))
        for table in ("users", "identities", "provider_tokens", "spent_proofs", "jobs")
        for row in await pool.fetch(f"select * from {table}")
    ]
    text = "\n".join(rows)
    for secret in ("secret@example.org", *world.apple.refresh_tokens):
        assert secret not in text
    assert {"identities.sealed_address", "provider_tokens.sealed_token"} <= {one.name for one in SEALED}


async def test_spent_proofs_are_forgotten(world: World) -> None:
    """What has expired counts for nothing anyway."""
    assert (await sign_in(world, "google")).status_code == 200
    pool = world.site.node.stores.pool
    await forget_spent(pool)
    assert await pool.fetchval("select count(*) from spent_proofs") == 1
    await pool.execute("update spent_proofs set expires_at = now() - interval '1 second'")
    await forget_spent(pool)
    assert await pool.fetchval("select count(*) from spent_proofs") == 0


async def test_who_performs_it() -> None:
    """The job has its performer in every node."""
    assert kind_of(RevokeToken) in PERFORMERS


async def test_the_page_of_another_origin(world: World) -> None:
    """A foreign page can't begin to link anything."""
    account = await world.member()
    answer = await world.site.client.post(
        "/me/identities/google",
        json={},
        headers={"authorization": f"Bearer {account['access_token']}", "origin": "https://evil.example"},
    )
    assert answer.json()["code"] == "origin_refused"
    assert f"{HOME}/" not in answer.text
