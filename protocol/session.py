"""Session: the first word, coming back, and staying who you are."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from protocol.chat import Line
from protocol.envelope import (
    Answer,
    Command,
    Epoch,
    Event,
    Milliseconds,
    Offset,
    Person,
    RoomId,
    RoomRef,
    SessionId,
)
from protocol.presence import RoomState
from protocol.subscriptions import Subscription

Token = Annotated[str, Meta(min_length=1, max_length=4096)]


class Position(Struct, kw_only=True):
    """How far a client has come in a room: it has seen everything up to `offset` of `epoch`."""

    room: RoomRef
    epoch: Annotated[str, Meta(max_length=128)]
    offset: Offset


class Resumed(Struct, omit_defaults=True, kw_only=True):
    """What became of one position.

    `recovered`: exactly the `missed` events after the position follow, in order, as ordinary events; the client's copy
    of the room stays valid. Otherwise either `error` says why the room could not be entered again, or the client's copy
    is worth nothing and `recent` and `state` replace it; the next event is the one after `offset`. `preview_ends_in`,
    `you` and `live` (of its `room`) mean what they mean in a `room.joined`.
    """

    room: RoomRef
    recovered: bool
    id: RoomId | None = None
    epoch: Epoch | None = None
    offset: Offset = 0
    missed: int = 0
    state: RoomState | None = None
    recent: list[Line] = []
    error: str | None = None
    message: str | None = None
    preview_ends_in: float | None = None
    you: Person | None = None
    live: bool = False


class PersonPosition(Struct, kw_only=True):
    """How far a client has come in the events of its own person: it has seen everything up to `offset` of `epoch`."""

    epoch: Annotated[str, Meta(max_length=128)]
    offset: Offset


class PersonState(Struct, omit_defaults=True, kw_only=True):
    """Where the events of the person stand.

    `recovered`: exactly the `missed` events after the position that was sent follow, in order, the last of them at `offset`.
    Otherwise `subscription` and `anonymous` replace what the client knew; the next event is the one after `offset`. `unread`
    notifications wait either way, counted to 100: `notification.list` has them. Those up to `pushed` this device has been pushed, or
    need not be: a client that shows alerts itself shows none for them.
    """

    offset: Offset
    recovered: bool = False
    missed: int = 0
    subscription: Subscription | None = None
    anonymous: bool = False
    unread: int = 0
    pushed: Offset = 0


class Welcome(Answer, tag="welcome"):
    """The connection has a session.

    `heartbeat` is the most seconds of silence before the server pings; `expires_in` is the seconds that the access token
    still lives; `server_time` is in milliseconds since 1970; `person` is where the person's own events stand.
    """

    session: SessionId
    user: Person
    epoch: Epoch
    heartbeat: float
    expires_in: float
    server_time: Milliseconds
    resumed: list[Resumed] = []
    person: PersonState | None = None


class Hello(Command[Welcome], tag="hello"):
    """The first message: who I am, and where I was. At most 4 KiB, at most 5 s after the connection opened."""

    token: Token
    resume: Annotated[list[Position], Meta(max_length=64)] = []
    person: PersonPosition | None = None


class TokenRefreshed(Answer, tag="token.refreshed"):
    """The new token counts from now; it expires in `expires_in` seconds."""

    expires_in: float


class RefreshToken(Command[TokenRefreshed], tag="token.refresh"):
    """Go on with a new access token of the same session."""

    token: Token


class SessionEntry(Struct, omit_defaults=True, kw_only=True):
    """One of your own sessions: a sign-in on one device that has not ended.

    `device` is what the client called itself when it signed in. `created` and `seen` are in milliseconds since 1970; a
    session is seen when it gets a new access token. `current` is the one that asks.
    """

    id: Annotated[SessionId, Meta(description="What `session.revoke` names.")]
    device: Annotated[str, Meta(description="What the client called itself, as in its `User-Agent`.")]
    created: Annotated[Milliseconds, Meta(description="When one signed in: milliseconds since 1970.")]
    seen: Annotated[
        Milliseconds, Meta(description="When it last got an access token: milliseconds since 1970.")
    ]
    current: Annotated[bool, Meta(description="Whether it is the one that asks.")] = False


class SessionsListed(Answer, tag="session.listed"):
    """Your sessions: the one that asks first, then the newest seen; at most 100."""

    sessions: list[SessionEntry]


class ListSessions(Command[SessionsListed], tag="session.list"):
    """Where am I signed in?"""


class SessionRevoked(Answer, tag="session.revoked"):
    """So many sessions have ended: their tokens are worth nothing, and their connections close within a second."""

    count: int


class RevokeSession(Command[SessionRevoked], tag="session.revoke"):
    """End one of your sessions, or with `others` all but the one that asks. Exactly one of the two is given.

    A session that has ended already is no error. ``not_found``: it is none of yours.
    """

    session: SessionId | None = None
    others: bool = False


class Seen(Struct, kw_only=True):
    """The last offset that a client has shown in a room."""

    room: RoomId
    offset: Offset


class Ponged(Answer, tag="session.ponged"):
    """The server is alive; `server_time` is in milliseconds since 1970."""

    server_time: Milliseconds


class Ping(Command[Ponged], tag="session.ping"):
    """Are you there? For clients that cannot see websocket pings (a browser's page); may tell what it has seen.

    `person` is the offset of the last event of one's own person that was shown: what a device has acknowledged so is not pushed to it.
    """

    seen: Annotated[list[Seen], Meta(max_length=64)] = []
    person: Offset | None = None


class TokenExpiring(Event, tag="token.expiring"):
    """Send token.refresh within `expires_in` seconds, or the connection is closed with 4001 soon after."""

    expires_in: float


class Drain(Event, tag="session.drain"):
    """Your node is about to stop: reconnect (and resume) in `reconnect_in` seconds."""

    reconnect_in: float


class Shed(Event, tag="session.shed"):
    """You read too slowly for a while: so many passing frames were dropped, so many rooms' states were merged."""

    passing: int
    latest: int


Commands = Hello | RefreshToken | ListSessions | RevokeSession | Ping
Answers = Welcome | TokenRefreshed | SessionsListed | SessionRevoked | Ponged
Events = TokenExpiring | Drain | Shed
