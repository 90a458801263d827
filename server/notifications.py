"""Notifications: what happened to oneself - listed, read on one device and so on all, and how one wants to be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from protocol.notifications import (
    ListNotifications,
    NotificationKind,
    NotificationSettings,
    NotificationSettingsFound,
    NotificationsListed,
    NotificationsRead,
    ReadNotifications,
    SetNotifications,
)
from protocol.refusals import ErrorCode, Refused
from server.hub.dispatch import Call, handles
from server.jobs import DAY, performs
from storage import notifications
from storage.jobs import Periodic
from storage.redis.limits import Limit

if TYPE_CHECKING:
    from server.node import Node

LISTS: Final = Limit("notification_lists", burst=60, rate=2)
"""Pages of notifications of a person."""
READS: Final = Limit("notification_reads", burst=60, rate=2)
"""Times that a person may say that they have read something: each is told to all their devices, and kept."""
KINDS: Final = frozenset(kind.value for kind in NotificationKind)
CHANGES: Final = Limit("notification_settings", burst=30, rate=1 / 10)
"""Looks at how a person is told, and changes of it."""


@handles(ListNotifications, limit=LISTS)
async def list_notifications(call: Call, command: ListNotifications) -> NotificationsListed:
    """Page through what happened to this person."""
    pool, user = call.node.stores.pool, call.session.user_id
    found = await notifications.page(pool, user, command.before, command.limit + 1)
    page = found[: command.limit]
    return NotificationsListed(
        id=command.id,
        notifications=page,
        unread=await notifications.unread(pool, user),
        next=page[-1].offset if len(found) > command.limit else None,
    )


@handles(ReadNotifications, limit=READS)
async def read(call: Call, command: ReadNotifications) -> NotificationsRead:
    """Mark as read; the other devices of this person are told."""
    if (command.notification is None) is (command.upto is None):
        raise Refused(
            ErrorCode.INVALID, "Name a notification, or an offset; one of the two.", path="$.notification"
        )
    node = call.node
    done = await notifications.read(
        node.stores.pool, call.session.user_id, command.notification, command.upto or 0
    )
    node.person_events.publish(done.told)
    return NotificationsRead(id=command.id, unread=done.unread)


@handles(SetNotifications, limit=CHANGES)
async def settings(call: Call, command: SetNotifications) -> NotificationSettingsFound:
    """Say how this person is told, or change it."""
    pool, user = call.node.stores.pool, call.session.user_id
    if command.settings is None:
        return NotificationSettingsFound(id=command.id, settings=await notifications.settings_of(pool, user))
    _sensible(command.settings)
    await notifications.set_settings(pool, user, command.settings)
    return NotificationSettingsFound(id=command.id, settings=command.settings)


def _sensible(chosen: NotificationSettings) -> None:
    """Raise `Refused` (invalid) for a kind or a time zone that there is not."""
    for kind in chosen.ways:
        if kind not in KINDS:
            message = f"There are the kinds {', '.join(sorted(KINDS))}."
            raise Refused(ErrorCode.INVALID, message, path="$.settings.ways")
    if chosen.quiet is not None:
        try:
            ZoneInfo(chosen.quiet.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            message = "Use a name of the IANA time zone database, such as Europe/Berlin."
            raise Refused(ErrorCode.INVALID, message, path="$.settings.quiet.zone") from None


class ForgetNotifications(Periodic, tag="notifications.forget"):
    """Deletes notifications that were read a while ago, and very old ones."""


@performs(ForgetNotifications, every=DAY, at=5 * 3600)
async def forget(node: Node, job: ForgetNotifications) -> None:  # noqa: ARG001 - whichever night it is
    """Delete what the rule in `storage.notifications` says, until nothing of it is left."""
    while await notifications.forget(node.stores.pool):
        pass
