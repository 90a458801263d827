"""A node as a process of its own: the real `looprooms serve`, or the same with one bug planted that a checker must find.

python -m tests.nodes.process serve          the real thing
BUG=early-publish python -m tests.nodes.process serve
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial

import uvloop

from protocol.chat import ChatLine
from protocol.envelope import RoomId
from protocol.refusals import Refused
from server.chat import ChatWriter, line_packet
from server.http import payments
from server.hub.members import Room
from server.hub.replay import Replay
from server.hub.subscriptions import Subscriptions, channel_of
from server.node import Node, serve_node
from server.process.environment import load
from server.process.listening import listen
from server.settings import Settings
from storage import chat
from storage.chat import NewLine, Said
from storage.payment_objects import PaymentEvent
from storage.person_events import Told
from storage.postgres.pool import Pool, answering
from storage.redis.publications import Packet


def early_publish() -> None:
    """Publish lines before they are committed, and give up some of the commits."""
    truly = chat.append
    turn = 0

    async def append(pool: Pool, lines: Sequence[NewLine]) -> list[Said | Exception]:
        nonlocal turn
        turn += 1
        async with answering(pool) as connection:
            transaction = connection.transaction()
            await transaction.start()
            said = await truly(_Within(connection), lines)  # type: ignore[arg-type]
            for new, result in zip(lines, said, strict=True):
                if isinstance(result, Said):
                    event = ChatLine(room=new.room, offset=result.line.offset, line=result.line)
                    _SUBSCRIPTIONS[0].publish(new.room, [line_packet(event)])
                    result.fresh = False
            if turn % 20:
                await transaction.commit()
                return said
            await transaction.rollback()
        return [OSError("the commit was given up") for _ in lines]

    begin = ChatWriter.__init__

    def remember(self: ChatWriter, pool: Pool, subscriptions: Subscriptions) -> None:
        begin(self, pool, subscriptions)
        _SUBSCRIPTIONS.append(subscriptions)

    chat.append = append
    ChatWriter.__init__ = remember  # type: ignore[method-assign]


def history_first() -> None:
    """Read a room's history, and subscribe only afterwards."""

    async def opening(self: Subscriptions, room: RoomId) -> Room:
        replay = Replay(self._window, renew=partial(self._history.renewed, room))
        replay.begin(*await self._history.begin(room))
        await self._opened(room)
        await asyncio.sleep(0.3)
        await self._broker.subscribe(channel_of(room))
        active = Room(room, replay)
        self._hub.members.rooms[room] = active
        self._left_at[room] = self._hub.clock()
        return active

    Subscriptions._open = opening  # type: ignore[method-assign]
    trusting()


def trusting() -> None:
    """Take every event as the next one: gaps are not looked for."""

    def offer(self: Replay, packet: Packet) -> list[Packet]:
        if packet.offset <= self.last:
            return []
        self.last = packet.offset
        self.packets.clear()
        self.packets.append(packet)
        return [packet]

    async def check(self: Subscriptions) -> None:
        return

    Replay.offer = offer  # type: ignore[method-assign]
    Subscriptions.check = check  # type: ignore[method-assign]


def losing() -> None:
    """Lose every tenth publication of another node, and trust what comes."""
    lossy(10)
    trusting()


def lossy(nth: int) -> None:
    """Lose every nth publication of another node: no bug, but what Redis may do at any moment."""
    truly = Subscriptions.received
    turn = 0

    def received(self: Subscriptions, channel: str, publication: bytes) -> None:
        nonlocal turn
        turn += 1
        if turn % nth:
            truly(self, channel, publication)

    Subscriptions.received = received  # type: ignore[method-assign]


def dying(*, committed: bool) -> None:
    """Die in the first commit of a line, just before its end or just after it."""
    truly = chat.append

    async def append(pool: Pool, lines: Sequence[NewLine]) -> list[Said | Exception]:
        async with answering(pool) as connection, connection.transaction():
            await truly(_Within(connection), lines)  # type: ignore[arg-type]
            if not committed:
                os._exit(1)
        os._exit(1)

    chat.append = append


def early_word() -> None:
    """Say that a webhook was taken, and take it afterwards."""
    truly = payments.take  # type: ignore[attr-defined] # where the route finds it
    taking = set()

    async def take(node: Node, event: PaymentEvent) -> list[Told]:
        async def later() -> None:
            await asyncio.sleep(0.1)
            await truly(node, event)

        task = asyncio.create_task(later())
        taking.add(task)
        task.add_done_callback(taking.discard)
        return []

    payments.take = take  # type: ignore[attr-defined] # the same


class _Within:
    """A pool that lends the one connection that is in a transaction."""

    def __init__(self, connection: object) -> None:
        self._connection = connection

    def acquire(self, timeout: float) -> _Within:
        return self

    async def __aenter__(self) -> object:
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        return


_SUBSCRIPTIONS: list[Subscriptions] = []
BUGS: dict[str, Callable[[], None]] = {
    "early-publish": early_publish,
    "history-first": history_first,
    "losing": losing,
    "lossy": lambda: lossy(3),
    "deaf": lambda: lossy(1),
    "early-word": early_word,
    "dying before": lambda: dying(committed=False),
    "dying after": lambda: dying(committed=True),
}


def main() -> int:
    """Serve until SIGTERM; a second one ends the process at once."""
    logging.basicConfig(level=logging.INFO)
    settings = load().settings
    try:
        uvloop.run(_serve(settings))
    except Refused as refused:
        print(refused.message, file=sys.stderr)
        return 2
    return 0


async def _serve(settings: Settings) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()

    def told() -> None:
        loop.remove_signal_handler(signal.SIGTERM)
        stop.set()

    loop.add_signal_handler(signal.SIGTERM, told)
    (listener,) = listen(settings.host, settings.port)
    with listener:
        await serve_node(settings, sockets=[listener], stop=stop)


if __name__ == "__main__":
    if bug := os.environ.pop("BUG", ""):
        BUGS[bug]()
    sys.exit(main())
