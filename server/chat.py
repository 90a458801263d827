"""Chat: lines are committed with their offset, then published, then answered; and only by those who may."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import msgspec
from uuid_utils.compat import uuid7

from protocol.chat import (
    ChatEdited,
    ChatLine,
    ChatRecalled,
    ChatRemoval,
    ChatRemoved,
    ChatRevision,
    ChatSent,
    EditChat,
    Line,
    RecallChat,
    RemoveChat,
    SendChat,
)
from protocol.codec import JSON, MSGPACK
from protocol.envelope import LineId, RoomId
from protocol.refusals import ErrorCode, Refused
from protocol.text import normalised
from server.hub.dispatch import Call, handles
from server.hub.gathered import Gathered
from server.hub.subscriptions import Subscriptions
from storage import chat
from storage.chat import Happened, NewLine, Said
from storage.postgres.gather import Gather
from storage.postgres.pool import Pool
from storage.redis.limits import Limit
from storage.redis.publications import Kind, Packet

LINES: Final = Limit("chat", burst=100, rate=20)
"""Lines that a person may say or change: a tenth of it is more than anyone types."""
KEPT_FROM_THE_START: Final = 100
"""Events that a room has in memory when it opens: enough for a snapshot and for most of those who come back."""
NEWEST: Final = 2**63 - 1

_lines = msgspec.json.Decoder(ChatLine)


def line_packet(event: ChatLine) -> Packet:
    """Encode a line once, for all."""
    return Packet(Kind.LINE, event.offset, JSON.encode(event), MSGPACK.encode(event))


def change_packet(event: ChatRevision | ChatRemoval, line: Line) -> Packet:
    """Encode what happened to a line, with the line's new form for the replay."""
    now = ChatLine(room=event.room, offset=line.offset, line=line)
    return Packet(
        Kind.DURABLE,
        event.offset,
        JSON.encode(event),
        MSGPACK.encode(event),
        line.offset,
        JSON.encode(now),
        MSGPACK.encode(now),
    )


def _stored_packet(happened: Happened) -> Packet:
    """Encode an event that was read back. It may be news here, so it changes what is in memory as if it had just come."""
    if isinstance(happened.event, ChatLine):
        return line_packet(happened.event)
    return change_packet(happened.event, happened.line)


class ChatHistory:
    """The durable events of rooms, encoded: the hub's `History`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def begin(self, room: RoomId) -> tuple[int, list[Packet]]:
        """See `server.hub.subscriptions.History`."""
        last, events = await chat.newest(self._pool, room, KEPT_FROM_THE_START)
        return last, [_stored_packet(event) for event in events]

    async def between(self, room: RoomId, first: int, last: int) -> list[Packet]:
        """See `server.hub.subscriptions.History`."""
        return [_stored_packet(event) for event in await chat.events(self._pool, room, first, last)]

    async def positions(self, rooms: Sequence[RoomId]) -> dict[RoomId, int]:
        """See `server.hub.subscriptions.History`."""
        return await chat.positions(self._pool, rooms)

    def renewed(self, room: RoomId, old: Packet, change: Packet) -> Packet:  # noqa: ARG002 - the line knows it
        """See `server.hub.subscriptions.History`. A line that was removed has no further change, so `old` is a revision."""
        now = _lines.decode(change.of_json)
        return change_packet(ChatRevision(room=now.room, offset=old.offset, line=now.line), now.line)


class ChatWriter:
    """The node's group commit of chat lines."""

    def __init__(self, pool: Pool, subscriptions: Subscriptions) -> None:
        self._pool = pool
        self._subscriptions = subscriptions
        self.gather: Gather[NewLine, Said] = Gather(self._commit)

    def tell_removed(self, removals: Sequence[tuple[ChatRemoval, Line]]) -> None:
        """Tell everyone of lines that were removed, each with its new form; call it after the commit."""
        told: defaultdict[RoomId, list[Packet]] = defaultdict(list)
        for removal, line in removals:
            told[removal.room].append(change_packet(removal, line))
        for room, packets in told.items():
            self._subscriptions.publish(room, packets)

    async def _commit(self, lines: Sequence[NewLine]) -> Sequence[Said | Exception]:
        results = await chat.append(self._pool, lines)
        said: defaultdict[RoomId, list[Packet]] = defaultdict(list)
        for new, result in zip(lines, results, strict=True):
            if isinstance(result, Said) and result.fresh:
                said[new.room].append(
                    line_packet(ChatLine(room=new.room, offset=result.line.offset, line=result.line))
                )
        for room, packets in said.items():
            self._subscriptions.publish(room, packets)
        return results


@handles(SendChat, limit=LINES)
def send(call: Call, command: SendChat) -> Gathered[ChatSent]:
    """Say something in a room that one is in."""
    room = call.member_of(command.room)
    line = NewLine(
        id=LineId(uuid7()),
        room=room,
        author=call.node.faces.act(call.connection, room),
        speaker=call.session.user_id,
        text=_readable(command.text),
        key=command.key,
    )
    return Gathered(
        call.node.chat.gather,
        line,
        lambda said: ChatSent(id=command.id, line=said.line, offset=said.line.offset),
    )


@handles(EditChat, limit=LINES)
async def edit(call: Call, command: EditChat) -> ChatEdited:
    """Change a line: its author, the host and moderators may."""
    room = call.member_of(command.room)
    event = await chat.revise(
        call.node.stores.pool,
        room,
        command.line,
        call.session.user_id,
        _readable(command.text),
        any_author=await _may_moderate(call, room),
    )
    call.node.subscriptions.publish(room, [change_packet(event, event.line)])
    return ChatEdited(id=command.id, line=event.line, offset=event.offset)


@handles(RemoveChat)
async def remove(call: Call, command: RemoveChat) -> ChatRemoved:
    """Remove a line: its author, the host and moderators may. Removed twice is removed once."""
    room = call.member_of(command.room)
    pool = call.node.stores.pool
    removed = await chat.remove(
        pool, room, command.line, call.session.user_id, any_author=await _may_moderate(call, room)
    )
    if removed is None:
        event = await chat.removal_of(pool, command.line)
    else:
        event = removed[0]
        call.node.chat.tell_removed([removed])
    return ChatRemoved(id=command.id, line=command.line, offset=event.offset)


@handles(RecallChat)
async def recall(call: Call, command: RecallChat) -> ChatRecalled:
    """Read older lines of a room that one is in."""
    before = NEWEST if command.before is None else command.before
    room = call.member_of(command.room)
    lines = await chat.lines_before(call.node.stores.pool, room, before, command.limit + 1)
    veil = call.session.veil(room)  # as it is now: somebody may have been blocked meanwhile
    seen = [line if veil is None else veil.line(line) for line in lines[-command.limit :]]
    return ChatRecalled(id=command.id, lines=seen, more=len(lines) > command.limit)


async def _may_moderate(call: Call, room: RoomId) -> bool:
    if call.session.moderates:
        return True
    return call.session.is_one((await call.node.catalogue.find(str(room))).host, room)


def _readable(text: str) -> str:
    text = normalised(text)
    if not text:
        raise Refused(ErrorCode.TEXT_EMPTY, path="$.text")
    return text
