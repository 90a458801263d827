"""One page at a time on which somebody pays for the same thing, in however many tabs they begin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from server.gateways.standin.ledger import Object
from server.gateways.standin.standin import Trouble
from storage.postgres.pool import Pool
from tests.backstage import Backstage, backstage
from tests.meeting import Guest
from tests.redis.valkeys import Valkey
from tests.shop import Shop, shop
from tests.waiting import until


@pytest.fixture
async def back(database_url: str, valkey: Valkey, pool: Pool) -> AsyncIterator[Backstage]:
    """Give a creator with an exclusive room, on two nodes that are paid; whatever they are told is held back."""
    async with shop(database_url, valkey.url, pool, 2, stripe_timeout_seconds=1) as running:
        found = await backstage(running)
        running.hold()
        yield found


async def asked(back: Backstage, guest: Guest, what: str, key: str = "", site: int = 0) -> Object | str:
    """Begin to pay for a plan, or for a pass of a kind; return the page as the stand-in has it, or why it is refused."""
    body: dict[str, Any] = {"key": key or uuid4().hex}
    path = "/payments/checkout"
    if what.islower():
        path = "/payments/passes"
        body |= {"room": str(back.room), "kind": what}
    else:
        body["tier"] = what
    answer = await back.shop.ask(guest, "POST", path, site, **body)
    if answer.status_code != 201:
        code: str = answer.json()["code"]
        return code
    return back.shop.stand_in.ledger.get("checkout.session", answer.json()["url"].rpartition("/")[2])


async def opened(back: Backstage, guest: Guest, what: str, **more: Any) -> Object:
    """Begin to pay; return the page."""
    found = await asked(back, guest, what, **more)
    assert not isinstance(found, str), found
    return found


def pages(shop: Shop) -> list[str]:
    """Return how the pages stand, the first one first."""
    return [one["status"] for one in reversed(list(shop.stand_in.ledger.all("checkout.session")))]


PAIRS = [("PREMIUM_MONTHLY", "PREMIUM_YEARLY"), ("session", "month")]


@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_in_two_tabs(back: Backstage, first: str, second: str) -> None:
    """The same is the open page, on whichever node; something else ends that, and the way back is another page."""
    ada, bo = await back.shop.guest(), await back.shop.guest()
    page = await opened(back, ada, first, key="one")
    assert await asked(back, ada, first, site=1) == page
    assert await asked(back, ada, second, key="one") == "key_reused"
    assert pages(back.shop) == ["open"]
    other = await opened(back, ada, second)
    assert (page["status"], other["status"]) == ("expired", "open")
    again = await opened(back, ada, first, key="one", site=1)
    assert pages(back.shop) == ["expired", "expired", "open"]
    assert again["amount_total"] == page["amount_total"]
    assert (await opened(back, bo, second))["status"] == "open"
    assert pages(back.shop)[:3] == ["expired", "expired", "open"]


async def test_for_different_things(back: Backstage) -> None:
    """A plan and passes to two looprooms are paid on pages of their own."""
    ada = await back.shop.guest()
    other = await backstage(back.shop, slug="another")
    for what, where in (("CREATOR_PRO", back), ("session", back), ("session", other)):
        assert (await opened(where, ada, what))["status"] == "open"
    assert pages(back.shop) == ["open"] * 3


@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_what_was_just_paid(back: Backstage, first: str, second: str) -> None:
    """Is not paid again while word of it is on its way; afterwards nothing is open, and what ended is begun anew."""
    ada = await back.shop.guest()
    page = await opened(back, ada, first)
    back.shop.stand_in.billing.complete(page)
    had = "pass_held" if first.islower() else "already_subscribed"
    for what in (first, second):
        assert await asked(back, ada, what, site=1) == had
    held = back.shop.stand_in.deliveries.held or []
    await back.shop.deliver(list(held))
    assert await asked(back, ada, first) == had
    assert await back.shop.pool.fetchval("select session from checkouts") is None
    await back.shop.pool.execute("delete from subscriptions")
    await back.shop.pool.execute("update passes set open = false")
    assert (await opened(back, ada, first))["status"] == "open"


@pytest.mark.parametrize("how", ["told", "not told", "too old", "gone"])
async def test_a_page_that_has_expired(back: Backstage, how: str) -> None:
    """Is not sent to anybody again."""
    ada = await back.shop.guest()
    page = await opened(back, ada, "PREMIUM_MONTHLY")
    if how == "too old":
        await back.shop.pool.execute("update checkouts set opened_at = opened_at - interval '23 hours'")
    elif how == "gone":
        del back.shop.stand_in.ledger.objects[page["id"]]
    else:
        back.shop.stand_in.billing.expire(page)
    if how == "told":
        await back.shop.deliver(list(back.shop.stand_in.deliveries.held or []))
    other = await opened(back, ada, "PREMIUM_MONTHLY")
    assert (other["id"] != page["id"], other["status"]) == (True, "open")


async def test_two_at_the_same_moment(back: Backstage) -> None:
    """The same is one page; of two different ones a single one is left, and one of those who asked has it."""
    ada = await back.shop.guest()
    await back.shop.ask(ada, "GET", "/payments/subscription")
    same = await asyncio.gather(*(asked(back, ada, "CREATOR_PRO", site=number % 2) for number in range(4)))
    assert same == [same[0]] * 4
    assert pages(back.shop) == ["open"]
    both = await asyncio.gather(
        asked(back, ada, "PREMIUM_MONTHLY"), asked(back, ada, "PREMIUM_YEARLY", site=1)
    )
    assert pages(back.shop).count("open") == 1
    assert [one["status"] for one in both if not isinstance(one, str)].count("open") == 1


async def test_whoever_died_after_it_was_begun(back: Backstage) -> None:
    """Left a page that nobody knows: something else is begun all the same."""
    ada = await back.shop.guest()
    back.shop.stand_in.trouble.append(Trouble("mute", "/v1/checkout/sessions"))
    assert await asked(back, ada, "PREMIUM_MONTHLY") == "unavailable"
    assert (await opened(back, ada, "PREMIUM_YEARLY"))["amount_total"] == 9900


async def test_who_leaves_for_good_leaves_no_page(back: Backstage) -> None:
    """On which somebody could pay for what nobody gets."""
    ada = await back.shop.guest()
    page = await opened(back, ada, "PREMIUM_MONTHLY")
    answer = await back.shop.ask(ada, "DELETE", "/me", confirm="delete")
    assert answer.status_code in (202, 204), answer.text
    await until(lambda: page["status"] == "expired")
