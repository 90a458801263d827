"""A client and a server that plays: how a test lets them meet, and waits for what comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

from protocol.chat import ChatLine, ChatSent, SendChat
from protocol.client import Backoff, CaughtUp, Client, Occurrence, connect
from protocol.envelope import RoomId
from protocol.rooms import JoinRoom
from protocol.session import Hello, Resumed
from tests.protocol.client.peer import Conversation, Peer, line

T = TypeVar("T")

SLUG = "calm"
OTHER = RoomId(UUID("00000000-0000-7000-8000-000000000002"))


def dial(peer: Peer, **options: Any) -> Client:
    """Make a client that comes back at once."""
    options.setdefault("token", "a-token")
    options.setdefault("backoff", Backoff(0.0, 0.0))
    return connect(peer.url, **options)


async def welcomed(peer: Peer, *resumed: Resumed, heartbeat: float = 25.0) -> tuple[Conversation, Hello]:
    """Take the next websocket and welcome it."""
    conversation = await peer.accept()
    return conversation, await conversation.welcomes(*resumed, heartbeat=heartbeat)


@asynccontextmanager
async def meeting(
    peer: Peer, *, at: int | None = None, heartbeat: float = 25.0, **options: Any
) -> AsyncIterator[tuple[Client, Conversation]]:
    """Connect a client, and let it join the room at an offset if one is given."""
    welcoming = asyncio.create_task(welcomed(peer, heartbeat=heartbeat))
    async with dial(peer, **options) as client:
        conversation, _ = await welcoming
        if at is not None:
            await both(client.call(JoinRoom(SLUG)), conversation.lets_in(at))
        yield client, conversation


async def both(calling: Awaitable[T], answering: Awaitable[object]) -> T:
    """Call, and let the peer answer."""
    answer, _ = await asyncio.wait_for(asyncio.gather(calling, answering), 5)
    return answer


async def following(client: Client) -> Occurrence:
    """Return what comes next out of the client."""
    return await asyncio.wait_for(anext(client), 5)


async def lines(client: Client, count: int) -> list[int]:
    """Return the offsets of the next lines, with nothing between them."""
    offsets = []
    for _ in range(count):
        event = await following(client)
        assert isinstance(event, ChatLine), event
        offsets.append(event.offset)
    return offsets


async def lines_until_caught_up(client: Client) -> list[int]:
    """Return the offsets of the lines before the next `CaughtUp`, which must tell their number."""
    offsets = []
    while not isinstance(event := await following(client), CaughtUp):
        assert isinstance(event, ChatLine), event
        offsets.append(event.offset)
    assert event.missed == len(offsets)
    return offsets


async def everything(client: Client) -> list[Occurrence]:
    """Iterate to the end."""
    return [occurrence async for occurrence in client]


async def confirm(server: Conversation, offset: int) -> SendChat:
    """Answer the next line."""
    command = await server.hears(SendChat)
    await server.says(ChatSent(id=command.id, offset=offset, line=line(offset, command.text)))
    return command
