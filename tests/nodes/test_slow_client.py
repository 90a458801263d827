"""Clients that don't read: what they cost is bounded, they are told what they missed, they come back; and nobody waits for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from protocol.envelope import RoomId
from tests.nodes.cluster import Account, Cluster, NodeProcess
from tests.nodes.raw import RawConnection, open_raw
from tests.nodes.wire import Frame, Wire, dial, resident
from tests.waiting import until

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(90)]

OUTBOX = 262144
LINE = "y" * 1000


class Told:
    """What a client was told, as it came."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.kinds: list[str] = []
        self.sheds: list[dict[str, Any]] = []
        self.states = 0

    def hear(self, message: dict[str, Any]) -> None:
        """Take a message."""
        kind = message["type"]
        self.kinds.append(kind)
        if kind == "chat.line":
            self.offsets.append(message["offset"])
        elif kind == "session.shed":
            self.sheds.append(message)
        elif kind == "room.pulse":
            self.states += "state" in message

    def frame(self, found: Frame) -> None:
        """Take a frame."""
        self.hear(msgspec.json.decode(found[1]))

    @property
    def cues(self) -> int:
        """How many passing events came, or were told to have been left out."""
        return self.kinds.count("room.cue") + sum(int(shed["passing"]) for shed in self.sheds)

    @property
    def merged(self) -> int:
        """How many states of rooms were told to have been merged into one."""
        return sum(int(shed["latest"]) for shed in self.sheds)

    @property
    def whole(self) -> bool:
        """Whether nothing is missing between the first line and the last, and none came twice."""
        return self.offsets == list(range(self.offsets[0], self.offsets[0] + len(self.offsets)))


class Scene:
    """A host who speaks all the time, and the room that they speak in."""

    def __init__(self, cluster: Cluster, node: NodeProcess, room: RoomId, host: RawConnection) -> None:
        self.cluster = cluster
        self.node = node
        self.room = room
        self.host = host
        self.said = 0

    async def speak(self, lines: int, pause: float, *, cues: bool = False) -> None:
        """Say so many lines, each answered before the next, with a cue and a sign of writing beside each."""
        for _ in range(lines):
            self.said += 1
            said = await self.host.call("chat.send", room=str(self.room), text=LINE, key=f"said-{self.said}")
            assert said["type"] == "chat.sent"
            assert said["offset"] == self.said
            if cues:
                await self.host.call("cue.send", room=str(self.room), cue="breathe")
                await self.host.call("confidence.set", room=str(self.room), level=1 + self.said % 10)
            await asyncio.sleep(pause)

    async def enter(self, wire: Wire, account: Account) -> None:
        """Come in, on a connection that will stop to read."""
        assert await wire.upgrade() == 101
        wire.say(type="hello", id=1, token=account.token)
        assert (await wire.message())["type"] == "welcome"
        wire.say(type="room.join", id=2, room=str(self.room))
        while (await wire.message())["type"] != "room.joined":
            pass

    async def listen(self, account: Account, told: Told) -> RawConnection:
        """Come in, on a connection that reads."""
        connection = await open_raw(self.node.port, told.hear)
        assert (await connection.call("hello", token=account.token))["type"] == "welcome"
        assert (await connection.call("room.join", room=str(self.room)))["type"] == "room.joined"
        return connection

    async def closed_as_slow(self) -> int:
        """Count the connections that were closed with 4002."""
        _, text = await self.node.get("/metrics")
        return sum(
            int(float(line.split()[1]))
            for line in text.splitlines()
            if line.startswith('looprooms_closes_total{code="4002"')
        )


@contextlib.asynccontextmanager
async def scene(cluster: Cluster, **settings: object) -> AsyncIterator[Scene]:
    """Open a room on one node."""
    (node,) = await cluster.start(1, **settings)
    room = await cluster.room()
    (host,) = await cluster.accounts(["host"])
    async with cluster.connection() as connection:
        await connection.execute("update rooms set host_id = $1 where id = $2", host.user, room)
    speaking = await open_raw(node.port, lambda _: None)
    assert (await speaking.call("hello", token=host.token))["type"] == "welcome"
    assert (await speaking.call("room.join", room=str(room)))["type"] == "room.joined"
    yield Scene(cluster, node, room, speaking)
    assert cluster.complaints() == []


async def test_a_reader_that_stops(cluster: Cluster) -> None:
    """One that reads nothing, and one that reads 1 kB/s, are closed within 10 s with 4002, and never more than 256 KiB waits for
    either; others miss nothing, and they themselves come back and have missed nothing.
    """
    async with scene(cluster) as here:
        silent, dripping, bystander = await cluster.accounts(["silent", "dripping", "bystander"])
        told, most = Told(), 0.0
        await here.listen(bystander, told)
        async with dial(here.node.port, buffer=4096) as still, dial(here.node.port, buffer=4096) as slow:
            await here.enter(still, silent)
            await here.enter(slow, dripping)
            still.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's transport has it
            slow.writer.transport.pause_reading()  # type: ignore[attr-defined] # the same

            async def drip() -> None:
                sock = slow.writer.get_extra_info("socket")
                taking = sock.dup()
                with taking, contextlib.suppress(OSError):
                    while True:
                        await asyncio.sleep(1)
                        taking.recv(1000)

            reading = asyncio.create_task(drip())
            speaking = asyncio.create_task(here.speak(700, 0.008))
            async with asyncio.timeout(10):
                while await here.closed_as_slow() < 2:
                    most = max(most, await here.node.metric("looprooms_waiting_bytes"))
                    await asyncio.sleep(0.05)
            await speaking
            reading.cancel()
        assert 2 * 65536 < most <= 2 * OUTBOX
        await until(lambda: len(told.offsets) == here.said, 5)
        assert told.whole
        assert not told.sheds

        back = Told()
        connection = await open_raw(here.node.port, back.hear)
        epoch = (await connection.call("hello", token=silent.token))["epoch"]
        connection.leave()
        connection = await open_raw(here.node.port, back.hear)
        resume = [{"room": str(here.room), "epoch": epoch, "offset": 0}]
        welcome = await connection.call("hello", token=silent.token, resume=resume)
        assert welcome["resumed"][0]["recovered"]
        await until(lambda: len(back.offsets) == here.said, 5)
        assert back.whole


async def test_a_reader_that_stops_for_a_while(cluster: Cluster) -> None:
    """Who reads again in time has every line, is told how much of the rest was left out, and gets the whole state instead."""
    async with scene(cluster) as here:
        pausing, bystander = await cluster.accounts(["pausing", "bystander"])
        told, heard = Told(), Told()
        await here.listen(bystander, heard)
        async with dial(here.node.port, buffer=4096) as wire, asyncio.timeout(30):
            await here.enter(wire, pausing)
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's transport has it
            await here.speak(60, 0.001)
            speaking = asyncio.create_task(here.speak(180, 0.005, cues=True))
            await until(lambda: here.node.metric("looprooms_slow"), 5)
            behind = here.said
            await until(lambda: here.said > behind + 60, 5)
            wire.writer.transport.resume_reading()  # type: ignore[attr-defined] # the same
            while len(told.offsets) < 240 or told.cues < 180 or told.states < told.merged:
                told.frame(await wire.read() or (0, b""))
            await speaking
        assert told.whole
        assert told.sheds[0]["passing"] > 30
        assert told.sheds[0]["latest"] == 1
        assert told.states == told.merged
        assert heard.whole
        assert (heard.cues, heard.sheds) == (180, [])
        assert await here.closed_as_slow() == 0


async def test_five_hundred_of_them(cluster: Cluster) -> None:
    """Five hundred readers that stop cost at most 256 KiB each, are all closed, and the others miss nothing."""
    async with scene(cluster, slow_close_seconds=3) as here:
        accounts = await cluster.accounts([f"slow {number}" for number in range(50)])
        (bystander,) = await cluster.accounts(["bystander"])
        told, most = Told(), 0.0
        await here.listen(bystander, told)
        async with contextlib.AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(dial(here.node.port, buffer=4096)) for _ in range(500)]
            for start in range(0, 500, 50):
                await asyncio.gather(
                    *(here.enter(wires[start + number], accounts[number]) for number in range(50))
                )
            for wire in wires:
                wire.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's transport has it
            before = after = resident(here.node.pid)
            speaking = asyncio.create_task(here.speak(500, 0.005))
            async with asyncio.timeout(30):
                while await here.closed_as_slow() < 500:
                    most = max(most, await here.node.metric("looprooms_waiting_bytes"))
                    after = max(after, resident(here.node.pid))
                    await asyncio.sleep(0.05)
            await speaking
        print(
            f"{most / 500 / 1024:.0f} KiB waited for each; {(after - before) / 500 / 1024:.0f} KiB of memory each"
        )
        assert 0 < most <= 500 * OUTBOX
        assert after - before <= 500 * OUTBOX
        await until(lambda: len(told.offsets) == here.said, 5)
        assert told.whole
