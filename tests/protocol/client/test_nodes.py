"""The client on real nodes, over a bad network: what was acknowledged is seen by everyone, once and in order."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest

from protocol.chat import ChatLine, ChatRemoval, ChatRevision, EditChat, RecallChat, RemoveChat
from protocol.client import Backoff, CaughtUp, Client, Occurrence, Reconnecting, Snapshot, connect
from protocol.presence import ListPresence
from protocol.refusals import Refused
from protocol.rooms import JoinRoom
from storage.postgres.pool import Pool
from tests.hosting import Host, hosting, make_room
from tests.proxy import Proxy, proxied
from tests.redis.valkeys import Valkey

# Fixtures are found by their names here.
from tests.stores import database_url, pool, postgres, valkey

__all__ = ["database_url", "pool", "postgres", "valkey"]

ROOM = "calm"
QUICK = Backoff(0.02, 0.2, random.Random(1).random)


class Nodes:
    """Two nodes, each behind a network of its own."""

    def __init__(self, stack: AsyncExitStack, hosts: list[Host], proxies: list[Proxy]) -> None:
        self._stack = stack
        self.hosts = hosts
        self.proxies = proxies

    async def visitor(
        self, name: str, node: int, encoding: Literal["json", "msgpack"] = "json", **options: Any
    ) -> Client:
        """Connect a new person to a node, over its network, and let them join the room."""
        token = await self.hosts[node].token(name)
        options = {"backoff": QUICK, "close_timeout": 0.5, "encoding": encoding, **options}
        client = connect(f"ws://{self.proxies[node].address}/ws", token=token, **options)
        await self._stack.enter_async_context(client)
        await client.call(JoinRoom(ROOM))
        return client


@asynccontextmanager
async def two_nodes(url: str, redis: Valkey, pool: Pool, **settings: Any) -> AsyncIterator[Nodes]:
    """Run two nodes that meet in real stores."""
    await make_room(pool, ROOM)
    async with AsyncExitStack() as nodes, AsyncExitStack() as networks, AsyncExitStack() as clients:
        hosts = [await nodes.enter_async_context(hosting(url, redis.url, pool, **settings)) for _ in range(2)]
        addresses = [urlsplit(host.url) for host in hosts]
        proxies = [
            await networks.enter_async_context(proxied(str(a.hostname), a.port or 0)) for a in addresses
        ]
        yield Nodes(clients, hosts, proxies)


@pytest.fixture
async def nodes(database_url: str, valkey: Valkey, pool: Pool) -> AsyncIterator[Nodes]:
    """Two nodes with the usual settings."""
    async with two_nodes(database_url, valkey, pool) as nodes:
        yield nodes


async def until(client: Client, wanted: Callable[[Occurrence], bool]) -> list[Occurrence]:
    """Take what comes out of the client, up to what is wanted."""
    seen: list[Occurrence] = []
    async with asyncio.timeout(20):
        async for occurrence in client:
            seen.append(occurrence)
            if wanted(occurrence):
                break
    return seen


def told(occurrences: list[Occurrence]) -> list[str]:
    """Return the texts of the lines among them, and what happened to the connection, without the pulses."""
    return [
        o.line.text if isinstance(o, ChatLine) else type(o).__name__
        for o in occurrences
        if isinstance(o, ChatLine | CaughtUp | Snapshot)
    ]


def is_line(text: str) -> Callable[[Occurrence], bool]:
    """Recognise a line by its text."""
    return lambda occurrence: isinstance(occurrence, ChatLine) and occurrence.line.text == text


async def test_three_lines_are_missed_and_caught_up(nodes: Nodes) -> None:
    """Bo speaks on the other node while Ada's network is down; she gets his lines once it is back, with one number."""
    ada, bo = await nodes.visitor("Ada", 0), await nodes.visitor("Bo", 1, "msgpack")
    await bo.send_chat(ROOM, "before")
    assert told(await until(ada, is_line("before"))) == ["before"]
    nodes.proxies[0].refuse()
    nodes.proxies[0].cut()
    await until(ada, lambda o: isinstance(o, Reconnecting))
    for text in ("one", "two", "three"):
        await bo.send_chat(ROOM, text)
    await nodes.proxies[0].listen()
    seen = await until(ada, lambda o: isinstance(o, CaughtUp))
    assert told(seen) == ["one", "two", "three", "CaughtUp"]
    assert seen[-1] == CaughtUp(missed=3)
    await bo.send_chat(ROOM, "after")
    assert told(await until(ada, is_line("after"))) == ["after"]


async def test_a_line_whose_answer_was_lost_is_said_once(nodes: Nodes) -> None:
    """The network dies between the commit and the answer; the line is sent again and is still one line."""
    ada, bo = await nodes.visitor("Ada", 0), await nodes.visitor("Bo", 1)
    nodes.proxies[0].hold_answers()
    saying = asyncio.create_task(ada.send_chat(ROOM, "once"))
    await until(bo, is_line("once"))
    assert not saying.done()
    nodes.proxies[0].cut()
    nodes.proxies[0].flow()
    sent = await saying
    await ada.send_chat(ROOM, "end")
    assert told(await until(bo, is_line("end"))) == ["end"]
    history = await bo.call(RecallChat(ROOM))
    assert [(line.text, line.offset) for line in history.lines] == [
        ("once", sent.offset),
        ("end", sent.offset + 1),
    ]


async def test_changes_of_lines_are_replayed_too(nodes: Nodes) -> None:
    """Revisions and removals have their offsets; who was away learns of both, in order."""
    ada, bo = await nodes.visitor("Ada", 0), await nodes.visitor("Bo", 1)
    first, second = await bo.send_chat(ROOM, "frist"), await bo.send_chat(ROOM, "secret")
    await until(ada, is_line("secret"))
    nodes.proxies[0].refuse()
    nodes.proxies[0].cut()
    await bo.call(EditChat(ROOM, first.line.id, "first"))
    await bo.call(RemoveChat(ROOM, second.line.id))
    await nodes.proxies[0].listen()
    seen = await until(ada, lambda o: isinstance(o, CaughtUp))
    changes = [o for o in seen if isinstance(o, ChatRevision | ChatRemoval)]
    assert [type(change) for change in changes] == [ChatRevision, ChatRemoval]
    assert isinstance(changes[0], ChatRevision)
    assert changes[0].line.text == "first"
    assert seen[-1] == CaughtUp(missed=2)


async def test_a_silent_network_is_noticed(database_url: str, valkey: Valkey, pool: Pool) -> None:
    """No byte comes and no error either: the heartbeat finds it, and the next connection brings what was missed."""
    async with two_nodes(database_url, valkey, pool, heartbeat_seconds=0.3) as nodes:
        ada = await nodes.visitor("Ada", 0, patience=0.3, open_timeout=0.5)
        bo = await nodes.visitor("Bo", 1)
        nodes.proxies[0].stall()
        await bo.send_chat(ROOM, "into the void")
        await until(ada, lambda o: isinstance(o, Reconnecting))
        nodes.proxies[0].cut()
        nodes.proxies[0].flow()
        assert told(await until(ada, lambda o: isinstance(o, CaughtUp))) == ["into the void", "CaughtUp"]


async def test_another_node_takes_over(nodes: Nodes) -> None:
    """The first node is gone for good; the second has never seen this client, and brings exactly what it missed."""
    ada, bo = await nodes.visitor("Ada", 0), await nodes.visitor("Bo", 1)
    await bo.send_chat(ROOM, "before")
    await until(ada, is_line("before"))
    there = urlsplit(nodes.hosts[1].url)
    nodes.proxies[0].lead_to(str(there.hostname), there.port or 0)
    nodes.proxies[0].refuse()
    nodes.proxies[0].cut()
    await bo.send_chat(ROOM, "meanwhile")
    await nodes.proxies[0].listen()
    assert told(await until(ada, lambda o: isinstance(o, CaughtUp))) == ["meanwhile", "CaughtUp"]
    page = await bo.call(ListPresence(ROOM))
    assert sorted(person.name for person in page.members) == ["Ada", "Bo"]


async def test_past_the_window_there_is_a_snapshot(database_url: str, valkey: Valkey, pool: Pool) -> None:
    """More was said than can be replayed: the client is told so, with the newest lines, and goes on from there."""
    async with two_nodes(database_url, valkey, pool, replay_window=5) as nodes:
        ada, bo = await nodes.visitor("Ada", 0), await nodes.visitor("Bo", 1)
        nodes.proxies[0].refuse()
        nodes.proxies[0].cut()
        last = [await bo.send_chat(ROOM, f"line {number}") for number in range(8)][-1]
        await nodes.proxies[0].listen()
        seen = await until(ada, lambda o: isinstance(o, CaughtUp))
        snapshots = [o for o in seen if isinstance(o, Snapshot)]
        assert [snapshot.offset for snapshot in snapshots] == [last.offset]
        assert snapshots[0].recent[-1].text == "line 7"
        await bo.send_chat(ROOM, "on")
        assert told(await until(ada, is_line("on"))) == ["on"]


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_network_that_breaks_at_random(nodes: Nodes, seed: int) -> None:
    """Two write and four read on two nodes while connections are cut, stalled and slowed: every acknowledged line is seen
    once, by all, in the order of its offsets, and no line is there twice.
    """
    choose = random.Random(seed)
    writing = True
    acknowledged: dict[str, int] = {}
    seen: list[list[tuple[int, str]]] = [[] for _ in range(4)]

    async def write(client: Client, name: str) -> None:
        number = 0
        while writing:
            text, key = f"{name} {number}", uuid.uuid4().hex
            number += 1
            while text not in acknowledged:
                try:
                    acknowledged[text] = (await client.send_chat(ROOM, text, key=key, timeout=20)).offset
                except Refused as refused:
                    if not refused.code.retryable:
                        raise
                    await asyncio.sleep(refused.retry_after or 0.1)
            await asyncio.sleep(choose.random() * 0.03)

    async def read(client: Client, lines: list[tuple[int, str]]) -> None:
        async for occurrence in client:
            assert not isinstance(occurrence, Snapshot)
            if isinstance(occurrence, ChatLine):
                lines.append((occurrence.offset, occurrence.line.text))
                if occurrence.line.text == "end":
                    return

    async def discard(client: Client) -> None:
        async for _ in client:
            pass

    readers = [await nodes.visitor(f"R{n}", n % 2, "msgpack" if n > 1 else "json") for n in range(4)]
    writers = [await nodes.visitor(f"W{n}", n) for n in range(2)]
    reading = [asyncio.create_task(read(*pair)) for pair in zip(readers, seen, strict=True)]
    others = [asyncio.create_task(discard(client)) for client in writers]
    saying = [asyncio.create_task(write(client, f"W{n}")) for n, client in enumerate(writers)]
    for _ in range(10):
        await asyncio.sleep(choose.random() * 0.4)
        network = choose.choice(nodes.proxies)
        match choose.randrange(4):
            case 0 | 1:
                network.cut()
            case 2:
                network.stall()
                await asyncio.sleep(choose.random() * 0.2)
                network.flow()
            case 3:
                network.delay = choose.random() * 0.02
    writing = False
    await asyncio.gather(*saying)
    await writers[0].send_chat(ROOM, "end")
    async with asyncio.timeout(20):
        await asyncio.gather(*reading)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    assert len(acknowledged) > 20
    for lines in seen:
        assert [offset for offset, _ in lines] == list(range(1, len(lines) + 1)), f"seed {seed}"
        assert {text: offset for offset, text in lines if text != "end"} == acknowledged, f"seed {seed}"
