"""Rooms: discover looprooms, join and leave them, and follow a host's cues."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from protocol.chat import Line
from protocol.envelope import Answer, Command, Epoch, Event, Offset, Person, RoomId, RoomRef
from protocol.presence import Confidence
from protocol.reactions import Reaction


class ContentKind(StrEnum):
    """What a looproom plays."""

    VIDEO = "VIDEO"
    AUDIO = "AUDIO"
    TEXT = "TEXT"
    MIXED = "MIXED"


class RoomStatus(StrEnum):
    """Who can find a looproom: everyone only when it is published."""

    DRAFT = "DRAFT"
    PUBLISHED = "PUBLISHED"
    ARCHIVED = "ARCHIVED"
    RESTRICTED = "RESTRICTED"


class Room(Struct, omit_defaults=True, kw_only=True):
    """A looproom as it stands in the catalogue. `preview_seconds` counts only where `premium` is true.

    `thumbnail` and `content_url` are URLs, ours begin with `/media/`. What a looproom plays that is not free to everyone is told only
    where it lies here, because only then who may have it is asked for each time.

    With `month_cents` or `session_cents` it is exclusive: only who has a pass may come in, bought at these prices.
    """

    id: RoomId
    slug: str
    title: str
    description: str
    category: str
    host: Person
    content: ContentKind
    status: RoomStatus = RoomStatus.PUBLISHED
    thumbnail: str | None = None
    content_url: str | None = None
    duration_seconds: int | None = None
    difficulty: str | None = None
    premium: bool = False
    preview_seconds: int = 0
    live: bool = False
    month_cents: int | None = None
    session_cents: int | None = None

    @property
    def exclusive(self) -> bool:
        """Whether one needs a pass to come in."""
        return self.month_cents is not None or self.session_cents is not None


class RoomsListed(Answer, tag="room.listed"):
    """One page of the catalogue; `next` is the `after` of the following one, absent on the last."""

    rooms: list[Room]
    next: RoomId | None = None


class ListRooms(Command[RoomsListed], tag="room.list"):
    """Published looprooms by title, all or of one category (its slug)."""

    category: Annotated[str, Meta(pattern=r"^[a-z0-9-]{1,64}$(?!\n)")] | None = None
    after: RoomId | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class RoomFound(Answer, tag="room.found"):
    """The looproom that was asked for."""

    room: Room


class GetRoom(Command[RoomFound], tag="room.get"):
    """One looproom, without joining it."""

    room: RoomRef


class RoomJoined(Answer, tag="room.joined", kw_only=True):
    """You are in. The snapshot below is complete up to `offset`; every later event of the room follows.

    `online` to `typing` mean what they mean in `protocol.presence.RoomState`. `recent` are the newest lines, oldest
    first. `preview_ends_in` is there for a free member in a premium looproom: the seconds that are left, of which those count
    that one is there, on whatever device. `you` is as whom others see you here.
    """

    room: Room
    epoch: Epoch
    offset: Offset
    online: int
    members: list[Person]
    complete: bool = True
    reactions: dict[Reaction, int]
    confidence: Confidence
    typing: list[Person] = []
    recent: list[Line]
    preview_ends_in: float | None = None
    you: Person | None = None


class JoinRoom(Command[RoomJoined], tag="room.join"):
    """Enter a looproom: its events come from now on. Joining again answers with a new snapshot."""

    room: RoomRef


class RoomLeft(Answer, tag="room.left"):
    """No event of `room` follows."""

    room: RoomId


class LeaveRoom(Command[RoomLeft], tag="room.leave"):
    """Leave a looproom on this connection. Others see you leave when none of your connections is in it."""

    room: RoomRef


class CueSent(Answer, tag="cue.sent"):
    """The cue is on its way."""


class SendCue(Command[CueSent], tag="cue.send"):
    """The host of a looproom gives everyone in it a cue ("breathe in"). It is passing: not stored, not replayed."""

    room: RoomRef
    cue: Annotated[str, Meta(min_length=1, max_length=200)]


class RoomSwitched(Answer, tag="room.switched"):
    """The looproom as it is from now on."""

    room: Room


class SwitchRoom(Command[RoomSwitched], tag="room.live"):
    """Take your looproom live, or with `live` false end that. Who is in it sees it; who follows you is notified, each time.

    So already it stays as it is, and nobody is notified. Nobody is, either, while you are anonymous: they follow somebody else, as far
    as they know. ``forbidden``: you are not its host, or it is not published.
    """

    room: RoomRef
    live: bool


class OnAir(Event, tag="room.air"):
    """The looproom that you are in is live from now on, or is not any more."""

    room: RoomId
    live: bool


class Cue(Event, tag="room.cue"):
    """The host's cue, for now only."""

    room: RoomId
    cue: str


class Departure(Event, tag="room.departure"):
    """You were taken out of a looproom; `code` is an error code that says why, `message` says what to do.

    Where paying would open the room, `pay` is the page on which one does.
    """

    room: RoomId
    code: str
    message: str
    pay: str | None = None


class RoomUnlocked(Event, tag="room.unlocked"):
    """The looproom that you had a preview of is open to you now: no `preview_ends_in` counts any more."""

    room: RoomId


Commands = ListRooms | GetRoom | JoinRoom | LeaveRoom | SendCue | SwitchRoom
Answers = RoomsListed | RoomFound | RoomJoined | RoomLeft | CueSent | RoomSwitched
Events = Cue | Departure | RoomUnlocked | OnAir
