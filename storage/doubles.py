"""What was paid twice: two subscriptions to the same thing, or a pass that somebody has already. The later one goes back, by itself.

It can't be seen before it has happened, if two pages were open all the same, or word of the first payment was lost for long. Which
is the later one is said by the provider's moments, so it is the same one whatever is told first; and the provider is asked how both
stand before one is ended. What goes back is booked as every refund is; its person is told once, by an event.
"""

from __future__ import annotations

from collections.abc import Iterable

from protocol.envelope import RoomId, UserId
from protocol.notifications import NotificationKind, Thing, ThingKind
from protocol.subscriptions import PaymentReturned, Reason, Tier
from storage.checkouts import thing_of
from storage.jobs import Job, enqueue
from storage.notifications import NewNotice, notify
from storage.payment_objects import SubscriptionObject, room_of
from storage.person_events import NewEvent, Told
from storage.postgres.pool import Connection

CLAIM = """
insert into payment_events (id, kind) values ($1, 'doubled') on conflict do nothing returning id
"""

PERSON = """
select true from users where id = $1 for no key update
"""


class EndDoubled(Job, tag="doubles.end"):
    """A subscription was begun although another one is there: it is ended, and its money goes back, as long as the other lives."""

    user: UserId
    subscription: str
    other: str


class GiveBack(Job, tag="doubles.give_back"):
    """A pass was paid for that somebody had already: its money goes back."""

    user: UserId
    room: RoomId
    payment: str
    cents: int


def pays(subscription: SubscriptionObject) -> bool:
    """Say whether a subscription is paid for now, or is in its trial."""
    return subscription.status in ("active", "trialing")


def doubles(seen: Iterable[SubscriptionObject]) -> list[tuple[SubscriptionObject, SubscriptionObject]]:
    """Return the subscriptions of one person that are to the same thing as an earlier one, each with that one."""
    first: dict[str, SubscriptionObject] = {}
    found = []
    for one in sorted(filter(pays, seen), key=lambda one: (one.created, one.id)):
        room = room_of(one.metadata)
        if room is None and one.tier not in Tier.__members__:
            continue  # not of our table
        earlier = first.setdefault(thing_of(room), one)
        if earlier is not one:
            found.append((one, earlier))
    return found


async def end_doubles(connection: Connection, user: UserId, seen: Iterable[SubscriptionObject]) -> None:
    """Have the later ones of a person's subscriptions ended that are to the same thing."""
    for later, earlier in doubles(seen):
        job = EndDoubled(user=user, subscription=later.id, other=earlier.id)
        await enqueue(connection, job, key=later.id)


async def tell_returned(
    connection: Connection, user: UserId, cause: str, *, room: RoomId | None, cents: int
) -> list[Told]:
    """Tell somebody that what they have paid twice goes back, once for each `cause`."""
    if await connection.fetchval(PERSON, user) is None:
        return []
    if await connection.fetchval(CLAIM, f"doubled-{cause}") is None:
        return []
    notices = []
    if room is None:  # that a pass was taken back is notified of when it is
        thing = Thing(kind=ThingKind.SUBSCRIPTION, id=user)
        kind = NotificationKind.PAYMENT
        notices.append(NewNotice(user=user, kind=kind, thing=thing, outcome=Reason.REFUNDED))
    event = NewEvent(user, PaymentReturned(room=room, cents=cents))
    return await notify(connection, notices, also=[event])
