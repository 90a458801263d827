"""The rooms of a node: opened once, kept whole whatever is lost, and closed when nobody is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, cast
from uuid import UUID

import pytest

from protocol.envelope import RoomId
from protocol.refusals import ErrorCode, Refused
from server.hub.hub import Hub, Limits
from server.hub.members import Room
from server.hub.subscriptions import (
    CHECK_SECONDS,
    LINGER_SECONDS,
    PATIENCE,
    Subscriptions,
    channel_of,
    room_of,
)
from storage.redis.publications import NODE_ID_BYTES, Kind, Packet, pack
from tests.clocks import in_no_time
from tests.hub.scene import LIMITS
from tests.hub.schedules import Ear, event

ROOM, OTHER = RoomId(UUID(int=1)), RoomId(UUID(int=2))
NORTH = b"n" * NODE_ID_BYTES
AWAY = Refused(ErrorCode.UNAVAILABLE)


class Subject:
    """A node's subscriptions, a history that the test writes, and a record of what was asked."""

    def __init__(self, *, window: int = 100) -> None:
        self.loop = asyncio.get_running_loop()
        self.hub = Hub(Limits(**LIMITS), self.loop)  # type: ignore[arg-type] # as in a scene
        self.left: list[object] = []
        self.hub.left = lambda *told, **_: self.left.append(told)
        self.last: dict[RoomId, int] = {ROOM: 0, OTHER: 0}
        self.did: list[Any] = []
        self.published: list[tuple[str, Packet]] = []
        self.changes: list[tuple[RoomId, bytes]] = []
        self.refusal: Exception | None = None
        self.seconds = 0.01
        self.keeps = 100
        self.in_use: set[RoomId] = set()
        self.subscriptions = Subscriptions(
            self.hub,
            cast("Any", self),
            self,
            window=window,
            opened=self._opened,
            closed=lambda room: self.did.append(("closed", room)),
            changed=lambda room, payload: self.changes.append((room, payload)),
            idle=lambda room: room not in self.in_use,
        )

    def count(self, what: str) -> int:
        """Return how often something was done."""
        return sum(1 for done in self.did if done[0] == what)

    async def subscribe(self, channel: str) -> bool:
        """Play the broker."""
        self.did.append(("subscribe", channel))
        return True

    def unsubscribe(self, channel: str) -> None:
        """Play the broker."""
        self.did.append(("unsubscribe", channel))

    def publish(self, channel: str, packet: Packet) -> None:
        """Play the broker."""
        self.published.append((channel, packet))

    async def begin(self, room: RoomId) -> tuple[int, list[Packet]]:
        """Play Postgres."""
        await self._answer("begin", room)
        last = self.last[room]
        return last, [event(offset) for offset in range(max(1, last - self.keeps + 1), last + 1)]

    async def between(self, room: RoomId, first: int, last: int) -> list[Packet]:
        """Play Postgres."""
        await self._answer("between", first, last)
        return [event(offset) for offset in range(first, min(last, self.last[room]) + 1)]

    async def positions(self, rooms: Sequence[RoomId]) -> dict[RoomId, int]:
        """Play Postgres."""
        await self._answer("positions", *rooms)
        return {room: self.last[room] for room in rooms}

    def renewed(self, room: RoomId, old: Packet, change: Packet) -> Packet:
        """Nothing is changed here."""
        raise AssertionError(old, change)

    def hears(self, *packets: Packet, room: RoomId = ROOM) -> None:
        """Let a publication of another node arrive."""
        self.subscriptions.received(channel_of(room), pack(NORTH, packets))

    async def ear(self, room: RoomId = ROOM) -> Hearing:
        """Let somebody enter."""
        active = await self.subscriptions.open(room)
        ear = Hearing(active.replay.last)
        self.hub.enter(cast("Any", ear), active)
        return ear

    async def _answer(self, *did: Any) -> None:
        self.did.append(did)
        await asyncio.sleep(self.seconds)
        if self.refusal is not None:
            raise self.refusal

    async def _opened(self, room: RoomId) -> None:
        self.did.append(("opened", room))


class Hearing(Ear):
    """Who hears offsets, and keeps them."""

    def __init__(self, position: int) -> None:
        super().__init__(cast("Any", self))
        self.position = position
        self.heard: list[int] = []
        self.now = 0.0

    def say(self, right: bool, what: str) -> None:
        """Be told what must not be."""
        assert right, what

    def hear(self, offset: int) -> None:
        """Keep it."""
        super().hear(offset)
        self.heard.append(offset)


def at_once(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test on a loop in which waiting takes no time."""

    def run() -> None:
        in_no_time(test())

    run.__doc__ = test.__doc__
    return run


def test_channels() -> None:
    """A room's channel names it, with all of a room on one shard of a cluster; other channels are no room's."""
    assert channel_of(ROOM) == "lr:{00000000-0000-0000-0000-000000000001}:events"
    assert room_of(channel_of(ROOM)) == ROOM
    with pytest.raises(ValueError, match="badly formed"):
        room_of("lr:nodes")


@at_once
async def test_opening() -> None:
    """A room is subscribed, then read, then given to its domain; all who want it at once share that, and later ones wait for nothing."""
    subject = Subject()
    subject.last[ROOM] = 7
    rooms = await asyncio.gather(*(subject.subscriptions.open(ROOM) for _ in range(50)))
    assert {id(room) for room in rooms} == {id(subject.hub.members.rooms[ROOM])}
    assert subject.did == [("subscribe", channel_of(ROOM)), ("begin", ROOM), ("opened", ROOM)]
    assert (rooms[0].replay.first, rooms[0].replay.last) == (1, 7)
    assert await subject.subscriptions.open(ROOM) is rooms[0]
    assert len(subject.did) == 3


@at_once
async def test_opening_that_fails() -> None:
    """All who wait are refused, nothing is left behind, and the next one tries again."""
    subject = Subject()
    subject.refusal = AWAY
    results = await asyncio.gather(
        *(subject.subscriptions.open(ROOM) for _ in range(3)), return_exceptions=True
    )
    assert results == [AWAY] * 3
    assert subject.did[-1] == ("unsubscribe", channel_of(ROOM))
    subject.hears(event(1))
    subject.refusal = None
    room = await subject.subscriptions.open(ROOM)
    assert room.replay.last == 0


@at_once
async def test_opening_goes_on_without_whoever_asked() -> None:
    """One who gives up waiting keeps nobody else from the room; if all do, it is open all the same."""
    subject = Subject()
    one, other = (asyncio.create_task(subject.subscriptions.open(ROOM)) for _ in range(2))
    await asyncio.sleep(0.001)
    one.cancel()
    assert (await other).id == ROOM
    alone = asyncio.create_task(subject.subscriptions.open(OTHER))
    await asyncio.sleep(0.001)
    alone.cancel()
    await asyncio.sleep(1.0)
    assert OTHER in subject.hub.members.rooms
    assert subject.count("begin") == 2


@at_once
async def test_what_comes_while_a_room_opens() -> None:
    """Events, changes and cues that come while the history is read are taken afterwards, in their order, once."""
    subject = Subject()
    subject.last[ROOM] = 2
    opening = asyncio.create_task(subject.subscriptions.open(ROOM))
    await asyncio.sleep(0.001)
    subject.hears(event(2), event(3), Packet(Kind.CHANGE, 0, b"came", b""))
    subject.subscriptions.publish(ROOM, [event(4)])
    room = await opening
    assert (room.replay.last, room.replay.duplicates) == (4, 1)
    assert subject.changes == [(ROOM, b"came")]
    assert subject.published == [(channel_of(ROOM), event(4))]


@at_once
async def test_events() -> None:
    """Events of this node and of others reach everyone once, in order; changes go to the domain, cues straight on."""
    subject = Subject()
    ear = await subject.ear()
    subject.subscriptions.publish(ROOM, [event(1), event(2)])
    subject.hears(event(2), event(3))
    subject.hears(Packet(Kind.CHANGE, 0, b"went", b""))
    await asyncio.sleep(0)
    assert ear.heard == [1, 2, 3]
    assert subject.changes == [(ROOM, b"went")]
    ear.position = 98
    passing = Packet(Kind.PASSING, 0, b"99", b"99")
    subject.hears(passing)
    await asyncio.sleep(0)
    assert ear.heard == [1, 2, 3, 99]
    subject.published.clear()
    subject.subscriptions.publish_passing(subject.hub.members.rooms[ROOM], passing)
    await asyncio.sleep(0)
    assert subject.published == [(channel_of(ROOM), passing)]
    assert ear.heard == [1, 2, 3, 99]


@at_once
async def test_events_of_a_room_that_is_not_open() -> None:
    """What is said in a room that nobody here is in goes to the other nodes, and nowhere else."""
    subject = Subject()
    subject.subscriptions.publish(ROOM, [event(1)])
    subject.hears(event(1))
    assert subject.published == [(channel_of(ROOM), event(1))]
    assert subject.hub.members.rooms == {}


def test_noise(caplog: pytest.LogCaptureFixture) -> None:
    """A publication that cannot be read, or that is no room's, is told in one line and changes nothing."""

    async def run() -> None:
        subject = Subject()
        ear = await subject.ear()
        for channel, publication in (
            (channel_of(ROOM), pack(NORTH, [event(1)])[:-1]),
            ("lr:nodes", pack(NORTH, [event(1)])),
            ("", b""),
        ):
            subject.subscriptions.received(channel, publication)
        await asyncio.sleep(1.0)
        assert ear.heard == []

    with caplog.at_level(logging.WARNING, "looprooms.subscriptions"):
        in_no_time(run())
    assert len(caplog.records) == 3


# Coming back.


@at_once
async def test_coming_back_from_memory() -> None:
    """What is kept is enough for whoever missed only that: nothing is read."""
    subject = Subject()
    subject.last[ROOM] = 10
    room = await subject.subscriptions.open(ROOM)
    for offset in (0, 5, 10):
        assert await subject.subscriptions.covering(room, offset)
    assert subject.count("between") == 0


@at_once
async def test_a_storm_comes_back() -> None:
    """Hundreds who missed different numbers of old events, in two rooms, are served by two readings of each room."""
    subject = Subject(window=1000)
    subject.keeps = 10
    subject.last = {ROOM: 2000, OTHER: 1500}
    rooms = [await subject.subscriptions.open(room) for room in (ROOM, OTHER)]

    async def come(missed: int, room: Room) -> bool:
        await asyncio.sleep(0.005 * (missed > 250))  # some come while the others are being served
        return await subject.subscriptions.covering(room, room.replay.last - missed)

    covered = await asyncio.gather(*(come(missed, room) for missed in range(11, 511) for room in rooms))
    assert all(covered)
    assert subject.count("between") == 4
    assert [room.replay.first for room in rooms] == [2000 - 509, 1500 - 509]
    assert await subject.subscriptions.covering(rooms[0], 1700)
    assert subject.count("between") == 4


@at_once
async def test_past_the_window() -> None:
    """Who missed more than the window is told so without a reading; who missed exactly so many is not."""
    subject = Subject(window=50)
    subject.keeps = 10
    subject.last[ROOM] = 200
    room = await subject.subscriptions.open(ROOM)
    assert not await subject.subscriptions.covering(room, 149)
    assert not await subject.subscriptions.covering(room, 0)
    assert subject.count("between") == 0
    assert await subject.subscriptions.covering(room, 150)
    assert room.replay.first == 151


@at_once
async def test_ahead_of_this_node() -> None:
    """Who has seen elsewhere what this node has not heard is not taken back: it is read, together for all, and delivered here."""
    subject = Subject(window=10)
    ear = await subject.ear()
    subject.last[ROOM] = 35
    room = subject.hub.members.rooms[ROOM]
    covered = await asyncio.gather(
        *(subject.subscriptions.covering(room, offset) for offset in (30, 34, 35, 35))
    )
    assert covered == [True] * 4
    assert ear.heard == list(range(1, 36))
    assert subject.count("between") == 4
    assert subject.subscriptions.healed == 35


@at_once
async def test_lies_about_the_future() -> None:
    """Positions that do not exist are not believed; all who claim one while a reading is under way cost one more."""
    subject = Subject()
    subject.last[ROOM] = 5
    room = await subject.subscriptions.open(ROOM)

    async def lie(seconds: float, offset: int) -> bool:
        await asyncio.sleep(seconds)
        return await subject.subscriptions.covering(room, offset)

    lies = [(0.0, 6), (0.0, 2**63 - 1), (0.005, 100), (0.006, 7), (0.007, 8)]
    assert await asyncio.gather(*(lie(seconds, offset) for seconds, offset in lies)) == [False] * 5
    assert subject.count("between") == 2


@at_once
async def test_coming_back_while_postgres_is_away() -> None:
    """What cannot be read is refused, to be tried again; it is not called a loss."""
    subject = Subject(window=200)
    subject.last[ROOM] = 300
    room = await subject.subscriptions.open(ROOM)
    subject.refusal = AWAY
    for offset in (150, 301):
        with pytest.raises(Refused) as refusal:
            await subject.subscriptions.covering(room, offset)
        assert refusal.value.code is ErrorCode.UNAVAILABLE


# Healing.


@at_once
async def test_a_hole_in_the_middle() -> None:
    """A hole is given a moment to fill itself; one that does not is read, and what has waited follows it."""
    subject = Subject()
    ear = await subject.ear()
    subject.last[ROOM] = 5
    subject.hears(event(2))
    subject.hears(event(5))
    await asyncio.sleep(PATIENCE / 2)
    subject.hears(event(1))
    await asyncio.sleep(0)
    assert ear.heard == [1, 2]
    await asyncio.sleep(PATIENCE)
    assert ear.heard == [1, 2, 3, 4, 5]
    assert ("between", 3, 4) in subject.did
    assert (subject.count("between"), subject.subscriptions.healed) == (1, 2)


@at_once
async def test_a_hole_that_fills_itself() -> None:
    """Publications that come in the wrong order cost no reading."""
    subject = Subject()
    ear = await subject.ear()
    for offset in (3, 2, 1):
        subject.hears(event(offset))
    await asyncio.sleep(1.0)
    assert ear.heard == [1, 2, 3]
    assert subject.count("between") == 0


@at_once
async def test_a_large_hole() -> None:
    """A hole of more than a window is read in pieces."""
    subject = Subject(window=10)
    ear = await subject.ear()
    subject.last[ROOM] = 26
    subject.hears(event(26))
    await asyncio.sleep(1.0)
    assert ear.heard == list(range(1, 27))
    assert [did for did in subject.did if did[0] == "between"] == [
        ("between", 1, 10),
        ("between", 11, 20),
        ("between", 21, 25),
    ]


@at_once
async def test_a_loss_at_the_tail() -> None:
    """All rooms are compared with Postgres in one statement every few seconds, and what is behind is read."""
    subject = Subject()
    running = asyncio.create_task(subject.subscriptions.run())
    await asyncio.sleep(CHECK_SECONDS + 0.1)
    assert subject.did == []
    ears = [await subject.ear(ROOM), await subject.ear(OTHER)]
    subject.last = {ROOM: 2, OTHER: 0}
    await asyncio.sleep(CHECK_SECONDS + PATIENCE + 0.1)
    assert [ear.heard for ear in ears] == [[1, 2], []]
    assert subject.did[-2:] == [("positions", ROOM, OTHER), ("between", 1, 2)]
    running.cancel()


@at_once
async def test_restored() -> None:
    """After Redis was away positions are compared at once; a room that is closed meanwhile is left alone."""
    subject = Subject()
    ear = await subject.ear()
    subject.last[ROOM] = 2
    await subject.subscriptions.open(OTHER)
    subject.last[OTHER] = 2
    subject.subscriptions.restored()
    subject.subscriptions.restored()
    await asyncio.sleep(0.001)
    del subject.hub.members.rooms[OTHER]
    await asyncio.sleep(PATIENCE + 0.1)
    assert ear.heard == [1, 2]
    assert subject.count("positions") == 2
    assert ("between", 1, 2) in subject.did


@at_once
async def test_healing_waits_for_postgres() -> None:
    """While Postgres is away it is asked now and then; when it is back the hole is filled. A room that closes is given up."""
    subject = Subject()
    ear = await subject.ear()
    subject.refusal = AWAY
    subject.last[ROOM] = 2
    subject.hears(event(2))
    await asyncio.sleep(3.0)
    assert 4 < subject.count("between") < 8
    subject.refusal = None
    await asyncio.sleep(1.0)
    assert ear.heard == [1, 2]
    subject.hears(event(4))
    asked = subject.count("between")
    del subject.hub.members.rooms[ROOM]
    await asyncio.sleep(3.0)
    assert subject.count("between") == asked


@at_once
async def test_a_commit_that_is_about_to_be_seen() -> None:
    """What was announced and cannot be read yet is read a little later."""
    subject = Subject()
    ear = await subject.ear()
    subject.hears(event(2))
    await asyncio.sleep(1.0)
    asked = subject.count("between")
    assert 2 <= asked <= 10
    subject.last[ROOM] = 2
    await asyncio.sleep(2 * PATIENCE)
    assert ear.heard == [1, 2]


def test_failures_are_told_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in a reading, or in a room's end, is logged; comparing, closing and healing go on."""

    async def run() -> None:
        subject = Subject()
        ear = await subject.ear()
        subject.refusal = ZeroDivisionError("a bug")
        running = asyncio.create_task(subject.subscriptions.run())
        subject.last[ROOM] = 2
        subject.hears(event(2))
        await asyncio.sleep(CHECK_SECONDS + 0.1)
        subject.refusal = AWAY
        await asyncio.sleep(CHECK_SECONDS)
        subject.refusal = None
        await subject.subscriptions.open(OTHER)
        closing = subject.subscriptions._closed
        subject.subscriptions._closed = lambda _: (_ for _ in ()).throw(ZeroDivisionError("a bug"))
        await asyncio.sleep(LINGER_SECONDS + 2 * CHECK_SECONDS)
        subject.subscriptions._closed = closing
        assert ear.heard == [1, 2]
        assert OTHER not in subject.hub.members.rooms
        running.cancel()

    with caplog.at_level(logging.WARNING, "looprooms.subscriptions"):
        in_no_time(run())
    assert [record.getMessage() for record in caplog.records] == [
        "a room could not be healed: that is tried again",
        "positions could not be compared",
        "positions could not be compared: Postgres is out of reach",
        "a room could not be closed",
    ]


# Closing.


@at_once
async def test_closing() -> None:
    """A room without anybody stays for a while, since people come back; then it is closed, and the next one opens it anew."""
    subject = Subject()
    running = asyncio.create_task(subject.subscriptions.run())
    ear = await subject.ear()
    room = subject.hub.members.rooms[ROOM]
    await asyncio.sleep(3 * LINGER_SECONDS)
    assert subject.count("closed") == 0
    subject.hub.leave(cast("Any", ear), room, at_once=True)
    await asyncio.sleep(LINGER_SECONDS - 1.0)
    assert await subject.subscriptions.open(ROOM) is room
    await asyncio.sleep(LINGER_SECONDS - 1.0)
    assert subject.count("closed") == 0
    await asyncio.sleep(1.0 + 2 * CHECK_SECONDS)
    assert subject.did[-2:] == [("unsubscribe", channel_of(ROOM)), ("closed", ROOM)]
    assert await subject.subscriptions.open(ROOM) is not room
    running.cancel()


@at_once
async def test_closing_a_room_in_use() -> None:
    """A room in which a domain still has something to do stays open, and its time begins when that is over."""
    subject = Subject()
    running = asyncio.create_task(subject.subscriptions.run())
    subject.in_use.add(ROOM)
    await subject.subscriptions.open(ROOM)
    await asyncio.sleep(3 * LINGER_SECONDS)
    assert ROOM in subject.hub.members.rooms
    subject.in_use.clear()
    await asyncio.sleep(LINGER_SECONDS - CHECK_SECONDS)
    assert ROOM in subject.hub.members.rooms
    await asyncio.sleep(3 * CHECK_SECONDS)
    assert ROOM not in subject.hub.members.rooms
    running.cancel()


@at_once
async def test_the_end() -> None:
    """At the end nothing is opened, healed or looked for any more, and what is being read for somebody is finished."""
    subject = Subject()
    subject.seconds = 1.0
    await subject.subscriptions.open(OTHER)
    opening = asyncio.create_task(subject.subscriptions.open(ROOM))
    subject.hears(event(2), room=OTHER)
    subject.subscriptions.restored()
    covering = asyncio.create_task(subject.subscriptions.covering(subject.hub.members.rooms[OTHER], 9))
    await asyncio.sleep(PATIENCE + 0.1)
    await subject.subscriptions.aclose()
    assert await covering is False
    with pytest.raises(asyncio.CancelledError):
        await opening
    before = list(subject.did)
    await asyncio.sleep(10.0)
    assert subject.did == before
    assert asyncio.all_tasks() == {asyncio.current_task()}
