"""A veil over a room: put on, changed and taken off while it is spoken in."""

from __future__ import annotations

from protocol.envelope import NOBODY
from tests.hub.scene import Scene
from tests.hub.veils import ADA, NOT_ADA, NOT_CY, crowd, packed, said


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
