"""A connection's time: a slow reader, what was missed, the time for hello, heartbeats, and a token that runs out."""

from __future__ import annotations

import random
from typing import Any

import pytest

from protocol.closing import CloseCode
from protocol.rooms import Cue
from protocol.session import Ponged, Shed, TokenExpiring
from server.hub.members import Room
from storage.redis.publications import Kind
from tests.hub.scene import Guest, Scene, packet

PONGED = Ponged(id=1, server_time=1)


# A slow reader.


def test_slow_reader_catches_up() -> None:
    """What must be delivered waits in order; what is passing is dropped and told; states come once, anew."""
    scene = Scene()
    room, other = scene.room(1), scene.room(2)
    guest = scene.guest(room, other)
    guest.lag()
    assert not guest.transport.reads()
    guest.connection.send(PONGED)
    for event in (
        packet("one"),
        packet("passing", Kind.PASSING),
        packet("pulse", Kind.PULSE),
        packet("two", Kind.DURABLE),
        packet("pulse", Kind.PULSE),
    ):
        scene.hub.fanout.add(room, [event])
        scene.loop.settle()
    assert guest.take() == []
    guest.catch_up()
    heard = guest.take()
    assert heard[0] == PONGED
    assert [one.cue for one in heard[1:-1]] == ["one", "two"]
    assert heard[-1] == Shed(passing=1, latest=1)
    assert scene.refreshed == [(guest.connection, room.id)]
    assert (scene.hub.shed_passing, scene.hub.shed_latest) == (1, 1)
    assert guest.transport.reads()
    scene.hub.fanout.add(room, [packet("three")])
    scene.loop.settle()
    assert guest.cues() == ["three"]


def test_slow_from_where_on() -> None:
    """A transport says so when as many bytes wait in it as the hub's limits say."""
    assert Scene(write_high=1234).guest().transport.high_water == 1234


def test_nothing_was_shed() -> None:
    """Who was slow for a moment in which nothing was said is told nothing."""
    guest = Scene().guest()
    guest.lag()
    guest.catch_up()
    guest.catch_up()
    assert guest.take() == []


def test_room_that_was_left_meanwhile() -> None:
    """The state of a room that one is no longer in is not sent, but counts as merged."""
    scene = Scene()
    room = scene.room()
    guest = scene.guest(room)
    guest.lag()
    scene.hub.fanout.add(room, [packet("pulse", Kind.PULSE)])
    scene.loop.settle()
    scene.hub.leave(guest.connection, room, at_once=True)
    guest.catch_up()
    assert guest.take() == [Shed(passing=0, latest=1)]
    assert scene.refreshed == []


def test_slow_again_at_once() -> None:
    """A transport that is full again of what waited is not read from: who does not read is not listened to."""
    scene = Scene()
    guest = scene.guest()
    guest.lag()
    guest.connection.send(PONGED)
    write = guest.connection.write

    def fill(data: bytes | bytearray | memoryview[Any]) -> None:
        write(data)
        guest.lag(held=70_000)

    guest.connection.write = fill  # a transport that takes it and is full
    guest.connection.resume_writing()
    assert not guest.transport.reads()
    guest.connection.send(PONGED)
    assert guest.take() == [PONGED]
    guest.connection.write = write
    guest.catch_up()
    assert guest.transport.reads()
    assert guest.take() == [PONGED]


def test_caught_up_since_the_audience_was_made() -> None:
    """Who has caught up, or is closed, before a room's turn gets its events all the same, or nothing."""
    scene = Scene()
    room = scene.room()
    guest, gone = scene.guest(room), scene.guest(room)
    for one in (guest, gone):
        one.connection.hold(room, [packet("a"), packet("b", Kind.PULSE)])
        one.connection.hold(room, [])
    assert guest.cues() == ["a", "b"]
    gone.connection.close(CloseCode.BANNED)
    gone.connection.hold(room, [packet("c")])
    assert gone.cues() == ["a", "b"]


def test_too_slow() -> None:
    """Past the limit of bytes, those in the transport counted, a slow reader is closed, with a code to come back."""
    scene = Scene(outbox_bytes=10_000)
    room = scene.room()
    guest = scene.guest(room)
    guest.lag(held=9_000)
    scene.hub.fanout.add(room, [packet("x" * 500)])
    scene.loop.settle()
    assert scene.hub.closes == {}
    scene.hub.fanout.add(room, [packet("x" * 500)])
    scene.loop.settle()
    guest.listen()
    assert guest.heard.closed == CloseCode.SLOW
    assert guest.take() == []
    assert guest.transport.reads()


def test_slow_for_too_long() -> None:
    """Who reads nothing for the time that is given is closed, however little waits."""
    scene = Scene(slow_close=8.0)
    guest = scene.guest()
    guest.lag(held=70_000)
    scene.loop.advance(7.9)
    assert scene.hub.closes == {}
    scene.loop.advance(0.4)
    assert scene.hub.closes == {CloseCode.SLOW: 1}
    scene.loop.advance(3.3)
    assert guest.transport.aborted


def test_slow_in_time() -> None:
    """Who catches up before the time is over stays, and has all the time again the next time."""
    scene = Scene(slow_close=8.0)
    guest = scene.guest()
    for _ in range(2):
        guest.lag()
        scene.loop.advance(7.0)
        guest.flush() if guest.transport.reads() else None
        guest.catch_up()
    scene.loop.advance(7.0)
    guest.flush()
    assert scene.hub.closes == {}


# What was missed.


def said(room: Room, first: int, last: int, size: int = 10) -> None:
    """Let lines be said that are in the room's memory."""
    for offset in range(first, last + 1):
        room.replay.offer(packet(f"{offset} ".ljust(size, "."), offset=offset))


def test_catching_up_at_once() -> None:
    """Who reads what it missed as fast as it comes has all of it at once, and is with the others from then on."""
    scene = Scene()
    room = scene.room()
    said(room, 1, 50)
    guest = scene.guest(room)
    guest.connection.catch_up(room, 20)
    assert [int(cue.split()[0]) for cue in guest.cues()] == list(range(21, 51))
    assert guest.connection.backlog is None
    said(room, 51, 51)
    scene.hub.fanout.add(room, [packet("51", offset=51)])
    scene.loop.settle()
    assert guest.cues() == ["51"]


def test_what_no_memory_has() -> None:
    """Who is still catching up is told at once of what must be told and has no offset: it would not come out of the memory."""
    scene = Scene()
    room = scene.room()
    said(room, 1, 50, size=2000)
    guest = scene.guest(room)
    guest.lag()
    guest.connection.catch_up(room, 0)
    scene.hub.fanout.add(room, [packet("live", Kind.DURABLE), packet("51", offset=51)])
    said(room, 51, 51)
    scene.loop.settle()
    guest.catch_up()
    heard = [cue.split()[0].rstrip(".") for cue in guest.cues()]
    assert heard.count("live") == 1
    assert [int(one) for one in heard if one != "live"] == list(range(1, 52))


def test_catching_up_slowly() -> None:
    """Pieces are written as the transport takes them; pulses come meanwhile, lines in their order, nothing twice."""
    scene = Scene()
    room = scene.room()
    said(room, 1, 90, size=2000)
    guest = scene.guest(room)
    write = guest.connection.write

    def fill(data: bytes | bytearray | memoryview[Any]) -> None:
        write(data)
        guest.lag(held=60_000)

    guest.connection.write = fill
    guest.connection.catch_up(room, 0)
    assert guest.connection.waiting == 60_000
    assert 0 < len(guest.cues()) < 30
    said(room, 91, 91, size=2000)
    scene.hub.fanout.add(room, [packet("91 ", offset=91), packet("passing", Kind.PASSING)])
    scene.loop.settle()
    guest.connection.send(PONGED)
    assert guest.connection.waiting > 60_000
    guest.connection.write = write
    guest.catch_up()
    heard = guest.take()
    cues = [one.cue for one in heard if isinstance(one, Cue)]
    assert [int(cue.split()[0]) for cue in cues][-1] == 91
    assert [int(cue.split()[0]) for cue in cues] == list(range(92 - len(cues), 92))
    assert heard[0] == PONGED
    assert heard[-1] == Shed(passing=1, latest=0)
    assert guest.connection.waiting == 0


def test_catching_up_with_what_is_forgotten() -> None:
    """Who reads more slowly than the room speaks, until its memory forgets, is closed to come back for a snapshot."""
    scene = Scene()
    room = scene.room()
    said(room, 1, 90, size=2000)
    guest = scene.guest(room)
    write = guest.connection.write

    def fill(data: bytes | bytearray | memoryview[Any]) -> None:
        write(data)
        guest.lag(held=60_000)

    guest.connection.write = fill
    guest.connection.catch_up(room, 0)
    said(room, 91, 250)
    guest.connection.write = write
    guest.catch_up()
    guest.listen()
    assert guest.heard.closed == CloseCode.SLOW


def test_leaving_while_catching_up() -> None:
    """Who leaves a room, or joins it again, is sent no more of its past."""
    for leave in (True, False):
        scene = Scene()
        room = scene.room()
        said(room, 1, 90, size=2000)
        guest = scene.guest(room)
        write = guest.connection.write

        def fill(data: bytes | bytearray | memoryview[Any], write: Any = write, guest: Guest = guest) -> None:
            write(data)
            guest.lag(held=60_000)

        guest.connection.write = fill
        guest.connection.catch_up(room, 0)
        guest.cues()
        if leave:
            scene.hub.leave(guest.connection, room, at_once=True)
        else:
            scene.hub.enter(guest.connection, room)
        guest.connection.write = write
        guest.catch_up()
        assert guest.cues() == []
        assert guest.connection.backlog is None


# Deadlines.


def test_no_hello() -> None:
    """Who shakes hands and says nothing is closed after the time for hello; who does not even do that is dropped."""
    scene = Scene(hello_timeout=5.0)
    peer, silent = scene.peer(), scene.stranger()
    scene.loop.advance(4.9)
    peer.listen()
    assert (peer.heard.closed, silent.transport.has_ended()) == (None, False)
    scene.loop.advance(0.4)
    peer.listen()
    assert (peer.heard.closed, silent.transport.aborted) == (CloseCode.HELLO_TIMEOUT, True)


def test_slow_before_hello() -> None:
    """Being slow for a moment before hello gives no more time for it."""
    scene = Scene(hello_timeout=5.0, slow_close=2.0)
    peer = scene.peer()
    peer.lag()
    peer.catch_up()
    scene.loop.advance(4.9)
    assert scene.hub.closes == {}
    scene.loop.advance(0.4)
    assert scene.hub.closes == {CloseCode.HELLO_TIMEOUT: 1}


def test_hello_that_is_being_answered() -> None:
    """A hello that came in time is not cut off by the deadline while it is being answered."""
    scene = Scene(hello_timeout=5.0)
    peer = scene.peer()
    peer.connection.running = 1
    scene.loop.advance(6.0)
    assert scene.hub.closes == {}
    peer.connection.running = 0
    scene.loop.advance(1.3)
    assert scene.hub.closes == {CloseCode.HELLO_TIMEOUT: 1}


def test_heartbeat() -> None:
    """A silent client is pinged within the heartbeat; its answer is a sign of life, and so is anything else."""
    scene = Scene(heartbeat=25.0)
    guest = scene.guest()
    for pings in range(3):
        guest.say_bytes(b"{}")
        scene.loop.advance(19.9)
        guest.flush()
        assert guest.heard.pings == pings
        guest.say_bytes(b"{}")
        scene.loop.advance(25.5)
        guest.listen()
        assert guest.heard.pings == pings + 1
        scene.loop.advance(3.0)
        guest.flush()
        scene.loop.advance(9.0)
    assert scene.hub.closes == {}


def test_no_answer_to_a_ping() -> None:
    """Who does not answer a ping in time is gone."""
    scene = Scene(heartbeat=25.0, heartbeat_timeout=10.0)
    guest = scene.guest()
    scene.loop.advance(20.0)
    while not guest.heard.pings:
        scene.loop.advance(0.25)
        guest.listen()
    scene.loop.advance(9.7)
    assert scene.hub.closes == {}
    scene.loop.advance(0.5)
    assert scene.hub.closes == {CloseCode.SILENT: 1}


@pytest.mark.parametrize("pinged", [False, True])
def test_silence_while_we_do_not_listen(pinged: bool) -> None:
    """Whoever is not read, because their commands take long, is not called silent for it; afterwards they may be again."""
    scene = Scene(heartbeat=25.0, heartbeat_timeout=10.0)
    guest = scene.guest()
    scene.loop.advance(24.5 if pinged else 19.0)
    guest.listen()
    assert guest.heard.pings == pinged
    guest.connection.hold_reading("commands")
    scene.loop.advance(60.0)
    assert scene.hub.closes == {}
    guest.connection.release_reading("commands")
    scene.loop.advance(9.0)
    assert scene.hub.closes == {}
    scene.loop.advance(40.0)
    assert scene.hub.closes == {CloseCode.SILENT: 1}


def test_token_runs_out_while_a_ping_is_out() -> None:
    """Waiting for the answer to a ping keeps nothing else waiting, and nothing else makes the wait longer."""
    scene = Scene(heartbeat=25.0, heartbeat_timeout=10.0)
    guest = scene.guest(expires_in=87.0)
    scene.loop.advance(28.0)
    assert [type(message) for message in guest.take()] == [TokenExpiring]
    assert (guest.heard.pings, scene.hub.closes) == (1, {})
    scene.loop.advance(7.5)
    assert scene.hub.closes == {CloseCode.SILENT: 1}


def test_heartbeats_do_not_line_up() -> None:
    """Those who came in one moment are pinged at different ones, none later than the heartbeat says."""
    random.seed(1)
    scene = Scene(heartbeat=25.0)
    guests = [scene.guest() for _ in range(50)]
    pinged: dict[int, int] = {}
    for _ in range(101):
        scene.loop.advance(0.25)
        for guest in guests:
            guest.listen()
            pinged[id(guest)] = pinged.get(id(guest), 0) + (guest.heard.pings == 0)
    assert all(guest.heard.pings == 1 for guest in guests)
    assert len(set(pinged.values())) > 10


def test_token_runs_out() -> None:
    """A minute before the token's end the client is told, once; half a minute after it, it is closed."""
    scene = Scene()
    guest = scene.guest(expires_in=100.0)
    for _ in range(4):
        scene.loop.advance(9.9)
        guest.flush()
    assert guest.take() == []
    scene.loop.advance(0.5)
    assert guest.take() == [TokenExpiring(expires_in=60.0)]
    for _ in range(9):
        guest.flush()
        scene.loop.advance(9.9)
    assert guest.take() == []
    scene.loop.advance(1.4)
    guest.listen()
    assert guest.heard.closed == CloseCode.TOKEN_EXPIRED


def test_token_that_is_refreshed() -> None:
    """With a new token in time the connection goes on, and is warned anew at the end of that one."""
    scene = Scene()
    guest = scene.guest(expires_in=50.0)
    scene.loop.advance(1.0)
    guest.flush()
    scene.loop.advance(9.0)
    session = guest.connection.session
    assert session is not None
    assert session.warned
    session.expires_at, session.warned = scene.loop.now + 600.0, False
    for _ in range(60):
        scene.loop.advance(9.5)
        guest.flush()
    assert [type(message) for message in guest.take()] == [TokenExpiring, TokenExpiring]
    assert scene.hub.closes == {}


def test_token_that_is_over_at_hello() -> None:
    """A token in its last moment is announced as having nothing left."""
    scene = Scene()
    guest = scene.guest(expires_in=-1.0)
    scene.loop.advance(6.0)
    assert guest.take() == [TokenExpiring(expires_in=0.0)]
