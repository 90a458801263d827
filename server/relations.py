"""Relations: friends, follows, mutes and blocks; and what a block means.

**Two people of whom one has blocked the other are not there for each other**, whichever of them has blocked whom, and whether
they are anonymous or not. On every node, within a second of the answer, neither of them sees of the other

- any line: live, among the newest ones, in the history or in a replay. Its offset is told, with a line in its place that
  nobody has said and that was removed, which is what is left of somebody who has left for good;
- that they are here: not among the members, nor coming, leaving, writing, or among those who reacted;
- their profile, which is not found, nor any way to ask or follow them; what they were to each other is over;
- a looproom of which the other is the host: it is in no list and is not found, as a draft is; whoever is in it is taken out, in
  the words that are used when it is withdrawn. So there are no cues and no passes either.

What is everyone's stays everyone's: how many are here, totals of reactions, the confidence of a room. So who counts may see that
somebody here is hidden from them, and not who, by whom or why. No message and no error says that one is blocked: what is hidden
is answered as what is not there, and who was no friend is told nothing at all. A friend is told what they are told when a
friendship ends. Who is blocked can't be blocked in turn before the block is gone: they are not there.

Moderators look after everyone: they see everyone, and everyone sees them, whoever has blocked whom.

**Through a pseudonym** somebody is blocked by a line of theirs, or as they are seen in a room or with a vybe, and the blocker learns nothing
of who it is: in their list, in their export and in what they are told the pseudonym stays what they know, and only by it the
block is taken back. It holds for the person all the same, or it would be no protection. That can't be hidden altogether:
whoever looks closely sees who else is not there any more from that moment on, in other rooms or among their friends, and may
guess. It costs them a block each time, of which there are few (`CHANGES`), and a friendship that does not come back.

What a connection does not see is a veil (`server.hub.veil`) over each of its rooms, made of its live session: who is hidden is
read at hello in the statement that reads everything else, and again when word of a block reaches the node, or by the next
sweep where that is lost. A mute is half a veil: lines alone, one way, and of the name that it was given to. It costs nothing and is
taken back at will, so if it held for the person one would learn by it who is behind every pseudonym.
"""

from __future__ import annotations

from typing import Final

from protocol.envelope import Person, RoomId, UserId, VybeId
from protocol.refusals import ErrorCode, Refused
from protocol.relations import (
    AcceptFriend,
    BlockPerson,
    CreatorFollowed,
    CreatorUnfollowed,
    DeclineFriend,
    FollowCreator,
    FriendAccepted,
    FriendDeclined,
    FriendRemoved,
    FriendRequested,
    GetPerson,
    ListRelations,
    MutePerson,
    PersonBlocked,
    PersonFound,
    PersonMuted,
    PersonUnblocked,
    PersonUnmuted,
    RelationsListed,
    RemoveFriend,
    RequestFriend,
    UnblockPerson,
    UnfollowCreator,
    UnmutePerson,
)
from server.hub.dispatch import Call, handles
from server.limits import check
from storage import chat, comments, relations
from storage.identities import demand_proof
from storage.redis.limits import Limit
from storage.relations import Change

CHANGES: Final = Limit("relations", burst=60, rate=1 / 60)
"""Changes that a person may make to their relations: enough for a bad evening, too few to ask of many who is who."""
LOOKS: Final = Limit("people", burst=100, rate=5)
"""Profiles and pages of lists that a person may look at."""


@handles(GetPerson, limit=LOOKS)
async def get(call: Call, command: GetPerson) -> PersonFound:
    """Look at somebody's profile."""
    found = await relations.profile(call.node.stores.pool, call.session.user_id, command.person)
    if found is None or found.hidden:
        raise Refused(ErrorCode.NOT_FOUND)
    return PersonFound(
        id=command.id, relation=found.relation, bio=found.bio, creator=found.role in relations.FOLLOWED
    )


@handles(BlockPerson)
async def block(call: Call, command: BlockPerson) -> PersonBlocked:
    """Block somebody, named by whatever one knows of them."""
    user, known_as = await _named(call, command)
    change = await relations.block(call.node.stores.pool, call.session.user_id, user, known_as)
    await _tell(call, change)
    return PersonBlocked(id=command.id, relation=change.relation)


@handles(UnblockPerson)
async def unblock(call: Call, command: UnblockPerson) -> PersonUnblocked:
    """Take a block back."""
    await _limited(call)
    await _tell(call, await relations.unblock(call.node.stores.pool, call.session.user_id, command.person))
    return PersonUnblocked(id=command.id, person=command.person)


@handles(MutePerson)
async def mute(call: Call, command: MutePerson) -> PersonMuted:
    """Mute somebody, named by whatever one knows of them."""
    user, known_as = await _named(call, command)
    change = await relations.mute(call.node.stores.pool, call.session.user_id, user, known_as)
    await _tell(call, change)
    return PersonMuted(id=command.id, relation=change.relation)


@handles(UnmutePerson)
async def unmute(call: Call, command: UnmutePerson) -> PersonUnmuted:
    """Hear somebody again."""
    await _limited(call)
    await _tell(call, await relations.unmute(call.node.stores.pool, call.session.user_id, command.person))
    return PersonUnmuted(id=command.id, person=command.person)


@handles(RequestFriend)
async def request(call: Call, command: RequestFriend) -> FriendRequested:
    """Ask somebody to be a friend. It reaches them wherever they are, so it needs a proven address."""
    await _limited(call)
    await demand_proof(call.node.stores.pool, call.session.user_id)
    user = _by_name(call, command.person)
    change = await relations.request(call.node.stores.pool, call.session.user_id, user)
    await _tell(call, change)
    return FriendRequested(id=command.id, relation=change.relation)


@handles(AcceptFriend)
async def accept(call: Call, command: AcceptFriend) -> FriendAccepted:
    """Take a request."""
    await _limited(call)
    user = _by_name(call, command.person)
    change = await relations.accept(call.node.stores.pool, call.session.user_id, user)
    await _tell(call, change)
    return FriendAccepted(id=command.id, relation=change.relation)


@handles(DeclineFriend)
async def decline(call: Call, command: DeclineFriend) -> FriendDeclined:
    """Let a request be gone."""
    await _limited(call)
    await _tell(call, await relations.decline(call.node.stores.pool, call.session.user_id, command.person))
    return FriendDeclined(id=command.id, person=command.person)


@handles(RemoveFriend)
async def remove(call: Call, command: RemoveFriend) -> FriendRemoved:
    """Be no friend any more."""
    await _limited(call)
    await _tell(call, await relations.unfriend(call.node.stores.pool, call.session.user_id, command.person))
    return FriendRemoved(id=command.id, person=command.person)


@handles(FollowCreator)
async def follow(call: Call, command: FollowCreator) -> CreatorFollowed:
    """Follow a creator."""
    await _limited(call)
    user = _other(call, command.person)
    change = await relations.follow(call.node.stores.pool, call.session.user_id, user)
    await _tell(call, change)
    return CreatorFollowed(id=command.id, relation=change.relation)


@handles(UnfollowCreator)
async def unfollow(call: Call, command: UnfollowCreator) -> CreatorUnfollowed:
    """Follow a creator no longer."""
    await _limited(call)
    await _tell(call, await relations.unfollow(call.node.stores.pool, call.session.user_id, command.person))
    return CreatorUnfollowed(id=command.id, person=command.person)


@handles(ListRelations, limit=LOOKS)
async def list_relations(call: Call, command: ListRelations) -> RelationsListed:
    """Page through those to whom one has a relation."""
    page = await relations.listed(
        call.node.stores.pool, call.session.user_id, command.kind, command.after, command.limit
    )
    following = page.relations[-1].person.id if page.more else None
    return RelationsListed(id=command.id, relations=page.relations, next=following)


async def _limited(call: Call) -> None:
    check(await call.node.quotas.take(CHANGES, str(call.session.user_id)))


async def _tell(call: Call, change: Change | None) -> None:
    """Tell everyone of a change whom it concerns; who sees more or less by it does so here before it is answered."""
    if change is not None:
        call.node.person_events.publish(change.told)
        if change.users:
            await call.node.apart(change.users)


def _other(call: Call, user: UserId) -> UserId:
    if user == call.session.user_id:
        raise Refused(ErrorCode.INVALID, "This is you.", path="$.person")
    return user


def _by_name(call: Call, user: UserId) -> UserId:
    if call.session.anonymous:
        raise Refused(ErrorCode.FORBIDDEN, "You are anonymous, and they would see who you are.")
    return _other(call, user)


async def _named(call: Call, command: BlockPerson | MutePerson) -> tuple[UserId, Person | None]:
    """Return who is named and, if that is a pseudonym, as whom.

    Raises `Refused`: not_found, also for whoever is not there for the one who asks; not_in_room; invalid.
    """
    await _limited(call)
    if (command.line is None) == (command.person is None):
        raise Refused(
            ErrorCode.INVALID, "Name a person, or a line of theirs; one of the two.", path="$.person"
        )
    if command.vybe is not None and (command.room is not None or command.person is None):
        raise Refused(ErrorCode.INVALID, "Name a vybe with a person, and nothing else.", path="$.vybe")
    room = None if command.room is None else call.member_of(command.room)
    if command.person is not None:
        user, face = await _person(call, command.person, room, command.vybe)
    elif room is None or command.line is None:
        raise Refused(ErrorCode.INVALID, "Name the room of the line, too.", path="$.room")
    elif (found := await chat.said_by(call.node.stores.pool, room, command.line)) is None:
        raise Refused(ErrorCode.NOT_FOUND)
    else:
        user, face = found
    _other(call, user)
    return user, None if face is None or face.id == user else face


async def _person(
    call: Call, named: UserId, room: RoomId | None, vybe: VybeId | None
) -> tuple[UserId, Person | None]:
    """Return who is seen as `named`: that may be a pseudonym of somebody who is in a room or has spoken there, or who has written
    a vybe or a comment of it. Nobody can guess a pseudonym that they have not seen.
    """
    pool, faces = call.node.stores.pool, call.node.faces
    user = None
    if vybe is not None:
        room = RoomId(vybe)
        user = await comments.behind(pool, vybe, named)
    elif room is not None:
        user = faces.who(room, named) or await chat.behind(pool, room, named)
    return (named, None) if room is None or user is None else (user, faces.pseudonym(room, user))
