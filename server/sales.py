"""What was paid, and what has gone back: taken from the provider's events, in any order, and booked once."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from server.gateways.cards import Gone
from server.jobs import GiveUp, performs
from server.payments import Taking, now, takes
from server.plans import CURRENCY
from storage import jobs, sales
from storage.payment_objects import ChargeObject, DisputeObject, InvoiceObject, InvoicePaymentObject
from storage.postgres.pool import answering
from storage.sales import BookInvoice, EndSubscription

if TYPE_CHECKING:
    from server.node import Node

_LOGGER = logging.getLogger("looprooms.sales")


@takes("invoice")
async def invoice_changed(taking: Taking) -> None:
    """Have a paid invoice booked. What is not in our currency is none of ours: it would be booked as if it were."""
    invoice = taking.object(InvoiceObject)
    if invoice.currency != CURRENCY:
        _LOGGER.error("an invoice in %s is not booked", invoice.currency)
    elif taking.event.type == "invoice.paid" and invoice.amount_paid > 0 and invoice.subscription is not None:
        job = BookInvoice(
            invoice=invoice.id,
            subscription=invoice.subscription,
            cents=invoice.amount_paid,
            at=taking.event.created,
        )
        await jobs.enqueue(taking.connection, job, key=invoice.id)


@performs(BookInvoice, attempts=20)
async def book_invoice(node: Node, job: BookInvoice) -> None:
    """Share out what was paid; the provider is asked what for, if it has not told yet."""
    async with answering(node.stores.pool) as connection:
        subscription = await sales.subscription_seen(connection, job.subscription)
    if subscription is None and node.cards is not None:
        with contextlib.suppress(Gone):
            subscription = await node.cards.subscription(job.subscription)
    if subscription is None:
        raise GiveUp("its subscription is nowhere")
    async with answering(node.stores.pool) as connection, connection.transaction():
        told = await sales.sell_invoice(
            connection, job, subscription, now=now(), fee=node.settings.room_fee_percent
        )
    node.person_events.publish(told)


@takes("invoice_payment")
async def invoice_payment_changed(taking: Taking) -> None:
    """Note which payment an invoice was paid by."""
    paid = taking.object(InvoicePaymentObject)
    if paid.payment.payment_intent is not None:
        taking.told += await sales.link(
            taking.connection, paid.payment.payment_intent, paid.invoice, now=now()
        )


@takes("charge")
async def charge_changed(taking: Taking) -> None:
    """Book what was given back."""
    charge = taking.object(ChargeObject)
    if charge.payment_intent is not None and charge.amount_refunded:
        taking.told += await sales.returned(
            taking.connection,
            charge.id,
            charge.payment_intent,
            charge.amount_refunded,
            final=False,
            at=taking.event.created,
            now=now(),
        )


@takes("dispute")
async def dispute_changed(taking: Taking) -> None:
    """Book what a bank has taken, or has given back."""
    dispute = taking.object(DisputeObject)
    if dispute.payment_intent is not None:
        taking.told += await sales.returned(
            taking.connection,
            dispute.id,
            dispute.payment_intent,
            dispute.held,
            final=dispute.decided,
            at=taking.event.created,
            now=now(),
        )


@performs(EndSubscription, attempts=20)
async def end_subscription(node: Node, job: EndSubscription) -> None:
    """End what is paid for, and whose money has gone back."""
    if node.cards is None:
        raise GiveUp("nothing is paid here")
    with contextlib.suppress(Gone):  # it has ended already
        await node.cards.cancel(job.subscription)
