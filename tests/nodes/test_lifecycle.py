"""How connections begin and end when nobody behaves: silence, drips, resets in every phase, tabs, and thousands that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from protocol.closing import CloseCode
from protocol.envelope import RoomId
from tests.nodes.cluster import Account, Cluster, NodeProcess
from tests.nodes.raw import Message, RawConnection, open_raw
from tests.nodes.wire import PING, TEXT, Wire, dial, files, frame, handshake, resident
from tests.proxy import proxied
from tests.waiting import until

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(90)]

Phase = Callable[[Wire, Account, RoomId], Awaitable[None]]


class Watcher:
    """Somebody in a room who notes which others come and go."""

    def __init__(self, account: Account) -> None:
        self._self = str(account.user)
        self.online = 0
        self.joins: list[str] = []
        self.leaves: list[str] = []
        self.lines: list[str] = []

    def hear(self, message: Message) -> None:
        """Take what the room says."""
        if message["type"] == "room.joined":
            self.online = message["online"]
        elif message["type"] == "room.pulse":
            self.online = message.get("online", self.online)
            self.joins += [person["id"] for person in message.get("joins", []) if person["id"] != self._self]
            self.leaves += message.get("leaves", [])
        elif message["type"] == "chat.line":
            self.lines.append(message["line"]["text"])


async def enter(account: Account, port: int, room: RoomId, hear: Callable[[Message], None]) -> RawConnection:
    """Come to a node and join a room."""
    connection = await open_raw(port, hear)
    assert (await connection.call("hello", token=account.token))["type"] == "welcome"
    assert (await connection.call("room.join", room=str(room)))["type"] == "room.joined"
    return connection


async def test_who_says_nothing_is_gone(cluster: Cluster) -> None:
    """With the times that a node has when nothing is set: silence and dripped headers end within 10 s, no hello within 5 s."""
    (node,) = await cluster.start(1)

    async def silent() -> None:
        async with dial(node.port) as wire, asyncio.timeout(12):
            assert await wire.reader.read() == b""

    async def dripping() -> None:
        async with dial(node.port) as wire, asyncio.timeout(12):
            answer = asyncio.create_task(wire.reader.read())
            for byte in handshake() + handshake():
                wire.send(bytes([byte]))
                if (await asyncio.wait({answer}, timeout=0.3))[0]:
                    break
            assert (await answer).startswith(b"HTTP/1.1 408 ")

    async def no_hello(word: bytes) -> None:
        async with dial(node.port) as wire, asyncio.timeout(7):
            assert await wire.upgrade() == 101
            wire.send(word)
            came, close = await wire.end()
            assert len(came) == bool(word)
            assert close is not None
            assert close[0] == CloseCode.HELLO_TIMEOUT

    await asyncio.gather(
        silent(), dripping(), no_hello(b""), no_hello(frame(PING, b"I live")), no_hello(frame(TEXT, b"hello"))
    )
    assert cluster.complaints() == []


async def test_a_peer_that_vanishes(cluster: Cluster) -> None:
    """Without a FIN, when nothing comes through any more: the connection goes after a ping has had no answer, and its person
    after the time of grace.
    """
    (node,) = await cluster.start(
        1,
        heartbeat_seconds=1,
        heartbeat_timeout_seconds=1,
        hello_timeout_seconds=1,
        presence_grace_seconds=1,
    )
    room = await cluster.room()
    gone, stays = await cluster.accounts(["gone", "stays"])
    watcher = Watcher(stays)
    await enter(stays, node.port, room, watcher.hear)
    async with proxied("127.0.0.1", node.port) as proxy:
        await enter(gone, proxy.port, room, lambda _: None)
        await until(lambda: watcher.joins == [str(gone.user)], 2)
        proxy.stall()
        await until(lambda: watcher.leaves == [str(gone.user)], 5)
        assert watcher.online == 1
        assert await node.metric("looprooms_connections") == 1


async def test_tabs_are_one_person(cluster: Cluster) -> None:
    """Twenty tabs over two nodes come once, and go once: with the last of them."""
    nodes = await cluster.start(2, presence_grace_seconds=0.2)
    room = await cluster.room()
    person, other = await cluster.accounts(["person", "other"])
    watcher = Watcher(other)
    await enter(other, nodes[0].port, room, watcher.hear)
    tabs = [await enter(person, nodes[number % 2].port, room, lambda _: None) for number in range(20)]
    await until(lambda: watcher.joins == [str(person.user)], 3)
    for tab in tabs[1:]:
        tab.finish()
    said = await tabs[0].call("chat.send", room=str(room), text="still here", key="1")
    assert said["type"] == "chat.sent"
    await until(lambda: watcher.lines == ["still here"], 3)
    await asyncio.sleep(1)
    assert (watcher.joins, watcher.leaves, watcher.online) == ([str(person.user)], [], 2)
    tabs[0].finish()
    await until(lambda: watcher.leaves == [str(person.user)], 5)
    assert watcher.online == 1


async def test_heartbeats_do_not_line_up(cluster: Cluster) -> None:
    """Whoever came at the same moment is pinged at different ones."""
    (node,) = await cluster.start(1, heartbeat_seconds=5, hello_timeout_seconds=1)
    accounts = await cluster.accounts([f"person {number}" for number in range(40)])
    loop = asyncio.get_running_loop()
    moments: list[float] = []

    async def come(account: Account) -> None:
        async with dial(node.port) as wire:
            assert await wire.upgrade() == 101
            wire.say(type="hello", id=1, token=account.token)
            assert (await wire.message())["type"] == "welcome"
            while (found := await wire.read()) is not None:
                if found[0] == PING:
                    moments.append(loop.time())
                    return

    async with asyncio.timeout(10):
        await asyncio.gather(*map(come, accounts))
    first = min(moments)
    slots = [int((moment - first) / 0.25) for moment in moments]
    assert len(set(slots)) >= 3
    assert max(map(slots.count, slots)) <= 25


async def test_thousands_come_and_go(cluster: Cluster) -> None:
    """Whoever came, joined, wrote and went, politely or not, leaves no memory behind: under 100 bytes each."""
    (node,) = await cluster.start(1, presence_grace_seconds=0)
    room = await cluster.room()
    accounts = await cluster.accounts([f"person {number}" for number in range(50)])

    async def visit(number: int) -> None:
        connection = await enter(accounts[number % 50], node.port, room, lambda _: None)
        await connection.call("typing.set", room=str(room), typing=True)
        connection.leave() if number % 2 else connection.reset()

    async def visits(count: int) -> int:
        for start in range(0, count, 50):
            await asyncio.gather(*map(visit, range(start, start + 50)))
        return resident(node.pid)

    before = await visits(2000)
    after = await visits(6000)
    print(f"{(after - before) / 6000:.0f} bytes each")
    assert after - before < 6000 * 100


# A reset in every phase.


async def in_the_request(wire: Wire, _: Account, __: RoomId) -> None:
    """Half of the request is there."""
    wire.send(handshake()[:60])


async def in_the_handshake(wire: Wire, _: Account, __: RoomId) -> None:
    """The answer is under way."""
    wire.send(handshake())


async def after_the_handshake(wire: Wire, _: Account, __: RoomId) -> None:
    """Nobody has said hello."""
    await wire.upgrade()


async def in_hello(wire: Wire, account: Account, _: RoomId) -> None:
    """Hello is being answered."""
    await wire.upgrade()
    wire.say(type="hello", id=1, token=account.token)


async def in_a_frame(wire: Wire, account: Account, _: RoomId) -> None:
    """Half of a message is there."""
    await in_hello(wire, account, _)
    await wire.message()
    wire.send(frame(TEXT, b"x" * 500)[:100], frame(TEXT, b"x", fin=False))


async def in_a_join(wire: Wire, account: Account, room: RoomId) -> None:
    """A join is being answered."""
    await in_hello(wire, account, room)
    await wire.message()
    wire.say(type="room.join", id=2, room=str(room))


async def in_a_room(wire: Wire, account: Account, room: RoomId) -> None:
    """In the middle of it."""
    await in_a_join(wire, account, room)
    while (await wire.message())["type"] != "room.joined":
        pass


async def in_a_commit(wire: Wire, account: Account, room: RoomId) -> None:
    """A line is being committed."""
    await in_a_room(wire, account, room)
    wire.say(
        type="chat.send", id=3, room=str(room), text="x", key=msgspec.json.encode(random.random()).decode()
    )
    wire.say(type="typing.set", id=4, room=str(room), typing=True)


async def in_the_end(wire: Wire, account: Account, room: RoomId) -> None:
    """A goodbye is being answered."""
    await in_a_room(wire, account, room)
    wire.send(b"\x88\x82\0\0\0\0\x03\xe8")


PHASES: list[Phase] = [
    in_the_request,
    in_the_handshake,
    after_the_handshake,
    in_hello,
    in_a_frame,
    in_a_join,
    in_a_room,
    in_a_commit,
    in_the_end,
]


async def channels(cluster: Cluster) -> int:
    """Count the channels of Redis that somebody hears."""
    return int(cluster.redis("PUBSUB", "CHANNELS").split("\r\n", 1)[0].removeprefix("*"))


async def standing(cluster: Cluster, node: NodeProcess) -> tuple[int, ...]:
    """Count what must be as before: open files, connections, sessions, rooms, tasks, subscriptions."""
    metrics = [
        int(await node.metric(f"looprooms_{name}")) for name in ("connections", "sessions", "rooms", "tasks")
    ]
    return (files(node.pid), *metrics, await channels(cluster))


async def test_resets_in_every_phase(cluster: Cluster) -> None:
    """A thousand resets, wherever a connection stands, leave nothing behind: no file, task, room, subscription or ghost."""
    (node,) = await cluster.start(1, presence_grace_seconds=0.2)
    accounts = await cluster.accounts([f"person {number}" for number in range(50)])
    rooms = [await cluster.room() for _ in range(5)]

    async def reset(number: int) -> None:
        with contextlib.suppress(ConnectionError):
            async with dial(node.port) as wire, asyncio.timeout(30):
                await PHASES[number % len(PHASES)](wire, accounts[number % 50], rooms[number % 5])
                wire.reset()

    quiet = await standing(cluster, node)
    await asyncio.gather(*map(reset, range(90)))  # what is opened once and kept is open now

    async def gone() -> bool:
        return await node.metric("looprooms_connections") == 0

    async def settled() -> bool:
        return (await standing(cluster, node))[1:] == quiet[1:]

    await until(gone, 5)
    opened = files(node.pid)
    for start in range(0, 1008, 48):
        await asyncio.gather(*map(reset, range(start, start + 48)))
    await until(settled, 20)
    assert files(node.pid) <= opened
    watcher = Watcher(accounts[0])
    await enter(accounts[0], node.port, rooms[0], watcher.hear)
    assert watcher.online == 1
    assert cluster.complaints() == []
