"""Chat: lines in a looproom. Every line, revision and removal is durable and has its own offset."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from protocol.envelope import (
    Answer,
    Command,
    Event,
    IdempotencyKey,
    LineId,
    Milliseconds,
    Offset,
    Person,
    RoomId,
    RoomRef,
)

MAX_TEXT = 2000
"""Characters of a chat line."""

Text = Annotated[str, Meta(max_length=MAX_TEXT)]


class Line(Struct, omit_defaults=True, kw_only=True):
    """A line of chat as it stands now. Of a removed line only the place is left: its text is empty."""

    id: LineId
    offset: Offset
    author: Person
    text: str
    sent_at: Milliseconds
    edited_at: Milliseconds | None = None
    removed: bool = False


class ChatSent(Answer, tag="chat.sent"):
    """The line is committed and will be seen by everyone in the room, now or when they come back."""

    line: Line
    offset: Offset


class SendChat(Command[ChatSent], tag="chat.send"):
    """Say something. With the same `key` again it has one effect and the same answer."""

    room: RoomRef
    text: Text
    key: IdempotencyKey


class ChatEdited(Answer, tag="chat.edited"):
    """The line has its new text; `offset` is the revision's."""

    line: Line
    offset: Offset


class EditChat(Command[ChatEdited], tag="chat.edit"):
    """Change the text of a line: the author, the host and moderators may."""

    room: RoomRef
    line: LineId
    text: Text


class ChatRemoved(Answer, tag="chat.removed"):
    """The text of the line is gone everywhere; `offset` is the removal's."""

    line: LineId
    offset: Offset


class RemoveChat(Command[ChatRemoved], tag="chat.remove"):
    """Remove a line: the author, the host and moderators may."""

    room: RoomRef
    line: LineId


class ChatRecalled(Answer, tag="chat.recalled"):
    """Lines before the asked offset, oldest first; `more` says whether there are older ones."""

    lines: list[Line]
    more: bool


class RecallChat(Command[ChatRecalled], tag="chat.history"):
    """Lines before an offset (without one: the newest)."""

    room: RoomRef
    before: Offset | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class ChatLine(Event, tag="chat.line"):
    """Someone said something."""

    room: RoomId
    offset: Offset
    line: Line


class ChatRevision(Event, tag="chat.revision"):
    """A line has a new text."""

    room: RoomId
    offset: Offset
    line: Line


class ChatRemoval(Event, tag="chat.removal"):
    """The line `line`, whose offset was `of`, is removed. With `departed` its author has left for good: forget who it was."""

    room: RoomId
    offset: Offset
    line: LineId
    of: Offset
    departed: bool = False


Commands = SendChat | EditChat | RemoveChat | RecallChat
Answers = ChatSent | ChatEdited | ChatRemoved | ChatRecalled
Events = ChatLine | ChatRevision | ChatRemoval
