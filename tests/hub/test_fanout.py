"""The hot path, held by counts: one write per socket and turn, each frame built once, nothing else inside the loop."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from typing import Any

import pytest

from protocol.codec import JSON, MSGPACK, Codec
from server.hub import fanout as module
from server.hub.connection import Connection
from server.hub.fanout import BREATHS, SLICE, frames
from server.hub.members import Dialect, Room
from storage.redis.publications import Kind
from tests.hub.scene import Guest, Scene, packet

TONGUES = [(JSON, False), (JSON, True), (MSGPACK, False), (MSGPACK, True)]
LONG = "breathe in, breathe out; " * 20
"""Long enough to be compressed for those who take that."""


def crowd(scene: Scene, room: Room, people: int) -> list[Guest]:
    """Let people of mixed dialects into a room, and let the room know them."""
    guests = []
    for number in range(people):
        codec, deflate = TONGUES[number % 4]
        guests.append(scene.guest(room, codec=codec, deflate=deflate))
    _ = room.audience
    return guests


def writes(guests: list[Guest]) -> list[int]:
    """Return how many writes each transport has seen."""
    return [len(guest.transport.written) for guest in guests]


class Happened:
    """What happens in a turn, in order: every frame that is built and every write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, guests: list[Guest]) -> None:
        self.events: list[str] = []
        for name in ("server_frame", "deflated_frame"):
            monkeypatch.setattr(module, name, self._noting("frame", getattr(module, name)))
        for codec in (JSON, MSGPACK):
            monkeypatch.setattr(codec, "encode", self._noting("encode", codec.encode))
        for guest in guests:
            guest.connection.write = self._noting("write", guest.connection.write)

    def _noting(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            self.events.append(what)
            return function(*args)

        return noted


@pytest.mark.parametrize("events", [1, 3])
def test_a_thousand_members(events: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand members of mixed dialects: one write each, four frames an event, all before the first write, no task."""
    scene = Scene()
    room = scene.room()
    guests = [scene.guest(codec=codec, deflate=deflate) for codec, deflate in TONGUES * 250]
    happened = Happened(monkeypatch, guests)
    for guest in guests:
        scene.hub.enter(guest.connection, room)
    before = writes(guests)
    packets = [packet(f"{LONG} {number}") for number in range(events)]
    happened.events.clear()
    loop = asyncio.new_event_loop()  # a real one, in which there could be tasks, and nobody else's
    monkeypatch.setattr(scene.hub.fanout, "_loop", loop)
    tasks = 0

    def count(loop: asyncio.AbstractEventLoop, coro: Any, **how: Any) -> asyncio.Task[Any]:
        nonlocal tasks
        tasks += 1
        return asyncio.Task(coro, loop=loop, **how)

    loop.set_task_factory(count)
    for one in packets:
        scene.hub.fanout.add(room, [one])
    loop.call_later(0.1, loop.stop)
    loop.run_forever()
    loop.close()
    assert tasks == 0
    assert happened.events == ["frame"] * 4 * events + ["write"] * 1000
    assert writes(guests) == [count + 1 for count in before]
    assert len({id(guest.transport.written[-1]) for guest in guests}) == 4
    assert all(guest.cues() == [f"{LONG} {number}" for number in range(events)] for guest in guests)
    assert (scene.hub.fanout.deliveries, scene.hub.fanout.turns) == (1000 * events, 2)


def test_each_further_socket_costs_one_call() -> None:
    """In the loop over sockets nothing is called but their writes; and all are given the same bytes."""
    calls = {}
    for people in (100, 400):
        scene = Scene()
        room = scene.room()
        given: list[bytes] = []
        write: Any = given.append  # a call that calls nothing itself
        for _ in range(people):
            guest = scene.guest()
            guest.connection.write = write
            scene.hub.enter(guest.connection, room)
        _ = room.audience
        scene.hub.fanout.add(room, [packet("a")])
        count = 0

        def note(_frame: object, event: str, _argument: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        profiled = sys.getprofile()
        gc.disable()  # what it would finalize is none of the loop's calls
        sys.setprofile(note)
        scene.loop.turn()
        sys.setprofile(profiled)
        gc.enable()
        calls[people] = count
        assert len(given) == people
        assert len({id(data) for data in given}) == 1
    assert calls[400] - calls[100] == 300


def test_a_turn_carries_all_that_has_come() -> None:
    """Events that come while a turn waits, also in many calls, are one write of their frames in order."""
    scene = Scene()
    room = scene.room()
    guest = scene.guest(room)
    for number in range(3):
        scene.hub.fanout.add(room, [packet(f"{number}a"), packet(f"{number}b")])
    assert scene.loop.waiting == 1
    before = writes([guest])
    scene.loop.settle()
    assert writes([guest]) == [before[0] + 1]
    assert guest.cues() == ["0a", "0b", "1a", "1b", "2a", "2b"]
    assert (scene.hub.fanout.deliveries, scene.hub.fanout.turns) == (6, 1)


@pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.name)
def test_frames(dialect: Dialect) -> None:
    """Frames of several events are joined; each client reads them as the events they are."""
    codec: Codec = JSON if dialect in (Dialect.JSON, Dialect.JSON_DEFLATED) else MSGPACK
    peer = Scene().peer(codec, deflate=dialect in (Dialect.JSON_DEFLATED, Dialect.MSGPACK_DEFLATED))
    assert peer.connection.dialect is dialect
    peer.transport.write(frames([packet(LONG), packet("b")], dialect))
    assert peer.cues() == [LONG, "b"]
    assert frames([], dialect) == b""


def test_only_the_dialects_that_are_spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    """No frame is built for a dialect that nobody in the room speaks."""
    scene = Scene()
    room = scene.room()
    guests = [scene.guest(codec=MSGPACK) for _ in range(3)]
    happened = Happened(monkeypatch, guests)
    for guest in guests:
        scene.hub.enter(guest.connection, room)
    packets = [packet("a")]
    happened.events.clear()
    scene.hub.fanout.add(room, packets)
    scene.loop.settle()
    assert happened.events == ["frame", "write", "write", "write"]


def test_slices() -> None:
    """A large room is written to in slices; between them others have their turn, and what is said meanwhile is joined."""
    scene = Scene()
    room = scene.room()
    guests = crowd(scene, room, 2 * SLICE + 200)
    before = sum(writes(guests))
    scene.hub.fanout.add(room, [packet("a")])
    progress = []
    for number in range(5):
        scene.loop.turn()
        for _ in range(BREATHS if number else 0):
            assert scene.loop.waiting == 1
            scene.loop.turn()
        progress.append(sum(writes(guests)) - before)
        if number < 2:
            scene.hub.fanout.add(room, [packet(f"b{number}")])
    everyone = len(guests)
    assert progress == [SLICE, 2 * SLICE, 3 * SLICE, 4 * SLICE, 2 * everyone]
    assert scene.loop.waiting == 0
    assert all(guest.cues() == ["a", "b0", "b1"] for guest in guests)


def test_many_small_rooms() -> None:
    """Rooms share a turn until it is full; the others go on gathering until theirs comes."""
    scene = Scene()
    rooms = [scene.room(number) for number in range(12)]
    guests = [scene.guest(room) for room in rooms for _ in range(50)]
    before = sum(writes(guests))
    for room in rooms:
        scene.hub.fanout.add(room, [packet("a")])
    scene.loop.turn()
    assert sum(writes(guests)) - before == SLICE
    for room in rooms:
        scene.hub.fanout.add(room, [packet("b")])
    scene.loop.settle()
    assert all(guest.cues() == ["a", "b"] for guest in guests)
    # The two rooms that had not had their turn were written to once.
    assert sum(writes(guests)) - before == 2 * len(guests) - 100


def test_nobody_there() -> None:
    """What is said in a room without members is nothing: no turn, and nobody gets it later."""
    scene = Scene()
    room = scene.room()
    scene.hub.fanout.add(room, [packet("a")])
    assert scene.loop.waiting == 0
    guest = scene.guest(room)
    scene.loop.settle()
    assert guest.cues() == []


def test_in_several_rooms() -> None:
    """Whoever is in several rooms gets the frames of all of them in one write, in whatever dialect."""
    scene = Scene()
    rooms = [scene.room(1), scene.room(2)]
    both = scene.guest(*rooms)
    stranger = scene.guest(*rooms, codec=MSGPACK)
    alone = scene.guest(rooms[0])
    before = writes([both, stranger, alone])
    for room in rooms:
        scene.hub.fanout.add(room, [packet(f"in {room.id.int}")])
    scene.loop.settle()
    assert writes([both, stranger, alone]) == [count + 1 for count in before]
    assert both.cues() == stranger.cues() == ["in 1", "in 2"]
    assert alone.cues() == ["in 1"]
    assert scene.hub.fanout.deliveries == 5


def test_closed_transport() -> None:
    """A transport that has ended since the audience was made costs nobody else anything, and is counted."""
    scene = Scene()
    room = scene.room()
    guests = [scene.guest(room) for _ in range(3)]
    scene.hub.fanout.add(room, [packet("a")])
    _ = room.audience
    guests[1].transport._protocol = None  # it has ended, and the hub is told later
    scene.loop.settle()
    assert guests[0].cues() == guests[2].cues() == ["a"]
    assert scene.hub.fanout.closed == 1


def test_a_bug_in_one_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn that it breaks is not the last: the other rooms get what is theirs, and so does this one with the next event."""
    scene = Scene()
    rooms = [scene.room(1), scene.room(2)]
    guests = [scene.guest(room) for room in rooms]

    def broken(_data: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(guests[0].connection, "write", broken)
    for room in rooms:
        scene.hub.fanout.add(room, [packet("a")])
    with pytest.raises(ZeroDivisionError):
        scene.loop.settle()
    scene.loop.settle()
    monkeypatch.undo()
    rooms[0].changed()
    for room in rooms:
        scene.hub.fanout.add(room, [packet("b")])
    scene.loop.settle()
    assert [guest.cues() for guest in guests] == [["b"], ["a", "b"]]


def test_settle() -> None:
    """Who enters gets what is said afterwards and nothing that its snapshot has; those who were there get all, in order."""
    scene = Scene()
    room = scene.room()
    first = scene.guest(room)
    scene.hub.fanout.add(room, [packet("a")])
    second = scene.guest(room)
    scene.hub.fanout.add(room, [packet("b")])
    scene.loop.settle()
    assert (first.cues(), second.cues()) == (["a", "b"], ["b"])
    before = writes([first, second])
    scene.hub.fanout.settle(room)
    assert scene.loop.waiting == 0
    scene.hub.fanout.add(room, [packet("c")])
    scene.hub.fanout.settle(room)
    scene.loop.settle()
    assert writes([first, second]) == [count + 1 for count in before]


def test_settle_in_the_middle_of_a_slice() -> None:
    """What was framed before goes out before, also when somebody enters while a large room is written to."""
    scene = Scene()
    room, other = scene.room(1), scene.room(2)
    guests = crowd(scene, room, SLICE + 100)
    scene.hub.fanout.add(room, [packet("a")])
    scene.loop.turn()
    scene.hub.fanout.add(other, [packet("to nobody")])
    scene.hub.fanout.add(room, [packet("b")])
    late = scene.guest(room)
    scene.hub.fanout.add(room, [packet("c")])
    scene.loop.settle()
    assert all(guest.cues() == ["a", "b", "c"] for guest in guests)
    assert late.cues() == ["c"]


def test_leaving_in_the_middle_of_a_slice() -> None:
    """Who leaves while a large room is written to gets what was on its way first, and nothing afterwards."""
    scene = Scene()
    room, other = scene.room(1), scene.room(2)
    guests = crowd(scene, room, SLICE + 100)
    both = scene.guest(room, other)
    scene.hub.fanout.add(room, [packet("a")])
    scene.loop.turn()
    waiting = [guest for guest in guests if not guest.cues()]
    assert len(waiting) == 100
    goes = waiting[50]
    for one in (goes, both):
        scene.hub.leave(one.connection, room, at_once=True)
        assert one.cues() == ["a"]
    scene.loop.settle()
    assert goes.cues() == both.cues() == []
    waiting.remove(goes)
    assert all(guest.cues() == ["a"] for guest in waiting)


def test_joining_again_in_the_middle_of_a_slice() -> None:
    """Who joins a room that it is in gets what was said before its new snapshot, not after it."""
    scene = Scene()
    room = scene.room()
    guests = crowd(scene, room, SLICE + 100)
    scene.hub.fanout.add(room, [packet("a")])
    scene.loop.turn()
    scene.hub.fanout.add(room, [packet("b")])
    again = [guest for guest in guests if not guest.cues()][50]
    scene.hub.enter(again.connection, room)
    assert again.cues() == ["a", "b"]
    scene.loop.settle()
    assert again.cues() == []


def test_lost_in_the_middle_of_a_slice() -> None:
    """Who is lost while a large room is written to is written to no more, and keeps nobody from theirs."""
    scene = Scene()
    room = scene.room()
    guests = crowd(scene, room, SLICE + 100)
    scene.hub.fanout.add(room, [packet("a")])
    scene.loop.turn()
    waiting = [guest for guest in guests if not guest.cues()]
    waiting[50].transport.end()
    scene.loop.settle()
    assert [guest.cues() for guest in waiting] == [["a"]] * 50 + [[]] + [["a"]] * 49
    assert scene.hub.fanout.closed == 1


def test_slow_readers() -> None:
    """Who takes no more is left out of the loop, and is handed its room's events to keep what must be kept."""
    scene = Scene()
    room = scene.room()
    slow, quick = scene.guest(room), scene.guest(room)
    slow.connection.pause_writing()
    before = writes([slow])
    scene.hub.fanout.add(room, [packet("a"), packet("gone", Kind.PASSING)])
    scene.loop.settle()
    assert writes([slow]) == before
    slow.connection.resume_writing()
    assert [getattr(one, "cue", None) for one in slow.take()] == ["a", None]
    assert quick.cues() == ["a", "gone"]


def test_what_a_connection_is() -> None:
    """The loop takes a transport's own `write`: nothing of ours stands between."""
    guest = Scene().guest()
    assert isinstance(guest.connection, Connection)
    assert guest.connection.write == guest.transport.write
