"""What happened to the person at the terminal, in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from protocol.notifications import Notification, NotificationKind

_SENTENCES: Final[Mapping[str, str]] = {
    NotificationKind.REACTION: "{who} reacted to your {thing}",
    NotificationKind.COMMENT: "{who} commented on your {thing}",
    NotificationKind.FRIEND_REQUEST: "{who} asked to be your friend",
    NotificationKind.FRIEND_ACCEPTED: "{who} became your friend",
    NotificationKind.ROOM_LIVE: "a looproom that you follow is live",
    NotificationKind.CHAIN_STEP: "the next step of your loopchain is waiting",
    NotificationKind.PAYMENT: "about a payment: {outcome}",
    NotificationKind.DECISION: "your application was decided: {outcome}",
}


def sentence(notification: Notification) -> str:
    """Say what happened; of a kind that is not known here, to what."""
    known = _SENTENCES.get(notification.kind, "something happened to your {thing}")
    return known.format(
        who=_who(notification),
        thing=notification.thing.kind,
        outcome=notification.outcome.lower().replace("_", " "),
    )


def _who(notification: Notification) -> str:
    name = notification.actor.name if notification.actor is not None else ""
    others = notification.count - 1
    return f"{name or 'somebody'} and {others} more" if others else name or "somebody"
