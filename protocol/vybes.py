"""Vybes: what people post, for everyone, for their friends, for themselves, or without their name.

Whoever has a vybe open is in it like in a looproom: what happens to it has offsets, as in `protocol.comments`, and a `room.pulse`
whose ``room`` is the vybe's id tells the totals of its reactions. It has no replay: who comes back opens it again.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from protocol.comments import Comment
from protocol.envelope import (
    Answer,
    Command,
    Epoch,
    Event,
    IdempotencyKey,
    Milliseconds,
    Offset,
    Person,
    RoomId,
    RoomRef,
    UserId,
    VybeId,
)
from protocol.reactions import Reaction

MAX_TEXT = 4000
"""Characters of a vybe."""

Text = Annotated[str, Meta(max_length=MAX_TEXT)]
PageSize = Annotated[int, Meta(ge=1, le=50)]


class VybeKind(StrEnum):
    """What a vybe is about."""

    REFLECTION = "REFLECTION"
    MILESTONE = "MILESTONE"
    INSPIRATION = "INSPIRATION"
    GRATITUDE = "GRATITUDE"
    PROGRESS_UPDATE = "PROGRESS_UPDATE"


class Privacy(StrEnum):
    """Who sees a vybe. An ANONYMOUS one is for everyone, under a pseudonym that its author has there alone."""

    PUBLIC = "PUBLIC"
    FRIENDS_ONLY = "FRIENDS_ONLY"
    PRIVATE = "PRIVATE"
    ANONYMOUS = "ANONYMOUS"


class Original(Struct, omit_defaults=True, kw_only=True):
    """What somebody has posted, as it stands now.

    `author` is a pseudonym of this vybe if it was posted anonymously. `reactions`, `comments` and `shares` are totals. `mine`
    says that it is your own; it is told in answers, never in what all are sent.
    """

    id: VybeId
    author: Person
    kind: VybeKind
    privacy: Privacy
    text: str
    posted_at: Milliseconds
    edited_at: Milliseconds | None = None
    looproom: RoomId | None = None
    reactions: dict[Reaction, int] = {}
    comments: int = 0
    shares: int = 0
    mine: bool = False


class Vybe(Original, omit_defaults=True, kw_only=True):
    """A vybe; `shared` is the one that it passes on."""

    shared: Original | None = None


class VybePosted(Answer, tag="vybe.posted"):
    """It is committed, and in the feed of everyone who may see it."""

    vybe: Vybe


class PostVybe(Command[VybePosted], tag="vybe.post"):
    """Post something, perhaps about a looproom. With the same `key` again it has one effect and the same answer.

    In anonymous mode every vybe is posted under a pseudonym. ``not_found``: there is no such looproom for you.
    """

    kind: VybeKind
    privacy: Privacy
    text: Text
    key: IdempotencyKey
    looproom: RoomRef | None = None


class VybeShared(Answer, tag="vybe.shared"):
    """It is committed: a vybe of your own that passes on another."""

    vybe: Vybe


class ShareVybe(Command[VybeShared], tag="vybe.share"):
    """Pass a vybe on, with or without words of your own. It is seen by those who may see both.

    What is itself shared is passed on as what it was in the beginning. If that is removed, what was shared of it goes, too.
    """

    vybe: VybeId
    privacy: Privacy
    key: IdempotencyKey
    kind: VybeKind = VybeKind.INSPIRATION
    text: Text = ""


class VybeFound(Answer, tag="vybe.found"):
    """A vybe that you may see."""

    vybe: Vybe


class GetVybe(Command[VybeFound], tag="vybe.get"):
    """Look at one vybe. ``not_found``: there is none such for you."""

    vybe: VybeId


class VybeEdited(Answer, tag="vybe.edited"):
    """The vybe has its new text."""

    vybe: Vybe


class EditVybe(Command[VybeEdited], tag="vybe.edit"):
    """Change the text of a vybe of your own. For whom it is can't be changed. ``not_found``: it is none of yours."""

    vybe: VybeId
    text: Text


class VybeRemoved(Answer, tag="vybe.removed"):
    """The vybe, its comments and what was shared of it are gone."""

    vybe: VybeId


class RemoveVybe(Command[VybeRemoved], tag="vybe.remove"):
    """Remove a vybe: its author and moderators may. ``not_found``: it is none of yours, or is gone already."""

    vybe: VybeId


class VybesListed(Answer, tag="vybe.listed"):
    """Vybes, newest first; `next` is what to ask for `before` to see older ones."""

    vybes: list[Vybe]
    next: VybeId | None = None


class ListVybes(Command[VybesListed], tag="vybe.list"):
    """What somebody has posted under their own name, as far as you may see it; of yourself, all."""

    author: UserId
    before: VybeId | None = None
    limit: PageSize = 20


class VybeOpened(Answer, tag="vybe.opened"):
    """The vybe, and its newest comments, oldest first. What happens after `offset` follows as events."""

    vybe: Vybe
    epoch: Epoch
    offset: Offset
    recent: list[Comment]


class OpenVybe(Command[VybeOpened], tag="vybe.open"):
    """Look at a vybe and see what happens to it. It counts as a room that this connection is in. Again, it is a new snapshot."""

    vybe: VybeId


class VybeClosed(Answer, tag="vybe.closed"):
    """You look at it no longer."""

    vybe: VybeId


class CloseVybe(Command[VybeClosed], tag="vybe.close"):
    """Look at a vybe no longer."""

    vybe: VybeId


class VybeRevision(Event, tag="vybe.revision"):
    """A vybe that you have open has a new text."""

    vybe: VybeId
    offset: Offset
    text: str
    edited_at: Milliseconds


class VybeRemoval(Event, tag="vybe.removal"):
    """A vybe that you had open is not there any more, at least for you: forget it and its comments."""

    vybe: VybeId


class VybeGap(Event, tag="vybe.gap"):
    """What happened at this offset can't be told any more, because what it was about is gone: open the vybe again."""

    vybe: VybeId
    offset: Offset


Commands = PostVybe | ShareVybe | GetVybe | EditVybe | RemoveVybe | ListVybes | OpenVybe | CloseVybe
Answers = (
    VybePosted | VybeShared | VybeFound | VybeEdited | VybeRemoved | VybesListed | VybeOpened | VybeClosed
)
Events = VybeRevision | VybeRemoval | VybeGap
