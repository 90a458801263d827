"""A browser as far as cookies and redirects go: it keeps them as the standard says, and sends them as the site allows."""

from __future__ import annotations

from collections.abc import Mapping
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from urllib.parse import urlsplit

import httpx2

from tests.http.serving import Site

HOME = "https://rooms.example.org"
MOST_STEPS = 10


class _Form(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take the address of the form, and its fields."""
        found = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.action = found["action"]
        elif tag == "input":
            self.fields[found["name"]] = found["value"]


class Browser:
    """Somebody's browser. Our site is at `HOME` for it; everything else is where it says."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.kept: dict[str, tuple[str, str]] = {}
        """Cookies of our site: value and SameSite, by name."""

    async def visit(self, address: str, *, from_elsewhere: bool = False) -> str:
        """Go to an address, as by clicking on a link; follow where it leads, and return the page of ours where that ends.

        Raises `Stopped` when it ends anywhere else.
        """
        method, form = "GET", None
        for _ in range(MOST_STEPS):
            ours = address.startswith(f"{HOME}/")
            if ours and not address.startswith(f"{HOME}/auth/"):
                return address.removeprefix(HOME)
            answer = await (
                self._ours(method, address, form, from_elsewhere=from_elsewhere)
                if ours
                else self._theirs(address)
            )
            if answer.is_redirect:
                address, method, form = answer.headers["location"], "GET", None
                address = f"{HOME}{address}" if address.startswith("/") else address
            elif not ours and "<form" in answer.text:
                page = _Form()
                page.feed(answer.text)
                address, method, form = page.action, "POST", page.fields
            else:
                raise Stopped(answer)
            from_elsewhere = from_elsewhere or not ours
        raise AssertionError("redirected without end")

    async def fetch(self, path: str, body: Mapping[str, object], *, token: str = "") -> httpx2.Response:
        """Send a request from a page of ours, as its script does."""
        headers = {"origin": HOME, **({"authorization": f"Bearer {token}"} if token else {})}
        headers["cookie"] = self._cookies(frozenset(("Strict", "Lax", "None")))
        return self._took(await self._site.client.post(path, json=body, headers=headers))

    async def _ours(
        self, method: str, address: str, form: Mapping[str, str] | None, *, from_elsewhere: bool
    ) -> httpx2.Response:
        allowed = {"Strict", "Lax", "None"}
        if from_elsewhere:
            allowed = {"Lax", "None"} if method == "GET" else {"None"}
        headers = {"cookie": self._cookies(frozenset(allowed)), "host": urlsplit(HOME).netloc}
        if method == "POST":
            headers["origin"] = "null"
        path = address.removeprefix(HOME)
        return self._took(await self._site.client.request(method, path, data=form, headers=headers))

    async def _theirs(self, address: str) -> httpx2.Response:
        async with httpx2.AsyncClient() as client:
            return await client.get(address)

    def _cookies(self, allowed: frozenset[str]) -> str:
        return "; ".join(
            f"{name}={value}" for name, (value, same_site) in self.kept.items() if same_site in allowed
        )

    def _took(self, answer: httpx2.Response) -> httpx2.Response:
        self._site.client.cookies.clear()
        for header in answer.headers.get_list("set-cookie"):
            for name, morsel in SimpleCookie(header).items():
                assert name.startswith("__Host-")
                assert morsel["secure"]
                assert morsel["path"] == "/"
                assert not morsel["domain"]
                if morsel["max-age"] == "0":
                    self.kept.pop(name, None)
                else:
                    self.kept[name] = (morsel.value, morsel["samesite"])
        return answer


class Stopped(Exception):  # noqa: N818 - the browser shows what it got
    """The way ended at an answer that leads nowhere."""

    def __init__(self, answer: httpx2.Response) -> None:
        super().__init__(f"{answer.status_code} {answer.text}")
        self.answer = answer
