"""Coming back over a slow network: everything that was missed, at the speed at which it is read, and little memory for each."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

import pytest

from protocol.closing import CloseCode
from protocol.envelope import RoomId
from server.node import Node
from server.settings import Settings
from server.tokens import Tokens
from storage.postgres.pool import Pool
from tests.hosting import SIGNING_KEY, Host, make_room
from tests.http.serving import serving
from tests.nodes.raw import Message, RawConnection
from tests.redis.valkeys import Valkey
from tests.stores import SEALING_KEY
from tests.visitors import Visitor, bystander, visit
from tests.waiting import until

MISSED = 800
FILL = """
with moved as (
    update room_positions set last = $2 where room_id = $1
)
insert into chat_lines (room_id, "offset", author_id, text)
select $1, n, host_id, repeat('x', 600) from rooms, generate_series(1, $2::int) n where id = $1
"""


class Place:
    """A node that a test looks into, and a room in which half a megabyte was said."""

    def __init__(self, node: Node, host: Host, room: RoomId) -> None:
        self.node = node
        self.host = host
        self.room = room
        self.behind_hello: Callable[[Visitor], None] = lambda _: None
        """Sends something before the welcome has come."""

    async def returning(self, offset: int = 0) -> Visitor:
        """Come back to the room on a connection that is read when one says so, and take the welcome."""
        visitor = Visitor()
        sock = socket.socket(proto=socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", urlsplit(self.host.url).port))
        _, visitor.connection = await loop.create_connection(
            lambda: RawConnection(visitor.heard.append), sock=sock
        )
        await visitor.connection.opened
        position = {"room": "calm", "epoch": self.node.stores.epoch, "offset": offset}
        greeted = asyncio.create_task(
            visitor.call("hello", token=await self.host.token("returner"), resume=[position])
        )
        await asyncio.sleep(0)  # what is sent next is right behind it
        self.behind_hello(visitor)
        visitor.welcome = await greeted
        visitor.connection.transport.pause_reading()
        return visitor

    def held(self) -> list[int]:
        """Return the bytes that wait here for each connection."""
        return [
            connection.transport.get_write_buffer_size()
            + (connection.outbox.size if connection.outbox else 0)
            for connection in self.node.hub.members.connections
        ]


@pytest.fixture
async def place(database_url: str, valkey: Valkey, pool: Pool) -> AsyncIterator[Place]:
    """Run a node, and fill a room."""
    settings = Settings(
        database_url=database_url,
        redis_url=valkey.url,
        signing_keys=(SIGNING_KEY,),
        sealing_keys=(SEALING_KEY,),
        slow_close_seconds=2,
        replay_window=1000,
        limits_factor=1000,
    )
    room = await make_room(pool, "calm")
    await pool.execute(FILL, room, MISSED)
    async with serving(settings) as site:
        host = Host(f"ws://127.0.0.1:{site.port}/ws", Tokens(settings), pool, AsyncExitStack())
        yield Place(site.node, host, room)


async def read(visitor: Visitor, events: int) -> None:
    """Read until so many more events have come, then no more for now."""
    wanted = len(visitor.events) + events
    visitor.connection.transport.resume_reading()
    await until(lambda: len(visitor.events) >= wanted or visitor.connection.gone.done())
    if not visitor.connection.gone.done():
        visitor.connection.transport.pause_reading()


async def test_at_the_speed_at_which_it_is_read(place: Place) -> None:
    """Somebody reads a little now and then, while the room goes on: they get all of it, once and in order, and stay."""
    async with bystander(place.host, place.room, alone=False) as witness:
        visitor = await place.returning()
        assert visitor.welcome["resumed"][0]["recovered"]
        while len(visitor.events) < MISSED:
            said = witness.offsets[-1:]
            await until(lambda said=said: witness.offsets[-1:] != said)  # type: ignore[misc] # bound now
            await read(visitor, 100)
        assert not visitor.connection.gone.done()
        visitor.connection.transport.resume_reading()
        await until(lambda: visitor.offsets[-1] >= witness.offsets[-1])
        assert visitor.offsets == list(range(1, visitor.offsets[-1] + 1))
        answer = await visitor.say(place.room, "at last")
        await visitor.hear(answer["offset"])
        await visitor.call("room.leave", room="calm")


async def test_many_who_do_not_read(place: Place) -> None:
    """Each of those who come back and read nothing costs little, and is closed in time; the others notice nothing."""
    async with bystander(place.host, place.room):
        crowd = [await place.returning() for _ in range(20)]
        assert max(place.held()) < 128 * 1024
        await until(lambda: len(place.node.hub.members.connections) == 1, within=15)
        assert place.node.hub.closes[CloseCode.SLOW] == 20
    for visitor in crowd:
        visitor.connection.transport.abort()


async def test_more_slowly_than_the_room_speaks(place: Place, pool: Pool) -> None:
    """Once memory has forgotten what is to be sent next, they are told to come back, and get a snapshot."""
    visitor = await place.returning()
    author = await visit(place.host, "author", place.room)
    active = place.node.hub.members.rooms[place.room]
    kept, active.replay._window = active.replay._window, 50  # as if a thousand lines had been said
    await author.say(place.room, "one more")
    active.replay._window = kept
    visitor.connection.transport.resume_reading()
    gone = await visitor.connection.gone
    assert gone.code == CloseCode.SLOW
    assert visitor.offsets == list(range(1, len(visitor.offsets) + 1))
    again = await place.returning(visitor.offsets[-1])
    assert again.welcome["resumed"][0]["offset"] == MISSED + 1
    again.connection.transport.abort()


@pytest.mark.parametrize("command", ["room.join", "room.leave"])
async def test_what_is_asked_in_the_middle(place: Place, command: str) -> None:
    """Who leaves in the middle hears nothing afterwards; who joins again has a snapshot, and hears what follows it."""
    asked: list[asyncio.Task[Message]] = []
    place.behind_hello = lambda visitor: asked.append(asyncio.create_task(visitor.call(command, room="calm")))
    visitor = await place.returning()
    author = await visit(place.host, "author", place.room)
    visitor.connection.transport.resume_reading()
    answer = await asked[0]
    before = visitor.offsets
    assert before == list(range(1, len(before) + 1))
    assert len(before) < MISSED
    await author.say(place.room, "next")
    await author.settle()
    await visitor.settle()
    if command == "room.leave":
        assert (answer["type"], visitor.offsets) == ("room.left", before)
    else:
        assert answer["offset"] == MISSED
        await visitor.hear(MISSED + 1)
        assert visitor.offsets == [*before, MISSED + 1]
