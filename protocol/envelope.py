"""What every message is made of: commands, answers, events, and the names of things.

A message is one object with a ``type``. There are three shapes:

- a `Command` goes from client to server and carries an ``id`` that the client chose;
- an `Answer` goes back, once, with the same ``id`` (so does an `Error`);
- an `Event` is pushed and has no ``id``.

How messages evolve: a reader ignores fields that it does not know, a new field always has a default, a field is never
renamed and never changes its type. A field that holds its default is not written. So an old client understands a new
server and the other way round.
"""

from __future__ import annotations

from typing import Annotated, Generic, NewType, TypeVar
from uuid import UUID

from msgspec import Meta, Struct

UserId = NewType("UserId", UUID)
SessionId = NewType("SessionId", UUID)
RoomId = NewType("RoomId", UUID)
LineId = NewType("LineId", UUID)
VybeId = NewType("VybeId", UUID)
CommentId = NewType("CommentId", UUID)

Epoch = NewType("Epoch", str)
"""Which history an offset belongs to. It changes when the database is restored, so an old offset is never trusted."""

CommandId = Annotated[int, Meta(ge=0, le=2**53 - 1)]
"""A number that the client chose. At most 2^53 - 1, so that a JavaScript number holds it exactly."""

Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""The place of a durable event in its room: 1, 2, 3 and so on without gaps. 0 is before the first one."""

Milliseconds = int
"""A moment: milliseconds since 1970-01-01T00:00Z."""

IdempotencyKey = Annotated[str, Meta(pattern=r"^[!-~]{1,64}$(?!\n)")]
"""Made by the client, once for each thing that it wants to create, and sent again with every retry."""

RoomRef = Annotated[str, Meta(pattern=r"^[A-Za-z0-9-]{1,64}$(?!\n)")]
"""A looproom by its slug or by its id."""


class Message(Struct, tag_field="type", omit_defaults=True, kw_only=True):
    """Anything that travels over the connection."""


class Answer(Message, kw_only=True):
    """The one reply to a command; `id` is the command's."""

    id: CommandId


AnswerT = TypeVar("AnswerT", bound=Answer)


class Command(Message, Generic[AnswerT], kw_only=True):
    """A request by the client. Its type parameter is what answers it, so ``await client.call(SendChat(...))`` is typed."""

    id: CommandId = 0


class Event(Message):
    """Something that the server pushes."""


class PersonEvent(Event, kw_only=True):
    """A durable event of one person: it reaches all their connections, and those who were away when they come back.

    `person_offset` is its place among the events of that person: 1, 2, 3 and so on without gaps. (The name is not that of a
    room's `offset`, so that a client that does not know an event yet still knows whose sequence it belongs to.)
    """

    person_offset: Offset = 0


class Error(Message, tag="error", kw_only=True):
    """A command was refused; or, without `id`, a message could not be read well enough to find one.

    `code` is stable, `message` is a sentence that says what to do, `retry_after` is in seconds, `path` is the field of a
    malformed message in the form ``$.room``.
    """

    id: CommandId | None = None
    code: str
    message: str
    retry_after: float | None = None
    path: str | None = None


class Person(Struct, omit_defaults=True, kw_only=True):
    """A user as others see them. One who has left for good is nobody: the id is all zeros and the name is empty."""

    id: UserId
    name: str
    avatar: str | None = None


NOBODY = Person(id=UserId(UUID(int=0)), name="")
"""Whoever has left for good."""
