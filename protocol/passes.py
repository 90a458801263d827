"""Passes: exclusive looprooms, which their hosts sell by the month or by the session, and who may come in.

Buying itself happens over HTTP and on the payment provider's pages; what comes of it is told here, live, on every device.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from protocol.envelope import Answer, Command, Milliseconds, PersonEvent, RoomId, RoomRef
from protocol.rooms import Room
from protocol.subscriptions import Reason

Cents = Annotated[int, Meta(ge=1, le=100_000_000)]


class RoomOffered(Answer, tag="room.offered"):
    """The looproom as it is offered from now on."""

    room: Room


class OfferRoom(Command[RoomOffered], tag="room.offer"):
    """Sell your looproom by the month, by the session, or both; without a price it is open again. For creators, in cents.

    Whoever is in it without a pass is taken out. Passes that were bought count to their end.
    """

    room: RoomRef
    month_cents: Cents | None = None
    session_cents: Cents | None = None


class PassChanged(PersonEvent, tag="pass.changed", kw_only=True):
    """Your pass to an exclusive looproom: join it now, until `until`. Without `until` you have none any more.

    If you are in it then, you are taken out within the same second.
    """

    room: RoomId
    until: Milliseconds | None = None
    reason: Reason


Commands = OfferRoom
Answers = RoomOffered
Events = PassChanged
