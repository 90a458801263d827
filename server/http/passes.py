"""Passes over HTTP: the way to the provider's page on which one pays for an exclusive looproom, at its host's price."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import Meta, Struct
from starlette.requests import Request

from protocol.envelope import IdempotencyKey, RoomRef
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import Room, RoomStatus
from server.gateways.cards import CheckoutPage, PassOrder
from server.http.callers import REFUSALS, caller_of
from server.http.checkouts import page_for
from server.http.endpoint import Endpoint
from server.http.payments import VISITS, Visit
from storage import passes, relations
from storage.checkouts import Want, thing_of
from storage.people import Account

if TYPE_CHECKING:
    from server.node import Node

_ALWAYS: Final = ("MODERATOR", "ADMIN")


class PassWanted(Struct):
    """Buy a pass."""

    room: Annotated[RoomRef, Meta(description="The looproom, by its slug or its id.")]
    kind: Annotated[
        Literal["month", "session"],
        Meta(description="Each month until it is canceled, or once for a session."),
    ]
    key: Annotated[
        IdempotencyKey, Meta(description="Made once for each wish; sent again, it is the same checkout.")
    ]


class Passes:
    """The operations on passes, of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def buy(self, request: Request, body: PassWanted) -> Visit:
        """Begin to buy a pass: the answer is the page on which one pays. What comes of it is told over the websocket."""
        node = self._node
        account = (await caller_of(node, request)).account
        if node.cards is None:
            raise Refused(ErrorCode.PAYMENTS_OFF)
        room = await node.catalogue.find(body.room)
        cents = await self._price(room, account, body.kind)
        pool = node.stores.pool
        pay = f"{node.settings.home}/pay?room={room.slug}"
        cards = node.cards

        async def begin(customer: str, key: str) -> CheckoutPage:
            order = PassOrder(
                user=account.id,
                customer=customer,
                room=room.id,
                title=room.title,
                cents=cents,
                monthly=body.kind == "month",
                key=key,
                paid_url=f"{pay}&paid",
                left_url=pay,
            )
            return await cards.checkout_pass(order)

        want = Want(account.id, thing_of(room.id), f"{body.kind} for {cents}", body.key)
        return Visit((await page_for(pool, cards, want, begin, had=ErrorCode.PASS_HELD)).url)

    async def _price(self, room: Room, account: Account, kind: str) -> int:
        """Return what a pass costs this person. Raises `Refused`: not_found, pass_held, not_for_sale."""
        names = (account.id, self._node.faces.pseudonym(room.id, account.id).id)
        always = room.host.id in names or account.role in _ALWAYS
        if not always and (room.status is not RoomStatus.PUBLISHED or await self._hides(room, account)):
            raise Refused(ErrorCode.NOT_FOUND)
        if always or await passes.holds(self._node.stores.pool, account.id, room.id):
            raise Refused(ErrorCode.PASS_HELD)
        cents = room.month_cents if kind == "month" else room.session_cents
        if cents is None:
            raise Refused(ErrorCode.NOT_FOR_SALE)
        return cents

    async def _hides(self, room: Room, account: Account) -> bool:
        """Say whether a block stands between somebody and the host."""
        hidden = (await relations.hidden_from(self._node.stores.pool, [account.id]))[account.id]
        names = {self._node.faces.pseudonym(room.id, user).id for user in hidden}
        return room.host.id in hidden | names


def endpoints(operations: Passes) -> list[Endpoint]:
    """List the operations on passes."""
    return [
        Endpoint(
            method="POST",
            path="/payments/passes",
            summary="Buy a pass to an exclusive looproom",
            handle=operations.buy,
            body=PassWanted,
            example=PassWanted("breathing-with-maya", "session", "pass-7d1f0c52"),
            answer=Visit,
            status=201,
            refuses=(
                *REFUSALS,
                ErrorCode.PAYMENTS_OFF,
                ErrorCode.RATE_LIMITED,
                ErrorCode.NOT_FOUND,
                ErrorCode.PASS_HELD,
                ErrorCode.NOT_FOR_SALE,
                ErrorCode.KEY_REUSED,
            ),
            signed_in=True,
            limits=(VISITS,),
            group="Payments",
        ),
    ]
