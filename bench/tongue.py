"""What a tester must know of a server's way of speaking: how to get in, how to say something, and what a payload means.

A scenario speaks `Looprooms`; the peers that it is compared with have tongues of their own in `bench.peers`, so that one and
the same tester puts one and the same question to all of them.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

import msgspec

from bench.roomlog import Heard, Unexpected, mark_in
from protocol.chat import ChatLine, ChatRemoval, ChatRevision, ChatSent, SendChat
from protocol.codec import CODECS, Codec
from protocol.envelope import Answer, Command, Error
from protocol.presence import RoomPulse
from protocol.rooms import Cue, JoinRoom, RoomJoined, SendCue
from protocol.session import Hello, Welcome


class Seat(msgspec.Struct, frozen=True):
    """One connection to make: who, into which room, at which of the server's addresses; whether what comes is timed."""

    token: str
    room: str
    place: int = 0
    timed: bool = True


class Answered(msgspec.Struct):
    """A command was answered; `error` is its code when it was refused."""

    id: int
    error: str | None = None


class Other(msgspec.Struct):
    """Something for this connection alone that needs nothing, or `reply`."""

    kind: str
    reply: bytes | None = None


Entering = Generator[bytes | None, bytes, int]
"""Yields what to send next, if anything, and is sent the next payload; returns the last offset of the room."""


class Tongue(Protocol):
    """One way of speaking. `opcode` is that of its frames; `answers` says whether what is said is answered.

    `joins`: several messages may come in one frame, a line each, and not to all in the same portions.
    """

    path: str
    subprotocol: str | None
    opcode: int
    answers: bool
    joins: bool

    def enter(self, seat: Seat) -> Entering:
        """Go through the steps from an open websocket to being in the room."""

    def say(self, room: str, number: int, text: str, key: str) -> bytes:
        """Return the payload that says `text` in a room."""

    def read(self, payload: bytes) -> Heard | Answered | Other:
        """Say what a payload is. Raises `Unexpected`."""


class Looprooms:
    """Our own contract. `cue`: what is said is passing, by the host, instead of a durable line."""

    path = "/ws"
    answers = True
    joins = False

    def __init__(self, subprotocol: str, *, cue: bool = False) -> None:
        self.subprotocol: str | None = subprotocol
        self.cue = cue
        self.opcode = CODECS[subprotocol].opcode

    def enter(self, seat: Seat) -> Entering:
        """Say hello, then join."""
        codec = self._codec
        message = codec.decode_reply((yield codec.encode(Hello(seat.token, id=1))))
        while not isinstance(message, Welcome):
            _refuse(message)
            message = codec.decode_reply((yield None))
        message = codec.decode_reply((yield codec.encode(JoinRoom(seat.room, id=2))))
        while not isinstance(message, RoomJoined):
            _refuse(message)
            message = codec.decode_reply((yield None))
        return message.offset

    def say(self, room: str, number: int, text: str, key: str) -> bytes:
        """Return a command."""
        command: Command[ChatSent] | SendCue
        command = SendCue(room, text, id=number) if self.cue else SendChat(room, text, key, id=number)
        return self._codec.encode(command)

    def read(self, payload: bytes) -> Heard | Answered | Other:
        """Say what a payload is."""
        message = self._codec.decode_reply(payload)
        if isinstance(message, ChatLine):
            return Heard(mark_in(message.line.text), offset=message.offset)
        if isinstance(message, Cue):
            return Heard(mark_in(message.cue))
        if isinstance(message, (ChatRevision, ChatRemoval)):
            return Heard(offset=message.offset)
        if (
            isinstance(message, RoomPulse) and message.state is None
        ):  # a whole state is for one who fell behind
            return Heard(pulse=True)
        if isinstance(message, Error) and message.id is None:
            return Other(f"error {message.code}")
        if isinstance(message, (Answer, Error)) and message.id is not None:
            return Answered(message.id, message.code if isinstance(message, Error) else None)
        return Other(type(message).__name__)

    @property
    def _codec(self) -> Codec:
        assert self.subprotocol is not None
        return CODECS[self.subprotocol]


def _refuse(message: object) -> None:
    if isinstance(message, Error):
        raise Unexpected(f"{message.code}: {message.message}")
