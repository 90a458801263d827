"""Who is connected here, by session and by person, and the audience of a room."""

from __future__ import annotations

from collections.abc import Callable

from protocol.codec import JSON, MSGPACK
from server.hub.backlog import Backlog
from server.hub.members import Dialect, Members
from storage.redis.publications import Kind
from tests.hub.scene import Scene, packet, session_of
from tests.hub.veils import NOT_ADA


def test_by_session_and_by_user() -> None:
    """Two tabs of one session and another device of the same person are found as what they are."""
    scene = Scene()
    members = Members()
    tab, second, phone, stranger = (scene.peer().connection for _ in range(4))
    for connection in (tab, second):
        connection.session = session_of(1)
    phone.session = session_of(2)
    phone.session.user_id = tab.session.user_id  # type: ignore[union-attr] # set above
    for connection in (tab, second, phone):
        members.connections.add(connection)
        members.signed_in(connection)
    members.connections.add(stranger)
    session, other, user = session_of(1).id, session_of(2).id, session_of(1).user_id
    assert set(members.of_session(session)) == {tab, second}
    assert members.of_session(other) == [phone]
    assert set(members.of_user(user)) == {tab, second, phone}
    assert members.has_user(user)
    assert set(members.sessions()) == {session, other}
    members.gone(tab)
    members.gone(stranger)
    assert members.of_session(session) == [second]
    for connection in (second, phone, phone):
        members.gone(connection)
    assert (members.of_session(session), members.of_user(user), members.sessions()) == ([], [], [])
    assert members.connections == set()


def test_asking_leaves_no_trace() -> None:
    """Asking for somebody who is not here makes no entry."""
    members = Members()
    assert members.of_session(session_of(1).id) == []
    assert members.of_user(session_of(1).user_id) == []
    assert not members.has_user(session_of(1).user_id)
    assert members.sessions() == []


def test_audience() -> None:
    """Those in one room alone are written to by dialect, those in several apart, and those who lag not at all."""
    scene = Scene()
    room, other = scene.room(1), scene.room(2)
    plain, also_plain = scene.guest(room), scene.guest(room)
    packed = scene.guest(room, codec=MSGPACK, deflate=True)
    both = scene.guest(room, other)
    slow = scene.guest(room)
    slow.connection.pause_writing()
    audience = room.audience
    assert {dialect: set(writes) for dialect, writes in audience.writes} == {
        Dialect.JSON: {plain.transport.write, also_plain.transport.write},
        Dialect.MSGPACK_DEFLATED: {packed.transport.write},
    }
    assert audience.elsewhere_too == [both.connection]
    assert audience.lagging == [slow.connection]
    assert other.audience.writes == []


def test_audience_is_kept_until_it_changes() -> None:
    """An audience is made once, and anew when somebody comes, goes, falls behind, or enters or leaves another room."""
    scene = Scene()
    room, other = scene.room(1), scene.room(2)
    guest = scene.guest(room)
    changes: list[Callable[[], object]] = [
        lambda: scene.guest(room),
        lambda: scene.hub.enter(guest.connection, other),
        lambda: scene.hub.leave(guest.connection, other, at_once=True),
        guest.connection.pause_writing,
        guest.connection.resume_writing,
        lambda: scene.hub.leave(guest.connection, room, at_once=True),
    ]
    for change in changes:
        before = room.audience
        assert room.audience is before
        change()
        assert room.audience is not before
    scene.guest(other)
    before = room.audience
    scene.guest(other)
    assert room.audience is before


def test_room_says_what_it_is() -> None:
    """In a log a room is its id, how many are in it, and how far it has come."""
    scene = Scene()
    room = scene.room(1)
    scene.guest(room, codec=JSON)
    assert repr(room) == "<Room 00000000-0000-0000-0000-000000000001 1 connections, at 0>"


def test_framed() -> None:
    """What waits for the next turn is not on its way yet; what has no place in the order does not count."""
    scene = Scene()
    room = scene.room()
    room.replay.begin(4, [])
    assert room.framed == 4
    scene.guest(room)
    scene.hub.fanout.add(room, [packet("pulse", Kind.PULSE)])
    assert room.framed == 4
    for offset in (5, 6):
        room.replay.offer(packet("line", offset=offset))
        scene.hub.fanout.add(room, [packet("line", offset=offset)])
    assert room.framed == 4
    scene.loop.settle()
    assert room.framed == 6


def test_a_backlog_is_forgotten_with_its_room() -> None:
    """Who leaves a room has no past of it to be sent any more."""
    scene = Scene()
    room, other = scene.room(1), scene.room(2)
    guest = scene.guest(room, other)
    guest.connection.backlog = Backlog()
    for one in (room, other):
        guest.connection.backlog.begin(one, 0)
    scene.hub.leave(guest.connection, room, at_once=True)
    assert room not in guest.connection.backlog
    assert other in guest.connection.backlog


def test_audience_of_who_catches_up() -> None:
    """Whoever is still sent the past of a room is handed what that room says, and no other."""
    scene = Scene()
    room, other = scene.room(1), scene.room(2)
    guest = scene.guest(room, other)
    guest.connection.backlog = Backlog()
    guest.connection.backlog.begin(room, 0)
    assert (room.audience.lagging, other.audience.lagging) == ([guest.connection], [])
    assert (room.audience.elsewhere_too, other.audience.elsewhere_too) == ([], [guest.connection])


def test_audience_of_who_does_not_see_everyone() -> None:
    """They are written to apart, unless they lag anyway; who has seen everyone of that room again is with the others."""
    scene = Scene()
    room, other = scene.room(1), scene.room(2)
    guest, slow = scene.guest(room, other), scene.guest(room)
    for one in (guest, slow):
        scene.hub.veil(one.connection, room, NOT_ADA)
    slow.lag()
    assert room.audience.veiled == [(guest.connection, NOT_ADA)]
    assert (room.audience.writes, room.audience.elsewhere_too) == ([], [])
    assert room.audience.lagging == [slow.connection]
    assert (other.audience.veiled, other.audience.elsewhere_too) == ([], [guest.connection])
    scene.hub.leave(guest.connection, room, at_once=True)
    assert guest.connection.veil(room) is None
