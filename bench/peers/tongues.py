"""How the peers speak."""

from __future__ import annotations

import json
from collections.abc import Callable

from bench.roomlog import Heard, Unexpected, mark_in
from bench.tongue import Answered, Entering, Other, Seat
from protocol.codec import TEXT


class Plain:
    """Nothing but the text, in both directions."""

    path = "/ws"
    subprotocol: str | None = None
    opcode = TEXT
    answers = False
    joins = False

    def enter(self, seat: Seat) -> Entering:  # noqa: ARG002 - nobody asks who one is
        """Be in."""
        yield from ()
        return 0

    def say(self, room: str, number: int, text: str, key: str) -> bytes:  # noqa: ARG002 - one form for all tongues
        """Return the text."""
        return text.encode()

    def read(self, payload: bytes) -> Heard | Answered | Other:
        """Take a payload for an event."""
        return Heard(mark_in(payload.decode()))


class SocketIo:
    """Engine.IO 4 and Socket.IO 5, websocket only: packets are text with a number in front. Each sits in a room."""

    path = "/socket.io/?EIO=4&transport=websocket"
    subprotocol: str | None = None
    opcode = TEXT
    answers = False
    joins = False

    def enter(self, seat: Seat) -> Entering:
        """Wait for the open packet, connect to the namespace, and join the room; each has its answer."""
        yield from _until(lambda payload: payload.startswith(b"0"), None)
        yield from _until(lambda payload: payload.startswith(b"40"), b"40")
        yield from _until(lambda payload: payload == b'42["joined"]', _event("join", seat.room))
        return 0

    def say(self, room: str, number: int, text: str, key: str) -> bytes:  # noqa: ARG002 - one form for all tongues
        """Return an event."""
        return _event("say", room, text)

    def read(self, payload: bytes) -> Heard | Answered | Other:
        """Tell events, pings and the rest apart."""
        if payload.startswith(b'42["say"'):
            return Heard(mark_in(json.loads(payload[2:])[1]))
        if payload == b"2":
            return Other("ping", reply=b"3")
        return Other("packet")


def _event(*parts: str) -> bytes:
    return b"42" + json.dumps(parts, separators=(",", ":")).encode()


class Centrifugo:
    """Centrifugo's JSON protocol."""

    path = "/connection/websocket"
    subprotocol: str | None = None
    opcode = TEXT
    answers = True
    joins = True

    def enter(self, seat: Seat) -> Entering:  # noqa: ARG002 - nobody asks who one is
        """Connect, then subscribe."""
        yield from _until(lambda payload: b'"connect"' in payload, b'{"id":1,"connect":{"name":"bench"}}')
        yield from _until(
            lambda payload: b'"subscribe"' in payload, b'{"id":2,"subscribe":{"channel":"room"}}'
        )
        return 0

    def say(self, room: str, number: int, text: str, key: str) -> bytes:  # noqa: ARG002 - one form for all tongues
        """Return a publication. Ids 1 and 2 were used for entering."""
        return b'{"id":%d,"publish":{"channel":"room","data":"%s"}}' % (number + 3, text.encode())

    def read(self, payload: bytes) -> Heard | Answered | Other:
        """Tell one reply from another."""
        if payload == b"{}":
            return Other("ping", reply=b"{}")
        reply = json.loads(payload)
        if "push" in reply:
            publication = reply["push"].get("pub")
            return Other("push") if publication is None else Heard(mark_in(publication["data"]))
        if "id" in reply:
            error = reply.get("error")
            return Answered(reply["id"] - 3, str(error["code"]) if error else None)
        return Other("reply")


def _until(right: Callable[[bytes], bool], said: bytes | None) -> Entering:
    """Say something and wait for the right payload."""
    payload = yield said
    for _ in range(16):
        if right(payload):
            return 0
        payload = yield None
    raise Unexpected("the peer did not let one in")
