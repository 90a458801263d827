"""What a sign-in gives to a page: a refresh token that only its browser has, and that counts only for that page."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http.cookies import SimpleCookie
from typing import Any

import httpx2
import pytest

from protocol.closing import CloseCode
from server.http.cookies import REFRESH
from server.http.grants import REPEAT_SECONDS
from tests.http.conftest import Servers
from tests.http.serving import PASSWORD, Site, serving
from tests.http.test_families import hello

ORIGIN = "http://127.0.0.1:8000"
EVIL = ["https://evil.example", "null", f"{ORIGIN}.evil.example", "http://127.0.0.1:8001", ORIGIN.upper(), ""]
PAGE = {"origin": ORIGIN}


def cookie_of(answer: httpx2.Response) -> str:
    """Return the refresh token that an answer has the browser keep."""
    found = SimpleCookie(answer.headers["set-cookie"])
    return found[REFRESH].value


def browser(token: str | None, **headers: str) -> dict[str, str]:
    """Return the headers of a browser that keeps `token`, on our page unless told otherwise."""
    kept = {} if token is None else {"cookie": f"theme=dark; {REFRESH}={token}"}
    return {**PAGE, **kept, **headers}


async def post(
    site: Site, path: str, headers: Mapping[str, str], body: dict[str, Any] | None = None
) -> httpx2.Response:
    """Send a JSON body with headers, and none of the client's own cookies."""
    site.client.cookies.clear()
    return await site.client.post(path, json=body or {}, headers=dict(headers))


async def page(site: Site) -> tuple[dict[str, Any], str]:
    """Make an account in a page; return what the page sees, and what its browser keeps."""
    site.number += 1
    body = {"email": f"page{site.number}@example.org", "password": PASSWORD, "name": "Page"}
    answer = await post(site, "/auth/register", PAGE, body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json()) | {"email": body["email"]}, cookie_of(answer)


async def test_a_page_never_sees_the_refresh_token(site: Site) -> None:
    """It is in no body, whatever gives it: only in a cookie that no script reads and no other host can set."""
    account, kept = await page(site)
    signed_in = await post(
        site, "/auth/login", browser(None), {"email": account["email"], "password": PASSWORD}
    )
    renewed = await post(site, "/auth/refresh", browser(kept))
    for answer in (signed_in, renewed):
        assert answer.status_code == 200, answer.text
        assert answer.json()["refresh_token"] is None
        assert cookie_of(answer) not in answer.text
        header = answer.headers["set-cookie"]
        assert header.startswith("__Host-looprooms-refresh=")
        assert header.partition("; ")[2] == "Max-Age=2592000; Path=/; Secure; HttpOnly; SameSite=Strict"
    assert account["refresh_token"] is None
    assert (await site.me(renewed.json()["access_token"])).status_code == 200


async def test_a_client_that_is_no_browser_has_it_in_the_body(site: Site) -> None:
    """Without an Origin there is no cookie, and none is needed."""
    account = await site.register()
    renewed = await site.post("/auth/refresh", refresh_token=account["refresh_token"])
    assert isinstance(renewed.json()["refresh_token"], str)
    assert "set-cookie" not in renewed.headers


async def test_a_page_renews_again_and_again(site: Site) -> None:
    """Each renewal replaces the cookie; two tabs at once get the same one."""
    _, kept = await page(site)
    both = await asyncio.gather(*(post(site, "/auth/refresh", browser(kept)) for _ in range(2)))
    assert cookie_of(both[0]) == cookie_of(both[1]) != kept
    again = await post(site, "/auth/refresh", browser(cookie_of(both[0])))
    assert again.status_code == 200
    assert await site.node.stores.pool.fetchval("select count(*) from sessions") == 1


async def test_a_copied_cookie_ends_the_session(site: Site) -> None:
    """The rules of the family are those of any refresh token."""
    _, kept = await page(site)
    await post(site, "/auth/refresh", browser(kept))
    await site.node.stores.pool.execute(
        "update refresh_tokens set replaced_at = replaced_at - make_interval(secs => $1)", REPEAT_SECONDS + 1
    )
    assert (await post(site, "/auth/refresh", browser(kept))).json()["code"] == "session_ended"


@pytest.mark.parametrize("origin", EVIL)
@pytest.mark.parametrize("path", ["/auth/refresh", "/auth/logout"])
async def test_a_foreign_page_can_not_use_the_cookie(site: Site, path: str, origin: str) -> None:
    """Whatever a foreign page has the browser send is refused, can't be read there, and changes nothing."""
    account, kept = await page(site)
    answer = await post(site, path, browser(kept, origin=origin))
    assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")
    assert "access-control-allow-origin" not in answer.headers
    assert "access-control-allow-credentials" not in answer.headers
    assert "set-cookie" not in answer.headers
    assert (await site.me(account["access_token"])).status_code == 200
    assert (await post(site, "/auth/refresh", browser(kept))).status_code == 200


@pytest.mark.parametrize("path", ["/auth/refresh", "/auth/logout"])
async def test_a_cookie_without_an_origin_is_refused(site: Site, path: str) -> None:
    """What can't be told to be our page is treated as if it were not."""
    account, kept = await page(site)
    headers = browser(kept)
    del headers["origin"]
    answer = await post(site, path, headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")
    assert (await site.me(account["access_token"])).status_code == 200


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data"])
async def test_a_form_can_not_use_the_cookie(site: Site, kind: str) -> None:
    """What a page can send without being asked for its origin first is no request of ours, even from our own page."""
    _, kept = await page(site)
    answer = await site.client.post(
        "/auth/refresh", content=b"{}", headers=browser(kept) | {"content-type": kind}
    )
    assert (answer.status_code, answer.json()["code"]) == (415, "media_type_refused")


async def test_signing_out(site: Site) -> None:
    """The session ends, its connections close, the cookie goes; again it is no error."""
    account, kept = await page(site)
    connection = await hello(site, account)
    for token in (kept, kept, None):
        answer = await post(site, "/auth/logout", browser(token))
        assert (answer.status_code, answer.content) == (204, b"")
        assert answer.headers["set-cookie"].startswith("__Host-looprooms-refresh=; Max-Age=0; Path=/; Secure")
    async with asyncio.timeout(1):
        await connection.wait_closed()
    assert connection.close_code == CloseCode.SESSION_ENDED
    assert (await post(site, "/auth/refresh", browser(kept))).json()["code"] == "session_ended"


async def test_one_session_per_browser(site: Site) -> None:
    """Who signs in anew in the same browser leaves no session behind that nobody could use."""
    account, kept = await page(site)
    body = {"email": account["email"], "password": PASSWORD}
    answer = await post(site, "/auth/login", browser(kept), body)
    assert answer.status_code == 200
    assert (await site.me(account["access_token"])).json()["code"] == "session_ended"
    assert (await site.me(answer.json()["access_token"])).status_code == 200
    wrong = await post(site, "/auth/login", browser(cookie_of(answer)), body | {"password": "not this one"})
    assert wrong.status_code == 401
    assert (await site.me(answer.json()["access_token"])).status_code == 200


async def test_nothing_kept(site: Site) -> None:
    """A page without a cookie is told to sign in; another client, to send its token."""
    for headers in (browser(None), browser("x" * 43), browser("a") | {"cookie": f"{REFRESH}=a; {REFRESH}=b"}):
        answer = await post(site, "/auth/refresh", headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
    for path in ("/auth/refresh", "/auth/logout"):
        answer = await post(site, path, {})
        assert (answer.json()["code"], answer.json()["path"]) == ("invalid", "$.refresh_token")


async def test_the_body_goes_first(site: Site) -> None:
    """A token in the body is answered in the body, whatever the browser keeps."""
    _, kept = await page(site)
    native = await site.register()
    answer = await post(site, "/auth/refresh", browser(kept), {"refresh_token": native["refresh_token"]})
    assert isinstance(answer.json()["refresh_token"], str)
    assert "set-cookie" not in answer.headers


async def test_the_origins_of_the_settings(servers: Servers) -> None:
    """With a list of one's own, the pages on it are the only ones, and each is answered by its name."""
    settings = await servers.settings(LOOPROOMS_ALLOWED_ORIGINS="https://app.example.org")
    async with serving(settings) as site:
        body = {"email": "a@example.org", "password": PASSWORD, "name": "A"}
        ours = {"origin": "https://app.example.org"}
        answer = await post(site, "/auth/register", ours, body)
        assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
        assert answer.headers["access-control-allow-credentials"] == "true"
        kept = cookie_of(answer)
        assert (await post(site, "/auth/refresh", browser(kept))).status_code == 403
        assert (await post(site, "/auth/refresh", browser(kept, **ours))).status_code == 200
