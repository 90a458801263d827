"""Creators' accounts, as far as they are needed to be paid: onboarding, transfers, reversals, and the balance that they come from."""

from __future__ import annotations

from server.gateways.standin.ledger import Ledger, Object
from server.gateways.standin.problems import StripeProblem


class Connect:
    """Connected accounts, and the platform's balance."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def onboard(self, account: Object) -> None:
        """Let a creator have told everything that is asked of them."""
        account.update(details_submitted=True, charges_enabled=True, payouts_enabled=True)
        account["capabilities"] = {"transfers": "active"}
        self._ledger.tell("account.updated", account)

    def balance(self) -> int:
        """Return how many cents are at hand for transfers: what customers have paid, and was not given back or on."""
        all_of = self._ledger.all
        cents: int = (
            sum(one["amount"] for one in all_of("topup"))
            + sum(one["amount"] - one["amount_refunded"] for one in all_of("charge"))
            - sum(one["amount"] for one in all_of("dispute") if one["status"] != "won")
            - sum(one["amount"] - one["amount_reversed"] for one in all_of("transfer"))
        )
        return cents

    def top_up(self, amount: int) -> Object:
        """Put the platform's own money into its balance."""
        return self._ledger.add("topup", amount=amount, currency="usd", status="succeeded")

    def transfer(
        self, amount: int, currency: str, destination: str, group: str | None, metadata: dict[str, str]
    ) -> Object:
        """Give money to a creator. Raises `StripeProblem` when they can't have it."""
        account = self._ledger.get("account", destination, "destination")
        if account["capabilities"].get("transfers") != "active":
            raise StripeProblem(
                400,
                "insufficient_capabilities_for_transfer",
                "Your destination account needs to have the `transfers` capability enabled.",
                param="destination",
                done=True,
            )
        if amount < 1:
            raise StripeProblem(400, "parameter_invalid_integer", "Invalid positive integer", param="amount")
        if amount > self.balance():
            raise StripeProblem(
                400,
                "balance_insufficient",
                "You have insufficient available funds in your Stripe account for this transfer.",
                done=True,
            )
        transfer = self._ledger.add(
            "transfer",
            amount=amount,
            amount_reversed=0,
            currency=currency,
            destination=destination,
            transfer_group=group,
            metadata=metadata,
            reversed=False,
        )
        self._ledger.tell("transfer.created", transfer)
        return transfer

    def reverse(self, transfer: Object, amount: int | None, metadata: dict[str, str]) -> Object:
        """Take money back from a creator."""
        left = transfer["amount"] - transfer["amount_reversed"]
        amount = left if amount is None else amount
        if not 0 < amount <= left:
            raise StripeProblem(
                400, "parameter_invalid_integer", "The reversal is more than what is left.", param="amount"
            )
        reversal = self._ledger.add(
            "transfer_reversal",
            amount=amount,
            currency=transfer["currency"],
            transfer=transfer["id"],
            metadata=metadata,
        )
        transfer["amount_reversed"] += amount
        transfer["reversed"] = transfer["amount_reversed"] == transfer["amount"]
        self._ledger.tell("transfer.reversed", transfer)
        return reversal
