"""Moderation: becoming a creator, which a moderator decides, and being told of a new role."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from msgspec import Meta, Struct

from protocol.envelope import Answer, Command, Milliseconds, Person, PersonEvent

MAX_ABOUT = 2000
"""Characters of an application."""
MAX_REASON = 500
"""Characters of the reason of a decision."""


class Role(StrEnum):
    """What one may do: members take part, creators host looprooms, moderators and admins look after everyone."""

    MEMBER = "MEMBER"
    CREATOR = "CREATOR"
    MODERATOR = "MODERATOR"
    ADMIN = "ADMIN"


class ApplicationState(StrEnum):
    """How an application stands."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    DECLINED = "DECLINED"


class Application(Struct, omit_defaults=True, kw_only=True):
    """Somebody wants to be a creator. Seen by them and by moderators alone."""

    id: UUID
    person: Person
    state: ApplicationState = ApplicationState.PENDING
    about: str
    applied_at: Milliseconds
    decided_at: Milliseconds | None = None
    reason: str = ""


class CreatorApplied(Answer, tag="creator.applied"):
    """Your application, which waits for a moderator. You are told of the decision by `creator.decision`."""

    application: Application


class ApplyAsCreator(Command[CreatorApplied], tag="creator.apply"):
    """Ask to become a creator, and say what you would host. While one application waits it is answered with that one."""

    about: Annotated[str, Meta(min_length=1, max_length=MAX_ABOUT)]


class CreatorFound(Answer, tag="creator.found"):
    """Your newest application; absent if you never applied."""

    application: Application | None = None


class GetApplication(Command[CreatorFound], tag="creator.get"):
    """How does my application stand?"""


class CreatorsListed(Answer, tag="creator.listed"):
    """One page of the applications that wait, the oldest first; `next` is the `after` of the following one, absent on the last."""

    applications: list[Application]
    next: UUID | None = None


class ListApplications(Command[CreatorsListed], tag="creator.list"):
    """Which applications wait? For moderators."""

    after: UUID | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class CreatorDecided(Answer, tag="creator.decided"):
    """Decided; the person is told on all their connections."""

    application: Application


class DecideApplication(Command[CreatorDecided], tag="creator.decide"):
    """Decide an application. For moderators, and not their own. Decided in the same way again it is the same answer."""

    application: UUID
    approve: bool
    reason: Annotated[str, Meta(max_length=MAX_REASON)] = ""


class Decision(PersonEvent, tag="creator.decision"):
    """Your application was decided. If it was approved, you are a creator on every connection from now on."""

    application: UUID
    state: ApplicationState
    reason: str = ""


class RoleChange(PersonEvent, tag="role.change"):
    """You have another role from now on, on every connection."""

    role: Role


Commands = ApplyAsCreator | GetApplication | ListApplications | DecideApplication
Answers = CreatorApplied | CreatorFound | CreatorsListed | CreatorDecided
Events = Decision | RoleChange
