"""Events of the payment provider: each is taken once, in one transaction with its effect, by the domain whose object it is about.

A taker is registered by the kind of object::

    @takes("subscription")
    async def took(taking: Taking) -> None: ...

It works inside the transaction and adds what people are to be told to `taking.told`, which is published after the commit.
Until then nobody says that the event was taken: if the node dies, the provider sends it again. Events about other kinds
of objects are taken and have no effect, and so are those of what happened at a creator's account: what they sell there is theirs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from protocol.refusals import ErrorCode, Refused
from storage import subscriptions
from storage.payment_objects import PaymentEvent
from storage.person_events import Told
from storage.postgres.pool import Connection, answering

if TYPE_CHECKING:
    from server.node import Node

_LOGGER = logging.getLogger("looprooms.payments")

DAY: Final = 86400
LOOK_SECONDS: Final = 1.0
"""The longest time between two looks at what ends by itself: it may have become known meanwhile."""
LEAST_SECONDS: Final = 0.05
"""Between two looks at something that another node is just ending."""

ObjectT = TypeVar("ObjectT")


class Taking:
    """An event that is being taken: in which transaction, by which node, and what people are told of it."""

    def __init__(self, node: Node, connection: Connection, event: PaymentEvent) -> None:
        self.node = node
        self.connection = connection
        self.event = event
        self.told: list[Told] = []

    def object(self, kind: type[ObjectT]) -> ObjectT:
        """Return the object as it was when the event happened. Raises `Refused` (invalid) when it is not what it should be."""
        try:
            return msgspec.json.decode(self.event.data.object, type=kind)
        except msgspec.ValidationError as error:
            _LOGGER.error("an event %s is not what was expected: %s", self.event.type, error)  # noqa: TRY400
            raise Refused(ErrorCode.INVALID, "The object of this event is not understood.") from None


Take = Callable[[Taking], Awaitable[None]]
TAKERS: Final[dict[str, Take]] = {}


def takes(kind: str) -> Callable[[Take], Take]:
    """Register the decorated function as what takes events about objects of `kind`. Raises `TypeError` for a second one."""

    def register(take: Take) -> Take:
        if kind in TAKERS:
            raise TypeError(f"events about {kind} are taken already")
        TAKERS[kind] = take
        return take

    return register


async def take(node: Node, event: PaymentEvent) -> list[Told] | None:
    """Take an event, and return what people were told; None when it was taken before.

    When this returns it is committed. Raises `Refused`.
    """
    async with answering(node.stores.pool) as connection, connection.transaction():
        if not await subscriptions.claim_event(connection, event.id, event.type):
            return None
        taking = Taking(node, connection, event)
        if event.ours and (taker := TAKERS.get(event.about)) is not None:
            await taker(taking)
    node.person_events.publish(taking.told)
    return taking.told


async def in_their_moments(
    end: Callable[[], Awaitable[None]], following: Callable[[], Awaitable[float | None]]
) -> None:
    """Call `end` for ever, whenever something ends by our own clock: in the moment that `following` says, and every `LOOK_SECONDS`.

    It is done on every node, because any of them may be the last one.
    """
    while True:
        pause = LOOK_SECONDS
        try:
            await end()
            moment = await following()
            if moment is not None:
                pause = min(LOOK_SECONDS, max(LEAST_SECONDS, moment - time.time()))
        except Refused:
            _LOGGER.debug("what ends by the clock could not be looked at: Postgres is out of reach")
        await asyncio.sleep(pause)


def grace_seconds(node: Node) -> int:
    """Return how long a subscription counts after its payment has failed."""
    return int(node.settings.grace_days * DAY)


def now() -> int:
    """Return the moment, in whole seconds, as the provider tells it."""
    return int(time.time())
