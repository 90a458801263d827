"""Comments: committed with their offset among what happens to their vybe, then published, then answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace
from uuid_utils.compat import uuid7

from protocol.codec import JSON, MSGPACK
from protocol.comments import (
    AddComment,
    Comment,
    CommentAdded,
    CommentEdited,
    CommentEntry,
    CommentRemoval,
    CommentRemoved,
    CommentRevision,
    CommentsListed,
    EditComment,
    ListComments,
    RemoveComment,
)
from protocol.envelope import CommentId, RoomId, VybeId
from protocol.refusals import ErrorCode, Refused
from protocol.text import normalised
from protocol.vybes import VybeGap
from server.hub.connection import Connection
from server.hub.dispatch import Call, handles
from server.hub.members import Room
from storage import comments
from storage.comments import Added, NewComment, Removed
from storage.postgres.gather import Gather
from storage.redis.limits import Limit
from storage.redis.publications import Kind, Packet

if TYPE_CHECKING:
    from server.node import Node

COMMENTS: Final = Limit("comments", burst=50, rate=1)
"""Comments that a person may make or change."""
KEPT_FROM_THE_START: Final = 100
"""What happened to a vybe that is in memory when it is opened: enough for a snapshot."""
RECENT_COMMENTS: Final = 50
NEWEST: Final = 2**63 - 1

_entries = msgspec.json.Decoder(CommentEntry | VybeGap)


def entry_packet(vybe: VybeId, comment: Comment) -> Packet:
    """Encode a comment once, for all."""
    event = CommentEntry(vybe=vybe, offset=comment.offset, comment=comment)
    return Packet(Kind.LINE, comment.offset, JSON.encode(event), MSGPACK.encode(event))


def gap_packet(vybe: VybeId, offset: int) -> Packet:
    """Encode that what happened at an offset can't be told any more."""
    event = VybeGap(vybe=vybe, offset=offset)
    return Packet(Kind.DURABLE, offset, JSON.encode(event), MSGPACK.encode(event))


def revision_packet(event: CommentRevision) -> Packet:
    """Encode a revision, with what stands in the place of the comment in memory."""
    return _change_packet(event, entry_packet(event.vybe, event.comment))


def removal_packet(event: CommentRemoval) -> Packet:
    """Encode a removal: nothing of the comment stays in memory."""
    return _change_packet(event, gap_packet(event.vybe, event.of))


def _change_packet(event: CommentRevision | CommentRemoval, now: Packet) -> Packet:
    json, msgpack = JSON.encode(event), MSGPACK.encode(event)
    return Packet(Kind.DURABLE, event.offset, json, msgpack, now.offset, now.json, now.msgpack)


class Comments:
    """The node's group commit of comments, and the history of the vybes that are open here."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._pool = node.stores.pool
        self._followed: set[RoomId] = set()
        self.gather: Gather[NewComment, Added] = Gather(self._commit)

    # The hub's `History` of these rooms.

    def follow(self, vybe: VybeId) -> None:
        """Know that a room is a vybe: say so before it is opened."""
        self._followed.add(RoomId(vybe))

    def follows(self, room: RoomId) -> bool:
        """Say whether a room is a vybe."""
        return room in self._followed

    def forget(self, room: RoomId) -> None:
        """Note that a room was closed. Nothing happens when it is no vybe."""
        self._followed.discard(room)

    async def begin(self, room: RoomId) -> tuple[int, list[Packet]]:
        """See `server.hub.subscriptions.History`."""
        last = (await comments.positions(self._pool, [VybeId(room)])).get(VybeId(room))
        if last is None:
            raise Refused(ErrorCode.NOT_FOUND)
        return last, await self.between(room, max(1, last - KEPT_FROM_THE_START + 1), last)

    async def between(self, room: RoomId, first: int, last: int) -> list[Packet]:
        """See `server.hub.subscriptions.History`. Where no comment is, something happened that can't be told any more."""
        vybe = VybeId(room)
        reached = (await comments.positions(self._pool, [vybe])).get(vybe, 0)
        found = await comments.between(self._pool, vybe, first, last)
        return [
            entry_packet(vybe, found[offset]) if offset in found else gap_packet(vybe, offset)
            for offset in range(first, min(last, reached) + 1)
        ]

    async def positions(self, rooms: Sequence[RoomId]) -> dict[RoomId, int]:
        """See `server.hub.subscriptions.History`. Whoever has one open that is not there any more is put out of it."""
        found = await comments.positions(self._pool, [VybeId(room) for room in rooms])
        for room in rooms:
            if VybeId(room) not in found:
                self._node.vybes.gone(VybeId(room))
        return {RoomId(vybe): last for vybe, last in found.items()}

    def renewed(self, room: RoomId, old: Packet, change: Packet) -> Packet:  # noqa: ARG002 - the entry knows it
        """See `server.hub.subscriptions.History`. What was removed has no further change, so `old` is a revision."""
        now = _entries.decode(change.of_json)
        if isinstance(now, VybeGap):
            return gap_packet(now.vybe, old.offset)
        return revision_packet(CommentRevision(vybe=now.vybe, offset=old.offset, comment=now.comment))

    # What is said.

    def recent(self, active: Room, connection: Connection) -> list[Comment]:
        """Return the newest comments of a vybe from memory, as a connection sees them, oldest first."""
        session, veil = connection.session, connection.veil(active)
        assert session is not None
        recent: list[Comment] = []
        for packet in active.replay.newest():
            entry = _entries.decode(packet.json) if packet.kind is Kind.LINE else None
            if not isinstance(entry, CommentEntry):
                continue  # it was removed
            author = entry.comment.author
            if veil is None or author.id not in veil.unheard:
                recent.append(replace(entry.comment, mine=session.is_one(author, active.id)))
            if len(recent) == RECENT_COMMENTS:
                break
        recent.reverse()
        return recent

    def tell_removed(self, removals: Sequence[Removed]) -> None:
        """Tell everyone of comments that are gone; call it after the commit."""
        told: defaultdict[VybeId, list[Packet]] = defaultdict(list)
        for removed in removals:
            told[removed.event.vybe].append(removal_packet(removed.event))
            self._node.feed.commented(removed.event.vybe, removed.comments, removed.event.offset)
        for vybe, packets in told.items():
            self._node.subscriptions.publish(RoomId(vybe), packets)

    async def _commit(self, new: Sequence[NewComment]) -> Sequence[Added | Exception]:
        batch = await comments.add(self._pool, new)
        results = batch.added
        self._node.person_events.publish(batch.told)
        told: defaultdict[VybeId, list[Packet]] = defaultdict(list)
        counted: dict[VybeId, Added] = {}
        for one, result in zip(new, results, strict=True):
            if isinstance(result, Added) and result.fresh:
                told[one.vybe].append(entry_packet(one.vybe, result.comment))
                counted[one.vybe] = result
        for vybe, packets in told.items():
            self._node.subscriptions.publish(RoomId(vybe), packets)
        for vybe, last in counted.items():
            self._node.feed.commented(vybe, last.comments, last.comment.offset)
        return results


@handles(AddComment, limit=COMMENTS)
async def add(call: Call, command: AddComment) -> CommentAdded:
    """Say something about a vybe that one sees."""
    text = _readable(command.text)
    sight = await call.node.vybes.see(call.session, vybe=command.vybe)
    added = await call.node.comments.gather.ask(
        NewComment(
            id=CommentId(uuid7()),
            vybe=command.vybe,
            author=call.session.user,
            text=text,
            key=command.key,
            host=sight.author,
            pseudonym=call.node.vybes.mask(call.session, sight),
        )
    )
    return CommentAdded(id=command.id, comment=replace(added.comment, mine=True))


@handles(EditComment, limit=COMMENTS)
async def edit(call: Call, command: EditComment) -> CommentEdited:
    """Change a comment of one's own about a vybe that one sees."""
    text = _readable(command.text)
    await call.node.vybes.see(call.session, comment=command.comment)
    event = await comments.revise(call.node.stores.pool, command.comment, call.session.user_id, text)
    call.node.subscriptions.publish(RoomId(event.vybe), [revision_packet(event)])
    return CommentEdited(id=command.id, comment=replace(event.comment, mine=True), offset=event.offset)


@handles(RemoveComment)
async def remove(call: Call, command: RemoveComment) -> CommentRemoved:
    """Remove a comment: its author, the author of the vybe and moderators may."""
    removed = await comments.remove(
        call.node.stores.pool, command.comment, call.session.user_id, moderates=call.session.moderates
    )
    call.node.comments.tell_removed([removed])
    return CommentRemoved(id=command.id, comment=command.comment)


@handles(ListComments)
async def list_comments(call: Call, command: ListComments) -> CommentsListed:
    """Read older comments of a vybe that one sees."""
    await call.node.vybes.see(call.session, vybe=command.vybe)
    before = NEWEST if command.before is None else command.before
    found = await comments.before(
        call.node.stores.pool, command.vybe, before, call.session.user_id, command.limit + 1
    )
    return CommentsListed(id=command.id, comments=found[-command.limit :], more=len(found) > command.limit)


def _readable(text: str) -> str:
    text = normalised(text)
    if not text:
        raise Refused(ErrorCode.TEXT_EMPTY, path="$.text")
    return text
