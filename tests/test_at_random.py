"""People who say, edit and remove at random: whoever was there from any moment on, in any dialect, has what newcomers are shown."""

from __future__ import annotations

import asyncio
import copy
import random
from contextlib import AsyncExitStack
from typing import Any, Literal

import pytest

from protocol.chat import ChatLine, EditChat, RemoveChat
from protocol.client import Client, Occurrence, connect
from protocol.client.rooms import DURABLE
from protocol.envelope import LineId
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import JoinRoom
from tests.hosting import Host
from tests.replay import Snapshot, followed, snapshot_of
from tests.standing import Room, Standing
from tests.visitors import arrive, visit

STEPS = 60
Encoding = Literal["json", "msgpack"]


async def act(rng: random.Random, authors: list[Client], room: Room, lines: list[tuple[int, LineId]]) -> None:
    """Let somebody say something, or change what they have said."""
    number = rng.randrange(len(authors))
    own = [line for author, line in lines if author == number]
    choice = rng.random()
    try:
        if choice < 0.5 or not own:
            sent = await authors[number].send_chat(room.slug, f"line {rng.random()}")
            lines.append((number, sent.line.id))
        elif choice < 0.8:
            await authors[number].call(EditChat(room.slug, rng.choice(own), f"edit {rng.random()}"))
        else:
            await authors[number].call(RemoveChat(room.slug, rng.choice(own)))
    except Refused as refused:
        if refused.code is not ErrorCode.NOT_FOUND:  # an edit of what was removed
            raise


@pytest.mark.parametrize("seed", range(3))
async def test_replay_equals_live(nodes: Standing, room: Room, seed: int) -> None:
    """A snapshot of any moment, with all that was said since, is the snapshot of the end: told live and replayed, on both nodes."""
    rng = random.Random(seed)
    async with AsyncExitStack() as stack:
        authors = [await enter(stack, host, room) for host in nodes.both]
        lines: list[tuple[int, LineId]] = []
        moments: list[Snapshot] = []
        witnesses = []
        for step in range(STEPS):
            await act(rng, authors, room, lines)
            if step % 6 == 0:
                witness = await visit(nodes.both[step % 4 // 2], "witness")
                moments.append(snapshot_of(await witness.join(room.id)))
                witnesses.append(witness)
        ends = [snapshot_of(await (await visit(host, "late")).join(room.id)) for host in nodes.both]
        assert ends[0] == ends[1]
        for moment, witness in zip(moments, witnesses, strict=True):
            assert await followed(witness, copy.deepcopy(moment), ends[0].offset) == ends[0]
            for host in nodes.both:
                position = {"room": room.slug, "epoch": moment.epoch, "offset": moment.offset}
                back = await arrive(host, await host.token("back"), resume=[position])
                assert await followed(back, copy.deepcopy(moment), ends[0].offset) == ends[0]


async def enter(
    stack: AsyncExitStack,
    host: Host,
    room: Room,
    encoding: Encoding = "json",
    *,
    compression: bool = False,
) -> Client:
    """Connect in one dialect, and join."""
    token = await host.token("somebody")
    options: Any = {"encoding": encoding, "compression": compression, "close_timeout": 0.5}
    client = await stack.enter_async_context(connect(host.url, token=token, **options))
    await client.call(JoinRoom(room.slug))
    return client


async def heard(client: Client, last: int) -> list[Occurrence]:
    """Return the durable events that a client hands out, up to the one at `last`."""
    events: list[Any] = []
    async with asyncio.timeout(30):
        while not events or events[-1].offset < last:
            occurrence = await anext(client)
            if type(occurrence) in DURABLE:
                events.append(occurrence)
    return events


async def test_every_dialect_is_told_the_same(nodes: Standing, room: Room) -> None:
    """JSON and MessagePack, compressed and not, on both nodes: the same objects in the same order."""
    rng = random.Random(11)
    async with AsyncExitStack() as stack:
        authors = [await enter(stack, host, room) for host in nodes.both]
        listeners = [
            await enter(stack, host, room, encoding, compression=compression)
            for host in nodes.both
            for encoding in ("json", "msgpack")
            for compression in (False, True)
        ]
        lines: list[tuple[int, LineId]] = []
        for _ in range(STEPS):
            await act(rng, authors, room, lines)
        end = await authors[0].send_chat(room.slug, "\U0001f9d8 the end: 'quoted', \u00e9, \u4f60")
        told = [await heard(listener, end.offset) for listener in listeners]
        assert [event.offset for event in told[0] if type(event) in DURABLE] == list(range(1, end.offset + 1))  # type: ignore[union-attr] # they have one
        assert all(events == told[0] for events in told)
        assert isinstance(last := told[0][-1], ChatLine)
        assert last.line == end.line
