"""Reactions: given and taken back, committed before they are answered, and told to their room as totals.

While busy, gather: all reactions that came while a batch was being committed are the next one, whatever their rooms. A room
then learns of a batch once, here and at every other node: what was added of each kind, the total, and a few of who did it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from protocol.envelope import Answer, CommentId, Person, RoomId, UserId, VybeId
from protocol.notifications import NotificationKind, Thing
from protocol.reactions import (
    AddReaction,
    Reaction,
    ReactionAdded,
    ReactionRemoved,
    Reactor,
    RemoveReaction,
    Target,
    TargetKind,
)
from protocol.refusals import ErrorCode, Refused
from server.hub.dispatch import Call, handles
from server.hub.gathered import Gathered
from server.hub.pulse import NAMED
from server.presence import PresenceTracker
from server.rooms import visible
from storage import reactions
from storage.notifications import NewNotice
from storage.postgres.gather import Gather
from storage.postgres.pool import Pool
from storage.presence import Count
from storage.reactions import Settled, Wish

if TYPE_CHECKING:
    from server.node import Node


AnswerT = TypeVar("AnswerT", bound=Answer)


class Wanted(Struct, frozen=True):
    """What a person wants of a reaction. `person` is whom others see; `user` is who it is, if that is somebody else."""

    person: Person
    target: Target
    reaction: Reaction
    present: bool
    user: UserId | None = None
    owner: UserId | None = None
    """Whose the target is, if that is a person who is to be told."""

    @property
    def wish(self) -> Wish:
        """What is to be stored."""
        user = self.person.id if self.user is None else self.user
        return Wish(self.target, user, self.reaction, self.present, self._notice(user))

    def _notice(self, user: UserId) -> NewNotice | None:
        if self.owner is None or not self.present:
            return None
        return NewNotice(
            user=self.owner,
            kind=NotificationKind.REACTION,
            thing=Thing(kind=self.target.kind, id=self.target.id),
            actor=user,
            face=None if self.person.id == user else self.person,
            outcome=self.reaction,
        )


class Outcome(Struct, frozen=True):
    """What came of it, and the totals of its target."""

    changed: bool
    counts: dict[Reaction, int]


class ReactionWriter:
    """The node's group commit of reactions."""

    def __init__(self, node: Node) -> None:
        self._pool: Pool = node.stores.pool
        self._presence: PresenceTracker = node.presence
        self._feed = node.feed
        self._person_events = node.person_events
        self.gather: Gather[Wanted, Outcome] = Gather(self._commit)

    async def settle(self, wanted: Wanted) -> Outcome:
        """Commit what a person wants. Raises `Refused`: busy, unavailable."""
        return await self.gather.ask(wanted)

    async def _commit(self, batch: Sequence[Wanted]) -> Sequence[Outcome | Exception]:
        rooms = {RoomId(one.target.id) for one in batch}
        wishes = [one.wish for one in batch]
        try:
            settled = await reactions.settle(self._pool, wishes)
        except BaseException:
            self._presence.recount.soon(rooms)  # it may have been committed all the same
            raise
        self._person_events.publish(settled.told)
        self._tell(batch, wishes, settled)
        counts = {room: self._counts(room, settled) for room in rooms}
        return [
            Outcome(changed, counts[RoomId(one.target.id)])
            for one, changed in zip(batch, settled.changed, strict=True)
        ]

    def _tell(self, batch: Sequence[Wanted], wishes: Sequence[Wish], settled: Settled) -> None:
        people = {id(wish): one.person for one, wish in zip(batch, wishes, strict=True)}
        kinds = {one.target.id: one.target.kind for one in batch}
        given = _newest(settled.given, people, len(kinds))
        withdrawn = _newest(settled.withdrawn, people, len(kinds))
        for target, totals in settled.totals.items():
            if kinds[target] is TargetKind.COMMENT:
                continue  # nobody is told of these: who lists comments sees them
            room = RoomId(target)
            counts = [
                Count(kind, settled.added[target, kind], total.total, total.revision)
                for kind, total in totals.items()
            ]
            self._presence.reacted(room, counts, given[room], withdrawn[room])
            if kinds[target] is TargetKind.VYBE:
                self._feed.reacted(VybeId(target), totals)

    def _counts(self, room: RoomId, settled: Settled) -> dict[Reaction, int]:
        """Return the newest totals that are known: another node's batch may have been told since this one was read."""
        known = self._presence.totals(room)
        if known is not None:
            return known
        return {kind: total.total for kind, total in settled.totals.get(room, {}).items()}


def _newest(
    wishes: Sequence[Wish], people: Mapping[int, Person], targets: int
) -> defaultdict[RoomId, list[Reactor]]:
    """Return the newest few of those who wished, by room; `people` are by the identity of their wish, in `targets` rooms."""
    newest: defaultdict[RoomId, list[Reactor]] = defaultdict(list)
    full = 0
    for wish in reversed(wishes):
        room = newest[RoomId(wish.target.id)]
        if len(room) < NAMED:
            room.insert(0, Reactor(person=people[id(wish)], reaction=wish.reaction))
            full += len(room) == NAMED
            if full == targets:
                break
    return newest


@handles(AddReaction)
def add(call: Call, command: AddReaction) -> Gathered[ReactionAdded] | Awaitable[ReactionAdded]:
    """React to a room that one is in, to a vybe or a comment that one sees."""

    def answer(outcome: Outcome) -> ReactionAdded:
        return ReactionAdded(id=command.id, added=outcome.changed, counts=outcome.counts)

    if not _is_open(call, command.target):
        return _elsewhere(call, command, answer, present=True)
    return Gathered(call.node.reactions.gather, _wanted(call, command, present=True), answer)


@handles(RemoveReaction)
def remove(call: Call, command: RemoveReaction) -> Gathered[ReactionRemoved] | Awaitable[ReactionRemoved]:
    """Take a reaction back."""

    def answer(outcome: Outcome) -> ReactionRemoved:
        return ReactionRemoved(id=command.id, removed=outcome.changed, counts=outcome.counts)

    if not _is_open(call, command.target):
        return _elsewhere(call, command, answer, present=False)
    return Gathered(call.node.reactions.gather, _wanted(call, command, present=False), answer)


def _wanted(call: Call, command: AddReaction | RemoveReaction, *, present: bool) -> Wanted:
    face = call.node.faces.act(call.connection, RoomId(command.target.id))
    return Wanted(face, command.target, command.reaction, present, call.session.user_id)


def _is_open(call: Call, target: Target) -> bool:
    """Say whether a person may react to `target` now: a looproom that they are in."""
    return target.kind is TargetKind.LOOPROOM and RoomId(target.id) in call.session.faces


async def _elsewhere(
    call: Call,
    command: AddReaction | RemoveReaction,
    answer: Callable[[Outcome], AnswerT],
    *,
    present: bool,
) -> AnswerT:
    """React to what is no room that one is in, if it may be seen. Raises `Refused`: not_found, not_in_room."""
    target, node = command.target, call.node
    if target.kind is TargetKind.LOOPROOM:
        room = await node.catalogue.find(str(target.id))
        raise Refused(ErrorCode.NOT_IN_ROOM if visible(room, call.session) else ErrorCode.NOT_FOUND)
    if target.kind is TargetKind.VYBE:
        sight = await node.vybes.see(call.session, vybe=VybeId(target.id))
    else:
        sight = await node.vybes.see(call.session, comment=CommentId(target.id))
    face = node.vybes.mask(call.session, sight) or call.session.user
    owner = sight.author if sight.commenter is None else sight.commenter
    wanted = Wanted(face, target, command.reaction, present, call.session.user_id, owner)
    return answer(await node.reactions.settle(wanted))
