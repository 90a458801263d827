"""Relations: who is a friend, who is followed, muted or blocked.

A block hides two people from each other, wherever they might meet, at once; who is blocked is not told. A mute hides what
somebody says from who muted them, and nothing else. What these hide of the history of a looproom has its place there still:
as a line that was removed, and that nobody has said.

What was seen before stays on the screen until the client takes it away, or joins again for a new snapshot.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct

from protocol.envelope import Answer, Command, LineId, Person, PersonEvent, RoomRef, UserId, VybeId


class Friendship(StrEnum):
    """How far you two are. `SENT`: you have asked; `RECEIVED`: they have."""

    NONE = "NONE"
    SENT = "SENT"
    RECEIVED = "RECEIVED"
    FRIENDS = "FRIENDS"


class Relation(Struct, omit_defaults=True, kw_only=True):
    """How you stand to somebody. Whom you blocked or muted under a pseudonym is nobody else here: `person` is the pseudonym."""

    person: Person
    friendship: Friendship = Friendship.NONE
    following: bool = False
    muted: bool = False
    blocked: bool = False


class RelationKind(StrEnum):
    """What one may have a list of."""

    FRIENDS = "FRIENDS"
    SENT = "SENT"
    RECEIVED = "RECEIVED"
    FOLLOWING = "FOLLOWING"
    MUTED = "MUTED"
    BLOCKED = "BLOCKED"


class PersonFound(Answer, tag="person.found"):
    """Somebody, and how you stand to them. `creator`: they may be followed."""

    relation: Relation
    bio: str = ""
    creator: bool = False


class GetPerson(Command[PersonFound], tag="person.get"):
    """Who is it? By the id of an account; a pseudonym tells nothing more of anyone."""

    person: UserId


class PersonBlocked(Answer, tag="person.blocked"):
    """You two do not see each other any more. `relation` is how it stands in your list."""

    relation: Relation


class BlockPerson(Command[PersonBlocked], tag="person.block"):
    """Block somebody: by their id; by the id that they are seen under in a `room` that you are in, or with a `vybe`, as its author or
    in its comments; or by a `line` in a room.

    Whoever is named by a pseudonym is blocked as the person that they are, and known to you as the pseudonym for ever. You are
    no friends any more, no request waits between you, and neither of you follows the other. Again it is the same answer.
    """

    person: UserId | None = None
    room: RoomRef | None = None
    line: LineId | None = None
    vybe: VybeId | None = None


class PersonUnblocked(Answer, tag="person.unblocked"):
    """You have not blocked anybody whom you know as `person`."""

    person: UserId


class UnblockPerson(Command[PersonUnblocked], tag="person.unblock"):
    """Take a block back, by the id in your list. What you were to each other before does not come back."""

    person: UserId


class PersonMuted(Answer, tag="person.muted"):
    """You do not hear them any more; they are not told. `relation` is how it stands in your list."""

    relation: Relation


class MutePerson(Command[PersonMuted], tag="person.mute"):
    """Mute somebody, who is named as in `person.block`, and under that name: by a mute nobody learns who is behind a pseudonym."""

    person: UserId | None = None
    room: RoomRef | None = None
    line: LineId | None = None
    vybe: VybeId | None = None


class PersonUnmuted(Answer, tag="person.unmuted"):
    """You have not muted anybody whom you know as `person`."""

    person: UserId


class UnmutePerson(Command[PersonUnmuted], tag="person.unmute"):
    """Hear somebody again, by the id in your list."""

    person: UserId


class FriendRequested(Answer, tag="friend.requested"):
    """You have asked; or, where they had asked you before, you are friends now."""

    relation: Relation


class RequestFriend(Command[FriendRequested], tag="friend.request"):
    """Ask somebody to be your friend, or take a request of theirs. Not while you are anonymous: they see who asks."""

    person: UserId


class FriendAccepted(Answer, tag="friend.accepted"):
    """You are friends."""

    relation: Relation


class AcceptFriend(Command[FriendAccepted], tag="friend.accept"):
    """Be the friend of somebody who has asked. Not while you are anonymous."""

    person: UserId


class FriendDeclined(Answer, tag="friend.declined"):
    """No request of `person` waits."""

    person: UserId


class DeclineFriend(Command[FriendDeclined], tag="friend.decline"):
    """Let a request be gone. Who has asked is not told."""

    person: UserId


class FriendRemoved(Answer, tag="friend.removed"):
    """You are no friend of `person`, and have not asked to be."""

    person: UserId


class RemoveFriend(Command[FriendRemoved], tag="friend.remove"):
    """Be no friend any more, or take your request back. They see it."""

    person: UserId


class CreatorFollowed(Answer, tag="creator.followed"):
    """You follow them."""

    relation: Relation


class FollowCreator(Command[CreatorFollowed], tag="creator.follow"):
    """Follow somebody who hosts looprooms. They learn how many follow them, and not who."""

    person: UserId


class CreatorUnfollowed(Answer, tag="creator.unfollowed"):
    """You do not follow `person`."""

    person: UserId


class UnfollowCreator(Command[CreatorUnfollowed], tag="creator.unfollow"):
    """Follow somebody no longer."""

    person: UserId


class RelationsListed(Answer, tag="relation.listed"):
    """One page, the newest first; `next` is the `after` of the following one, absent on the last."""

    relations: list[Relation]
    next: UserId | None = None


class ListRelations(Command[RelationsListed], tag="relation.list"):
    """Your friends, the requests that you sent or received, whom you follow, have muted or blocked."""

    kind: RelationKind
    after: UserId | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 50


class RelationChange(PersonEvent, tag="relation.change", kw_only=True):
    """You stand to somebody like this from now on: they have asked you, have accepted, are no friend any more, or you have
    changed it on another device. It replaces what was told of the same `person` before.
    """

    relation: Relation


Commands = (
    GetPerson
    | BlockPerson
    | UnblockPerson
    | MutePerson
    | UnmutePerson
    | RequestFriend
    | AcceptFriend
    | DeclineFriend
    | RemoveFriend
    | FollowCreator
    | UnfollowCreator
    | ListRelations
)
Answers = (
    PersonFound
    | PersonBlocked
    | PersonUnblocked
    | PersonMuted
    | PersonUnmuted
    | FriendRequested
    | FriendAccepted
    | FriendDeclined
    | FriendRemoved
    | CreatorFollowed
    | CreatorUnfollowed
    | RelationsListed
)
Events = RelationChange
