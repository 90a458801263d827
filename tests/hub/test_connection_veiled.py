"""What a connection with a veil is sent later than others."""

from __future__ import annotations

from protocol.envelope import NOBODY
from server.hub.backlog import Backlog
from tests.hub.scene import Scene
from tests.hub.veils import ADA, NOT_ADA, crowd, packed, said


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
