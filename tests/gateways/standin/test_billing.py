"""Lives of subscriptions and payments at the stand-in: what happens, in which order, and what is told of it."""

from __future__ import annotations

from typing import Any

import pytest

from server.gateways.standin.billing import DAY, DECLINED, FAILS_LATER, GOOD
from server.gateways.standin.problems import StripeProblem
from tests.gateways.standin.booth import Booth

MONTH = 30 * DAY


def of(stall: Booth, kind: str) -> list[Any]:
    """Return the objects of events of a kind."""
    return [event["data"]["object"] for event in stall.told if event["type"] == kind]


async def test_a_paid_beginning(stall: Booth) -> None:
    """The subscription is there before it is paid, then it is active; the checkout is complete, once."""
    session = await stall.checkout(client_reference_id="me", **{"subscription_data[metadata][a]": "b"})
    stall.told.clear()
    stall.stand_in.billing.complete(session)
    assert stall.kinds == [
        "customer.subscription.created",
        "invoice.created",
        "charge.succeeded",
        "payment_intent.succeeded",
        "invoice_payment.paid",
        "invoice.paid",
        "customer.subscription.updated",
        "checkout.session.completed",
    ]
    created, updated = (
        of(stall, "customer.subscription.created")[0],
        of(stall, "customer.subscription.updated")[0],
    )
    assert (created["status"], updated["status"], created["metadata"]) == ("incomplete", "active", {"a": "b"})
    assert stall.told[6]["data"]["previous_attributes"] == {"status": "incomplete"}
    (done,) = of(stall, "checkout.session.completed")
    assert (done["subscription"], done["client_reference_id"], done["payment_status"]) == (
        created["id"],
        "me",
        "paid",
    )
    with pytest.raises(StripeProblem):
        stall.stand_in.billing.complete(session)


async def test_a_trial(stall: Booth) -> None:
    """Nothing is paid at first; at its end it is renewed and paid."""
    subscription = await stall.subscribed(**{"subscription_data[trial_period_days]": "7"})
    assert subscription["status"] == "trialing"
    assert of(stall, "charge.succeeded") == []
    stall.pass_time(7 * DAY)
    assert subscription["status"] == "active"
    assert [charge["amount"] for charge in of(stall, "charge.succeeded")] == [999]


async def test_a_declined_card(stall: Booth) -> None:
    """The checkout stays open, and nothing is told."""
    session = await stall.checkout()
    stall.told.clear()
    with pytest.raises(StripeProblem) as declined:
        stall.stand_in.billing.complete(session, DECLINED)
    assert (declined.value.code, session["status"], stall.told) == ("card_declined", "open", [])


async def test_renewals(stall: Booth) -> None:
    """Each period begins where the one before ended, however late it is noticed."""
    subscription = await stall.subscribed()
    first = stall.stand_in.billing.period_end(subscription)
    stall.pass_time(3 * MONTH)
    assert stall.stand_in.billing.period_end(subscription) == first + 3 * MONTH
    ends = [
        one["items"]["data"][0]["current_period_end"]
        for one in of(stall, "customer.subscription.updated")[1:]
    ]
    assert ends == [first + MONTH, first + 2 * MONTH, first + 3 * MONTH]


async def test_a_failed_renewal(stall: Booth) -> None:
    """It is tried four times in four days, then the subscription is canceled; a good card in time saves it."""
    lost, saved = await stall.subscribed(), await stall.subscribed()
    for one in (lost, saved):
        stall.stand_in.billing.set_method(one, FAILS_LATER)
    stall.pass_time(MONTH)
    assert (lost["status"], saved["status"]) == ("past_due", "past_due")
    stall.stand_in.billing.set_method(saved, GOOD)
    stall.pass_time(DAY)
    assert (lost["status"], saved["status"]) == ("past_due", "active")
    stall.pass_time(9 * DAY)
    assert (lost["status"], lost["cancellation_details"]["reason"]) == ("canceled", "payment_failed")
    assert [
        one["attempt_count"]
        for one in of(stall, "invoice.payment_failed")
        if one["customer"] == lost["customer"]
    ] == [
        1,
        2,
        3,
        4,
    ]


async def test_an_end_with_the_period(stall: Booth) -> None:
    """It says so first, may be taken back, and comes by itself."""
    subscription = await stall.subscribed()
    path = f"/v1/subscriptions/{subscription['id']}"
    await stall.made(path, cancel_at_period_end="true")
    assert subscription["cancel_at"] == stall.stand_in.billing.period_end(subscription)
    await stall.made(path, cancel_at_period_end="false")
    assert (subscription["cancel_at"], subscription["canceled_at"]) == (None, None)
    await stall.made(path, cancel_at_period_end="true")
    stall.pass_time(MONTH)
    assert (subscription["status"], subscription["ended_at"]) == ("canceled", stall.stand_in.ledger.now())
    assert stall.kinds[-1] == "customer.subscription.deleted"
    for again in (await stall.ask("DELETE", path), await stall.post(path, {"cancel_at_period_end": "true"})):
        assert again.status_code == 400


async def test_an_end_at_once(stall: Booth) -> None:
    """And a list that has it only when it is asked for all."""
    subscription = await stall.subscribed()
    assert (await stall.ask("DELETE", f"/v1/subscriptions/{subscription['id']}")).json()[
        "status"
    ] == "canceled"
    for query, count in (("", 0), ("?status=all", 1), ("?status=canceled", 1), ("?status=active", 0)):
        found = (await stall.ask("GET", f"/v1/subscriptions{query}")).json()["data"]
        assert len(found) == count, query


async def test_another_plan(stall: Booth) -> None:
    """A new period of another price begins now, and is paid."""
    subscription = await stall.subscribed()
    price = await stall.made(
        "/v1/prices",
        currency="usd",
        unit_amount="9900",
        **{"product_data[name]": "Year", "recurring[interval]": "year"},
    )
    stall.stand_in.billing.change_price(subscription, price)
    now = stall.stand_in.ledger.now()
    assert stall.stand_in.billing.period_end(subscription) == now + 12 * MONTH
    assert of(stall, "charge.succeeded")[-1]["amount"] == 9900


async def test_a_payment_once(stall: Booth) -> None:
    """A checkout for one thing makes a payment and no subscription."""
    session = await stall.checkout(
        "payment",
        **{
            "payment_intent_data[metadata][room]": "r",
            "payment_intent_data[application_fee_amount]": "150",
            "payment_intent_data[transfer_data][destination]": "acct_1",
        },
    )
    stall.stand_in.billing.complete(session)
    intent = (await stall.ask("GET", f"/v1/payment_intents/{session['payment_intent']}")).json()
    assert (intent["amount_received"], intent["metadata"], intent["application_fee_amount"]) == (
        999,
        {"room": "r"},
        150,
    )
    assert session["subscription"] is None
    charges = (await stall.ask("GET", f"/v1/charges?payment_intent={intent['id']}")).json()["data"]
    assert [charge["id"] for charge in charges] == [intent["latest_charge"]]


async def test_money_goes_back(stall: Booth) -> None:
    """In parts, never more than was paid, by the charge or by the payment."""
    session = await stall.checkout("payment")
    stall.stand_in.billing.complete(session)
    intent = session["payment_intent"]
    part = await stall.made("/v1/refunds", payment_intent=intent, amount="400")
    charge = stall.stand_in.ledger.get("charge", part["charge"])
    assert (part["amount"], charge["amount_refunded"], charge["refunded"]) == (400, 400, False)
    assert (await stall.post("/v1/refunds", {"charge": charge["id"], "amount": "600"})).status_code == 400
    await stall.made("/v1/refunds", charge=charge["id"])
    assert (charge["amount_refunded"], charge["refunded"]) == (999, True)
    assert (await stall.post("/v1/refunds", {"charge": charge["id"]})).status_code == 400
    assert (await stall.post("/v1/refunds")).json()["error"]["code"] == "parameter_missing"
    assert [one["amount_refunded"] for one in of(stall, "charge.refunded")] == [400, 999]


async def test_a_bank_takes_it_back(stall: Booth) -> None:
    """A dispute is opened, and decided."""
    session = await stall.checkout("payment")
    stall.stand_in.billing.complete(session)
    charge = next(stall.stand_in.ledger.all("charge"))
    for won, status in ((True, "won"), (False, "lost")):
        dispute = stall.stand_in.billing.dispute(charge)
        stall.stand_in.billing.close_dispute(dispute, won=won)
        assert (await stall.ask("GET", f"/v1/disputes/{dispute['id']}")).json()["status"] == status
    assert stall.kinds[-2:] == ["charge.dispute.created", "charge.dispute.closed"]


async def test_an_invoice_is_paid_by_hand(stall: Booth) -> None:
    """A subscription that waited for it goes on; twice is refused."""
    subscription = await stall.subscribed()
    stall.stand_in.billing.set_method(subscription, FAILS_LATER)
    stall.pass_time(MONTH)
    await stall.made(f"/v1/invoices/{subscription['latest_invoice']}/pay")
    assert subscription["status"] == "active"
    assert (await stall.post(f"/v1/invoices/{subscription['latest_invoice']}/pay")).status_code == 400


async def test_a_checkout_that_nobody_pays(stall: Booth) -> None:
    """It may be expired while it is open."""
    session = await stall.checkout()
    assert (await stall.made(f"/v1/checkout/sessions/{session['id']}/expire"))["status"] == "expired"
    assert (await stall.post(f"/v1/checkout/sessions/{session['id']}/expire")).status_code == 400
