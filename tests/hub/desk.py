"""A dispatcher at which nothing real happens: handlers that do what a test says, and a store that answers in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from protocol.codec import JSON, Codec
from protocol.envelope import Epoch, Person, RoomId, SessionId, UserId
from protocol.rooms import CueSent, LeaveRoom, RoomLeft, SendCue
from protocol.session import Hello, Ping, Ponged, Welcome
from server.hub import dispatch
from server.hub.connection import Connection
from server.hub.dispatch import Call, Dispatcher, handles
from server.hub.gathered import Gathered
from server.hub.hub import Hub, Limits
from storage.postgres.gather import Gather
from tests.clocks import in_no_time
from tests.hub.scene import LIMITS, session_of
from tests.transport import Peer

ROOM = RoomId(UUID(int=1))


class Desk:
    """A dispatcher, and handlers that do what the test says. A command's number is told by its `id`."""

    def __init__(self, **limits: object) -> None:
        self.loop = asyncio.get_running_loop()
        self.hub = Hub(Limits(**{**LIMITS, **limits}), self.loop)  # type: ignore[arg-type] # the test's own
        self.node = cast("Any", SimpleNamespace(hub=self.hub, slugs={}))
        self.dispatcher = Dispatcher(self.node, self._greet)
        self.hub.receive = self.dispatcher.receive
        self.hub.left = lambda *_, **__: None
        self.begun: list[int] = []
        self.calls: list[Call] = []
        self.gates: dict[int, asyncio.Event] = {}
        self.raises: dict[int, BaseException] = {}
        self.greets: Callable[[Connection, Hello], Awaitable[None]] = self._welcome
        dispatch.HANDLERS.clear()
        handles(SendCue)(self._cue)
        handles(LeaveRoom, alone=True)(self._leave)
        handles(Ping)(self._ping)

    def peer(self, codec: Codec = JSON) -> Peer:
        """Let somebody shake hands."""
        return Peer(self.hub.connect(), self.loop, codec=codec).open()

    def guest(self, codec: Codec = JSON) -> Peer:
        """Let somebody in who has said hello."""
        peer = self.peer(codec)
        self.connection_of(peer).session = session_of(1)
        return peer

    def connection_of(self, peer: Peer) -> Connection:
        """Return the server's end."""
        return next(one for one in self.hub.members.connections if one.transport is peer.transport)

    def hold(self, *numbers: int) -> None:
        """Keep handlers from finishing until `let_go`."""
        for number in numbers:
            self.gates[number] = asyncio.Event()

    async def let_go(self, *numbers: int) -> None:
        """Let handlers finish, and all that follows from it happen."""
        for number in numbers:
            self.gates[number].set()
        await asyncio.sleep(0.001)

    async def _pass(self, number: int) -> None:
        self.begun.append(number)
        if (gate := self.gates.get(number)) is not None:
            await gate.wait()
        if (error := self.raises.get(number)) is not None:
            raise error

    async def _cue(self, call: Call, command: SendCue) -> CueSent:
        self.calls.append(call)
        await self._pass(command.id)
        return CueSent(id=command.id)

    async def _leave(self, call: Call, command: LeaveRoom) -> RoomLeft:
        await self._pass(command.id)
        return RoomLeft(id=command.id, room=ROOM)

    def _ping(self, call: Call, command: Ping) -> Ponged:
        self.begun.append(command.id)
        if (error := self.raises.get(command.id)) is not None:
            raise error
        return Ponged(id=command.id, server_time=1)

    async def _greet(self, connection: Connection, hello: Hello) -> None:
        await self.greets(connection, hello)

    async def _welcome(self, connection: Connection, hello: Hello) -> None:
        await self._pass(hello.id)
        connection.session = session_of(1)
        connection.send(welcome(hello.id))


class Doubling:
    """A store that doubles numbers in batches, 0.1 s each, and the handler that asks it."""

    def __init__(self, desk: Desk, **how: Any) -> None:
        self.batches: list[list[int]] = []
        self.raises: Exception | None = None
        self.gather: Gather[int, int] = Gather(self.run, **how)
        del dispatch.HANDLERS[SendCue]
        handles(SendCue)(self._cue)
        self._desk = desk

    async def run(self, numbers: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(numbers))
        await asyncio.sleep(0.1)
        if self.raises is not None:
            raise self.raises
        return [2 * number for number in numbers]

    def _cue(self, call: Call, command: SendCue) -> Gathered[CueSent]:
        self._desk.begun.append(command.id)
        return Gathered(self.gather, command.id, lambda doubled: CueSent(id=doubled // 2))


def welcome(number: int) -> Welcome:
    """Return the answer to a hello."""
    return Welcome(
        id=number,
        session=SessionId(UUID(int=1)),
        user=Person(id=UserId(UUID(int=1)), name="somebody"),
        epoch=Epoch("e"),
        heartbeat=25.0,
        expires_in=600.0,
        server_time=1,
    )


def cue(number: int) -> SendCue:
    """Return a command that may overlap others."""
    return SendCue(id=number, room="room", cue="breathe in")


def leave(number: int) -> LeaveRoom:
    """Return a command that runs alone."""
    return LeaveRoom(id=number, room="room")


def sent(*numbers: int) -> list[CueSent]:
    """Return the answers to cues."""
    return [CueSent(id=number) for number in numbers]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Put the real handlers aside."""
    aside = dict(dispatch.HANDLERS)
    yield
    dispatch.HANDLERS.clear()
    dispatch.HANDLERS.update(aside)


def at_once(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on a loop in which waiting takes no time."""

    def run() -> None:
        in_no_time(test())

    run.__doc__ = test.__doc__
    return run
