"""One timer for all deadlines: nothing is asked too early, nothing much too late, nothing twice, nothing forgotten."""

from __future__ import annotations

import logging
import weakref
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.hub.wheel import RETRY, TICK, Wheel
from tests.clocks import HandTurned


class Thing:
    """Something with deadlines: it asks to be asked at `times`, one after the other."""

    def __init__(self, *times: float) -> None:
        self.slot = 0
        self.times = list(times)
        self.asked: list[float] = []
        self.fails = False

    def on_deadline(self, now: float) -> float | None:
        """Note the time, and say when next."""
        self.asked.append(now)
        if self.fails:
            raise ZeroDivisionError
        return self.times.pop(0) if self.times else None


class Subject:
    """A wheel with a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.wheel = Wheel(lambda: self.now)

    def turn_at(self, now: float) -> None:
        """Let time pass, and turn."""
        self.now = now
        self.wheel.turn()


def test_asked_when_due() -> None:
    """A thing is asked at the tick after its time, and then at the times that it says."""
    subject = Subject()
    thing = Thing(1002.0, 1002.1)
    subject.wheel.watch(thing, 1001.0)
    subject.turn_at(1000.9)
    assert thing.asked == []
    for now in (1001.0, 1001.75, 1002.0, 1002.25, 1010.0):
        subject.turn_at(now)
    assert thing.asked == [1001.0, 1002.0, 1002.25]


def test_the_earlier_time_counts() -> None:
    """Watched at two times, a thing is asked at the earlier one; the later one is for it to say again."""
    for times in ((1005.0, 1001.0), (1001.0, 1005.0)):
        subject = Subject()
        thing = Thing()
        for at in times:
            subject.wheel.watch(thing, at)
        for now in (1001.0, 1005.0, 1006.0):
            subject.turn_at(now)
        assert thing.asked == [1001.0]


def test_again_in_the_old_slot() -> None:
    """A thing that was moved forward and returns to its old slot is asked there once."""
    subject = Subject()
    thing = Thing(1005.0)
    subject.wheel.watch(thing, 1005.0)
    subject.wheel.watch(thing, 1001.0)
    for now in (1001.0, 1005.0, 1009.0):
        subject.turn_at(now)
    assert thing.asked == [1001.0, 1005.0]


def test_what_is_late_is_asked_next() -> None:
    """A time that is past, or now, is the next tick: not this one, which would never end."""
    subject = Subject()
    thing = Thing(900.0, 1000.25)
    subject.wheel.watch(thing, 900.0)
    for now in (1000.25, 1000.5, 1000.75, 1001.0):
        subject.turn_at(now)
    assert thing.asked == [1000.25, 1000.5, 1000.75]


def test_forgotten() -> None:
    """What is forgotten is not asked, unless it is watched anew."""
    subject = Subject()
    gone, back = Thing(), Thing()
    for thing in (gone, back):
        subject.wheel.watch(thing, 1001.0)
        subject.wheel.forget(thing)
    subject.wheel.watch(back, 1002.0)
    for now in (1001.0, 1002.0):
        subject.turn_at(now)
    assert (gone.asked, back.asked) == ([], [1002.0])


def test_what_is_forgotten_is_not_kept() -> None:
    """Nothing of a thing stays in the wheel, wherever it was moved before, so what it was can be freed at once."""
    subject = Subject()
    thing = Thing()
    gone = weakref.ref(thing)
    subject.wheel.watch(thing, 1030.0)
    subject.wheel.watch(thing, 1020.0)
    subject.wheel.forget(thing)
    del thing
    assert gone() is None


def test_forgotten_by_its_neighbour() -> None:
    """One that is forgotten in the turn that would ask it is not asked."""
    subject = Subject()
    victim = Thing()

    class Killer(Thing):
        def on_deadline(self, now: float) -> float | None:
            subject.wheel.forget(victim)
            return None

    subject.wheel.watch(Killer(), 1001.0)
    subject.wheel.watch(victim, 1001.0)
    subject.turn_at(1001.0)
    assert victim.asked == []


@pytest.mark.parametrize("away", [0.25, 2.0, 1e6])
def test_the_clock_jumps(away: float) -> None:
    """After a standstill all that is due is asked, in the order of its times; a jump of days costs no more than a short one."""
    subject = Subject()
    things = [Thing() for _ in range(20)]
    for number, thing in enumerate(reversed(things)):
        subject.wheel.watch(thing, 1000.0 + number / 10)
    subject.turn_at(1000.0 + away)
    due = [
        thing
        for number, thing in enumerate(reversed(things))
        if max(ceil(number / 10 / TICK), 1) <= away / TICK
    ]
    assert all(thing.asked == [subject.now] for thing in due)
    assert sum(len(thing.asked) for thing in things) == len(due)


def test_a_failure_is_one_things_own(caplog: pytest.LogCaptureFixture) -> None:
    """A thing that fails keeps its neighbours from nothing, is logged, and is asked again a little later."""
    subject = Subject()
    bad, good = Thing(), Thing(1002.0)
    bad.fails = True
    for thing in (bad, good):
        subject.wheel.watch(thing, 1001.0)
    with caplog.at_level(logging.ERROR, "looprooms.wheel"):
        subject.turn_at(1001.0)
    assert [record.message for record in caplog.records] == ["a deadline failed"]
    bad.fails = False
    for now in (1002.0, 1001.0 + RETRY):
        subject.turn_at(now)
    assert (bad.asked, good.asked) == ([1001.0, 1001.0 + RETRY], [1001.0, 1002.0])


@given(
    st.lists(
        st.tuples(st.floats(0.0, 5.0), st.integers(0, 4), st.floats(-1.0, 20.0), st.booleans()), max_size=60
    )
)
def test_any_schedule(steps: list[tuple[float, int, float, bool]]) -> None:
    """Watched and forgotten at will: each is asked once, within a tick of the earliest time that was asked for."""
    subject = Subject()
    things = [Thing() for _ in range(5)]
    due: dict[int, float] = {}

    def turn(now: float) -> None:
        before = [len(thing.asked) for thing in things]
        subject.turn_at(now)
        for number, thing in enumerate(things):
            times = thing.asked[before[number] :]
            slot = int(now / TICK)
            expected = number in due and ceil(due[number] / TICK) <= slot
            assert len(times) == expected
            if expected:
                del due[number]

    for pause, number, delay, forget in steps:
        if forget:
            subject.wheel.forget(things[number])
            due.pop(number, None)
        else:
            subject.wheel.watch(things[number], subject.now + delay)
            at = max(subject.now + delay, (int(subject.now / TICK) + 1) * TICK)
            due[number] = min(at, due.get(number, at))
        turn(subject.now + pause)
    turn(subject.now + 100.0)
    assert due == {}


def test_turns_by_itself() -> None:
    """Once started it turns each tick, until it is stopped, and says how late the loop came to it."""
    hands = HandTurned()
    wheel = Wheel(hands.time)
    thing = Thing(*[1000.0 + number for number in range(2, 10)])
    wheel.watch(thing, 1001.0)
    wheel.start(hands.loop)
    hands.advance(3.0)
    assert thing.asked == [1001.0, 1002.0, 1003.0]
    assert wheel.lag == 0.0
    hands.now += 2.0
    hands.advance(0.25)
    assert wheel.lag == pytest.approx(1.75, abs=0.3)
    lag = wheel.lag
    hands.advance(0.25)
    assert wheel.lag == pytest.approx(lag * 0.9)
    asked = len(thing.asked)
    wheel.stop()
    wheel.stop()
    hands.advance(10.0)
    assert len(thing.asked) == asked
