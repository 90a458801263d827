"""Notifications on the wire."""

from __future__ import annotations

from uuid import UUID

import msgspec
import pytest

from protocol.codec import JSON
from protocol.notifications import (
    Notice,
    Notification,
    NotificationKind,
    NotificationsListed,
    Thing,
    ThingKind,
)
from protocol.refusals import ErrorCode, Refused

VYBE = Thing(kind=ThingKind.VYBE, id=UUID(int=3))


def test_what_happened_once_and_is_unread() -> None:
    """What goes without saying is not said: once, by nobody in particular, not read yet."""
    notice = Notification(id=UUID(int=4), kind=NotificationKind.REACTION, thing=VYBE, at=5, offset=6)
    assert msgspec.json.decode(JSON.encode(Notice(notification=notice, person_offset=6))) == {
        "type": "notification.notice",
        "person_offset": 6,
        "notification": {
            "id": str(UUID(int=4)),
            "kind": "reaction",
            "thing": {"kind": "vybe", "id": str(UUID(int=3))},
            "at": 5,
            "offset": 6,
        },
    }


def test_a_kind_that_is_newer_than_the_reader() -> None:
    """An old client reads it, of a thing that it does not know either."""
    wire = {
        "type": "notification.listed",
        "id": 1,
        "unread": 1,
        "notifications": [
            {
                "id": str(UUID(int=4)),
                "kind": "wave",
                "thing": {"kind": "beach", "id": str(UUID(int=3))},
                "at": 5,
                "offset": 6,
            }
        ],
    }
    answer = JSON.decode_reply(msgspec.json.encode(wire))
    assert isinstance(answer, NotificationsListed)
    assert answer.notifications[0].kind == "wave"


@pytest.mark.parametrize("minute", [-1, 1440, 60.5, "60"])
def test_a_minute_is_one_of_a_day(minute: object) -> None:
    """Nothing else begins or ends the quiet hours."""
    quiet = {"start": 0, "end": minute, "zone": "UTC"}
    with pytest.raises(Refused) as refused:
        JSON.decode_command(
            msgspec.json.encode({"type": "notification.settings", "id": 1, "settings": {"quiet": quiet}})
        )
    assert (refused.value.code, refused.value.path) == (ErrorCode.INVALID, "$.settings.quiet.end")
