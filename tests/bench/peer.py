"""A server of a few lines that says what a looproom says: enough for testers to be tested without the real one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from uuid import UUID

from bench.wire import CLOSE, PING, PONG
from protocol.chat import ChatLine, ChatSent, Line, SendChat
from protocol.codec import CODECS, JSON
from protocol.envelope import Answer, Epoch, Event, LineId, Message, Person, RoomId, SessionId, UserId
from protocol.frames import server_frame
from protocol.presence import Confidence, RoomPulse
from protocol.rooms import ContentKind, Cue, CueSent, JoinRoom, Room, RoomJoined, SendCue
from protocol.session import Hello, Welcome

ROOM = RoomId(UUID(int=7))
SOMEBODY = Person(id=UserId(UUID(int=1)), name="Somebody")
_CATALOGUE_ENTRY = Room(
    id=ROOM,
    slug="a-room",
    title="A room",
    description="",
    category="calm",
    host=SOMEBODY,
    content=ContentKind.VIDEO,
)


class Peer:
    """One room. `skip` and `repeat` name numbers of events that the n-th member is not sent, or sent twice."""

    def __init__(self) -> None:
        self.offset = 0
        self.members: list[_PeerConnection] = []
        self.skip: dict[int, set[int]] = {}
        self.repeat: dict[int, set[int]] = {}
        self.pings = False

    async def start(self) -> int:
        """Listen; return the port."""
        server = await asyncio.get_running_loop().create_server(lambda: _PeerConnection(self), "127.0.0.1", 0)
        self.server = server
        return int(server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close everything."""
        self.server.close()
        for member in self.members:
            member.transport.abort()
        await asyncio.sleep(0)

    def tell(self, event: Event, number: int | None = None) -> None:
        """Send an event to everyone, with a ping before it for every second one."""
        for index, member in enumerate(self.members):
            if number is not None and number in self.skip.get(index, ()):
                continue
            if self.pings and index % 2:
                member.transport.write(server_frame(PING, b""))
            member.send(event)
            if number is not None and number in self.repeat.get(index, ()):
                member.send(event)


class _PeerConnection(asyncio.Protocol):
    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._held = b""
        self._codec = JSON
        self._opened = False
        self.pongs = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, message: Message) -> None:
        self.transport.write(server_frame(self._codec.opcode, self._codec.encode(message)))

    def data_received(self, data: bytes) -> None:
        if not self._opened:
            headers = dict(line.split(": ", 1) for line in data.decode().split("\r\n")[1:] if line)
            self._codec = CODECS[headers["Sec-WebSocket-Protocol"]]
            key = headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            self.transport.write(
                f"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode()
            )
            self._opened = True
            return
        data = self._held + data
        while len(data) >= 2:
            length, start = data[1] & 0x7F, 2
            if length == 126:
                length, start = int.from_bytes(data[2:4], "big"), 4
            end = start + 4 + length
            if end > len(data):
                break
            self._take(data[0] & 0x0F, data[start + 4 : end])  # the masking key is of zeros
            data = data[end:]
        self._held = data

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == PONG:
            self.pongs += 1
        elif opcode != CLOSE:
            self._answer(payload)

    def _answer(self, payload: bytes) -> None:
        peer = self._peer
        command = self._codec.decode_command(payload)
        answer: Answer
        if isinstance(command, Hello):
            answer = Welcome(SessionId(ROOM), SOMEBODY, Epoch("1"), 25, 600, 0, id=command.id)
        elif isinstance(command, JoinRoom):
            peer.members.append(self)
            answer = _joined(command.id, peer.offset, len(peer.members))
        elif isinstance(command, SendChat):
            peer.offset += 1
            line = Line(id=LineId(ROOM), offset=peer.offset, author=SOMEBODY, text=command.text, sent_at=0)
            peer.tell(ChatLine(ROOM, peer.offset, line), command.id)
            if command.id % 3 == 0:
                peer.tell(RoomPulse(ROOM, online=command.id))
            answer = ChatSent(line, peer.offset, id=command.id)
        else:
            assert isinstance(command, SendCue)
            peer.tell(Cue(ROOM, command.cue), command.id)
            answer = CueSent(id=command.id)
        self.send(answer)


def _joined(number: int, offset: int, online: int) -> RoomJoined:
    return RoomJoined(
        id=number,
        room=_CATALOGUE_ENTRY,
        epoch=Epoch("1"),
        offset=offset,
        online=online,
        members=[],
        reactions={},
        confidence=Confidence(mean=0, count=0),
        recent=[],
    )
