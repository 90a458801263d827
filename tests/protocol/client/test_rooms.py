"""The rooms of a client as a plain object: thousands of random schedules, in which no event may be lost, doubled or moved."""

from __future__ import annotations

import random

import pytest

from protocol.chat import ChatLine, ChatRemoval, ChatRevision
from protocol.client.inbox import Inbox
from protocol.client.rooms import DURABLE, Rooms
from protocol.client.states import CaughtUp, Occurrence, PersonSnapshot, Snapshot
from protocol.envelope import Epoch, Error
from protocol.rooms import JoinRoom, RoomLeft
from protocol.session import PersonState, Position, Resumed, Shed
from protocol.subscriptions import Subscription, SubscriptionChanged, Tier
from tests.protocol.client.peer import EPOCH, ROOM, joined, recovered, said

SCHEDULES = 2000


class Script:
    """Rooms, with what they handed out and what they wished for."""

    def __init__(self) -> None:
        self.inbox: Inbox[Occurrence] = Inbox(10**6)
        self.wishes: list[str] = []
        self.rooms = Rooms(
            self.inbox,
            resume=lambda: self.wishes.append("resume"),
            join=lambda room: self.wishes.append("join"),
            leave=lambda room: self.wishes.append("leave"),
        )
        self.rooms.joined(joined(JoinRoom("calm", id=1), 0))

    def handed_out(self) -> list[Occurrence]:
        """Return all that is in the inbox, and empty it."""
        items = list(self.inbox._items)
        self.inbox._items.clear()
        return items

    def asked(self) -> list[Position]:
        """Return the positions that a hello would carry."""
        return self.rooms.positions.resume(64)


def offsets(occurrences: list[Occurrence]) -> list[int]:
    """Return the offsets of the durable events among them."""
    return [o.offset for o in occurrences if isinstance(o, ChatLine)]


def test_the_durable_events_are_known_by_their_fields() -> None:
    """A new kind of durable event needs no line in the client."""
    assert {ChatLine, ChatRevision, ChatRemoval} <= DURABLE
    assert Shed not in DURABLE


class Way:
    """A server that says `LAST` events, over a way that loses, doubles, swaps and breaks, under the schedule of a seed."""

    LAST = 40

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.script = Script()
        self.told = 0
        self.flying: list[int] = []

    def run(self) -> list[Occurrence]:
        """Go on until everything is said and nothing is missing; return what was handed out."""
        while self.script.rooms.positions.offset(ROOM) < self.LAST:
            step = self.choose.random()
            if self.script.wishes and step < 0.3:
                self.grant()
            elif self.told < self.LAST and step < 0.6:
                self.told += 1
                self.fly(self.told)
            elif self.flying:
                self.script.rooms.take(said(self.flying.pop(0)))
            elif self.told == self.LAST or step > 0.95:
                self.script.rooms.lost()
                self.resume()
        return self.script.handed_out()

    def fly(self, offset: int) -> None:
        """Put an event on the way, or not, or twice, or before another."""
        fate = self.choose.random()
        if fate < 0.85:
            self.flying.append(offset)
        elif fate < 0.9:
            self.flying += [offset, offset]
        elif fate < 0.95:
            self.flying.insert(self.choose.randint(0, len(self.flying)), offset)

    def grant(self) -> None:
        """Do what the client wishes."""
        wish = self.script.wishes.pop(0)
        if wish == "resume":
            self.resume()
        else:
            self.flying.clear()
            self.script.rooms.rejoined(ROOM, joined(JoinRoom("calm", id=9), self.told))

    def resume(self) -> None:
        """Take the client in again and replay, over the same bad way."""
        self.script.wishes.clear()
        asked = self.script.asked()
        start = asked[0].offset
        self.script.rooms.resumed(asked, [recovered(self.told, self.told - start)])
        self.flying.clear()
        for offset in range(start + 1, self.told + 1):
            self.fly(offset)


@pytest.mark.parametrize("seed", range(SCHEDULES // 500))
def test_any_schedule_brings_every_event_once_or_says_that_it_can_not(seed: int) -> None:
    """What is handed out counts on by ones; only a snapshot may jump, and only forwards."""
    jumps = 0
    for schedule in range(seed * 500, seed * 500 + 500):
        at = 0
        for occurrence in Way(schedule).run():
            if isinstance(occurrence, ChatLine):
                assert occurrence.offset == at + 1, f"schedule {schedule}"
                at = occurrence.offset
            elif isinstance(occurrence, Snapshot):
                assert occurrence.offset > at, f"schedule {schedule}"
                at = occurrence.offset
                jumps += 1
        assert at == Way.LAST, f"schedule {schedule}"
    assert 0 < jumps < 500


def test_a_gap_is_reported_once() -> None:
    """However many events come after it, one resume is wished for, and a second one only for another gap."""
    script = Script()
    for offset in (2, 3, 4):
        script.rooms.take(said(offset))
    assert script.wishes == ["resume"]
    script.rooms.take(said(1))
    script.rooms.take(said(5))
    assert script.wishes == ["resume", "resume"]


def test_a_gap_that_stays_after_a_resume_is_healed_by_joining() -> None:
    """The replay did not bring what is missing, so a snapshot is asked for, once."""
    script = Script()
    script.rooms.take(said(2))
    script.rooms.resumed(script.asked(), [recovered(3, 3)])
    script.rooms.take(said(2))
    script.rooms.take(said(3))
    assert script.wishes == ["resume", "join"]
    script.rooms.rejoined(ROOM, joined(JoinRoom("calm", id=9), 3))
    script.rooms.take(said(4))
    snapshot, line = script.handed_out()
    assert isinstance(snapshot, Snapshot)
    assert isinstance(line, ChatLine)
    assert (snapshot.offset, line.offset) == (3, 4)


def test_what_the_old_connection_still_brought_is_no_reason_for_a_snapshot() -> None:
    """The server can't replay what was asked for, but the old websocket has delivered all of it meanwhile."""
    script = Script()
    asked = script.asked()
    for offset in (1, 2, 3):
        script.rooms.take(said(offset))
    script.rooms.resumed(asked, [Resumed(room=str(ROOM), recovered=False, id=ROOM, epoch=EPOCH, offset=2)])
    assert offsets(script.handed_out()) == [1, 2, 3]
    assert script.rooms.positions.offset(ROOM) == 3


def test_an_answer_that_names_no_epoch_changes_nothing() -> None:
    """A server that says neither yes nor where to go on is not believed."""
    script = Script()
    script.rooms.resumed(script.asked(), [Resumed(room=str(ROOM), recovered=False, id=ROOM)])
    assert script.handed_out() == []


def test_leaving_a_room_that_is_being_replayed_ends_the_replay() -> None:
    """The return is complete when nothing more is to come of the rooms that are left."""
    script = Script()
    script.rooms.lost()
    script.rooms.resumed(script.asked(), [recovered(3, 3)])
    script.rooms.take(said(1))
    script.rooms.left(RoomLeft(ROOM, id=1))
    _, told = script.handed_out()
    assert told == CaughtUp(missed=1)


def test_another_epoch_needs_another_position() -> None:
    """A position of the old history is replaced, even by a smaller number."""
    script = Script()
    for offset in (1, 2, 3):
        script.rooms.take(said(offset))
    asked = script.asked()
    script.handed_out()
    script.rooms.resumed(
        asked, [Resumed(room=str(ROOM), recovered=False, id=ROOM, epoch=Epoch("e2"), offset=1)]
    )
    script.rooms.take(said(2))
    snapshot, line = script.handed_out()
    assert isinstance(snapshot, Snapshot)
    assert isinstance(line, ChatLine)
    assert line.offset == 2


FREE = Subscription(tier=Tier.FREE)


def changed(offset: int) -> SubscriptionChanged:
    """Return an event of the person."""
    return SubscriptionChanged(FREE, person_offset=offset)


def own(occurrences: list[Occurrence]) -> list[int]:
    """Return the offsets of the person's events among them."""
    return [o.person_offset for o in occurrences if isinstance(o, SubscriptionChanged)]


def standing(offset: int) -> Script:
    """Stand at `offset` in the person's events."""
    script = Script()
    script.rooms.asking()
    script.rooms.stands(EPOCH, PersonState(offset=offset, subscription=FREE))
    return script


def test_events_of_the_person_come_out_once_and_in_order() -> None:
    """One that was seen is dropped; one that skips another is asked for again, once."""
    script = standing(2)
    for offset in (2, 3, 3, 5, 6):
        script.rooms.take(changed(offset))
    assert own(script.handed_out()) == [3]
    assert script.wishes == ["resume"]
    asked = script.rooms.asking()
    assert asked is not None
    script.rooms.stands(EPOCH, PersonState(offset=6, recovered=True, missed=3))
    for offset in (4, 5, 6):
        script.rooms.take(changed(offset))
    assert own(script.handed_out()) == [4, 5, 6]
    assert asked.offset == 3


def test_a_return_is_complete_with_the_events_of_the_person() -> None:
    """They count among those that were missed."""
    script = standing(0)
    script.rooms.lost()
    script.rooms.asking()
    script.rooms.stands(EPOCH, PersonState(offset=2, recovered=True, missed=2))
    script.rooms.resumed(script.asked(), [recovered(1, 1)])
    for event in (changed(1), changed(2), said(1)):
        assert CaughtUp(missed=3) not in script.handed_out()
        script.rooms.take(event)
    assert script.handed_out()[-1] == CaughtUp(missed=3)


@pytest.mark.parametrize(("epoch", "offset"), [(EPOCH, 9), (EPOCH, 2), (Epoch("e2"), 3)])
def test_what_can_not_be_replayed_of_the_person_is_said(epoch: Epoch, offset: int) -> None:
    """Too much was missed, or the server knows less than we do, or it has another history: a snapshot, and on from there."""
    script = standing(3)
    script.rooms.asking()
    script.rooms.stands(epoch, PersonState(offset=offset, subscription=FREE))
    script.rooms.take(changed(offset + 1))
    snapshot, event = script.handed_out()
    assert snapshot == PersonSnapshot(epoch=epoch, offset=offset, subscription=FREE)
    assert own([event]) == [offset + 1]


def test_what_the_old_connection_still_brought_of_the_person_is_no_reason_for_a_snapshot() -> None:
    """The server can't replay, but all of it has come meanwhile."""
    script = standing(3)
    script.rooms.asking()
    for offset in (4, 5):
        script.rooms.take(changed(offset))
    script.handed_out()
    script.rooms.stands(EPOCH, PersonState(offset=4, subscription=FREE))
    script.rooms.take(changed(5))
    script.rooms.take(changed(6))
    assert own(script.handed_out()) == [6]


def test_a_server_that_knows_no_events_of_persons_is_understood() -> None:
    """An older one says nothing of them."""
    script = Script()
    script.rooms.asking()
    script.rooms.stands(EPOCH, None)
    assert script.rooms.asking() is None
    assert script.handed_out() == []


def test_an_event_of_the_person_that_is_too_new_is_passed_over_in_step() -> None:
    """The one after it is handed out."""
    script = standing(0)
    script.rooms.pass_over_own(1)
    script.rooms.take(changed(2))
    assert own(script.handed_out()) == [2]


def test_a_refused_return_to_a_room_that_was_left() -> None:
    """A room that the user has left meanwhile is not announced as lost."""
    script = Script()
    script.rooms.left(RoomLeft(ROOM, id=2))
    script.rooms.rejoined(ROOM, Error(id=3, code="not_found", message="No."))
    assert script.handed_out() == []
