"""One server for all journeys, with everything that it leads to: a mailbox, Google, and a provider of pretend money."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from server.gateways.standin.standin import StandIn as PretendStripe
from server.gateways.standin.standin import serving as pretending
from server.passwords import Passwords
from storage.demo import add_demo
from tests.browser.chromium import Chromium, Page, Person, browsing, chromium
from tests.hosting import make_room
from tests.http.conftest import Servers, servers
from tests.http.provider import SECRET, WEB, StandIn, standing_in
from tests.http.serving import PASSWORD, Site, serving
from tests.nodes.cluster import free_port
from tests.postbox import Postbox, postbox
from tests.shop import KEY
from tests.shop import SECRET as SIGNED_WITH

__all__ = ["servers"]  # a fixture


@dataclass
class House:
    """The server, and who it speaks to."""

    site: Site
    box: Postbox
    google: StandIn
    home: str


@pytest.fixture(scope="session")
async def house(servers: Servers) -> AsyncIterator[House]:
    """Run it all."""
    port = free_port()
    home = f"http://127.0.0.1:{port}"
    money = PretendStripe(f"{home}/payments/webhook", key=KEY, secret=SIGNED_WITH)
    async with (
        postbox() as box,
        standing_in("google", f"{home}/auth/google/callback") as google,
        pretending(money, alive=False),
    ):
        settings = await servers.settings(
            LOOPROOMS_PORT=str(port),
            LOOPROOMS_SMTP_URL=box.url,
            LOOPROOMS_GOOGLE_CLIENT_ID=WEB,
            LOOPROOMS_GOOGLE_CLIENT_SECRET=SECRET,
            LOOPROOMS_GOOGLE_URL=google.url,
            LOOPROOMS_STRIPE_SECRET_KEY=money.key,
            LOOPROOMS_STRIPE_WEBHOOK_SECRET=money.secret,
            LOOPROOMS_STRIPE_API_BASE=money.base,
        )
        async with serving(settings, port=port) as site:
            stores = site.node.stores
            await add_demo(stores.pool, stores.sealer, await Passwords().hash(PASSWORD))
            exclusive = await make_room(stores.pool, "exclusive", category="wellness")
            await stores.pool.execute(
                "update rooms set title = 'Evenings with Maya', month_cents = 1500, session_cents = 400 where id = $1",
                exclusive,
            )
            yield House(site, box, google, home)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Chromium]:
    """Run a browser."""
    command = chromium()
    assert command is not None
    async with browsing(command) as running:
        yield running


@pytest.fixture
async def person(browser: Chromium) -> AsyncIterator[Person]:
    """Give somebody a browser of their own; at the end no page of theirs has complained."""
    seen = len(browser.pages)
    yield await browser.person()
    complaints(browser.pages[seen:])


def complaints(pages: list[Page]) -> None:
    """Fail for what a page complained of."""
    assert [complaint for page in pages for complaint in page.complaints] == []
