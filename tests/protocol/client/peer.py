"""A server that plays exactly what a test says: real websockets on loopback, no logic of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar
from uuid import UUID, uuid4

from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from protocol.chat import ChatLine, Line
from protocol.codec import CODECS, JSON
from protocol.contract import AnyCommand
from protocol.envelope import Epoch, LineId, Message, Person, RoomId, SessionId, UserId
from protocol.presence import Confidence, RoomState
from protocol.rooms import ContentKind, JoinRoom, Room, RoomJoined
from protocol.session import Hello, Ping, Ponged, Resumed, Welcome

CommandT = TypeVar("CommandT", bound=AnyCommand)

EPOCH = Epoch("e1")
ROOM = RoomId(UUID("00000000-0000-7000-8000-000000000001"))
ADA = Person(id=UserId(UUID("00000000-0000-7000-8000-00000000000a")), name="Ada")
BO = Person(id=UserId(UUID("00000000-0000-7000-8000-00000000000b")), name="Bo")
STATE = RoomState(online=2, members=[ADA, BO], confidence=Confidence(mean=0, count=0))


class Conversation:
    """One websocket, as the server has it. Pings are answered by themselves and kept in `pings`."""

    def __init__(self, websocket: ServerConnection) -> None:
        self.websocket = websocket
        self.codec = CODECS[websocket.subprotocol or JSON.name]
        self.pings: list[Ping] = []
        self.over = asyncio.Event()

    async def hears(self, kind: type[CommandT]) -> CommandT:
        """Return the next command, which must be of this kind."""
        async with asyncio.timeout(5):
            while True:
                command = self.codec.decode_command(await self.websocket.recv(decode=False))
                if isinstance(command, Ping):
                    self.pings.append(command)
                    await self.says(Ponged(id=command.id, server_time=0))
                    if kind is not Ping:
                        continue
                assert isinstance(command, kind), f"expected {kind.__name__}, got {command!r}"
                return command

    async def says(self, *messages: Message) -> None:
        """Send messages."""
        for message in messages:
            await self.says_bytes(self.codec.encode(message))

    async def says_bytes(self, data: bytes) -> None:
        """Send a message as it is."""
        await self.websocket.send(data, text=self.codec is JSON)

    async def welcomes(self, *resumed: Resumed, heartbeat: float = 25.0, expires_in: float = 600.0) -> Hello:
        """Hear the hello and answer it."""
        hello = await self.hears(Hello)
        await self.says(welcome(hello, *resumed, heartbeat=heartbeat, expires_in=expires_in))
        return hello

    async def lets_in(self, offset: int = 0, *, room: RoomId = ROOM, epoch: Epoch = EPOCH) -> JoinRoom:
        """Hear a join and answer it with a snapshot at `offset`."""
        join = await self.hears(JoinRoom)
        await self.says(joined(join, offset, room=room, epoch=epoch))
        return join

    async def closes(self, code: int = 1000, reason: str = "") -> None:
        """Close the websocket."""
        await self.websocket.close(code, reason)
        self.over.set()

    def breaks(self) -> None:
        """Drop the TCP connection."""
        self.websocket.transport.abort()
        self.over.set()

    async def ends(self) -> int:
        """Wait until the client has closed; return its close code (1006: without one)."""
        async with asyncio.timeout(5):
            await self.websocket.wait_closed()
        self.over.set()
        return self.websocket.close_code or 1006


class Peer:
    """The server: `accept` returns the conversations in the order in which they were opened."""

    def __init__(self) -> None:
        self.url = ""
        self.opened = 0
        self._waiting: asyncio.Queue[Conversation] = asyncio.Queue()
        self._all: list[Conversation] = []

    async def accept(self) -> Conversation:
        """Return the next conversation."""
        async with asyncio.timeout(5):
            return await self._waiting.get()

    async def handle(self, websocket: ServerConnection) -> None:
        """Hold a websocket until its conversation is over."""
        conversation = Conversation(websocket)
        self.opened += 1
        self._all.append(conversation)
        self._waiting.put_nowait(conversation)
        await conversation.over.wait()

    def end(self) -> None:
        """Let all handlers return."""
        for conversation in self._all:
            conversation.over.set()


@asynccontextmanager
async def listening(*, compression: str | None = None) -> AsyncIterator[Peer]:
    """Run a peer on a free port of loopback."""
    peer = Peer()
    async with serve(
        peer.handle,
        "127.0.0.1",
        0,
        subprotocols=[Subprotocol(name) for name in CODECS],
        compression=compression,
        close_timeout=0.2,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        peer.url = f"ws://127.0.0.1:{port}/ws"
        try:
            yield peer
        finally:
            peer.end()


def welcome(hello: Hello, *resumed: Resumed, heartbeat: float = 25.0, expires_in: float = 600.0) -> Welcome:
    """Answer a hello of Ada's."""
    return Welcome(
        id=hello.id,
        session=SessionId(uuid4()),
        user=ADA,
        epoch=EPOCH,
        heartbeat=heartbeat,
        expires_in=expires_in,
        server_time=0,
        resumed=list(resumed),
    )


def joined(join: JoinRoom, offset: int, *, room: RoomId = ROOM, epoch: Epoch = EPOCH) -> RoomJoined:
    """Answer a join."""
    return RoomJoined(
        id=join.id,
        room=Room(
            id=room,
            slug="calm",
            title="Calm",
            description="",
            category="meditation",
            host=BO,
            content=ContentKind.AUDIO,
        ),
        epoch=epoch,
        offset=offset,
        online=2,
        members=[ADA, BO],
        reactions={},
        confidence=Confidence(mean=0, count=0),
        recent=[],
    )


def line(offset: int, text: str | None = None) -> Line:
    """Return a line of Bo's."""
    return Line(
        id=LineId(UUID(int=offset)), offset=offset, author=BO, text=text or f"line {offset}", sent_at=offset
    )


def said(offset: int, text: str | None = None, *, room: RoomId = ROOM) -> ChatLine:
    """Return the event of a line of Bo's."""
    return ChatLine(room, offset, line(offset, text))


def recovered(offset: int, missed: int = 0, *, room: RoomId = ROOM) -> Resumed:
    """Say that `missed` events follow, up to `offset`."""
    return Resumed(room=str(room), recovered=True, id=room, epoch=EPOCH, offset=offset, missed=missed)
