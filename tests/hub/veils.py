"""People, what they say, and veils that hide one of them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from protocol.chat import ChatLine, Line
from protocol.codec import JSON, MSGPACK
from protocol.envelope import Event, LineId, Person, RoomId, UserId
from server.hub.members import Room
from server.hub.veil import Veil
from storage.redis.publications import Kind, Packet
from tests.hub.scene import Guest, Scene

ROOM = RoomId(UUID(int=1))
ADA, BO, CY = (
    Person(id=UserId(UUID(int=number)), name=name) for number, name in ((7, "Ada"), (8, "Bo"), (9, "Cy"))
)
NOT_ADA = Veil(frozenset({ADA.id}), frozenset({ADA.id}))
NOT_CY = Veil(frozenset({CY.id}), frozenset({CY.id}))
NOT_ADAS_WORDS = Veil(frozenset(), frozenset({ADA.id}))


def line(author: Person, offset: int = 3) -> Line:
    """Return something that somebody has said."""
    return Line(
        id=LineId(UUID(int=offset)), offset=offset, author=author, text="hello", sent_at=5, edited_at=6
    )


def said(author: Person, offset: int = 3) -> ChatLine:
    """Return that it was said."""
    return ChatLine(room=ROOM, offset=offset, line=line(author, offset))


def packed(event: Event, kind: Kind = Kind.LINE, offset: int = 0) -> Packet:
    """Encode an event."""
    return Packet(kind, offset, JSON.encode(event), MSGPACK.encode(event))


def crowd(scene: Scene, room: Room, veils: Sequence[Veil | None]) -> list[Guest]:
    """Let people in, each with a veil or without."""
    guests = [scene.guest(room) for _ in veils]
    for guest, veil in zip(guests, veils, strict=True):
        scene.hub.veil(guest.connection, room, veil)
    return guests
