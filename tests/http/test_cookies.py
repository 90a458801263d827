"""Cookies as they are written and read."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import Request

from protocol.refusals import Refused
from server.http.cookies import REFRESH, cookie, from_page, kept, no_cookie, only_from_page
from tests.http.serving import PASSWORD, Site


def request(*headers: tuple[str, str]) -> Request:
    """Make a request that has these headers and nothing else."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return Request({"type": "http", "headers": raw})


def test_what_a_browser_is_told() -> None:
    """Every cookie is of this host alone, for all paths, out of reach of scripts and of plain connections."""
    assert cookie("__Host-a", "b", seconds=1.9) == (
        "__Host-a=b; Max-Age=1; Path=/; Secure; HttpOnly; SameSite=Strict"
    )
    assert no_cookie("__Host-a", same_site="None") == (
        "__Host-a=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=None"
    )


@pytest.mark.parametrize("value", ["", "a;b", "a b", "a,b", 'a"b', "a\r\nset-cookie: c=d", "é", "a" * 4096])
def test_what_is_no_value(value: str) -> None:
    """Nothing that could end the cookie, or begin another header, gets into one."""
    with pytest.raises(AssertionError):
        cookie("__Host-a", value, seconds=1)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], None),
        ([("cookie", "")], None),
        ([("cookie", "name=value")], "value"),
        ([("cookie", "a=b; name=value;c=d")], "value"),
        ([("cookie", "a=b"), ("cookie", "name=value")], "value"),
        ([("cookie", "other=value")], None),
        ([("cookie", "xname=value")], None),
        ([("cookie", "Name=value")], None),
        ([("cookie", "name")], None),
        ([("cookie", "name=")], None),
        ([("cookie", 'name="value"')], None),
        ([("cookie", "name=val ue")], None),
        ([("cookie", "name=a; name=b")], None),
        ([("cookie", "name=a"), ("cookie", "name=a")], None),
    ],
)
def test_what_is_kept(headers: list[tuple[str, str]], expected: str | None) -> None:
    """One value of the very name; of two nobody knows which is ours."""
    assert kept(request(*headers), "name") == expected


def test_who_may_use_one() -> None:
    """A request without an Origin is of no page."""
    page, other = request(("origin", "http://localhost:8000")), request()
    assert from_page(page)
    only_from_page(page)
    assert not from_page(other)
    with pytest.raises(Refused):
        only_from_page(other)


@pytest.mark.parametrize(
    "origin", [None, "null", "https://evil.example", "http://127.0.0.1.evil.example", ""]
)
async def test_no_other_site_does_anything_with_one(standing: Site, origin: str | None) -> None:
    """Whatever a foreign page has a browser send along with its cookie, to every operation: nothing is done, nothing is given."""
    home = standing.node.settings.allowed_origins[0]
    account = {"email": f"cookies{abs(hash(origin))}@example.org", "password": PASSWORD, "name": "Ada"}
    came = await standing.client.post("/auth/register", json=account, headers={"origin": home})
    token, value = came.json()["access_token"], came.cookies[REFRESH]
    standing.client.cookies.clear()
    headers = {"cookie": f"{REFRESH}={value}"} | ({} if origin is None else {"origin": origin})
    described = (await standing.client.get("/openapi.json")).json()["paths"]
    sent = 0
    for path, methods in described.items():
        for method in methods:
            if method == "get" and "start" not in path:
                continue
            sent += 1
            bodies: tuple[dict[str, Any], ...] = ({"json": {}}, {"data": {"then": "/"}})
            for body in bodies:
                answer = await standing.client.request(
                    method,
                    path.replace("{", "").replace("}", ""),
                    headers=headers,
                    **({} if method in ("get", "delete") else body),
                )
                assert answer.status_code >= 400, (method, path)
                assert REFRESH not in answer.headers.get("set-cookie", ""), (method, path)
    assert sent > 20
    assert (await standing.me(token)).status_code == 200
    renewed = await standing.client.post("/auth/refresh", json={}, headers={**headers, "origin": home})
    assert renewed.status_code == 200
