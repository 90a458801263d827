"""A node whose letters arrive, and somebody who reads them and clicks."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.http.conftest import Servers
from tests.http.serving import PASSWORD, Site, serving
from tests.postbox import Postbox, link_in, postbox

NEW_PASSWORD = "a lantern over the sea"


@asynccontextmanager
async def mailing(servers: Servers, **variables: str) -> AsyncIterator[tuple[Site, Postbox]]:
    """Run a node and its mail server."""
    async with postbox() as box:
        settings = await servers.settings(LOOPROOMS_SMTP_URL=box.url, **variables)
        async with serving(settings) as site:
            yield site, box


def page_of(link: str) -> tuple[str, str]:
    """Return the path of a link, and what stands after the ``#``."""
    parts = urlsplit(link)
    assert parts.query == ""
    return parts.path, parts.fragment


async def press(site: Site, mail: EmailMessage | str, **fields: str) -> httpx2.Response:
    """Open the link of a mail as a browser does, and press the button of its page."""
    path, token = page_of(mail if isinstance(mail, str) else link_in(mail))
    opened = await site.client.get(path)
    assert opened.status_code == 200
    assert "<form" in opened.text
    return await site.client.post(
        path, data={"token": token, **fields}, headers={"origin": site.node.settings.allowed_origins[0]}
    )


def said(page: httpx2.Response) -> str:
    """Return what a page says when its button was pressed."""
    found = re.search(r'<p (?:class="problem" )?role="(?:status|alert)">(.*?)</p>', page.text)
    assert found is not None, page.text
    return found[1]


async def as_caller(
    site: Site, account: dict[str, Any], method: str, path: str, **body: Any
) -> httpx2.Response:
    """Send a request as somebody."""
    headers = {"authorization": f"Bearer {account['access_token']}"}
    return await site.client.request(method, path, headers=headers, json=body or None)


async def proven(site: Site, box: Postbox) -> dict[str, Any]:
    """Make an account and prove its address."""
    account = await site.register()
    assert (await press(site, await box.next(account["email"]))).status_code == 200
    return account


async def sign_in(site: Site, email: str, password: str = PASSWORD) -> httpx2.Response:
    """Sign in."""
    return await site.post("/auth/login", email=email, password=password)


async def comes_true(site: Site, condition: str) -> None:
    """Wait until a question to the database is answered with true."""
    deadline = time.monotonic() + 10
    while not await site.node.stores.pool.fetchval(condition):
        assert time.monotonic() < deadline, condition
        await asyncio.sleep(0.01)


def our_log(caplog: pytest.LogCaptureFixture) -> str:
    """Return what the server logged, not its stand-ins and clients."""
    return "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("looprooms", "uvicorn"))
    )
