"""Creators over HTTP: the way to the provider's page on which one tells where to be paid, and what one has earned."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct
from starlette.requests import Request

from protocol.refusals import ErrorCode, Refused
from server.gateways.cards import Cards
from server.http.callers import REFUSALS, caller_of
from server.http.endpoint import Endpoint, Parameter
from server.http.payments import VISITS, Visit
from storage import payouts, statements
from storage.people import Account
from storage.statements import Line, Month

if TYPE_CHECKING:
    from server.node import Node

_MONTH: Final = re.compile("[0-9]{4}-(0[1-9]|1[0-2])")
_PERIOD: Final = Parameter("period", "path", "A month, as `2026-11`.")


class Earning(Struct, kw_only=True):
    """How it stands with being paid."""

    begun: Annotated[bool, Meta(description="Whether there is an account at the payment provider.")]
    payable: Annotated[bool, Meta(description="Whether it is complete: until then what was earned waits.")]
    balance: Annotated[int, Meta(description="What is yours and was not paid out, in cents.")]


class Statements(Struct):
    """All months in which something was earned, went back, or was paid out."""

    months: Annotated[list[Month], Meta(description="The first one first.")]


class Statement(Struct, kw_only=True):
    """One month, line by line."""

    period: Annotated[str, Meta(description="The month, as `2026-11`, in UTC.")]
    lines: Annotated[list[Line], Meta(description="What was earned, went back or was paid out, by day.")]
    sum: Annotated[int, Meta(description="Of all lines: by so many cents your balance has changed.")]


class Creators:
    """The operations of creators, of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def onboard(self, request: Request) -> Visit:
        """Tell where you are to be paid: the answer is the page of the payment provider on which one does. It is good for one visit."""
        creator = await self._creator(request)
        cards, pool = self._cards(), self._node.stores.pool
        known = await payouts.account_of(pool, creator.id)
        account = known.account
        if account is None:
            account = await cards.account(creator.id, f"account-{creator.id}")
            await payouts.keep_account(pool, known.id, account)
        await payouts.set_payable(pool, account, payable=await cards.account_ready(account))
        home = f"{self._node.settings.home}/pay"
        return Visit(await cards.account_link(account, f"{home}?again", home))

    async def earning(self, request: Request) -> Earning:
        """Say whether you can be paid, and what is yours."""
        creator = await self._creator(request)
        known = await payouts.account_of(self._node.stores.pool, creator.id)
        months = await statements.months(self._node.stores.pool, known.id)
        return Earning(
            begun=known.account is not None,
            payable=known.payable,
            balance=months[-1].balance if months else 0,
        )

    async def list_statements(self, request: Request) -> Statements:
        """List what you have earned, month by month."""
        creator = await self._creator(request)
        known = await payouts.account_of(self._node.stores.pool, creator.id)
        return Statements(await statements.months(self._node.stores.pool, known.id))

    async def statement(self, request: Request) -> Statement:
        """Return what you have earned in a month, line by line. A month in which nothing was booked has no lines."""
        creator = await self._creator(request)
        period: str = request.path_params["period"]
        if _MONTH.fullmatch(period) is None:
            raise Refused(ErrorCode.NOT_FOUND)
        known = await payouts.account_of(self._node.stores.pool, creator.id)
        lines = await statements.lines(self._node.stores.pool, known.id, period)
        return Statement(period=period, lines=lines, sum=sum(line.cents for line in lines))

    def _cards(self) -> Cards:
        if self._node.cards is None:
            raise Refused(ErrorCode.PAYMENTS_OFF)
        return self._node.cards

    async def _creator(self, request: Request) -> Account:
        account = (await caller_of(self._node, request)).account
        if account.role != "CREATOR":
            raise Refused(ErrorCode.FORBIDDEN, "Only creators may do this.")
        return account


def endpoints(creators: Creators) -> list[Endpoint]:
    """List the operations of creators."""
    refuses = (*REFUSALS, ErrorCode.FORBIDDEN)
    return [
        Endpoint(
            method="POST",
            path="/creators/account",
            summary="Tell where you are to be paid",
            handle=creators.onboard,
            answer=Visit,
            status=201,
            refuses=(*refuses, ErrorCode.PAYMENTS_OFF, ErrorCode.RATE_LIMITED),
            signed_in=True,
            limits=(VISITS,),
            group="Creators",
        ),
        Endpoint(
            method="GET",
            path="/creators/account",
            summary="Can I be paid",
            handle=creators.earning,
            answer=Earning,
            refuses=refuses,
            signed_in=True,
            group="Creators",
        ),
        Endpoint(
            method="GET",
            path="/creators/statements",
            summary="What have I earned",
            handle=creators.list_statements,
            answer=Statements,
            refuses=refuses,
            signed_in=True,
            group="Creators",
        ),
        Endpoint(
            method="GET",
            path="/creators/statements/{period}",
            summary="What have I earned in a month",
            handle=creators.statement,
            parameters=(_PERIOD,),
            answer=Statement,
            refuses=(*refuses, ErrorCode.NOT_FOUND),
            signed_in=True,
            group="Creators",
        ),
    ]
