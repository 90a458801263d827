"""What happened, as the person at the terminal reads it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from protocol.envelope import NOBODY, Person, UserId
from protocol.notifications import Notification, NotificationKind, Thing
from server.terminal.happened import sentence

ADA = Person(id=UserId(UUID(int=1)), name="Ada")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"kind": "reaction", "actor": ADA}, "Ada reacted to your vybe"),
        ({"kind": "reaction", "actor": ADA, "count": 20}, "Ada and 19 more reacted to your vybe"),
        ({"kind": "comment", "actor": NOBODY}, "somebody commented on your vybe"),
        ({"kind": "payment", "outcome": "payment_failed"}, "about a payment: payment failed"),
        ({"kind": "decision", "outcome": "APPROVED"}, "your application was decided: approved"),
        ({"kind": "wave"}, "something happened to your vybe"),
    ],
)
def test_a_line(fields: dict[str, Any], expected: str) -> None:
    """Who did it and how often, or how it went; a kind of a newer server is told of its thing."""
    thing = Thing(kind="vybe", id=UUID(int=2))
    assert sentence(Notification(id=UUID(int=3), thing=thing, at=0, offset=1, **fields)) == expected


@pytest.mark.parametrize("kind", NotificationKind)
def test_every_kind_has_its_words(kind: NotificationKind) -> None:
    """None is told as something unknown."""
    thing = Thing(kind="vybe", id=UUID(int=2))
    assert "something happened" not in sentence(
        Notification(id=UUID(int=3), kind=kind, thing=thing, at=0, offset=1)
    )
