"""The page shows everything that the documents say, and needs nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from protocol.closing import CloseCode
from protocol.contract import ANSWERS, COMMANDS, EVENTS, tag_of
from protocol.refusals import ErrorCode
from tests.http.serving import Site


@pytest.fixture
def site(standing: Site) -> Site:
    """Share a node."""
    return standing


@pytest.fixture
async def page(site: Site) -> str:
    """Fetch the page."""
    return (await site.client.get("/docs")).text


class Outline(HTMLParser):
    """Collects what a page refers to, and checks that its tags are closed in order."""

    VOID = frozenset({"meta", "link", "input", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a" and values["href"].startswith("#"):
            self.anchors.add(values["href"][1:])
        if "src" in values:
            self.loaded.append(values["src"])
        if tag == "link":
            self.loaded.append(values["href"])
        self.inline += [name for name in values if name == "style" or name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.inline.append(data)


async def test_page(site: Site, page: str) -> None:
    """The page is whole: each link leads somewhere on it, no id comes twice, nothing is inline or from elsewhere."""
    outline = Outline()
    outline.feed(page)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.anchors <= set(outline.ids)
    assert outline.inline == []
    assert sorted(outline.loaded) == ["/docs.css", "/docs.js"]
    for path in outline.loaded:
        answer = await site.client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(("text/css", "text/javascript"))
        assert not re.search(r"https?://|@import|eval\(|innerHTML", answer.text)


async def test_page_shows_everything(site: Site, page: str) -> None:
    """Every path, every message and every code is on the page."""
    described = (await site.client.get("/openapi.json")).json()
    for path, methods in described["paths"].items():
        for method in methods:
            assert f"{method.upper()} {path}<" in page
    for tag in [tag_of(kind) for kind in (*COMMANDS, *ANSWERS, *EVENTS)]:
        assert page.count(f"id='ws-{tag}'") == 1, tag
    for code in ErrorCode:
        assert f"id='{code.value}'" in page
    for close in CloseCode:
        assert f"<code>{close.value}</code>" in page


async def test_page_allows_nothing_else(site: Site) -> None:
    """A strict policy: own style and script, nothing inline, no frames."""
    for path in ("/docs", "/"):
        policy = (await site.client.get(path)).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
