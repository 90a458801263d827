"""What the client itself tells, between the server's events: that it lost its connection, and what became of its rooms.

None of these travels over the wire. They come out of the same iteration as the events, in their place among them.
"""

from __future__ import annotations

from msgspec import Struct

from protocol.chat import Line
from protocol.contract import AnyEvent
from protocol.envelope import Epoch, Offset, RoomId
from protocol.presence import RoomState
from protocol.subscriptions import Subscription


class Reconnecting(Struct, frozen=True, kw_only=True):
    """The connection is gone, by close code `code`; attempt number `attempt` to return is made after `wait` seconds."""

    attempt: int
    wait: float
    code: int
    reason: str


class CaughtUp(Struct, frozen=True, kw_only=True):
    """The connection is back, and the `missed` durable events of the time without it have just been handed out."""

    missed: int


class Snapshot(Struct, frozen=True, kw_only=True):
    """What was missed in `room` can't be replayed: throw your copy away and start from this.

    `recent` are the newest lines, oldest first. The next durable event of the room is the one after `offset`.
    """

    room: RoomId
    epoch: Epoch
    offset: Offset
    recent: list[Line]
    state: RoomState | None


class PersonSnapshot(Struct, frozen=True, kw_only=True):
    """What was missed of the person's own events can't be replayed: throw away what you knew and start from this.

    The next of them is the one after `offset`.
    """

    epoch: Epoch
    offset: Offset
    subscription: Subscription


Occurrence = AnyEvent | Reconnecting | CaughtUp | Snapshot | PersonSnapshot
"""Whatever comes out of ``async for occurrence in client``."""


class Disconnected(ConnectionError):  # noqa: N818 - it says what happened, which may be no error
    """There is no connection and there will be none: it was closed by `code`, which says not to come back."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason or 'The connection is closed.'} (close code {code})")
        self.code = code
        self.reason = reason


class Unanswered(ConnectionError):  # noqa: N818 - the same
    """The connection broke before the answer to `command` came, and sending it again could do it twice."""

    def __init__(self, command: str) -> None:
        super().__init__(
            f"The connection broke before {command} was answered; it may or may not have been done."
        )
        self.command = command
