"""Veils: what is seen through them, made once for all who see the same, and the same bytes wherever nobody is behind them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from protocol.chat import ChatLine, ChatRemoval, ChatRevision, Line
from protocol.codec import JSON, MSGPACK
from protocol.comments import Comment, CommentEntry, CommentRemoval, CommentRevision
from protocol.envelope import NOBODY, CommentId, VybeId
from protocol.presence import Confidence, RoomPulse, RoomState
from protocol.reactions import Reaction, Reactor, Tally
from server.hub.veil import Sight, Veil, named
from storage.redis.publications import Kind, Packet
from tests.hub.veils import ADA, BO, CY, NOT_ADA, NOT_ADAS_WORDS, ROOM, line, packed, said


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


def test_a_comment() -> None:
    """What is said and edited about a vybe by somebody who is not heard is seen as a comment that was removed."""
    vybe, (mine, theirs) = VybeId(UUID(int=7)), (CommentId(UUID(int=n)) for n in (8, 9))
    of_ada = Comment(id=mine, offset=3, author=ADA, text="hello", sent_at=5)
    of_bo = Comment(id=theirs, offset=4, author=BO, text="hello", sent_at=5)
    packets = [
        packed(CommentEntry(vybe=vybe, offset=3, comment=of_ada), offset=3),
        packed(CommentEntry(vybe=vybe, offset=4, comment=of_bo), offset=4),
        packed(CommentRevision(vybe=vybe, offset=5, comment=of_ada), Kind.DURABLE, 5),
    ]
    for veil in (NOT_ADA, NOT_ADAS_WORDS):
        assert seen(packets, veil) == [
            CommentRemoval(vybe=vybe, offset=3, comment=mine, of=3),
            CommentEntry(vybe=vybe, offset=4, comment=of_bo),
            CommentRemoval(vybe=vybe, offset=5, comment=mine, of=3),
        ]


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
