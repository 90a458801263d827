"""Veils: what is seen through them, made once for all who see the same, and the same bytes wherever nobody is behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from protocol.chat import ChatLine, ChatRemoval, ChatRevision, Line
from protocol.codec import JSON, MSGPACK
from protocol.envelope import NOBODY, Event, LineId, Person, RoomId, UserId
from protocol.presence import Confidence, RoomPulse, RoomState
from protocol.reactions import Reaction, Reactor, Tally
from server.hub import fanout as fanout_module
from server.hub import veil as veil_module
from server.hub.backlog import Backlog
from server.hub.members import Dialect, Room
from server.hub.veil import Sight, Veil, named
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


def seen(packets: list[Packet], veil: Veil) -> list[Any]:
    """Return what is seen of packets, which must be the same in both encodings."""
    found = Sight(packets).through(veil)
    read = [JSON.decode_reply(packet.json) for packet in found]
    assert read == [MSGPACK.decode_reply(packet.msgpack) for packet in found]
    assert [packet.kind for packet in found] == [packet.kind for packet in packets][: len(found)]
    return read


def test_a_line() -> None:
    """In its place and at its offset stands one that nobody has said, and that was removed; also for who only mutes."""
    gone = Line(id=line(ADA).id, offset=3, author=NOBODY, text="", sent_at=5, removed=True)
    for veil in (NOT_ADA, NOT_ADAS_WORDS):
        packets = [packed(said(ADA), offset=3), packed(said(BO, 4), offset=4)]
        assert seen(packets, veil) == [ChatLine(room=ROOM, offset=3, line=gone), said(BO, 4)]
        assert veil.line(line(ADA)) == gone
        assert veil.line(line(BO)) == line(BO)


def test_changes_of_a_line() -> None:
    """That it was edited is seen as that it is gone; that it was removed names nobody."""
    revision = ChatRevision(room=ROOM, offset=4, line=line(ADA))
    removal = ChatRemoval(room=ROOM, offset=5, line=line(ADA).id, of=3)
    packets = [packed(revision, Kind.DURABLE, 4), packed(removal, Kind.DURABLE, 5)]
    gone = ChatRemoval(room=ROOM, offset=4, line=line(ADA).id, of=3, departed=True)
    assert seen(packets, NOT_ADA) == [gone, removal]
    assert NOT_ADA.event(removal) == removal


def test_a_pulse() -> None:
    """Whoever is hidden does not come, go, write or react in it; totals stay. Whoever is only muted does."""
    state = RoomState(online=2, members=[ADA, BO], typing=[ADA], confidence=Confidence(mean=5.0, count=2))
    pulse = RoomPulse(
        room=ROOM,
        online=2,
        joins=[ADA, BO],
        leaves=[ADA.id, CY.id],
        typing=[BO, ADA],
        reactions={Reaction.HEART: Tally(added=1, total=4)},
        reactors=[Reactor(person=ADA, reaction=Reaction.HEART), Reactor(person=BO, reaction=Reaction.CLAP)],
        state=state,
    )
    assert seen([packed(pulse, Kind.PULSE)], NOT_ADA) == [
        RoomPulse(
            room=ROOM,
            online=2,
            joins=[BO],
            leaves=[CY.id],
            typing=[BO],
            reactions={Reaction.HEART: Tally(added=1, total=4)},
            reactors=[Reactor(person=BO, reaction=Reaction.CLAP)],
            state=RoomState(online=2, members=[BO], confidence=Confidence(mean=5.0, count=2)),
        )
    ]
    assert seen([packed(pulse, Kind.PULSE)], NOT_ADAS_WORDS) == [pulse]
    assert named(pulse) == {ADA.id, BO.id, CY.id}
    assert named(RoomPulse(room=ROOM, online=3)) == set()


def test_nothing_left() -> None:
    """A pulse of which nothing is left is not sent."""
    packets = [packed(RoomPulse(room=ROOM, joins=[ADA]), Kind.PULSE), packed(said(BO))]
    assert seen(packets[:1], NOT_ADA) == []
    assert [
        type(event) for event in (JSON.decode_reply(p.json) for p in Sight(packets).through(NOT_ADA))
    ] == [ChatLine]


def test_nobody_behind_the_veil() -> None:
    """What names nobody behind it is the very same packets: cues, what others do, and what only a newer node can read."""
    cue = Packet(Kind.PASSING, 0, JSON.encode(said(ADA)), b"")  # it is not even looked into
    news = Packet(Kind.DURABLE, 9, b'{"type":"chat.sung","room":1}', b"")
    packets = [cue, news, packed(said(BO))]
    assert Sight(packets).through(NOT_ADA) is packets
    mixed = [*packets, packed(said(ADA))]
    assert list(Sight(mixed).through(NOT_ADA)[:3]) == packets


def test_made_once() -> None:
    """All who see the same of a turn are given the same packets, whoever else they do not see."""
    sight = Sight([packed(said(ADA)), packed(said(BO))])
    wider = Veil(frozenset({ADA.id, CY.id}), frozenset({ADA.id, CY.id}))
    assert sight.through(NOT_ADA) is sight.through(wider)
    assert sight.through(NOT_ADA) is not sight.through(Veil(frozenset({BO.id}), frozenset({BO.id})))


# On its way.


def crowd(scene: Scene, room: Room, veils: Sequence[Veil | None]) -> list[Guest]:
    """Let people in, each with a veil or without."""
    guests = [scene.guest(room) for _ in veils]
    for guest, veil in zip(guests, veils, strict=True):
        scene.hub.veil(guest.connection, room, veil)
    return guests


def test_fan_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Still one write each: without veils nothing is read or made anew, with them once for all who see the same."""
    scene = Scene()
    room = scene.room()
    reads: list[Packet] = []
    builds: list[int] = []
    read, frames = veil_module._read, fanout_module.frames

    def counted_read(packet: Packet) -> Any:
        reads.append(packet)
        return read(packet)

    def counted_frames(packets: Sequence[Packet], dialect: Dialect) -> bytes:
        builds.append(len(packets))
        return frames(packets, dialect)

    monkeypatch.setattr(veil_module, "_read", counted_read)
    monkeypatch.setattr(fanout_module, "frames", counted_frames)
    guests = crowd(scene, room, [None] * 20)
    scene.hub.fanout.add(room, [packed(said(ADA))])
    scene.loop.settle()
    assert (len(reads), builds) == (0, [1])
    assert all(guest.take() == [said(ADA)] for guest in guests)
    veiled = crowd(scene, room, [NOT_ADA] * 5 + [NOT_ADAS_WORDS] * 5 + [NOT_CY] * 5)
    before = [len(guest.transport.written) for guest in (*guests, *veiled)]
    builds.clear()
    scene.hub.fanout.add(room, [packed(said(ADA)), packed(said(BO, 4))])
    scene.loop.settle()
    assert [len(guest.transport.written) for guest in (*guests, *veiled)] == [count + 1 for count in before]
    assert (len(reads), builds) == (2, [2, 2, 2]), "for all, for those who see all, for those who do not"
    for guest in (*guests, *veiled[10:]):
        assert guest.take() == [said(ADA), said(BO, 4)]
    for guest in veiled[:10]:
        gone, other = guest.take()
        assert (gone.line.author, gone.line.text, gone.offset, other) == (NOBODY, "", 3, said(BO, 4))


def test_nothing_left_is_not_written() -> None:
    """Who sees nothing of a turn is not written to."""
    scene = Scene()
    room = scene.room()
    (guest,) = crowd(scene, room, [NOT_ADA])
    before = len(guest.transport.written)
    scene.hub.fanout.add(room, [packed(RoomPulse(room=ROOM, joins=[ADA]), Kind.PULSE)])
    scene.loop.settle()
    assert len(guest.transport.written) == before


def test_what_waits() -> None:
    """Neither what waits for a slow reader nor what comes out of the memory of a room shows what a veil hides."""
    scene = Scene()
    room = scene.room()
    slow, late = crowd(scene, room, [NOT_ADA, NOT_ADA])
    slow.lag()
    late.connection.backlog = Backlog()
    late.connection.backlog.begin(room, 0)
    for offset in (1, 2):
        packet = packed(said(ADA, offset), offset=offset)
        room.replay.offer(packet)
        scene.hub.fanout.add(room, [packet])
        scene.loop.settle()
    slow.catch_up()
    late.connection.catch_up(room, 0)
    for guest in (slow, late):
        assert [(event.offset, event.line.author) for event in guest.take()] == [(1, NOBODY), (2, NOBODY)]


def test_taken_on_and_off() -> None:
    """From that moment on: what was on its way comes before, what was not is seen anew, and the state follows."""
    scene = Scene()
    room = scene.room()
    (guest,) = crowd(scene, room, [None])
    assert not scene.hub.veil(guest.connection, room, None)
    scene.hub.fanout.add(room, [packed(said(ADA))])
    assert scene.hub.veil(guest.connection, room, NOT_ADA)
    assert guest.take()[0].line.author == NOBODY, "what was not framed yet is not shown any more"
    assert scene.refreshed == [(guest.connection, room.id)]
    assert not scene.hub.veil(guest.connection, room, NOT_ADA)
    assert scene.hub.veil(guest.connection, room, NOT_CY)
    assert scene.hub.veil(guest.connection, room, None)
    scene.hub.fanout.add(room, [packed(said(ADA, 4))])
    scene.loop.settle()
    assert guest.take() == [said(ADA, 4)]
    assert len(scene.refreshed) == 3


def test_a_veil_goes_with_its_room() -> None:
    """Before somebody is in a room nothing is sent of it, and with the last of it goes the veil."""
    scene = Scene()
    room = scene.room()
    guest = scene.guest()
    assert scene.hub.veil(guest.connection, room, NOT_ADA)
    assert scene.refreshed == []
    scene.hub.enter(guest.connection, room)
    assert room.audience.veiled == [(guest.connection, NOT_ADA)]
    assert (room.audience.writes, room.audience.elsewhere_too) == ([], [])
    scene.hub.leave(guest.connection, room, at_once=True)
    assert guest.connection.veil(room) is None
