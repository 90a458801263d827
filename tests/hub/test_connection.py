"""A connection, bytes in and bytes out: what it hears and says, and every kind of end."""

from __future__ import annotations

import gc
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from websockets.datastructures import Headers
from websockets.frames import Frame, Opcode
from websockets.http11 import Request

from protocol.closing import CloseCode
from protocol.codec import JSON, MSGPACK, Codec
from protocol.rooms import Cue
from protocol.session import Ping, Ponged
from server.hub.connection import DEAF_BYTES, HELLO_BYTES, MOST_FRAGMENTS, PIECE, Connection
from server.hub.intake import SLICE_SECONDS
from storage.redis.publications import Kind
from tests.hub.scene import Guest, Scene, packet, session_of

PONGED = Ponged(id=1, server_time=1)


def messages(scene: Scene) -> list[bytes]:
    """Return the messages that were handed to the dispatcher."""
    return [data for _, _, data in scene.received]


# What it hears and says.


def test_no_request() -> None:
    """Bytes that are no request end the connection, without an answer and without a trace."""
    scene = Scene()
    peer = scene.stranger()
    peer.feed(b"\x16\x03\x01\x02\r\n\r\n")
    assert peer.transport.has_ended()
    assert scene.hub.members.connections == set()


def test_no_websocket() -> None:
    """A handshake that is refused is counted, and ends the connection."""
    scene = Scene()
    peer = scene.peer(path="/other")
    assert (peer.is_open, scene.hub.handshakes_refused) == (False, 1)
    assert scene.hub.members.connections == set()


@pytest.mark.parametrize("codec", [JSON, MSGPACK])
@pytest.mark.parametrize("deflate", [False, True])
def test_what_it_says(codec: Codec, deflate: bool) -> None:
    """A message and what is replayed are sent at once, each as the client has asked for it."""
    scene = Scene()
    guest = scene.guest(codec=codec, deflate=deflate)
    long = "breathe in " * 50
    guest.connection.send(Cue(room=scene.room().id, cue=long))
    assert (len(guest.transport.written[-1]) < 300) == deflate
    guest.connection.replay([packet("a"), packet("b")])
    guest.connection.replay([])
    assert guest.cues() == [long, "a", "b"]


def test_messages() -> None:
    """Whole messages are handed on as they are, with the kind of their frame."""
    scene = Scene()
    peer = scene.peer()
    peer.say_bytes(b"one")
    peer.say_bytes(b"two", Opcode.BINARY)
    assert scene.received == [
        (peer.connection, Opcode.TEXT, b"one"),
        (peer.connection, Opcode.BINARY, b"two"),
    ]


def test_deflated_messages() -> None:
    """A compressed message is handed on as what it was."""
    scene = Scene()
    scene.peer(deflate=True).say_bytes(b"breathe " * 100)
    assert messages(scene) == [b"breathe " * 100]


def test_fragments() -> None:
    """A message in pieces is one message, of the kind that its first piece has, also with pings between."""
    scene = Scene()
    peer = scene.peer()
    peer.say_frames(
        Frame(Opcode.BINARY, b"a", fin=False),
        Frame(Opcode.PING, b""),
        Frame(Opcode.CONT, b"b", fin=False),
        Frame(Opcode.CONT, b"c"),
    )
    peer.say_frames(Frame(Opcode.TEXT, b"d", fin=False), Frame(Opcode.CONT, b"e"))
    assert scene.received == [(peer.connection, Opcode.BINARY, b"abc"), (peer.connection, Opcode.TEXT, b"de")]
    assert peer.heard.pongs == 1


@pytest.mark.parametrize("pieces", [MOST_FRAGMENTS, MOST_FRAGMENTS + 1])
def test_too_many_fragments(pieces: int) -> None:
    """Fragments, empty ones too, are counted: past the limit it is the end, and nothing of the rest is a message."""
    scene = Scene()
    peer = scene.guest()
    empty = [Frame(Opcode.CONT, b"", fin=False)] * (pieces - 2)
    peer.say_frames(Frame(Opcode.TEXT, b"a", fin=False), *empty, Frame(Opcode.CONT, b"b"))
    if pieces == MOST_FRAGMENTS:
        assert messages(scene) == [b"ab"]
        return
    assert (messages(scene), peer.heard.closed) == ([], 1009)
    assert peer.transport.has_ended()


def test_nothing_is_heard_after_too_many_fragments() -> None:
    """What came in the same piece of the network is not heard any more."""
    scene = Scene()
    peer = scene.guest()
    empty = [Frame(Opcode.CONT, b"", fin=False)] * MOST_FRAGMENTS
    more = [Frame(Opcode.CONT, b"", fin=False)] * 3
    last = [Frame(Opcode.CONT, b"{}"), Frame(Opcode.TEXT, b"{}")]
    peer.say_frames(Frame(Opcode.TEXT, b"a", fin=False), *empty, *more, *last)
    assert messages(scene) == []


def test_text_that_is_none() -> None:
    """Text that is not UTF-8 ends the connection with 1007, whole or in pieces; what follows it is not heard."""
    for frames in (
        [Frame(Opcode.TEXT, b"\xff")],
        [Frame(Opcode.TEXT, b"\xe2\x82", fin=False), Frame(Opcode.CONT, b"")],
    ):
        scene = Scene()
        peer = scene.guest()
        peer.say_frames(*frames, Frame(Opcode.TEXT, b"{}"))
        assert (messages(scene), peer.heard.closed) == ([], 1007)
        assert peer.transport.has_ended()
    scene = Scene()
    peer = scene.guest()
    peer.say_frames(Frame(Opcode.TEXT, b"\xe2\x82", fin=False), Frame(Opcode.CONT, b"\xac"))
    assert messages(scene) == ["€".encode()]


def test_too_large() -> None:
    """A message past the limit is 1009: the limit is the whole's, after inflation."""
    for peer, data in (
        (Scene(message_bytes=1000).guest(), b"x" * 1001),
        (Scene(message_bytes=1000).guest(deflate=True), b"x" * 1001),
    ):
        peer.say_bytes(data)
        assert peer.heard.closed == 1009
    scene = Scene(message_bytes=1000)
    scene.guest().say_bytes(b"x" * 1000)
    assert messages(scene) == [b"x" * 1000]


def test_hello_is_short() -> None:
    """Before there is a session a message has 4 KiB at most."""
    scene = Scene()
    scene.peer().say_bytes(b"x" * HELLO_BYTES)
    peer = scene.peer()
    peer.say_bytes(b"x" * (HELLO_BYTES + 1))
    assert messages(scene) == [b"x" * HELLO_BYTES]
    assert peer.heard.closed == CloseCode.BAD_HELLO
    guest = scene.guest()
    guest.say_bytes(b"x" * (HELLO_BYTES + 1))
    assert guest.heard.closed is None


@pytest.mark.parametrize(
    "frame", [Frame(Opcode.PING, b"p"), Frame(Opcode.PONG, b"p"), Frame(Opcode.TEXT, b"", fin=False)]
)
def test_control_flood(frame: Frame) -> None:
    """Pings, pongs and pieces are cheap to send and cost answers: past a few hundred at once it is a flood."""
    scene = Scene()
    guest = scene.guest()
    frames = [frame] if frame.opcode is not Opcode.TEXT else [frame, Frame(Opcode.CONT, b"")]
    for _ in range(150 // len(frames)):
        guest.say_frames(*frames)
    assert guest.heard.closed is None
    for _ in range(300 // len(frames)):
        if guest.heard.closed is None:
            guest.say_frames(*frames)
    assert guest.heard.closed == CloseCode.FLOODING


def test_a_heap_of_frames_is_not_parsed_at_once() -> None:
    """A flood in one read ends the connection before the rest of it is parsed: that is thrown away, for a while."""
    scene = Scene()
    guest = scene.guest()
    guest.client.send_ping(b"")
    ping = b"".join(guest.client.data_to_send())
    guest.feed(ping * 100_000)
    guest.listen()
    assert guest.heard.closed == CloseCode.FLOODING
    assert guest.heard.pongs <= 200 + 200 + 1 + PIECE // len(ping)
    heard = guest.heard.pongs
    guest.feed(ping * 10)
    guest.listen()
    assert guest.heard.pongs == heard
    assert not guest.transport.has_ended()
    guest.feed(bytes(DEAF_BYTES))
    assert guest.transport.aborted


def test_in_pieces() -> None:
    """However the network cuts the bytes, the same is heard."""
    scene = Scene()
    guest = scene.guest()
    for length in (1, PIECE, 10 * PIECE):
        guest.client.send_text(b"x" * length)
    data = b"".join(guest.client.data_to_send())
    guest.feed(data)
    for start in range(0, len(data), 7):
        guest.feed(data[start : start + 7])
    assert [len(one) for one in messages(scene)] == [1, PIECE, 10 * PIECE] * 2


def test_a_request_that_was_read_already() -> None:
    """The request is handed over by whoever has read it; its answer goes out at once, and what comes as data are frames."""
    scene = Scene()
    stranger = scene.stranger()
    headers = Headers(stranger.client.connect().headers.raw_items())
    stranger.connection.request(Request("/ws", headers))
    assert stranger.transport.written[0].startswith(b"HTTP/1.1 101 ")
    stranger.connection.data_received(b"\x81\x81\0\0\0\0a")
    assert messages(scene) == [b"a"]


# Reading less.


def test_reading_is_held_for_reasons() -> None:
    """Reading goes on when every reason not to is gone, and only then."""
    guest = Scene().guest()
    guest.connection.hold_reading("a")
    guest.connection.hold_reading("b")
    guest.connection.hold_reading("a")
    guest.connection.release_reading("a")
    guest.connection.release_reading("never held")
    assert not guest.transport.reads()
    guest.connection.release_reading("b")
    assert (guest.transport.reads(), guest.transport.paused) == (True, 1)


def test_a_turn_that_is_full() -> None:
    """What comes when a turn has taken enough is taken in the next ones, in order, and nothing of it once one is gone."""
    scene = Scene()
    guest, gone = scene.guest(), scene.guest()
    scene.loop.settle()
    assert scene.hub.intake.admits(scene.loop.now)
    scene.loop.now += 2 * SLICE_SECONDS
    for peer, text in ((guest, b"a"), (gone, b"b")):
        peer.client.send_text(text)
        peer.connection.data_received(b"".join(peer.client.data_to_send()))
    assert (guest.transport.reads(), guest.connection.held, messages(scene)) == (False, True, [])
    gone.transport.end()
    scene.loop.settle()
    assert (guest.transport.reads(), guest.connection.held, messages(scene)) == (True, False, [b"a"])
    guest.say_bytes(b"c")
    assert messages(scene) == [b"a", b"c"]


def test_the_end_while_a_turn_is_full() -> None:
    """Whoever hangs up in the moment in which it is closed, with bytes of theirs put aside, has nothing heard, and no bug is met."""
    scene = Scene()
    guest = scene.guest()
    scene.loop.settle()
    assert scene.hub.intake.admits(scene.loop.now)
    scene.loop.now += 2 * SLICE_SECONDS
    guest.client.send_text(b"a")
    guest.connection.data_received(b"".join(guest.client.data_to_send()))
    guest.connection.close(CloseCode.SESSION_ENDED)
    assert guest.transport.reads()
    guest.connection.eof_received()
    scene.loop.settle()
    assert (messages(scene), len(scene.hub.intake)) == ([], 0)


def test_reading_at_the_end() -> None:
    """A transport that is closing is neither paused nor resumed."""
    guest = Scene().guest()
    guest.connection.hold_reading("a")
    guest.transport.held = 1
    guest.transport.close()
    guest.connection.release_reading("a")
    guest.connection.hold_reading("b")
    assert (guest.transport.reads(), guest.transport.paused) == (False, 1)


# Its end.


def test_close() -> None:
    """The peer is told the code and its meaning, answers, and the transport is closed; closed again is closed once."""
    scene = Scene()
    guest = scene.guest()
    guest.connection.close(CloseCode.BANNED)
    guest.connection.close(CloseCode.SLOW)
    guest.connection.send(PONGED)
    assert not guest.connection.open
    guest.listen()
    assert (guest.heard.closed, guest.heard.reason) == (CloseCode.BANNED, CloseCode.BANNED.meaning)
    assert not guest.transport.has_ended()
    guest.flush()
    assert guest.transport.has_ended()
    assert not guest.transport.aborted
    assert scene.hub.closes == {CloseCode.BANNED: 1}


@pytest.mark.parametrize("held", [0, 1000])
def test_close_without_an_answer(held: int) -> None:
    """A peer that does not answer a close has three seconds; then it is dropped, at once if it does not read either."""
    scene = Scene()
    guest = scene.guest()
    guest.transport.held = held
    guest.connection.close(CloseCode.BANNED)
    scene.loop.advance(2.9)
    assert not guest.transport.has_ended()
    scene.loop.advance(0.4)
    assert guest.transport.has_ended()
    assert guest.transport.aborted == (held > 0)
    assert scene.hub.members.connections == set()


def test_close_before_the_handshake() -> None:
    """A connection that never shook hands is dropped without a word."""
    scene = Scene()
    peer = scene.stranger()
    peer.connection.shutdown()
    assert (peer.transport.aborted, peer.transport.written) == (True, [])


def test_close_of_a_broken_transport() -> None:
    """A transport that has broken already is not written to."""
    scene = Scene()
    guest = scene.guest()
    guest.transport.abort()
    written = len(guest.transport.written)
    guest.connection.close(CloseCode.BANNED)
    guest.connection.send(PONGED)
    assert len(guest.transport.written) == written
    scene.loop.settle()
    assert guest.transport.has_ended()


def test_shutdown() -> None:
    """What uvicorn calls closes with the code that says when to come back."""
    guest = Scene().guest()
    guest.connection.shutdown()
    guest.listen()
    assert guest.heard.closed == CloseCode.DRAINING


def test_long_reason() -> None:
    """A reason is cut to what a close frame holds, at a character."""
    guest = Scene().guest()
    guest.connection.close(CloseCode.BUSY, "€" * 100)
    guest.listen()
    assert guest.heard.reason == "€" * 41


def close(guest: Guest) -> None:
    """Let the server close."""
    guest.connection.close(CloseCode.SESSION_ENDED)


def say_no_text(guest: Guest) -> None:
    """Let the guest be thrown out by us, for what it says."""
    guest.say_bytes(b"\xff", Opcode.TEXT)


def say_no_message(guest: Guest) -> None:
    """Let the guest be thrown out by the library, for what it says."""
    guest.say_frames(Frame(Opcode.CONT, b""))


@pytest.mark.parametrize("end", [close, Guest.leave, say_no_text, say_no_message])
@pytest.mark.parametrize("rooms", [1, 2])
def test_nothing_after_a_close(end: Callable[[Guest], None], rooms: int) -> None:
    """Whoever closes, and why: after the close frame nothing is written, however long the peer takes to go."""
    scene = Scene()
    room = scene.room()
    guest = scene.guest(*[scene.room(number) for number in range(1, 1 + rooms)])
    guest.transport.held = 10  # so that the transport is not gone at once
    end(guest)
    guest.lag(held=10)
    bystander = scene.guest(room)  # the audience is made anew
    scene.hub.fanout.add(room, [packet("a")])
    scene.loop.settle()
    guest.connection.resume_writing()
    scene.guest(room)
    scene.hub.fanout.add(room, [packet("b", Kind.PULSE)])
    scene.loop.settle()
    guest.connection.replay([packet("c")])
    assert guest.take() == []
    assert guest.heard.closed is not None
    assert bystander.cues() == ["a", "b"]
    assert (scene.refreshed, scene.hub.shed_latest) == ([], 0)
    scene.loop.advance(3.3)
    assert guest.transport.has_ended()
    assert guest.connection not in room.connections


def test_close_while_reading_is_held() -> None:
    """The peer's answer to a close is read, whatever reading was held for."""
    guest = Scene().guest()
    guest.connection.hold_reading("commands")
    guest.lag()
    guest.connection.close(CloseCode.BANNED)
    guest.connection.hold_reading("commands")
    guest.flush()
    assert guest.transport.has_ended()


def test_goodbye() -> None:
    """A peer that closes with 1000 leaves its rooms at once; any other way may be an accident."""
    for code, clean in ((1000, True), (1001, False), (None, False)):
        scene = Scene()
        room = scene.room()
        guest = scene.guest(room)
        guest.leave(code)
        assert guest.transport.has_ended()
        assert scene.left == [(guest.connection, room, clean)]
        assert scene.hub.closes == {}


def test_lost() -> None:
    """A connection that breaks is in no room and in no list any more, and what it had asked for is not begun."""
    state = SimpleNamespace(connections=set())
    scene = Scene()
    rooms = [scene.room(1), scene.room(2)]
    guest = Guest(scene, scene.hub.connect(server_state=state)).open()
    connection = guest.connection
    connection.session = session_of(7)
    scene.hub.members.signed_in(connection)
    for room in rooms:
        scene.hub.enter(connection, room)
    assert state.connections == {connection}
    connection.queue.append(Ping())
    guest.transport.end()
    assert scene.left == [(connection, room, False) for room in rooms]
    assert (state.connections, scene.hub.members.connections, scene.hub.members.sessions()) == (
        set(),
        set(),
        [],
    )
    assert not connection.queue
    assert not connection.open
    scene.loop.advance(60.0)


def test_end_of_bytes() -> None:
    """A peer that sends no more is gone; one that does not read either is dropped within three seconds."""
    scene = Scene()
    room = scene.room()
    guest, stuck = scene.guest(room), scene.guest(room)
    for one, held in ((guest, 0), (stuck, 1000)):
        one.transport.held = held
        assert not one.connection.eof_received()
        one.transport.close()  # what asyncio does then
    scene.loop.settle()
    assert (guest.transport.has_ended(), stuck.transport.has_ended()) == (True, False)
    scene.loop.advance(3.3)
    assert stuck.transport.aborted
    assert room.connections == set()


def test_is_freed_at_once() -> None:
    """A connection that ended is freed without the garbage collector, whose pauses grow with all there is."""
    gc.disable()
    try:
        scene = Scene()
        guest = scene.guest()
        guest.say_bytes(b"{}")
        guest.leave()
        scene.loop.advance(60.0)
        scene.received.clear()
        del guest
        mine = [one for one in gc.get_objects() if type(one) is Connection and one._hub is scene.hub]
        assert mine == []
    finally:
        gc.enable()
