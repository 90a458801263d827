"""Passwords that are forgotten, changed and given away: end to end over the mail, on two nodes, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from protocol.closing import CloseCode
from server.jobs import PERFORMERS
from tests.http.conftest import Servers
from tests.http.letters import (
    NEW_PASSWORD,
    as_caller,
    comes_true,
    mailing,
    our_log,
    page_of,
    press,
    proven,
    said,
    sign_in,
)
from tests.http.serving import PASSWORD, Site, serving
from tests.http.test_families import hello, refresh
from tests.postbox import Postbox, link_in
from tests.waiting import until

_TRIED = "select max(attempts) > 2 from jobs where kind = 'letters.welcome'"


@pytest.fixture
async def mailed(servers: Servers) -> AsyncIterator[tuple[Site, Postbox]]:
    """Give a node whose letters arrive."""
    async with mailing(servers) as both:
        yield both


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Try letters again at once."""
    monkeypatch.setattr("server.jobs.POLL_SECONDS", 0.02)
    letters = [one for kind, one in PERFORMERS.items() if kind.startswith("letters.")]
    before = [one.backoff for one in letters]
    for one in letters:
        one.backoff = 0.01
    yield
    for one, backoff in zip(letters, before, strict=True):
        one.backoff = backoff


async def test_a_forgotten_password(servers: Servers) -> None:
    """A link is mailed; with it one sets a new password, and is signed out everywhere, on every node, within a second."""
    async with mailing(servers) as (site, box), serving(site.node.settings) as other:
        account = await site.register()
        await box.next(account["email"])
        connections = [await hello(site, account), await hello(other, account)]
        assert (await site.post("/auth/password/forgot", email=account["email"])).status_code == 202
        page = await press(site, await box.next(account["email"], 2), password=NEW_PASSWORD)
        assert (page.status_code, said(page)) == (200, "You have a new password. Sign in with it.")
        async with asyncio.timeout(1):
            await asyncio.gather(*(connection.wait_closed() for connection in connections))
        assert [connection.close_code for connection in connections] == [CloseCode.SESSION_ENDED] * 2
        assert (await refresh(other, account["refresh_token"])).json()["code"] == "session_ended"
        assert (await sign_in(site, account["email"])).status_code == 401
        signed_in = await sign_in(other, account["email"], NEW_PASSWORD)
        assert signed_in.json()["user"]["verified"], "whoever opened the link reads the mailbox"
        assert (await box.next(account["email"], 3))["Subject"] == "Your password was changed"


async def test_a_link_is_for_one_password(mailed: tuple[Site, Postbox]) -> None:
    """One use, one hour; and when a password was set the other links that are on their way are worth nothing."""
    site, box = mailed
    account = await proven(site, box)
    tokens = []
    for nth in (2, 3, 4):
        await site.post("/auth/password/forgot", email=account["email"])
        tokens.append(page_of(link_in(await box.next(account["email"], nth)))[1])
    lives = await site.node.stores.pool.fetch(
        "select extract(epoch from expires_at - now()) as left from mailed_links where purpose = 'RESET'"
    )
    assert all(3500 < row["left"] <= 3600 for row in lives)
    await site.node.stores.pool.execute(
        "update mailed_links set expires_at = now() where hash = sha256($1::text::bytea)", tokens[2]
    )
    expired = await site.post("/auth/password/reset", token=tokens[2], password=NEW_PASSWORD)
    weak = await site.post("/auth/password/reset", token=tokens[0], password="password")
    personal = await site.post("/auth/password/reset", token=tokens[0], password=account["email"])
    assert [expired.status_code, weak.status_code, personal.status_code] == [410, 422, 422]
    answers = await asyncio.gather(
        *(
            site.post("/auth/password/reset", token=token, password=f"{NEW_PASSWORD} {number}")
            for number, token in enumerate(tokens[:2] * 3)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [204] + [410] * 5
    winner = next(number for number, answer in enumerate(answers) if answer.status_code == 204)
    assert (await sign_in(site, account["email"], f"{NEW_PASSWORD} {winner}")).status_code == 200


async def test_forgetting_tells_nothing(mailed: tuple[Site, Postbox]) -> None:
    """Known and unknown addresses: the same answer, the same statements, a letter each."""
    site, box = mailed
    account = await proven(site, box)
    statements: list[str] = []
    pool = site.node.stores.pool
    for connection in [await pool.acquire() for _ in range(pool.get_max_size())]:
        connection.add_query_logger(
            lambda query: statements.append(query.query) if "insert into jobs" in query.query else None
        )
        await pool.release(connection)

    async def attempt(email: str) -> tuple[int, bytes, list[str], int]:
        statements.clear()
        hashed = site.passwords.hashed
        answer = await site.post("/auth/password/forgot", email=email)
        return answer.status_code, answer.content, list(statements)[:1], site.passwords.hashed - hashed

    assert await attempt("nobody@example.org") == await attempt(account["email"])
    letter = await box.next("nobody@example.org")
    assert letter["Subject"] == "No account has this address"
    stored = await pool.fetch("select payload::text from jobs")
    assert "example.org" not in str(stored)


async def test_changing_a_password(servers: Servers) -> None:
    """It needs the old one; every other session ends, on every node, and this one stays. The person is told."""
    async with mailing(servers) as (site, box), serving(site.node.settings) as other:
        account = await proven(site, box)
        elsewhere = (await sign_in(other, account["email"])).json()
        here, there = await hello(site, account), await hello(other, elsewhere)

        async def change(old: str, new: str) -> tuple[int, Any]:
            answer = await as_caller(site, account, "POST", "/me/password", password=old, new_password=new)
            return answer.status_code, answer.json() if answer.content else None

        status, problem = await change("not my password", NEW_PASSWORD)
        assert (status, problem["code"], problem["path"]) == (401, "credentials_refused", "$.password")
        status, problem = await change(PASSWORD, "password")
        assert (status, problem["code"], problem["path"]) == (422, "password_weak", "$.new_password")
        assert await change(PASSWORD, NEW_PASSWORD) == (204, None)
        async with asyncio.timeout(1):
            await there.wait_closed()
        assert there.close_code == CloseCode.SESSION_ENDED
        assert (await refresh(site, elsewhere["refresh_token"])).json()["code"] == "session_ended"
        await here.send('{"type":"session.ping","id":2}')
        assert msgspec.json.decode(await here.recv())["type"] == "session.ponged"
        assert (await site.me(account["access_token"])).status_code == 200
        await here.close()
        assert (await sign_in(site, account["email"])).status_code == 401
        assert (await sign_in(site, account["email"], NEW_PASSWORD)).status_code == 200
        assert (await box.next(account["email"], 2))["Subject"] == "Your password was changed"


async def test_changing_it_twice_at_once(mailed: tuple[Site, Postbox]) -> None:
    """Of two changes from one old password one is made."""
    site, box = mailed
    account = await proven(site, box)
    answers = await asyncio.gather(
        *(
            as_caller(
                site,
                account,
                "POST",
                "/me/password",
                password=PASSWORD,
                new_password=f"{NEW_PASSWORD} {number}",
            )
            for number in range(2)
        )
    )
    assert sorted(answer.status_code for answer in answers) == [204, 401]


async def test_a_mail_server_that_hangs(mailed: tuple[Site, Postbox]) -> None:
    """Nobody waits for it: accounts are made and used meanwhile, and what was to be mailed arrives when it goes on."""
    site, box = mailed
    box.hanging.clear()
    async with asyncio.timeout(5):
        accounts = [await site.register() for _ in range(8)]
        assert (await site.me(accounts[-1]["access_token"])).status_code == 200
        assert (await site.post("/auth/password/forgot", email=accounts[0]["email"])).status_code == 202
    assert box.mails == []
    box.hanging.set()
    for account in accounts:
        await box.next(account["email"])
    assert (await box.next(accounts[0]["email"], 2))["Subject"]


async def test_a_mail_server_that_is_away(mailed: tuple[Site, Postbox], impatient: None) -> None:
    """What can't be sent now is sent later, once."""
    site, box = mailed
    await box.close()
    account = await site.register()
    await comes_true(site, _TRIED)
    await box.open()
    await box.next(account["email"])
    await comes_true(site, "select count(*) = 0 from jobs where kind = 'letters.welcome'")
    assert len(box.mails) == 1


async def test_refused_for_now_and_for_good(
    mailed: tuple[Site, Postbox], impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    """4xx is tried again; 5xx is believed, and the job that died says why, but not to whom."""
    site, box = mailed
    box.refusals["RCPT"] = "451 later, person1@example.org"
    account = await site.register()
    await comes_true(site, _TRIED)
    box.refusals.clear()
    await box.next(account["email"])
    box.refusals["RCPT"] = "550 no person2@example.org here"
    await site.register()
    await comes_true(site, "select count(*) = 1 from jobs where died_at is not null")
    dead = await site.node.stores.pool.fetch("select * from jobs where died_at is not null")
    assert [(row["attempts"], row["reason"]) for row in dead] == [(1, "the recipient was refused (550)")]
    assert "example.org" not in str([dict(row) for row in dead])
    assert "example.org" not in our_log(caplog)


async def test_a_stop_between_the_commit_and_the_mail(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node stops while the mail server hangs: it does not wait for it, and the next node sends the letter."""
    monkeypatch.setattr("server.jobs.STOP_SECONDS", 0.1)
    async with mailing(servers) as (site, box):
        settings = site.node.settings
        box.hanging.clear()
        account = await site.register()
        await until(lambda: box.attempts == 1)
        async with asyncio.timeout(3):
            await site.node.jobs.aclose()
        assert box.mails == []
        box.hanging.set()
        async with serving(settings) as other:
            mail = await box.next(account["email"])
            assert (await press(other, mail)).status_code == 200


async def test_without_a_mail_server(servers: Servers, caplog: pytest.LogCaptureFixture) -> None:
    """The embedded default: the letter is a file, and the log says where to click."""
    caplog.set_level(logging.INFO)
    settings = await servers.settings()
    async with serving(settings) as site:
        account = await site.register()
        await until(lambda: "/account/verify#" in caplog.text)
        link = re.search(r"http\S+/account/verify#\S+", caplog.text)
        assert link is not None
        assert (await press(site, link[0])).status_code == 200
        assert (await site.me(account["access_token"])).json()["verified"]
    assert account["email"] not in our_log(caplog)
    assert [name for name in os.listdir(Path(settings.data_dir) / "mail") if name.endswith(".eml")]  # noqa: PTH208


async def test_with_a_mail_server_no_link_is_logged(
    mailed: tuple[Site, Postbox], caplog: pytest.LogCaptureFixture
) -> None:
    """What a link says is between the server and the mailbox."""
    caplog.set_level(logging.DEBUG)
    site, box = mailed
    account = await proven(site, box)
    await site.post("/auth/password/forgot", email=account["email"])
    _, token = page_of(link_in(await box.next(account["email"], 2)))
    await site.post("/auth/password/reset", token=token, password="short")
    assert token not in our_log(caplog)
    assert account["email"] not in our_log(caplog)
