"""From a message to its answer: read, limited, handed to the one handler of its type, answered once.

A handler is registered by the command that it handles, and its answer is the one that the command's type names::

    @handles(SendChat)
    async def send(call: Call, command: SendChat) -> ChatSent: ...

Commands of one connection start in the order in which they came and may overlap, except those marked ``alone`` (joining and
leaving a room): they wait for all before them, and all after them wait for them. There are two ways to say no, `Refused` and
`Disconnect`; anything else that is raised is a bug, answered as such and logged once.

A handler that is a plain function runs at once, without a task; so does one that only waits for a store to take it along with
others, and returns `Gathered`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_type_hints
from uuid import UUID, uuid4

from websockets.frames import Opcode

from protocol.closing import CloseCode
from protocol.codec import Unreadable
from protocol.envelope import Answer, Command, CommandId, Error, RoomId, RoomRef
from protocol.refusals import Disconnect, ErrorCode, Refused
from protocol.session import Hello
from server.hub.connection import Connection
from server.hub.gathered import Gathered, Reply
from server.hub.identity import Session
from server.hub.members import Room
from server.limits import rate_limited
from storage.redis.limits import Limit

if TYPE_CHECKING:
    from server.node import Node

_LOGGER = logging.getLogger("looprooms.dispatch")

MOST_UNDER_WAY: Final = 64
"""Commands of one connection that run or wait; past it the connection is not read until there are half as many."""

AnswerT = TypeVar("AnswerT", bound=Answer)
CommandT = TypeVar("CommandT", bound=Command[Any])


class Call:
    """What a handler knows beside its command: who asks, on which connection, at which node."""

    __slots__ = ("connection", "node", "session")

    def __init__(self, node: Node, connection: Connection, session: Session) -> None:
        self.node = node
        self.connection = connection
        self.session = session

    def room(self, ref: RoomRef) -> Room:
        """Return the room `ref` (slug or id), in which this connection is seen. Raises `Refused` (not_in_room)."""
        rooms = self.connection.rooms
        try:
            room = self.node.slugs.get(ref) or RoomId(UUID(ref))
        except ValueError:
            raise Refused(ErrorCode.NOT_IN_ROOM) from None
        if room not in rooms or room not in self.session.faces:  # what one only looks at, one has no face in
            raise Refused(ErrorCode.NOT_IN_ROOM)
        return rooms[room]

    def member_of(self, ref: RoomRef) -> RoomId:
        """Return the id of the room `ref`, in which this connection is. Raises `Refused` (not_in_room)."""
        return self.room(ref).id


Handler = Callable[[Call, Any], Answer | Gathered[Any] | Awaitable[Answer]]


class _Registered:
    __slots__ = ("alone", "handler", "limit")

    def __init__(self, handler: Handler, *, alone: bool, limit: Limit | None) -> None:
        self.handler = handler
        self.alone = alone
        self.limit = limit


HANDLERS: Final[dict[type[Command[Any]], _Registered]] = {}


def handles(
    command: type[Command[AnswerT]], *, alone: bool = False, limit: Limit | None = None
) -> Callable[
    [Callable[[Call, CommandT], Awaitable[AnswerT] | Gathered[AnswerT] | AnswerT]],
    Callable[[Call, CommandT], Awaitable[AnswerT] | Gathered[AnswerT] | AnswerT],
]:
    """Register the decorated function as the handler of `command`. Raises `TypeError` at import when they don't match.

    An `alone` command overlaps with no other of its connection. `limit` is how often a person may send it, over all their
    connections on all nodes.
    """

    def register(
        handler: Callable[[Call, CommandT], Awaitable[AnswerT] | Gathered[AnswerT] | AnswerT],
    ) -> Callable[[Call, CommandT], Awaitable[AnswerT] | Gathered[AnswerT] | AnswerT]:
        if command in HANDLERS:
            raise TypeError(f"{command.__name__} has a handler already")
        if get_type_hints(handler, localns={"Node": object})["command"] is not command:
            raise TypeError(f"{handler.__qualname__} must take a {command.__name__}")
        HANDLERS[command] = _Registered(handler, alone=alone, limit=limit)
        return handler

    return register


class Dispatcher:
    """Runs the commands of all connections of a node."""

    def __init__(self, node: Node, greet: Callable[[Connection, Hello], Awaitable[None]]) -> None:
        self._node = node
        self._greet = greet
        self._tasks: set[asyncio.Task[None]] = set()
        self._gathered = 0
        """Commands that wait for a batch."""
        self._settled: asyncio.Future[None] | None = None
        """Done when there are none, if somebody waits for that."""
        self.commands = 0
        self.refused = 0
        self.bugs = 0

    def receive(self, connection: Connection, opcode: Opcode, data: bytes) -> None:
        """Take one message: answer it, start its handler, or put it behind the one that runs alone."""
        if opcode != connection.codec.opcode:
            self._limited(connection, None, Refused(ErrorCode.MALFORMED))
            return
        try:
            command = connection.codec.decode_command(data)
        except Unreadable as unreadable:
            self._limited(connection, unreadable.id, unreadable)
            return
        if isinstance(command, Hello):
            self._hello(connection, command)
            return
        if connection.session is None and not connection.alone:
            self._limited(connection, command.id, Refused(ErrorCode.HELLO_FIRST))
            return
        wait = connection.bucket.take(self._node.hub.clock())
        if wait:
            self._refuse_flood(connection, command.id, wait)
            return
        if self._node.hub.intake.late:
            self._refuse(connection, command.id, Refused(ErrorCode.BUSY, retry_after=1.0))
            return
        self.commands += 1
        connection.queue.append(command)  # while hello is being answered, what follows it waits its turn
        self._continue(connection)

    async def settle(self) -> None:
        """Wait until every command that was begun has been answered."""
        while self._tasks or self._gathered:
            if self._gathered and self._settled is None:
                self._settled = self._node.hub.loop.create_future()
            await asyncio.wait([*self._tasks, *((self._settled,) if self._settled is not None else ())])
            self._settled = None

    def _hello(self, connection: Connection, command: Hello) -> None:
        if connection.session is not None or connection.alone:
            self._limited(connection, command.id, Refused(ErrorCode.HELLO_AGAIN))
        else:
            self._begin(connection, command, self._greet(connection, command), alone=True)

    def _continue(self, connection: Connection) -> None:
        """Start what may start now, in order."""
        queue = connection.queue
        while queue and not connection.alone:
            registered = HANDLERS[type(queue[0])]
            if registered.alone and connection.running:
                break
            self._start(connection, queue.popleft(), registered)
        under_way = connection.running + len(queue)
        if under_way >= MOST_UNDER_WAY:
            connection.hold_reading("commands")
        elif under_way <= MOST_UNDER_WAY // 2:
            connection.release_reading("commands")

    def _start(self, connection: Connection, command: Command[Any], registered: _Registered) -> None:
        session = connection.session
        if session is None:  # hello was refused: what came after it is still not heard
            self._refuse(connection, command.id, Refused(ErrorCode.HELLO_FIRST))
            return
        if registered.limit is not None:
            verdict = self._node.quotas.spend(registered.limit, str(session.user_id), session)
            if not verdict.allowed:
                self._refuse(connection, command.id, rate_limited(verdict))
                return
        try:
            found = registered.handler(Call(self._node, connection, session), command)
            if isinstance(found, Answer):
                connection.send(found)
            elif isinstance(found, Gathered):
                found.gather.put(found.item, Reply(self, connection, command, found.answer))
                connection.running += 1
                self._gathered += 1
            else:
                assert isinstance(found, Awaitable)
                self._begin(connection, command, found, alone=registered.alone)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets one answer
            self.failed(connection, command, error)

    def _begin(
        self, connection: Connection, command: Command[Any], waiting: Awaitable[Answer | None], *, alone: bool
    ) -> None:
        connection.running += 1
        connection.alone = alone
        task = self._node.hub.loop.create_task(self._run(connection, command, waiting, alone=alone))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(
        self, connection: Connection, command: Command[Any], waiting: Awaitable[Answer | None], *, alone: bool
    ) -> None:
        try:
            if (answer := await waiting) is not None:
                connection.send(answer)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets one answer
            self.failed(connection, command, error)
        finally:
            connection.running -= 1
            if alone:
                connection.alone = False
            self._continue(connection)

    # What a reply calls.

    def gathered(self, connection: Connection) -> None:
        """Go on after a command that waited for a batch."""
        connection.running -= 1
        self._gathered -= 1
        if not self._gathered and self._settled is not None:
            self._settled.set_result(None)
            self._settled = None
        if connection.queue or connection.held:
            self._continue(connection)

    # Saying no.

    def failed(self, connection: Connection, command: Command[Any], error: Exception) -> None:
        """Answer a command that was refused, or whose handler has a bug."""
        if isinstance(error, Refused):
            self._refuse(connection, command.id, error)
        elif isinstance(error, Disconnect):
            connection.close(error.code, error.reason)
        else:
            self.bugs += 1
            reference = uuid4().hex[:12]
            _LOGGER.error("a %s failed; reference %s", type(command).__name__, reference, exc_info=error)
            advice = f"{ErrorCode.INTERNAL.advice} (reference {reference})"
            self._refuse(connection, command.id, Refused(ErrorCode.INTERNAL, advice, retry_after=1.0))

    def _limited(self, connection: Connection, command: CommandId | None, refused: Refused) -> None:
        """Refuse what was not even a command; that counts like one."""
        wait = connection.bucket.take(self._node.hub.clock())
        if wait:
            self._refuse_flood(connection, command, wait)
        else:
            self._refuse(connection, command, refused)

    def _refuse_flood(self, connection: Connection, command: CommandId | None, wait: float) -> None:
        if connection.bucket.exhausted:
            connection.close(CloseCode.FLOODING)
        else:
            self._refuse(
                connection, command, Refused(ErrorCode.RATE_LIMITED, retry_after=max(0.001, round(wait, 3)))
            )

    def _refuse(self, connection: Connection, command: CommandId | None, refused: Refused) -> None:
        self.refused += 1
        connection.send(
            Error(
                id=command,
                code=refused.code,
                message=refused.message,
                retry_after=refused.retry_after,
                path=refused.path,
            )
        )
