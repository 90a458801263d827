"""Comments: what is said about a vybe. Every comment, revision and removal has its own offset among what happens to the vybe."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from protocol.envelope import (
    Answer,
    Command,
    CommentId,
    Event,
    IdempotencyKey,
    Milliseconds,
    Offset,
    Person,
    VybeId,
)
from protocol.reactions import Reaction

MAX_TEXT = 1000
"""Characters of a comment."""

Text = Annotated[str, Meta(max_length=MAX_TEXT)]


class Comment(Struct, omit_defaults=True, kw_only=True):
    """A comment as it stands now. `author` is a pseudonym of the vybe if it was said anonymously.

    `reactions` are totals and `mine` says that it is your own: both are told in answers, and not in what all are sent.
    """

    id: CommentId
    offset: Offset
    author: Person
    text: str
    sent_at: Milliseconds
    edited_at: Milliseconds | None = None
    reactions: dict[Reaction, int] = {}
    mine: bool = False


class CommentAdded(Answer, tag="comment.added"):
    """The comment is committed and will be seen by everyone who looks at the vybe."""

    comment: Comment


class AddComment(Command[CommentAdded], tag="comment.add"):
    """Say something about a vybe. With the same `key` again it has one effect and the same answer.

    Whoever has posted the vybe anonymously answers under the same pseudonym. ``not_found``: there is no such vybe for you.
    """

    vybe: VybeId
    text: Text
    key: IdempotencyKey


class CommentEdited(Answer, tag="comment.edited"):
    """The comment has its new text; `offset` is the revision's."""

    comment: Comment
    offset: Offset


class EditComment(Command[CommentEdited], tag="comment.edit"):
    """Change the text of a comment of your own. ``not_found``: it is none of yours."""

    comment: CommentId
    text: Text


class CommentRemoved(Answer, tag="comment.removed"):
    """The comment is gone."""

    comment: CommentId


class RemoveComment(Command[CommentRemoved], tag="comment.remove"):
    """Remove a comment: its author, the author of the vybe and moderators may. ``not_found``: you may not, or it is gone."""

    comment: CommentId


class CommentsListed(Answer, tag="comment.listed"):
    """Comments before the asked offset, oldest first; `more` says whether there are older ones."""

    comments: list[Comment]
    more: bool


class ListComments(Command[CommentsListed], tag="comment.list"):
    """Comments of a vybe before an offset (without one: the newest)."""

    vybe: VybeId
    before: Offset | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 50


class CommentEntry(Event, tag="comment.entry"):
    """Somebody has said something about a vybe that you have open."""

    vybe: VybeId
    offset: Offset
    comment: Comment


class CommentRevision(Event, tag="comment.revision"):
    """A comment has a new text."""

    vybe: VybeId
    offset: Offset
    comment: Comment


class CommentRemoval(Event, tag="comment.removal"):
    """The comment `comment`, whose offset was `of`, is removed."""

    vybe: VybeId
    offset: Offset
    comment: CommentId
    of: Offset


Commands = AddComment | EditComment | RemoveComment | ListComments
Answers = CommentAdded | CommentEdited | CommentRemoved | CommentsListed
Events = CommentEntry | CommentRevision | CommentRemoval
