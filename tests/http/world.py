"""A node that offers both providers, stand-ins for them, and a browser in which somebody goes back and forth."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from tests.http.browser import HOME, Browser, Stopped
from tests.http.provider import (
    APP,
    KEY_ID,
    SECRET,
    TEAM,
    WEB,
    Someone,
    StandIn,
    apple_client_key,
    pem,
    standing_in,
)
from tests.http.serving import Site, serving

if TYPE_CHECKING:
    from tests.http.conftest import Servers

ADA = Someone("ada-at-the-provider", "Ada@Example.org", name="Ada Lovelace")
KINDS = ["google", "apple"]


@dataclass
class World:
    """A node that offers both providers, and somebody's browser."""

    site: Site
    google: StandIn
    apple: StandIn
    browser: Browser

    def of(self, kind: str) -> StandIn:
        """Return the stand-in of that kind."""
        return self.apple if kind == "apple" else self.google

    async def sign_in(self, kind: str, someone: Someone = ADA, then: str = "/after") -> str:
        """Click on the button, as somebody who is signed in there; return where one ends."""
        self.of(kind).someone = someone
        return await self.browser.visit(f"{HOME}/auth/{kind}/start?{urlencode({'then': then})}")

    async def me(self) -> dict[str, Any]:
        """Renew what the browser keeps, and ask who one is."""
        renewed = await self.browser.fetch("/auth/refresh", {})
        assert renewed.status_code == 200, renewed.text
        return dict((await self.site.me(renewed.json()["access_token"])).json())

    async def begun(self, kind: str) -> tuple[str, dict[str, str]]:
        """Begin in the browser, without going there: return the provider's address and what it is told."""
        answer = await self.browser._ours("GET", f"{HOME}/auth/{kind}/start", None, from_elsewhere=False)
        address, _, query = answer.headers["location"].partition("?")
        return address, dict(parse_qsl(query))

    async def code(self, kind: str, someone: Someone = ADA) -> tuple[str, str]:
        """Begin in the browser and be given a code, which the browser has not brought back: return it and the state."""
        self.of(kind).someone = someone
        address, told = await self.begun(kind)
        before = set(self.of(kind).codes)
        await self.browser._theirs(f"{address}?{urlencode(told)}")
        (code,) = set(self.of(kind).codes) - before
        return code, told["state"]

    async def come_back(self, kind: str, **fields: str) -> str:
        """Have the browser come back from there with these fields; return where it ends."""
        if kind == "google":
            return await self.browser.visit(
                f"{HOME}/auth/google/callback?{urlencode(fields)}", from_elsewhere=True
            )
        answer = await self.browser._ours("POST", f"{HOME}/auth/apple/callback", fields, from_elsewhere=True)
        if not answer.is_redirect:
            raise Stopped(answer)
        return str(answer.headers["location"])

    async def member(self) -> dict[str, Any]:
        """Make an account with a password, whose address is proven."""
        account = await self.site.register()
        await self.site.node.stores.pool.execute(
            "update identities set issuer = '' where provider = 'EMAIL' and user_id = $1",
            account["user"]["id"],
        )
        return account

    async def people(self) -> int:
        """Count the accounts."""
        return int(await self.site.node.stores.pool.fetchval("select count(*) from users"))


@asynccontextmanager
async def a_world(servers: Servers, **variables: str) -> AsyncIterator[World]:
    """Run it all."""
    async with (
        standing_in("google", f"{HOME}/auth/google/callback") as google,
        standing_in("apple", f"{HOME}/auth/apple/callback") as apple,
    ):
        chosen = {
            "LOOPROOMS_PUBLIC_URL": HOME,
            "LOOPROOMS_LIMITS_FACTOR": "1000",
            "LOOPROOMS_GOOGLE_CLIENT_ID": WEB,
            "LOOPROOMS_GOOGLE_CLIENT_SECRET": SECRET,
            "LOOPROOMS_GOOGLE_APP_IDS": APP,
            "LOOPROOMS_GOOGLE_URL": google.url,
            "LOOPROOMS_APPLE_CLIENT_ID": WEB,
            "LOOPROOMS_APPLE_TEAM_ID": TEAM,
            "LOOPROOMS_APPLE_KEY_ID": KEY_ID,
            "LOOPROOMS_APPLE_PRIVATE_KEY": pem(apple_client_key()),
            "LOOPROOMS_APPLE_APP_IDS": APP,
            "LOOPROOMS_APPLE_URL": apple.url,
        }
        async with serving(await servers.settings(**chosen | variables)) as site:
            yield World(site, google, apple, Browser(site))
