"""The hot path with veils, held by counts: everyone else shares the same bytes as before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from protocol.codec import MSGPACK
from protocol.envelope import NOBODY
from protocol.presence import RoomPulse
from server.hub import fanout as fanout_module
from server.hub import veil as veil_module
from server.hub.members import Dialect
from storage.redis.publications import Kind, Packet
from tests.hub.scene import Scene
from tests.hub.veils import ADA, BO, NOT_ADA, NOT_ADAS_WORDS, NOT_CY, ROOM, crowd, packed, said


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
    scene.guest(room, codec=MSGPACK)
    before = len(guest.transport.written)
    scene.hub.fanout.add(room, [packed(RoomPulse(room=ROOM, joins=[ADA]), Kind.PULSE)])
    scene.loop.settle()
    assert len(guest.transport.written) == before
