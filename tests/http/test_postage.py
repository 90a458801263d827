"""Postage: how many letters go out at all, and to one mailbox. What is over that waits, and is not lost."""

from __future__ import annotations

from typing import Any

from server.emails import mailbox
from server.postage import TO_ONE
from storage.redis.pool import Command
from tests.http.conftest import Servers
from tests.http.letters import NEW_PASSWORD, as_caller, mailing
from tests.http.serving import PASSWORD, Site
from tests.postbox import Postbox
from tests.redis.valkeys import Valkey
from tests.stores import valkey
from tests.waiting import until

__all__ = ["valkey"]  # a fixture

JOBS = "select attempts, running, run_at > now() + interval '1 minute' as later from jobs where kind like 'letters.%' and died_at is null"


async def waiting(site: Site) -> list[dict[str, Any]]:
    """Return the letters that wait."""
    return [dict(row) for row in await site.node.stores.pool.fetch(JOBS)]


async def time_passes(site: Site) -> None:
    """Let all that was counted be forgotten, and what waits be due."""
    await site.node.stores.redis.run(Command(("FLUSHALL",), bool))
    site.node.quotas.limiter._buckets.clear()
    await site.node.stores.pool.execute("update jobs set run_at = now() where kind like 'letters.%'")
    site.node.jobs._due.set()


async def out(site: Site, box: Postbox, email: str) -> None:
    """Wait until a letter has gone out, and is counted."""
    before = site.node.postage.outcomes["sent"]
    await site.post("/auth/password/forgot", email=email)
    await box.next(email)
    await until(lambda: site.node.postage.outcomes["sent"] > before)


async def test_so_many_an_hour(servers: Servers, valkey: Valkey) -> None:
    """Past what all nodes may send letters wait, untried and unprepared; when there is room again they go out."""
    few = {"LOOPROOMS_LETTERS_PER_HOUR": "10", "LOOPROOMS_LIMITS_FACTOR": "1", "REDIS_URL": valkey.url}
    async with mailing(servers, **few) as (site, box):
        await out(site, box, "first@example.org")
        account = await site.register()  # its own letter waits from the start
        await site.post("/auth/password/forgot", email=account["email"])
        await until(lambda: site.node.postage.outcomes["waited"] >= 2)
        late = {"attempts": 0, "running": False, "later": True}

        async def both_wait() -> bool:
            return await waiting(site) == [late, late]

        await until(both_wait)
        assert await site.node.stores.pool.fetchval("select count(*) from mailed_links") == 0
        metrics = (await site.client.get("/metrics")).text
        assert 'looprooms_letters_total{node="' in metrics
        assert 'outcome="waited"} 2.0' in metrics
        await time_passes(site)
        await box.next(account["email"])


async def test_so_many_to_one(servers: Servers, valkey: Valkey) -> None:
    """A mailbox that has had enough is left alone in every spelling, but for word of what was done; others notice nothing."""
    async with mailing(servers, LOOPROOMS_LIMITS_FACTOR="1", REDIS_URL=valkey.url) as (site, box):
        account = await site.register()
        await box.next(account["email"])
        for _ in range(int(TO_ONE.burst)):
            await site.node.quotas.charge(TO_ONE, mailbox(account["email"]))
        spelled = account["email"].replace("@", "+again@")
        for path in ("/auth/password/forgot", "/waitlist"):
            assert (await site.post(path, email=spelled)).status_code == 202
        await until(lambda: site.node.postage.outcomes["waited"] == 2)
        await out(site, box, "other@example.org")
        changed = {"password": PASSWORD, "new_password": NEW_PASSWORD}
        assert (await as_caller(site, account, "POST", "/me/password", **changed)).status_code == 204
        assert (await box.next(account["email"], 2))["Subject"] == "Your password was changed"
        assert box.of(spelled) == []
        await time_passes(site)
        await box.next(spelled, 2)
