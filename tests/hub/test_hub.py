"""What connections share: hosts, entering and leaving, and what is said to a whole room."""

from __future__ import annotations

import pytest

from protocol.codec import JSON, MSGPACK
from protocol.rooms import Cue
from storage.redis.publications import Kind
from tests.hub.scene import Scene, packet


@pytest.mark.parametrize(
    ("headers", "answered"),
    [
        (["example.org"], True),
        (["EXAMPLE.org:8000"], True),
        (["[::1]:8000"], True),
        (["[::1]"], True),
        (["example.org.evil"], False),
        (["evil"], False),
        ([""], False),
        ([], False),
        (["example.org", "example.org"], False),
    ],
)
def test_hosts(headers: list[str], answered: bool) -> None:
    """A request is answered that names this server once, with any port and in any case."""
    limits = Scene(hosts=frozenset({"example.org", "[::1]"})).hub.limits
    assert limits.answers_to(headers) == answered


def test_any_host() -> None:
    """A star answers to every name, but one there must be."""
    limits = Scene(hosts=frozenset({"*"})).hub.limits
    assert limits.answers_to(["anything:1"])
    assert not limits.answers_to([])
    assert not limits.answers_to(["a", "b"])


def test_uvicorn_counts_our_connections() -> None:
    """The state that uvicorn hands over once is kept for the connections that follow."""
    scene = Scene()
    state = type("State", (), {"connections": set()})()
    first = scene.hub.connect(config=None, server_state=state, app_state={})
    second = scene.hub.connect()
    assert first is not second
    assert scene.hub.server_state is state


def test_enter_and_leave() -> None:
    """Who leaves a room is reported once, with whether they said so; leaving a room that one is not in is nothing."""
    scene = Scene()
    room, other = scene.room(1), scene.room(2)
    guest = scene.guest(room)
    scene.hub.enter(guest.connection, room)
    assert guest.connection.rooms == {room.id: room}
    scene.hub.leave(guest.connection, other, at_once=True)
    for _ in range(2):
        scene.hub.leave(guest.connection, room, at_once=True)
    assert scene.left == [(guest.connection, room, True)]
    assert (guest.connection.rooms, room.connections) == ({}, set())


def test_joining_again() -> None:
    """Who joins a room that it is in has heard all that was said before, and goes on hearing what is said after."""
    scene = Scene()
    room = scene.room()
    guest = scene.guest(room)
    scene.hub.fanout.add(room, [packet("before")])
    scene.hub.enter(guest.connection, room)
    assert guest.cues() == ["before"]
    scene.hub.fanout.add(room, [packet("after")])
    scene.loop.settle()
    assert guest.cues() == ["after"]


def test_leaving_by_a_broken_connection() -> None:
    """A connection that is lost is not written to once more."""
    scene = Scene()
    room = scene.room()
    guest = scene.guest(room)
    scene.hub.fanout.add(room, [packet("before")])
    guest.transport.end()
    scene.loop.settle()
    assert scene.left == [(guest.connection, room, False)]
    assert guest.cues() == []


def test_tell() -> None:
    """An event is encoded once in each way, goes to everyone in the room, and is returned for the other nodes."""
    scene = Scene()
    room = scene.room()
    guests = [scene.guest(room), scene.guest(room, codec=MSGPACK)]
    cue = Cue(room=room.id, cue="breathe in")
    told = scene.hub.tell(room, cue, Kind.PASSING)
    scene.loop.settle()
    assert [guest.take() for guest in guests] == [[cue], [cue]]
    assert (told.kind, told.offset, told.json, told.msgpack) == (
        Kind.PASSING,
        0,
        JSON.encode(cue),
        MSGPACK.encode(cue),
    )
