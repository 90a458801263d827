"""Vybes: posted by group commit, seen by those who may, and looked at live.

A vybe that somebody has open is a room of the hub, in which nobody is present: what is said about it has offsets there (see
`server.comments`), and its reactions are told by the pulse of a room. Whoever may not see it any more, because of a block or of a
friendship that has ended, is put out of it, and it is to them as if it had been removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace
from uuid_utils.compat import uuid7

from protocol.codec import JSON, MSGPACK
from protocol.comments import CommentRemoval, CommentRevision
from protocol.envelope import CommentId, Person, RoomId, VybeId
from protocol.feed import FeedRemoval, FeedVybe
from protocol.refusals import ErrorCode, Refused
from protocol.text import normalised
from protocol.vybes import (
    CloseVybe,
    EditVybe,
    GetVybe,
    ListVybes,
    OpenVybe,
    PostVybe,
    Privacy,
    RemoveVybe,
    ShareVybe,
    Vybe,
    VybeClosed,
    VybeEdited,
    VybeFound,
    VybeGap,
    VybeOpened,
    VybePosted,
    VybeRemoval,
    VybeRemoved,
    VybeRevision,
    VybeShared,
    VybesListed,
)
from server.hub.connection import Connection
from server.hub.dispatch import Call, handles
from server.hub.identity import Session
from server.rooms import visible
from storage import vybes
from storage.postgres.gather import Gather
from storage.redis.limits import Limit
from storage.redis.publications import Kind, Packet
from storage.vybes import Glance, NewVybe, Posted, Sight

if TYPE_CHECKING:
    from server.node import Node

_LOGGER = logging.getLogger("looprooms.vybes")

POSTS: Final = Limit("vybes", burst=20, rate=1 / 30)
"""Vybes that a person may post, edit or pass on."""
OPENS: Final = Limit("vybes_opened", burst=100, rate=5)
"""Vybes that a person may open: each costs a snapshot."""
LOOK_SECONDS: Final = 10.0
"""Between two looks at whether all who have a vybe open may see it still."""
AT_ONCE: Final = 500
"""Of these in one statement."""

_changes = msgspec.json.Decoder(VybeRevision | VybeGap | CommentRevision | CommentRemoval)


class Vybes:
    """The node's group commit of vybes, and its looks at who sees which."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._pool = node.stores.pool
        self._looking: set[asyncio.Task[None]] = set()
        self.gather: Gather[NewVybe, Posted] = Gather(self._commit)
        self.glances: Gather[Glance, Sight] = Gather(self._look)

    async def see(
        self, session: Session, *, vybe: VybeId | None = None, comment: CommentId | None = None
    ) -> Sight:
        """Return what somebody sees of a vybe, or of a comment with its vybe. Raises `Refused` (not_found)."""
        return await self.glances.ask(Glance(session.user_id, session.moderates, vybe, comment))

    def mask(self, session: Session, sight: Sight) -> Person | None:
        """Return the pseudonym under which somebody does something about a vybe; None for one who does it as themselves.

        Who has posted it under one has no other face there, whatever mode they are in: they would be seen to be the author.
        """
        if session.anonymous or (sight.masked and sight.author == session.user_id):
            return self._node.faces.pseudonym(RoomId(sight.vybe), session.user_id)
        return None

    async def post(self, new: NewVybe) -> Vybe:
        """Store a vybe, and tell everyone whose feed shows it. Raises `Refused`."""
        posted = await self.gather.ask(new)
        return replace(posted.vybe, mine=True)

    def reconsider(self, connection: Connection) -> None:
        """Put a connection out of the vybes that its person does not see any more."""
        if any(self._node.comments.follows(room) for room in connection.rooms):
            task = self._node.hub.loop.create_task(self._look_quietly([connection]))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def run(self) -> None:
        """Look again at everyone who has a vybe open, for ever: that a friendship has ended is told to nobody else."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            rooms = self._node.hub.members.rooms
            await self._look_quietly(
                {
                    connection
                    for room, active in rooms.items()
                    if self._node.comments.follows(room)
                    for connection in active.connections
                }
            )

    async def _look_quietly(self, connections: Iterable[Connection]) -> None:
        try:
            await self.look_again(connections)
        except Refused:
            _LOGGER.warning("who sees which vybe could not be read: Postgres is out of reach")

    async def look_again(self, connections: Iterable[Connection]) -> None:
        """Put everyone out of the vybes that they do not see any more. Raises `Refused` (unavailable)."""
        held = [
            (connection, connection.session, VybeId(room))
            for connection in connections
            for room in connection.rooms
            if connection.session is not None and self._node.comments.follows(room)
        ]
        for start in range(0, len(held), AT_ONCE):
            some = held[start : start + AT_ONCE]
            sights = await vybes.look(
                self._pool, [Glance(session.user_id, session.moderates, vybe) for _, session, vybe in some]
            )
            for (connection, _, vybe), sight in zip(some, sights, strict=True):
                if isinstance(sight, Refused):
                    self._put_out(connection, vybe)

    def gone(self, vybe: VybeId) -> None:
        """Put everyone of this node out of a vybe that is not there any more."""
        active = self._node.hub.members.rooms.get(RoomId(vybe))
        for connection in () if active is None else list(active.connections):
            self._put_out(connection, vybe)

    def _put_out(self, connection: Connection, vybe: VybeId) -> None:
        active = connection.rooms.get(RoomId(vybe))
        if active is not None:
            self._node.hub.leave(connection, active, at_once=True)
            connection.send(VybeRemoval(vybe=vybe))

    async def _commit(self, new: Sequence[NewVybe]) -> Sequence[Posted | Exception]:
        results = await vybes.post(self._pool, new)
        self._node.feed.tell(
            FeedVybe(offset=result.feed_offset, vybe=result.vybe)
            for result in results
            if isinstance(result, Posted) and result.feed_offset is not None
        )
        return results

    async def _look(self, glances: Sequence[Glance]) -> Sequence[Sight | Exception]:
        return await vybes.look(self._pool, glances)


def packet(event: VybeRevision | VybeRemoval | VybeGap, offset: int = 0) -> Packet:
    """Encode what happened to a vybe itself, once for all who have it open."""
    return Packet(Kind.DURABLE, offset, JSON.encode(event), MSGPACK.encode(event))


@handles(PostVybe, limit=POSTS)
async def post(call: Call, command: PostVybe) -> VybePosted:
    """Post something."""
    text = normalised(command.text)
    if not text:
        raise Refused(ErrorCode.TEXT_EMPTY, path="$.text")
    room = None
    if command.looproom is not None:
        found = await call.node.catalogue.find(command.looproom)
        if not visible(found, call.session):
            raise Refused(ErrorCode.NOT_FOUND)
        room = found.id
    vybe = VybeId(uuid7())
    posted = await call.node.vybes.post(
        NewVybe(
            id=vybe,
            author=call.session.user,
            kind=command.kind,
            privacy=command.privacy,
            text=text,
            key=command.key,
            room=room,
            pseudonym=_pseudonym(call, vybe, command.privacy),
        )
    )
    return VybePosted(id=command.id, vybe=posted)


@handles(ShareVybe, limit=POSTS)
async def share(call: Call, command: ShareVybe) -> VybeShared:
    """Pass a vybe on that one sees."""
    vybe = VybeId(uuid7())
    shared = await vybes.original(
        call.node.stores.pool, command.vybe, call.session.user_id, moderates=call.session.moderates
    )
    posted = await call.node.vybes.post(
        NewVybe(
            id=vybe,
            author=call.session.user,
            kind=command.kind,
            privacy=command.privacy,
            text=normalised(command.text),
            key=command.key,
            shared=replace(shared, mine=False),
            pseudonym=_pseudonym(call, vybe, command.privacy),
        )
    )
    if posted.shared is not None:
        posted.shared = replace(posted.shared, mine=shared.mine)
    return VybeShared(id=command.id, vybe=posted)


def _pseudonym(call: Call, vybe: VybeId, privacy: Privacy) -> Person | None:
    if privacy is Privacy.ANONYMOUS or call.session.anonymous:
        return call.node.faces.pseudonym(RoomId(vybe), call.session.user_id)
    return None


@handles(GetVybe)
async def get(call: Call, command: GetVybe) -> VybeFound:
    """Look at one vybe."""
    found = await vybes.find(
        call.node.stores.pool, command.vybe, call.session.user_id, moderates=call.session.moderates
    )
    return VybeFound(id=command.id, vybe=found)


@handles(EditVybe, limit=POSTS)
async def edit(call: Call, command: EditVybe) -> VybeEdited:
    """Change the text of a vybe of one's own."""
    node = call.node
    edited = await vybes.edit(node.stores.pool, command.vybe, call.session.user_id, normalised(command.text))
    vybe = edited.vybe
    assert vybe.edited_at is not None
    event = VybeRevision(vybe=vybe.id, offset=edited.offset, text=vybe.text, edited_at=vybe.edited_at)
    node.subscriptions.publish(RoomId(vybe.id), [packet(event, edited.offset)])
    if edited.feed_offset is not None:
        node.feed.tell([FeedVybe(offset=edited.feed_offset, vybe=vybe)])
    return VybeEdited(id=command.id, vybe=replace(vybe, mine=True))


@handles(RemoveVybe)
async def remove(call: Call, command: RemoveVybe) -> VybeRemoved:
    """Remove a vybe: its author and moderators may."""
    node = call.node
    feed_offset = await vybes.remove(
        node.stores.pool, command.vybe, call.session.user_id, moderates=call.session.moderates
    )
    node.subscriptions.publish(RoomId(command.vybe), [packet(VybeRemoval(vybe=command.vybe))])
    if feed_offset is not None:
        node.feed.tell([FeedRemoval(offset=feed_offset, vybe=command.vybe)])
    return VybeRemoved(id=command.id, vybe=command.vybe)


@handles(ListVybes)
async def list_vybes(call: Call, command: ListVybes) -> VybesListed:
    """Page through what somebody has posted."""
    found = await vybes.of_author(
        call.node.stores.pool, command.author, call.session.user_id, command.before, command.limit + 1
    )
    page = found[: command.limit]
    return VybesListed(id=command.id, vybes=page, next=page[-1].id if len(found) > command.limit else None)


@handles(OpenVybe, alone=True, limit=OPENS)
async def open_vybe(call: Call, command: OpenVybe) -> VybeOpened:
    """See what happens to a vybe, from a snapshot on."""
    node, connection = call.node, call.connection
    room = RoomId(command.vybe)
    if room not in connection.rooms and len(connection.rooms) >= node.hub.limits.rooms:
        raise Refused(ErrorCode.TOO_MANY_ROOMS)
    await node.vybes.see(call.session, vybe=command.vybe)
    node.comments.follow(command.vybe)
    active = await node.subscriptions.open(room)
    known = active.replay.last
    vybe = await vybes.find(
        node.stores.pool, command.vybe, call.session.user_id, moderates=call.session.moderates
    )
    if not connection.open:
        raise Refused(ErrorCode.NOT_FOUND)  # nobody hears it
    # From here on without a wait: the snapshot and what follows must join on exactly.
    for later in active.replay.since(known) or ():  # happened while the vybe was read
        if later.kind is Kind.DURABLE and isinstance(change := _changes.decode(later.json), VybeRevision):
            vybe.text, vybe.edited_at = change.text, change.edited_at
    node.hub.veil(connection, active, call.session.veil(room))
    node.hub.enter(connection, active)
    vybe.reactions = {kind: total for kind, total in node.presence.state(room).reactions.items() if total}
    return VybeOpened(
        id=command.id,
        vybe=vybe,
        epoch=node.stores.epoch,
        offset=active.replay.last,
        recent=node.comments.recent(active, connection),
    )


@handles(CloseVybe, alone=True)
def close_vybe(call: Call, command: CloseVybe) -> VybeClosed:
    """Look at a vybe no longer. One that is not open is closed already."""
    active = call.connection.rooms.get(RoomId(command.vybe))
    if active is not None and call.node.comments.follows(active.id):
        call.node.hub.leave(call.connection, active, at_once=True)
    return VybeClosed(id=command.id, vybe=command.vybe)
