"""People over bare websockets: what they are told is kept as it came, and no client library mends anything.

A `bystander` is in a room for the sake of a test about somebody else: they keep chatting, and must notice nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec

from protocol.envelope import Person, RoomId
from tests.hosting import Host
from tests.nodes.raw import Message, RawConnection, open_raw
from tests.waiting import until

TEXT = 0x1
BINARY = 0x2
"""Opcodes of frames (RFC 6455, section 5.2)."""

DURABLE = ("chat.line", "chat.revision", "chat.removal")
PATIENCE = 30.0
"""Seconds that anything may take on a machine that has much else to do."""
CHATTER_SECONDS = 0.02
"""Between two lines of a bystander: as many as one connection may say for long."""


class Visitor:
    """Somebody who is signed in. `heard` is all that was pushed, and what could not be told which command it answers."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.connection: RawConnection
        self.welcome: Message = {}
        self._keys = itertools.count(1)

    @property
    def person(self) -> Person:
        """Who it is, as others see them."""
        return msgspec.convert(self.welcome["user"], Person)

    @property
    def events(self) -> list[Message]:
        """What was heard and is kept for ever, in order."""
        return [message for message in self.heard if message["type"] in DURABLE]

    @property
    def offsets(self) -> list[int]:
        """The offsets of these."""
        return [event["offset"] for event in self.events]

    async def call(self, type: str, **fields: Any) -> Message:  # noqa: A002 - as on the wire
        """Send a command and return its answer, be it an error."""
        return await self.connection.call(type, **{"within": PATIENCE, **fields})

    async def join(self, room: RoomId) -> Message:
        """Enter a room; return its snapshot."""
        joined = await self.call("room.join", room=str(room))
        assert joined["type"] == "room.joined", joined
        return joined

    async def say(self, room: RoomId, text: str, key: str | None = None) -> Message:
        """Say something; return the answer."""
        return await self.call(
            "chat.send", room=str(room), text=text, key=key or f"{id(self)}-{next(self._keys)}"
        )

    async def hear(self, offset: int) -> None:
        """Wait until the event with this offset has come."""
        await until(lambda: offset in self.offsets, PATIENCE)

    @property
    def errors(self) -> list[Message]:
        """The errors that were heard."""
        return [message for message in self.heard if message["type"] == "error"]

    async def error(self, payload: bytes, opcode: int = TEXT) -> Message:
        """Send a frame as it is; return the error that it is answered with."""
        known = len(self.errors)
        self.connection.frame(opcode, payload)
        await until(lambda: len(self.errors) > known, PATIENCE)
        return self.errors[known]

    async def settle(self) -> None:
        """Wait until everything that the server had to say by now has been heard."""
        await self.call("session.ping")


async def approach(host: Host) -> Visitor:
    """Connect, and say nothing."""
    visitor = Visitor()
    visitor.connection = await open_raw(urlsplit(host.url).port or 0, visitor.heard.append, PATIENCE)
    return visitor


async def arrive(host: Host, token: str, **hello: Any) -> Visitor:
    """Connect and say hello."""
    visitor = await approach(host)
    visitor.welcome = await visitor.call("hello", token=token, **hello)
    return visitor


async def visit(host: Host, who: str | Person, *rooms: RoomId) -> Visitor:
    """Connect as a new person of a name, or as one who has been here, and enter rooms."""
    token = await (host.token(who) if isinstance(who, str) else host.token(who.name, who))
    visitor = await arrive(host, token)
    for room in rooms:
        await visitor.join(room)
    return visitor


@asynccontextmanager
async def bystander(host: Host, room: RoomId, *, alone: bool = True) -> AsyncIterator[Visitor]:
    """Let somebody chat in `room` until the block ends; then make sure that they noticed nothing of what happened in it.

    Each of their lines was acknowledged and came back once, no event is missing, they were told of nothing else than people
    who came and went, and they are still there. Unless they are `alone` in what they say, others may have said something.
    """
    visitor = await visit(host, "bystander", room)
    said: list[Message] = []
    over = asyncio.Event()

    async def chat() -> None:
        while True:
            said.append(await visitor.say(room, f"line {len(said)}"))
            if over.is_set():
                return
            await asyncio.sleep(CHATTER_SECONDS)

    chatting = asyncio.create_task(chat())
    try:
        yield visitor
    finally:
        over.set()
        await asyncio.wait({chatting}, timeout=PATIENCE)
        chatting.cancel()
    assert chatting.done(), "a line was not answered"
    await chatting  # what went wrong in it
    assert {answer["type"] for answer in said} == {"chat.sent"}
    await visitor.hear(said[-1]["offset"])
    lines = [event["line"] for event in visitor.events if event["type"] == "chat.line"]
    own = [line for line in lines if line["author"] == visitor.welcome["user"]]
    assert own == [answer["line"] for answer in said]
    assert visitor.offsets == list(range(said[0]["offset"], visitor.offsets[-1] + 1))
    told = {message["type"] for message in visitor.heard} - {"welcome", "room.joined"}
    if alone:
        assert own == lines
        assert told <= {"chat.line", "room.pulse"}
    assert told <= {*DURABLE, "room.pulse"}
