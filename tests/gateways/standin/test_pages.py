"""The pages of the stand-in: one pays, cancels, lets months pass; nothing on them comes from elsewhere."""

from __future__ import annotations

import re

import httpx2

from server.gateways.standin.billing import DECLINED, FAILS_LATER, GOOD
from server.gateways.standin.ledger import Object
from tests.gateways.standin.booth import Booth


def policy_of(answer: httpx2.Response) -> str:
    """Return what a page allows."""
    return answer.headers["content-security-policy"]


async def test_a_checkout(stall: Booth) -> None:
    """It says what is paid, that nothing is real, and leads back when it is paid."""
    session = await stall.checkout(
        success_url="http://shop/pay?session={CHECKOUT_SESSION_ID}",
        cancel_url="http://shop/'><b>",
        **{"subscription_data[trial_period_days]": "7"},
    )
    page = await stall.client.get(session["url"])
    assert "9.99 USD a month" in page.text
    assert "7 days are free" in page.text
    assert "nothing here is real" in page.text
    assert "'><b>" not in page.text
    assert policy_of(page).startswith("default-src 'none'; style-src 'self'; form-action 'self' http://shop;")
    assert re.findall(r"(?:src|href)=['\"]?([^'\" >]+)", page.text)[0] == "/standin.css"
    assert (await stall.client.get("/standin.css")).headers["content-type"].startswith("text/css")
    declined = await stall.client.post(session["url"], data={"card": DECLINED})
    assert "Your card was declined." in declined.text
    url = session["url"]
    paid = await stall.client.post(url, data={"card": FAILS_LATER})
    assert (paid.status_code, paid.headers["location"]) == (303, f"http://shop/pay?session={session['id']}")
    subscription = stall.stand_in.ledger.get("subscription", session["subscription"])
    assert subscription["default_payment_method"] == FAILS_LATER
    for again in (await stall.client.get(url), await stall.client.post(url, data={"card": GOOD})):
        assert "This checkout is complete" in again.text
    assert (await stall.client.get("/c/pay/cs_test_none")).status_code == 404


async def portal(stall: Booth, customer: str) -> str:
    """Return the page of a customer."""
    url: str = (
        await stall.made("/v1/billing_portal/sessions", customer=customer, return_url="http://shop/pay")
    )["url"]
    return url


async def press(stall: Booth, url: str, subscription: Object, button: str, card: str = "") -> str:
    """Press a button, and return the page that follows."""
    form = {"subscription": subscription["id"], "do": button, "card": card}
    answer = await stall.client.post(url, data=form)
    assert answer.status_code == 303
    return (await stall.client.get(answer.headers["location"])).text


async def test_a_portal(stall: Booth) -> None:
    """One cancels, goes on, pays with another card, and lets a month pass."""
    subscription = await stall.subscribed()
    url = await portal(stall, subscription["customer"])
    assert "<b>active</b>, and is renewed" in (await stall.client.get(url)).text
    assert "and ends at" in await press(stall, url, subscription, "cancel")
    assert "is renewed" in await press(stall, url, subscription, "resume")
    end = stall.stand_in.billing.period_end(subscription)
    await press(stall, url, subscription, "month")
    assert stall.stand_in.billing.period_end(subscription) > end
    assert "Use a good card" in await press(stall, url, subscription, "card", FAILS_LATER)
    assert "<b>past_due</b>" in await press(stall, url, subscription, "month")
    assert "<b>canceled</b>." in await press(stall, url, subscription, "stop")
    assert "<b>canceled</b>." in await press(stall, url, subscription, "stop")
    assert (await stall.client.get("/p/session/bps_none")).status_code == 404


async def test_a_portal_is_one_customers(stall: Booth) -> None:
    """Nobody ends what is another's."""
    mine, theirs = await stall.subscribed(), await stall.subscribed()
    page = await press(stall, await portal(stall, mine["customer"]), theirs, "stop")
    assert theirs["status"] == "active"
    assert theirs["id"] not in page
