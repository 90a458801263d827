"""The page at `/`: it is whole, and a newcomer finds what this server offers them."""

from __future__ import annotations

import re

import pytest

from tests.http.conftest import Servers
from tests.http.serving import Site, serving
from tests.http.test_page import Outline


async def test_the_page(standing: Site) -> None:
    """It needs nothing from elsewhere and nothing inline, and has all that its script looks for."""
    page = await standing.client.get("/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    outline = Outline()
    outline.feed(page.text)
    assert outline.open == []
    assert outline.inline == []
    assert sorted(outline.loaded) == ["/home.css", "/home.js"]
    scripts = ""
    for path in (*outline.loaded, "/live.js"):
        answer = await standing.client.get(path)
        assert answer.status_code == 200
        words = ("https://", "@import", "eval(", "innerHTML", "localStorage", "sessionStorage", "cookie =")
        assert not any(word in answer.text for word in words), path
        scripts += answer.text if path.endswith("js") else ""
    used = set(re.findall(r'\bat\("([a-z-]+)"\)', scripts)) | set(re.findall(r'\bon\("([a-z-]+)"', scripts))
    assert used - set(outline.ids) == {"place"}  # of where one is invited


@pytest.mark.parametrize(("registration", "form"), [("open", "register"), ("invited", "place")])
async def test_who_may_come(servers: Servers, registration: str, form: str) -> None:
    """Where one comes in by invitation the page offers a place on the waitlist instead."""
    async with serving(await servers.settings(LOOPROOMS_REGISTRATION=registration)) as site:
        page = (await site.client.get("/")).text
    assert re.findall(r"<form id=\"(register|place)\"", page) == [form]


async def test_the_icon(standing: Site) -> None:
    """A browser that asks for the icon of a page gets one."""
    answer = await standing.client.get("/favicon.ico")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")
