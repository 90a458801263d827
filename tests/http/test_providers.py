"""Signing in with Google and Apple in a browser: what one gets, and every way in which somebody else might get it."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import urlencode

import httpx2
import pytest

from server.http.cookies import REFRESH
from storage.waitlist import invite
from tests.http.browser import HOME, Browser, Stopped
from tests.http.conftest import Servers
from tests.http.provider import WEB, Someone, rsa_key
from tests.http.serving import PASSWORD, serving
from tests.http.world import ADA, KINDS, World, a_world


async def test_what_is_offered(world: World, servers: Servers) -> None:
    """A page learns which buttons to show; without client ids there are none, and nothing is behind them."""
    answer = await world.site.client.get("/auth/providers")
    assert answer.json() == {
        "providers": [{"name": kind, "start": f"{HOME}/auth/{kind}/start"} for kind in KINDS]
    }
    async with serving(await servers.settings()) as bare:
        assert (await bare.client.get("/auth/providers")).json() == {"providers": []}
        for kind in (*KINDS, "myspace"):
            start = await bare.client.get(f"/auth/{kind}/start")
            back = await bare.client.get(f"/auth/{kind}/callback")
            device = await bare.post(f"/auth/{kind}/token", id_token="x", nonce="n" * 16)
            assert {one.json()["code"] for one in (start, back, device)} == {"not_found"}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_newcomer_and_the_second_time(world: World, kind: str) -> None:
    """The first time there is a new account with their name and address, the second time it is the same; a page is told so."""
    assert await world.sign_in(kind) == f"/after#signed_in={kind}"
    first = await world.me()
    assert first["name"] == "Ada Lovelace"
    other = Browser(world.site)
    world.browser = other
    assert await world.sign_in(kind) == f"/after#signed_in={kind}"
    assert (await world.me())["id"] == first["id"]
    assert await world.people() == 1
    row = await world.site.node.stores.pool.fetchrow("select * from identities")
    assert row is not None
    assert (row["issuer"], row["subject"]) == (world.of(kind).url, ADA.subject)
    assert "ada@example.org" not in f"{row['sealed_address']!r}{row['address_index']}".lower()


@pytest.mark.parametrize("kind", KINDS)
async def test_the_session_before(world: World, kind: str) -> None:
    """Whoever signs in anew in a browser ends the session that it had; one that only set out, or is linked, stays."""
    member = await world.member()
    signed_in = await world.browser.fetch("/auth/login", {"email": member["email"], "password": PASSWORD})
    token = signed_in.json()["access_token"]
    world.of(kind).cancels = True
    await world.sign_in(kind)
    assert (await world.site.me(token)).status_code == 200
    world.of(kind).cancels = False
    await world.sign_in(kind)
    assert (await world.site.me(token)).json()["code"] == "session_ended"
    first = (await world.browser.fetch("/auth/refresh", {})).json()["access_token"]
    kept = world.browser.kept[REFRESH]
    await world.sign_in(kind)
    assert (await world.site.me(first)).json()["code"] == "session_ended"
    assert world.browser.kept[REFRESH] != kept
    assert (await world.site.me(member["access_token"])).status_code == 200


@pytest.mark.parametrize("kind", KINDS)
async def test_what_the_browser_keeps(world: World, kind: str) -> None:
    """The cookie of the way there is gone afterwards; the refresh token is in one that no script reads, and in no address."""
    place = await world.sign_in(kind)
    assert set(world.browser.kept) == {REFRESH}
    value, same_site = world.browser.kept[REFRESH]
    assert same_site == "Strict"
    assert value not in place


async def test_the_cookies_of_the_way(world: World) -> None:
    """What Google's return needs goes along with a link, what Apple's needs with a form from another site; no longer than needed."""
    kept = {}
    for kind in KINDS:
        await world.begun(kind)
        kept[kind] = world.browser.kept[f"__Host-looprooms-{kind}"][1]
    assert kept == {"google": "Lax", "apple": "None"}


async def test_what_the_provider_is_told(world: World) -> None:
    """The address to come back to is the registered one, whatever the request says; nothing of ours is in it."""
    for kind in KINDS:
        _, told = await world.begun(kind)
        assert told["redirect_uri"] == f"{HOME}/auth/{kind}/callback"
        assert told["code_challenge_method"] == "S256"
        assert told["response_mode"] == {"google": "query", "apple": "form_post"}[kind]
        cookie = world.browser.kept[f"__Host-looprooms-{kind}"][0]
        assert not {told["state"], told["nonce"], told["code_challenge"]} & set(cookie.split("."))
    again = (await world.begun("google"))[1]
    assert again["state"] != (await world.begun("google"))[1]["state"]


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling(world: World, kind: str) -> None:
    """Who changes their mind is where they wanted to be, told so, and nobody has been made."""
    world.of(kind).cancels = True
    assert await world.sign_in(kind) == "/after#error=cancelled"
    assert REFRESH not in world.browser.kept
    assert await world.people() == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_wrong_state(world: World, kind: str) -> None:
    """A browser that comes back with another state than it left with gets no further, and what it began is still good."""
    code, right = await world.code(kind)
    for fields in ({}, {"state": ""}, {"state": "x"}, {"state": "é"}, {"state": right[:-1]}):
        with pytest.raises(Stopped) as stopped:
            await world.come_back(kind, code=code, **fields)
        answer = stopped.value.answer
        assert (answer.status_code, answer.json()["code"]) == (401, "sign_in_refused")
    assert await world.come_back(kind, code=code, state=right) == f"/#signed_in={kind}"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_browser_that_did_not_begin(world: World, kind: str) -> None:
    """Code and state of one browser are worth nothing in another: so nobody signs somebody in as themselves, or the reverse."""
    code, state = await world.code(kind)
    mine = world.browser.kept
    victim = Browser(world.site)
    world.browser = victim
    for begins in (False, True):
        if begins:
            await world.begun(kind)
        with pytest.raises(Stopped):
            await world.come_back(kind, code=code, state=state)
    assert REFRESH not in victim.kept
    victim.kept = mine
    assert await world.come_back(kind, code=code, state=state) == f"/#signed_in={kind}"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_code_of_another_sign_in(world: World, kind: str) -> None:
    """A stolen code with one's own state: the verifier of PKCE does not fit, and nobody is signed in."""
    stolen, _ = await world.code(kind, Someone("victim"))
    world.browser = Browser(world.site)
    _, own = await world.code(kind, Someone("thief"))
    assert await world.come_back(kind, code=stolen, state=own) == "/#error=sign_in_refused"
    assert await world.people() == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_code_twice(world: World, kind: str) -> None:
    """A return counts once: the browser has let go of its cookie, the provider of the code, and we remember what was finished."""
    code, state = await world.code(kind)
    cookies = dict(world.browser.kept)
    assert await world.come_back(kind, code=code, state=state) == f"/#signed_in={kind}"
    with pytest.raises(Stopped):
        await world.come_back(kind, code=code, state=state)
    world.browser.kept = dict(cookies)
    assert await world.come_back(kind, code=code, state=state) == "/#error=sign_in_refused"
    world.browser.kept = dict(cookies)
    world.of(kind).codes[code].used = False  # a provider that takes it twice
    assert await world.come_back(kind, code=code, state=state) == "/#error=sign_in_refused"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_id_token_that_does_not_fit(world: World, kind: str) -> None:
    """For another client, another sign-in, another time, or of another issuer, it proves nothing."""
    wrong: list[dict[str, Any]] = [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "another-client"},
        {"aud": [WEB, "another-client"]},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"exp": 1},
        {"exp": None},
        {"iat": 2**40},
        {"sub": None},
        {"sub": ""},
        {"sub": "s" * 256},
        {"sub": 7},
    ]
    for claims in wrong:
        world.of(kind).claims = claims
        assert await world.sign_in(kind) == "/after#error=sign_in_refused", claims
    assert await world.people() == 0
    world.of(kind).claims = {}
    assert await world.sign_in(kind) == f"/after#signed_in={kind}"


async def test_where_one_may_go_afterwards(world: World) -> None:
    """To a path, or to a page of an allowed origin; nobody is sent to a stranger's page by our address."""
    for then, where in (
        ("/", "/"),
        ("/rooms/calm?tab=1", "/rooms/calm?tab=1"),
        (f"{HOME}/rooms", "/rooms"),
    ):
        assert await world.sign_in("google", then=then) == f"{where}#signed_in=google"
    for then in (
        "//evil.example",
        "/\\evil.example",
        "https://evil.example/",
        f"{HOME}.evil.example/",
        f"{HOME}@evil.example/",
        "javascript:alert(1)",
        "rooms",
        "",
        "/a#b",
        "/a\r\nset-cookie: x=y",
        "/" + "a" * 500,
        "/é",
    ):
        answer = await world.site.client.get("/auth/google/start", params={"then": then})
        assert (answer.status_code, answer.json()["path"]) == (422, "$.then"), then
        assert "set-cookie" not in answer.headers


async def test_the_return_address_is_exact(world: World) -> None:
    """Nothing but the one path takes a return, and by its own method; twice the same field is nobody's."""
    for path in ("/auth/google/callback/x", "/auth/google/callback/", "/auth/google/callbackx"):
        assert (await world.site.client.get(path)).status_code == 404
    assert (await world.site.client.get("/auth/apple/callback")).json()["code"] == "not_found"
    code, state = await world.code("google")
    with pytest.raises(Stopped):
        await world.browser.visit(
            f"{HOME}/auth/google/callback?state={state}&code=x&code={code}", from_elsewhere=True
        )


async def test_who_may_post_across_sites(world: World) -> None:
    """Apple's page may, and one that hides its origin; no other may, nor may Apple's post anywhere else."""
    headers = {"content-type": "application/x-www-form-urlencoded"}

    async def post(path: str, origin: str) -> httpx2.Response:
        return await world.site.client.post(path, content=b"", headers={**headers, "origin": origin})

    for origin in (world.apple.url, "null"):
        answer = await post("/auth/apple/callback", origin)
        assert answer.json()["code"] == "sign_in_refused"
        assert "access-control-allow-origin" not in answer.headers
        for path in ("/auth/refresh", "/auth/google/callback", "/auth/apple/token"):
            assert (await post(path, origin)).json()["code"] == "origin_refused"
    assert (await post("/auth/apple/callback", "https://evil.example")).json()["code"] == "origin_refused"


async def test_apples_name_comes_once(world: World) -> None:
    """What Apple says only the first time is not lost when that time fails; and it is a name, whatever it contains."""
    world.apple.claims = {"nonce": "wrong"}
    assert await world.sign_in("apple") == "/after#error=sign_in_refused"
    world.apple.claims = {}
    assert await world.sign_in("apple") == "/after#signed_in=apple"
    assert (await world.me())["name"] == "Ada Lovelace"


async def test_without_a_name(world: World) -> None:
    """Who tells no name gets one that says nothing about them."""
    assert await world.sign_in("apple", Someone("quiet", "quiet@example.org")) == "/after#signed_in=apple"
    assert (await world.me())["name"] == "New member"


async def test_what_is_posted_as_somebody_proves_nothing(world: World) -> None:
    """The form that Apple posts is not signed: an address in it is nobody's, a broken one is no error."""
    registered = await world.member()
    code, state = await world.code("apple", Someone("thief"))
    user = f'{{"name":{{"firstName":"\\u202eA","lastName":"B"}},"email":"{registered["email"]}"}}'
    assert await world.come_back("apple", code=code, state=state, user=user) == "/#signed_in=apple"
    me = await world.me()
    assert (me["name"], me["email"]) == ("A B", None)
    assert me["id"] != registered["user"]["id"]
    for number, user in enumerate(("{", "[" * 1900, '{"name":7}', '{"name":null}', "x" * 3000)):
        code, state = await world.code("apple", Someone(f"broken {number}"))
        assert await world.come_back("apple", code=code, state=state, user=user) == "/#signed_in=apple"


async def test_apples_client_secret(world: World) -> None:
    """It is signed once and used again, and good for a day."""
    for number in range(3):
        assert (await world.sign_in("apple", Someone(f"s{number}"))) == "/after#signed_in=apple"
    assert len(world.apple.client_secrets) == 1


async def test_google_rotates_its_keys(world: World) -> None:
    """A token of a key that we don't know yet causes a fetch, when the last one is long enough ago."""
    assert await world.sign_in("google") == "/after#signed_in=google"
    world.google.keys = {"two": rsa_key(2)}
    assert await world.sign_in("google") == "/after#error=sign_in_refused"
    world.site.node.providers.find("google").keys._next_at = 0.0
    assert await world.sign_in("google") == "/after#signed_in=google"
    assert world.google.fetches() == 2


async def test_a_provider_that_is_broken(world: World) -> None:
    """It is said to be away, not the person to be wrong; and it works again when it does."""
    world.google.status = 503
    assert await world.sign_in("google") == "/after#error=unavailable"
    world.google.status = 200
    assert await world.sign_in("google") == "/after#signed_in=google"


async def test_one_account_for_two_at_once(world: World) -> None:
    """Two browsers with the same new identity end in one account."""
    codes = []
    for _ in range(4):
        world.browser = Browser(world.site)
        codes.append((world.browser, *await world.code("google")))

    async def finish(browser: Browser, code: str, state: str) -> str:
        query = urlencode({"code": code, "state": state})
        return await browser.visit(f"{HOME}/auth/google/callback?{query}", from_elsewhere=True)

    places = await asyncio.gather(*(finish(*one) for one in codes))
    assert set(places) == {"/#signed_in=google"}
    assert await world.people() == 1


async def test_a_banned_person(world: World) -> None:
    """Who is banned stays out, whichever way they come."""
    await world.sign_in("google")
    await world.site.node.stores.pool.execute("update users set banned_at = now()")
    world.browser = Browser(world.site)
    assert await world.sign_in("google") == "/after#error=forbidden"
    assert REFRESH not in world.browser.kept


async def test_an_address_that_has_an_account(world: World) -> None:
    """Pre-hijacking, and its reverse: an address lets nobody in and links nothing; one is told to prove the account first."""
    mine = await world.member()
    them = Someone("them", mine["email"].upper(), name="Them")
    for kind in KINDS:
        assert await world.sign_in(kind, them) == "/after#error=account_exists"
        assert REFRESH not in world.browser.kept
    assert await world.people() == 1
    signed_in = await world.site.post("/auth/login", email=mine["email"], password=PASSWORD)
    assert signed_in.status_code == 200


async def test_an_address_that_is_not_verified(world: World) -> None:
    """Without the provider's word for it an address is nobody's: it tells nothing, and stands in nobody's way."""
    mine = await world.member()
    for kind in KINDS:
        someone = Someone(f"unverified at {kind}", mine["email"], verified=False)
        assert await world.sign_in(kind, someone) == f"/after#signed_in={kind}"
        assert (await world.me())["email"] is None
    assert await world.people() == 3


async def test_a_provider_that_hangs(world: World) -> None:
    """Sign-ins at it are told after the deadline, later ones at once; nobody else notices, health does not even ask."""
    google = world.site.node.providers.find("google")
    outside = google._outside
    outside.gate.seconds = 0.3
    world.google.answering.clear()
    tokens = [world.google.id_token(Someone(f"{number}"), nonce="x") for number in range(20)]
    hanging = asyncio.gather(
        *(world.site.post("/auth/google/token", id_token=token, nonce="n" * 16) for token in tokens)
    )
    account = await world.member()
    for path in ("/health/live", "/health/ready"):
        assert (await world.site.client.get(path)).status_code == 200
    assert (await world.site.me(account["access_token"])).status_code == 200
    assert await world.sign_in("apple") == "/after#signed_in=apple"
    for answer in await hanging:
        assert answer.json()["code"] == "unavailable"
    assert outside.asked == 1  # for the keys, once for all
    for asked in (2, 3, 3, 3):
        assert await world.sign_in("google") == "/after#error=unavailable"
        assert outside.asked == asked
    metrics = (await world.site.client.get("/metrics")).text
    assert re.search(r'provider_away\{.*provider="google".*\} 1', metrics)
    assert re.search(r'provider_away\{.*provider="apple".*\} 0', metrics)
    world.google.answering.set()
    outside.breaker._opens_at = google.keys._next_at = 0.0  # a while later
    assert await world.sign_in("google", Someone("patient")) == "/after#signed_in=google"


async def test_who_is_invited(servers: Servers) -> None:
    """Where one needs an invitation, a provider's word for an invited address is one, once; whoever has an account comes in."""
    async with a_world(servers, LOOPROOMS_REGISTRATION="invited") as world:
        assert await world.sign_in("google") == "/after#error=invitation_required"
        stores = world.site.node.stores
        await invite(stores.pool, stores.sealer, "ada@example.org")
        unverified = Someone("x", "ada@example.org", verified=False)
        assert await world.sign_in("google", unverified) == "/after#error=invitation_required"
        assert await world.sign_in("google") == "/after#signed_in=google"
        assert await world.sign_in("google") == "/after#signed_in=google"
        assert (
            await world.sign_in("apple", Someone("y", "eve@example.org"))
            == "/after#error=invitation_required"
        )
        assert await world.people() == 1
        assert await stores.pool.fetchval("select count(*) from waitlist") == 0
