"""Snapshot plus events is a fresh snapshot: what a client makes of what it is told is what it would be told if it came anew.

Each durable event type of the contract has a test that says so through `assert_replay_reaches`; `test_contract` looks for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from protocol.chat import ChatLine, ChatRemoval, ChatRevision, Line
from protocol.contract import AnyReply
from protocol.envelope import NOBODY, Epoch, Event, Offset
from protocol.rooms import RoomJoined
from server.rooms import RECENT_LINES
from tests.nodes.raw import Message
from tests.standing import Room, Standing
from tests.visitors import Visitor, arrive, visit


class Snapshot(msgspec.Struct):
    """All of a joined room that lasts."""

    epoch: Epoch
    offset: Offset
    recent: list[Line]

    def apply(self, event: Any) -> None:
        """Do what a client does with a durable event."""
        assert event.offset == self.offset + 1
        self.offset = event.offset
        match event:
            case ChatLine():
                self.recent = [*self.recent, event.line][-RECENT_LINES:]
            case ChatRevision():
                self.recent = [event.line if line.id == event.line.id else line for line in self.recent]
            case ChatRemoval():
                for line in self.recent:
                    if line.id == event.line:
                        assert line.offset == event.of
                        line.text, line.removed = "", True
                        line.author = NOBODY if event.departed else line.author
            case _:
                raise AssertionError(f"a {type(event).__name__} changes something that nobody has told here")


async def assert_replay_reaches(
    event: type[Event], nodes: Standing, room: Room, action: Callable[[Visitor], Awaitable[object]]
) -> None:
    """Join, let somebody in the room act, apply what is pushed, join anew: the same. So for a replay, on either node.

    The action must have pushed an `event`, or the test would prove nothing.
    """
    witnesses = [await visit(host, "witness", room.id) for host in nodes.both]
    joined = [await witness.join(room.id) for witness in witnesses]
    before = snapshot_of(joined[0])
    position = {"room": room.slug, "epoch": before.epoch, "offset": before.offset}
    actor = await visit(nodes.north, "actor", room.id)
    await action(actor)
    fresh = [snapshot_of(await (await visit(host, "late")).join(room.id)) for host in nodes.both]
    assert fresh[0] == fresh[1]
    backs = [await arrive(host, await host.token("back"), resume=[position]) for host in nodes.both]
    for told in (*witnesses, *backs):
        assert await followed(told, snapshot_of(joined[0]), fresh[0].offset) == fresh[0]
        assert event in {type(_message(message)) for message in told.events}


async def followed(visitor: Visitor, snapshot: Snapshot, offset: int) -> Snapshot:
    """Return what a snapshot has become by the events that somebody heard up to `offset`."""
    if offset > snapshot.offset:
        await visitor.hear(offset)
    for message in visitor.events:
        snapshot.apply(_message(message))
    return snapshot


def snapshot_of(joined: Message) -> Snapshot:
    """Return what lasts of the answer to a join."""
    answer: RoomJoined = _message(joined)
    return Snapshot(answer.epoch, answer.offset, answer.recent)


def _message(message: Message) -> Any:
    return msgspec.convert(message, AnyReply)
