"""Cookies as they are written and read."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from protocol.refusals import Refused
from server.http.cookies import cookie, from_page, kept, no_cookie, only_from_page


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
