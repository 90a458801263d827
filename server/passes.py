"""Passes: hosts sell their looprooms, and who has paid is in until the pass ends, by our own clock."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from protocol.moderation import Role
from protocol.passes import OfferRoom, RoomOffered
from protocol.refusals import ErrorCode, Refused
from server.gateways.cards import Gone
from server.hub.dispatch import Call, handles
from server.jobs import GiveUp, performs
from server.payments import in_their_moments, now
from server.rooms import visible
from storage import passes
from storage.jobs import Periodic
from storage.passes import EndRenewal
from storage.redis.limits import Limit

if TYPE_CHECKING:
    from server.node import Node

OFFERS: Final = Limit("offers", burst=20, rate=1 / 30)
"""Changes of what one's rooms cost: each makes every node look at the room."""


@handles(OfferRoom, limit=OFFERS)
async def offer(call: Call, command: OfferRoom) -> RoomOffered:
    """Let a room cost something from now on, or nothing: its host may, who is a creator."""
    node = call.node
    room = await node.catalogue.find(command.room)
    if not visible(room, call.session):
        raise Refused(ErrorCode.NOT_FOUND)
    if call.session.role not in (Role.CREATOR, Role.ADMIN):
        raise Refused(ErrorCode.FORBIDDEN, "Only creators sell their looprooms.")
    for field in ("month_cents", "session_cents"):
        _within_bounds(node, field, getattr(command, field))
    month, session = command.month_cents, command.session_cents
    if not await passes.offer(node.stores.pool, room.id, call.session.user_id, month, session):
        raise Refused(ErrorCode.FORBIDDEN, "Only the host of a looproom sells it.")
    node.room_changed(room.id)
    return RoomOffered(id=command.id, room=await node.catalogue.read(room.id))


def _within_bounds(node: Node, field: str, cents: int | None) -> None:
    least, most = node.settings.room_cents_least, node.settings.room_cents_most
    if cents is not None and not least <= cents <= most:
        message = f"A looproom costs {least} to {most} cents."
        raise Refused(ErrorCode.INVALID, message, path=f"$.{field}")


class EndUnsold(Periodic, tag="passes.unsold"):
    """Ends the renewal of passes to what is not sold any more."""


@performs(EndUnsold, every=3600.0)
async def end_unsold(node: Node, job: EndUnsold) -> None:  # noqa: ARG001 - whichever hour it is
    """Look for passes that nobody should pay for again: their room is withdrawn, its host has left, or it is open to everyone."""
    if node.cards is not None:
        await passes.end_renewals(node.stores.pool)


@performs(EndRenewal, attempts=100)
async def end_renewal(node: Node, job: EndRenewal) -> None:
    """Let a subscription end with what is paid."""
    if node.cards is None:
        raise GiveUp("nothing is paid here")
    with contextlib.suppress(Gone):  # it has ended already
        await node.cards.cancel_at_end(job.subscription)


class PassExpiry:
    """Ends passes in their moment."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def run(self) -> None:
        """Look which passes end, for ever."""
        pool = self._node.stores.pool
        await in_their_moments(self._end, lambda: passes.next_due(pool))

    async def _end(self) -> None:
        pool = self._node.stores.pool
        for ended in await passes.due(pool, time.time()):
            self._node.person_events.publish(await passes.end(pool, ended, now=now()))
