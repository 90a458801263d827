"""Pushing: what a device was not told live, and nobody has read, is pushed to it once.

A push waits `push_seconds`. Within that a device that is connected acknowledges by its position - the `person` of a `session.ping`
or of its next hello - and is not pushed to; one that is away, or whose app sleeps behind an open connection, does not, and is.
What can be known is what the device says: that bytes were written to a socket, or that its operating system answers pings, does
not mean that anybody was told. Reading on any device ends it for all of them.

Each person has one job, which takes their devices one after the other and each device's notifications in order, so what was
pushed is one mark per device (`storage.devices`). It is looked again right before each push whether it is still wanted.

At least once is what remains between the call and its commit: a node that dies there leaves the push to be sent again when its
lease ends. It has the same tag, so the device shows one; an alert may sound twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct

from protocol.envelope import SessionId
from protocol.notifications import (
    DeviceForgotten,
    DeviceRegistered,
    ForgetDevice,
    NotificationKind,
    QuietHours,
    RegisterDevice,
)
from protocol.refusals import Refused
from server.gateways.push import Fcm, Push, Unfit, Unregistered
from server.hub.dispatch import Call, handles
from server.jobs import NotYet, performs
from storage import devices
from storage.devices import TOO_OLD_SECONDS, Pending
from storage.jobs import Periodic
from storage.notifications import PushNotifications
from storage.postgres.pool import Pool
from storage.redis.limits import Limit

if TYPE_CHECKING:
    from server.node import Node

_LOGGER = logging.getLogger("looprooms.push")

REGISTRATIONS: Final = Limit("devices", burst=20, rate=1 / 60)
"""Times that a person's devices may register to be pushed to, or be forgotten."""
RETRY_SECONDS: Final = 1.0
AWAY_SECONDS: Final = 20.0, 40.0
"""While FCM does not take pushes, each person's waits about so long: no failure is counted, because it ends by itself in a day."""

TITLES: Final[Mapping[str, str]] = {
    NotificationKind.REACTION: "Somebody reacted to what you shared",
    NotificationKind.COMMENT: "Somebody commented on what you shared",
    NotificationKind.FRIEND_REQUEST: "Somebody wants to be your friend",
    NotificationKind.FRIEND_ACCEPTED: "You have a new friend",
    NotificationKind.ROOM_LIVE: "A looproom is live",
    NotificationKind.CHAIN_STEP: "The next step is waiting for you",
    NotificationKind.PAYMENT: "There is news about a payment",
    NotificationKind.DECISION: "Your request was decided",
}
"""What a lock screen may show to whoever holds the device: that something happened, never what was said or to whom."""


class PushCounts(Struct):
    """What became of pushes at this node."""

    sent: int = 0
    failed: int = 0
    spared: int = 0
    """Not sent, because it was read or acknowledged by then."""
    devices_lost: int = 0


@handles(RegisterDevice, limit=REGISTRATIONS)
async def register(call: Call, command: RegisterDevice) -> DeviceRegistered:
    """Push to the device of this session from now on."""
    stores = call.node.stores
    await devices.register(stores.pool, stores.sealer, call.session.id, command.token)
    return DeviceRegistered(id=command.id, pushes=call.node.push is not None)


@handles(ForgetDevice, limit=REGISTRATIONS)
async def forget(call: Call, command: ForgetDevice) -> DeviceForgotten:
    """Push to the device of this session no more."""
    await devices.unregister(call.node.stores.pool, call.session.id)
    return DeviceForgotten(id=command.id)


class Acknowledged:
    """How far devices have acknowledged the events of their persons. While one write is under way, the next gathers the others."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: dict[SessionId, int] = {}
        self._writing: asyncio.Task[None] | None = None

    def note(self, session: SessionId, offset: int) -> None:
        """Take note of what a session says."""
        self._waiting[session] = max(offset, self._waiting.get(session, 0))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def aclose(self) -> None:
        """Write what is left, if that goes at once."""
        if self._writing is not None:
            await asyncio.wait({self._writing}, timeout=RETRY_SECONDS)
            self._writing.cancel()

    async def _write(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, {}
                try:
                    await devices.seen(self._pool, batch)
                except Refused:
                    self._waiting = batch | self._waiting  # what came since is further
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._writing = None


@performs(PushNotifications, together=8)
async def push(node: Node, job: PushNotifications) -> None:
    """Push what is due to each device of a person; come back for what is not due yet."""
    if node.push is None:
        return
    if node.push.away:
        raise NotYet(after=random.uniform(*AWAY_SECONDS))
    settings, waiting = await devices.pending(node.stores.pool, node.stores.sealer, job.user)
    if not waiting:
        node.pushes.spared += 1
        return
    if settings.quiet is not None and (wait := quiet_for(settings.quiet, datetime.now().astimezone())):
        raise NotYet(after=wait)
    soonest: float | None = None
    passed_over: set[SessionId] = set()
    for one in waiting:
        if one.session in passed_over:
            continue
        if (wait := node.settings.push_seconds - one.age) > 0:
            soonest = wait if soonest is None else min(soonest, wait)
            passed_over.add(one.session)  # in order: what follows waits with it
        elif not await _push_one(node, node.push, job, one, names=settings.names):
            passed_over.add(one.session)
    if soonest is not None:
        raise NotYet(after=soonest)
    if len(waiting) == devices.MOST:
        raise NotYet(after=0.0)


async def _push_one(node: Node, fcm: Fcm, job: PushNotifications, one: Pending, *, names: bool) -> bool:
    """Push one notification to one device; say whether the device is still there. Raises `NotYet`."""
    pool = node.stores.pool
    if not await devices.still(pool, job.user, one):
        node.pushes.spared += 1
        return True
    try:
        await fcm.send(one.token, _shown(one, names=names))
    except Unregistered:
        node.pushes.devices_lost += 1
        await devices.drop(pool, one)
        return False
    except Unfit as unfit:
        node.pushes.failed += 1
        _LOGGER.error("a push of a %s will never be taken: %s", one.kind, unfit.reason)  # noqa: TRY400 - no bug's trace
    except Refused as refused:
        node.pushes.failed += 1
        raise NotYet(after=max(refused.retry_after or 0.0, random.uniform(*AWAY_SECONDS))) from None
    else:
        node.pushes.sent += 1
    await devices.pushed(pool, one)
    return True


def _shown(one: Pending, *, names: bool) -> Push:
    who = ""
    if names and one.doer:
        who = one.doer if one.count == 1 else f"{one.doer} and {one.count - 1} more"
    return Push(
        id=one.id,
        title=TITLES.get(one.kind, "Something happened"),
        body=who,
        data={
            "id": str(one.id),
            "kind": one.kind,
            "thing_kind": one.thing_kind,
            "thing": str(one.thing),
            "offset": str(one.first),
        },
        seconds=TOO_OLD_SECONDS - one.age,
    )


def quiet_for(quiet: QuietHours, now: datetime) -> float:
    """Return how many seconds the quiet hours still last; 0.0 when it is none of them, or their time zone is not known here."""
    try:
        local = now.astimezone(ZoneInfo(quiet.zone))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return 0.0
    minute = local.hour * 60 + local.minute
    within = (minute - quiet.start) % 1440 < (quiet.end - quiet.start) % 1440
    if not within:
        return 0.0
    over = local.replace(hour=quiet.end // 60, minute=quiet.end % 60, second=0, microsecond=0)
    if quiet.end <= minute:
        over = (over.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=local.tzinfo)
    return max(1.0, over.timestamp() - now.timestamp())


class ForgetDevices(Periodic, tag="devices.forget"):
    """Deletes what is left of devices whose session has ended."""


@performs(ForgetDevices, every=600.0)
async def forget_devices(node: Node, job: ForgetDevices) -> None:  # noqa: ARG001 - whichever period it is
    """Delete them: nothing was pushed to them any more, and nothing should know them."""
    await devices.forget_devices(node.stores.pool)
