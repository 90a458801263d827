"""The way to the provider's page on which somebody pays, of which there is one at a time for the same thing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from protocol.envelope import UserId
from protocol.refusals import ErrorCode, Refused
from server.gateways.cards import Cards, CheckoutPage, Gone
from storage import checkouts, subscriptions
from storage.checkouts import Turn, Want
from storage.postgres.pool import Pool

ATTEMPTS: Final = 5
MEANWHILE_SECONDS: Final = 0.1
"""How long it is waited for somebody who has just begun another checkout and has not noted it."""

Begin = Callable[[str, str], Awaitable[CheckoutPage]]
"""Begins a checkout for a customer with an idempotency key."""


async def page_for(pool: Pool, cards: Cards, want: Want, begin: Begin, *, had: ErrorCode) -> CheckoutPage:
    """Return the open page for what somebody wants, or begin one, and end what is open for anything else of the same thing.

    Raises `Refused`: `had` when it was just paid, key_reused when the key of the wish was one for something else, unavailable.
    """
    for attempt in range(ATTEMPTS):
        turn = await checkouts.turn_of(pool, want)
        if turn.session is None:
            page = await _begun(pool, cards, want, turn, begin, late=attempt + 2 >= ATTEMPTS)
        else:
            page = await _open(pool, cards, want, turn, had)
        if page is not None:
            return page
    raise Refused(ErrorCode.UNAVAILABLE, retry_after=1.0)


async def _open(pool: Pool, cards: Cards, want: Want, turn: Turn, had: ErrorCode) -> CheckoutPage | None:
    """Return the page of a turn if it is the one that is wanted; else it is over."""
    assert turn.session is not None
    if turn.fresh:
        other = turn.wanted != want.wanted
        if other and turn.key == want.key:
            raise Refused(ErrorCode.KEY_REUSED)
        try:
            page = await (cards.expire(turn.session) if other else cards.checkout_page(turn.session))
        except Gone:
            page = None
        if page is not None and page.paid:
            raise Refused(had)
        if page is not None and page.url:
            return page
    await checkouts.end(pool, want, turn)
    return None


async def _begun(
    pool: Pool, cards: Cards, want: Want, turn: Turn, begin: Begin, *, late: bool
) -> CheckoutPage | None:
    customer = await customer_of(pool, cards, want.user)
    try:
        page = await begin(customer, f"checkout-{customer}-{want.thing}-{turn.number}")
    except Gone:
        await subscriptions.drop_customer(pool, customer)
        return None
    except Refused as refused:
        if refused.code is not ErrorCode.KEY_REUSED:
            raise
        # In this turn somebody has begun another one. If they don't note it they have died, and nobody knows its page.
        await (checkouts.end(pool, want, turn) if late else asyncio.sleep(MEANWHILE_SECONDS))
        return None
    if await checkouts.keep(pool, want, turn, page.id):
        return page
    await cards.expire(page.id)
    return None


async def customer_of(pool: Pool, cards: Cards, user: UserId) -> str:
    """Return who a person is at the provider; a first time makes one customer, however often it is tried."""
    known = await subscriptions.customers_of(pool, user)
    if known:
        return known[0]
    made = await cards.customer(user, f"customer-{user}")
    await subscriptions.keep_customer(pool, made, user)
    return made
