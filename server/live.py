"""Rooms that are live: their host says so, everyone in them sees it, and those who follow the host are notified."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from protocol.envelope import RoomId, UserId
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import OnAir, RoomSwitched, SwitchRoom
from server.hub.dispatch import Call, handles
from server.jobs import performs
from server.rooms import visible
from storage import live
from storage.live import TellFollowers
from storage.redis.limits import Limit
from storage.redis.publications import Kind

if TYPE_CHECKING:
    from server.node import Node

SWITCHES: Final = Limit("live", burst=10, rate=1 / 60)
"""Times that a person takes their looprooms live, or ends that: each may notify all who follow them."""
FOLLOWERS: Final = 500
"""Of one transaction: some tens of milliseconds."""
PAUSE_SECONDS: Final = 0.02
"""Between two of them: a hundred thousand followers are told beside everything else."""


@handles(SwitchRoom, limit=SWITCHES)
async def switch(call: Call, command: SwitchRoom) -> RoomSwitched:
    """Take a room live, or end that: its host may."""
    node = call.node
    room = await node.catalogue.find(command.room)
    if not visible(room, call.session):
        raise Refused(ErrorCode.NOT_FOUND)
    if await live.set_live(node.stores.pool, room.id, call.session.user_id, on=command.live):
        node.room_aired(room.id)
    return RoomSwitched(id=command.id, room=await node.catalogue.read(room.id))


async def tell_live(node: Node, room: RoomId) -> None:
    """Read a room anew that has gone live, or has ended, and tell everyone in it. Raises `Refused`."""
    found = await node.catalogue.read(room)
    active = node.hub.members.rooms.get(room)
    if active is not None:
        node.hub.tell(active, OnAir(room=room, live=found.live), Kind.DURABLE)


@performs(TellFollowers, together=2, within=3600.0)
async def tell_followers(node: Node, job: TellFollowers) -> None:
    """Notify those who follow the host, some at a time."""
    after: UserId | None = None
    while True:
        batch = await live.tell_followers(node.stores.pool, job, after, FOLLOWERS)
        node.person_events.publish(batch.told)
        after = batch.after
        if after is None:
            return
        await asyncio.sleep(PAUSE_SECONDS)
