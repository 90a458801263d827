"""Notifications: what happened to you. Kept until you have read it, told live on every device, pushed to those that are closed.

The same thing that happens again while it is unread is no second notification: it counts. Each telling is a durable event of
the person (`person_offset`), so a client that comes back is sent what it missed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from protocol.envelope import Answer, Command, Milliseconds, Offset, Person, PersonEvent


class NotificationKind(StrEnum):
    """What happened. A reader shows a kind that it does not know as something that happened to `thing`."""

    REACTION = "reaction"
    COMMENT = "comment"
    FRIEND_REQUEST = "friend_request"
    FRIEND_ACCEPTED = "friend_accepted"
    ROOM_LIVE = "room_live"
    CHAIN_STEP = "chain_step"
    PAYMENT = "payment"
    DECISION = "decision"


class ThingKind(StrEnum):
    """To what it happened."""

    LOOPROOM = "looproom"
    LOOPCHAIN = "loopchain"
    VYBE = "vybe"
    COMMENT = "comment"
    PERSON = "person"
    SUBSCRIPTION = "subscription"
    APPLICATION = "application"


class Thing(Struct, kw_only=True):
    """To what it happened. `id` is what the commands of that thing's domain take; of a subscription it is your own."""

    kind: str
    id: UUID


class Notification(Struct, omit_defaults=True, kw_only=True):
    """Something happened to you, `count` times so far (by so many people, where people did it), last at `at`.

    `kind` is one of `NotificationKind`, and more as they come. `actor` is who did it last, as you see them; absent where nobody
    in particular did. `part` is what came of it, such as the comment; `outcome` says how it went, in a word. `offset` is the
    place of its newest event among yours: what `notification.read` counts by.
    """

    id: UUID
    kind: str
    thing: Thing
    at: Milliseconds
    offset: Offset
    count: int = 1
    actor: Person | None = None
    part: UUID | None = None
    outcome: str = ""
    read: bool = False


class Notice(PersonEvent, tag="notification.notice"):
    """It happened, or happened again: this takes the place of what was known of the notification with this id."""

    notification: Notification


class NotificationsSeen(PersonEvent, tag="notification.seen", kw_only=True):
    """One of your devices has read a notification, or all up to an offset. `unread` are left."""

    notification: UUID | None = None
    upto: Offset = 0
    unread: int


class NotificationsListed(Answer, tag="notification.listed", kw_only=True):
    """One page, the newest first; `next` is the `before` of the following one, absent on the last. `unread` counts to 100."""

    notifications: list[Notification]
    unread: int
    next: Offset | None = None


class ListNotifications(Command[NotificationsListed], tag="notification.list"):
    """What happened to me? Those whose newest event is before an offset, or all."""

    before: Offset | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class NotificationsRead(Answer, tag="notification.marked"):
    """Marked as read, as your other devices are told; what was read before is no error. `unread` are left, counted to 100."""

    unread: int


class ReadNotifications(Command[NotificationsRead], tag="notification.read"):
    """I have read one, or all whose newest event is at `upto` or before. Exactly one of the two is given.

    What happens again after that is a new notification. ``not_found``: it is none of yours.
    """

    notification: UUID | None = None
    upto: Offset | None = None


class Way(StrEnum):
    """How one wants to be told: live and pushed, live alone, or not at all - then it is not kept either."""

    PUSH = "push"
    LIVE = "live"
    NONE = "none"


Minute = Annotated[int, Meta(ge=0, le=1439)]
"""Of a day: 0 is midnight, 1320 ten in the evening."""


class QuietHours(Struct, kw_only=True):
    """From one minute of the day to another, in the time of a place, nothing is pushed: it waits until they are over.

    `zone` is a name of the IANA time zone database, such as ``Europe/Berlin``. They may go over midnight.
    """

    start: Minute
    end: Minute
    zone: Annotated[str, Meta(min_length=1, max_length=64)]


class NotificationSettings(Struct, omit_defaults=True, kw_only=True):
    """How one is told. A kind that is not in `ways` is live and pushed. With `names` a push may say who did it."""

    ways: Annotated[dict[str, Way], Meta(max_length=32)] = {}
    quiet: QuietHours | None = None
    names: bool = False


class NotificationSettingsFound(Answer, tag="notification.settled"):
    """Your settings as they stand now."""

    settings: NotificationSettings


class SetNotifications(Command[NotificationSettingsFound], tag="notification.settings"):
    """How am I told? With `settings` these count from now on, all of them."""

    settings: NotificationSettings | None = None


class DeviceRegistered(Answer, tag="device.registered"):
    """What happens from now on is pushed to this device; with `pushes` false this server does not push at all."""

    pushes: bool


class RegisterDevice(Command[DeviceRegistered], tag="device.register"):
    """Push to this device what it has not been told live: `token` is what Firebase Cloud Messaging calls it.

    It belongs to this session and ends with it; a newer token takes its place. A device that is told live acknowledges that by the
    `person` of a `session.ping` (or of its next `hello`), soon after: what it has not acknowledged, and nobody has read, is
    pushed. A push names the notification as `id` of its data, and so does its tag: a device shows one of each.
    """

    token: Annotated[str, Meta(pattern=r"^[!-~]{1,1024}$(?!\n)")]


class DeviceForgotten(Answer, tag="device.forgotten"):
    """Nothing is pushed to this device any more."""


class ForgetDevice(Command[DeviceForgotten], tag="device.forget"):
    """Push nothing to this device any more. That it was not registered is no error."""


Commands = ListNotifications | ReadNotifications | SetNotifications | RegisterDevice | ForgetDevice
Answers = (
    NotificationsListed | NotificationsRead | NotificationSettingsFound | DeviceRegistered | DeviceForgotten
)
Events = Notice | NotificationsSeen
