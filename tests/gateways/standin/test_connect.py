"""Creators at the stand-in: onboarding, transfers, reversals."""

from __future__ import annotations

from tests.gateways.standin.booth import Booth


async def test_a_creator_is_paid_after_onboarding(stall: Booth) -> None:
    """Before, a transfer is refused; the link that leads there is good once."""
    account = await stall.made("/v1/accounts", type="express", country="US", **{"metadata[user]": "u"})
    transfer = {"amount": "800", "currency": "usd", "destination": account["id"], "transfer_group": "2026-11"}
    refused = await stall.post("/v1/transfers", transfer)
    assert refused.json()["error"]["code"] == "insufficient_capabilities_for_transfer"
    link = await stall.made(
        "/v1/account_links",
        account=account["id"],
        type="account_onboarding",
        refresh_url="http://shop/again",
        return_url="http://shop/done",
    )
    assert "I have told everything" in (await stall.client.get(link["url"])).text
    done = await stall.client.post(link["url"])
    assert (done.status_code, done.headers["location"]) == (303, "http://shop/done")
    assert (await stall.client.post(link["url"])).status_code == 404
    assert stall.kinds[-1] == "account.updated"
    assert (await stall.ask("GET", f"/v1/accounts/{account['id']}")).json()["payouts_enabled"] is True
    short = await stall.post("/v1/transfers", transfer, key="early")
    assert (short.status_code, short.json()["error"]["code"]) == (400, "balance_insufficient")
    stall.stand_in.connect.top_up(800)
    assert (await stall.post("/v1/transfers", transfer, key="early")).json() == short.json()
    made = await stall.post("/v1/transfers", transfer, key="t")
    again = await stall.post("/v1/transfers", transfer, key="t")
    assert made.json()["id"] == again.json()["id"]
    assert stall.stand_in.connect.balance() == 0
    listed = (await stall.ask("GET", "/v1/transfers?transfer_group=2026-11")).json()["data"]
    assert [one["amount"] for one in listed] == [800]


async def test_the_balance_is_what_is_left(stall: Booth) -> None:
    """Of what customers paid: what they got back is gone, what a bank holds is gone until the dispute is won."""
    billing, connect = stall.stand_in.billing, stall.stand_in.connect
    first, second = (billing.charge(1000, "usd", "cus_1", None, {}) for _ in range(2))
    billing.refund(first, 300, {})
    assert connect.balance() == 1700
    dispute = billing.dispute(second)
    assert connect.balance() == 700
    billing.close_dispute(dispute, won=True)
    assert connect.balance() == 1700


async def test_a_transfer_is_reversed(stall: Booth) -> None:
    """In parts, never more than was given; and nothing is given that is nothing."""
    account = await stall.made("/v1/accounts")
    stall.stand_in.connect.onboard(stall.stand_in.ledger.get("account", account["id"]))
    stall.stand_in.connect.top_up(800)
    form = {"amount": "800", "currency": "usd", "destination": account["id"]}
    transfer = await stall.made("/v1/transfers", **form)
    path = f"/v1/transfers/{transfer['id']}/reversals"
    assert (await stall.made(path, amount="300"))["amount"] == 300
    assert (await stall.post(path, {"amount": "600"})).status_code == 400
    assert (await stall.made(path))["amount"] == 500
    assert (await stall.ask("GET", f"/v1/transfers/{transfer['id']}")).json()["reversed"] is True
    assert (await stall.post("/v1/transfers", {**form, "amount": "0"})).status_code == 400
    assert (await stall.post("/v1/transfers", {**form, "destination": "acct_none"})).status_code == 404
