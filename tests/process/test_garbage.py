"""The collector stops nobody for long, and still finds what needs it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from server.process.garbage import LONGEST, Garbage


class Knot:
    """Something that refers to itself."""

    def __init__(self) -> None:
        self.self = self


@pytest.fixture
def garbage() -> Iterator[Garbage]:
    """Give a collector that is at work; afterwards all is as it was."""
    before = gc.get_threshold()
    one = Garbage()
    one.start()
    yield one
    one.stop()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def old_knot() -> weakref.ref[Knot]:
    """Make a cycle that young collections no longer look at, and let go of it."""
    knot = Knot()
    gc.collect(0)
    gc.collect(1)
    return weakref.ref(knot)


def test_the_start_is_set_aside(garbage: Garbage) -> None:
    """What was there before is not looked at again, and no full collection comes by itself."""
    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold()[2] >= 1_000_000


def test_a_quiet_node_is_collected(garbage: Garbage) -> None:
    """With little alive an old cycle is freed at the next look."""
    knot = old_knot()
    assert knot() is not None
    assert garbage.look(0.0)
    assert knot() is None


def test_a_full_node_is_left_alone_until_it_is_due(garbage: Garbage) -> None:
    """With much alive nothing stops the node, but an hour later it must be."""
    garbage._baseline = 1
    knot = old_knot()
    began = garbage._collected_at
    assert not garbage.look(began + LONGEST - 1)
    assert knot() is not None
    assert garbage.look(began + LONGEST + 1)
    assert knot() is None
    assert not garbage.look(began + LONGEST + 2)


def test_pauses_are_counted(garbage: Garbage) -> None:
    """Each collection adds one, and the time that it took."""
    before = garbage.collections
    gc.collect(0)
    gc.collect()
    assert garbage.collections >= before + 2  # a young one may come by itself
    assert 0 < garbage.worst <= garbage.seconds
