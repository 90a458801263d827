"""How long the client waits before it comes back."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from protocol.client.backoff import Backoff


def test_the_ceiling_doubles_up_to_the_longest() -> None:
    """With the highest random number the waits double from the shortest and stop at the longest."""
    backoff = Backoff(0.5, 20, random=lambda: 1.0)
    assert [backoff.wait(n) for n in range(1, 9)] == [1.0, 1.5, 2.5, 4.5, 8.5, 16.5, 20.0, 20.0]


def test_nobody_waits_less_than_the_shortest() -> None:
    """With the lowest random number every wait is the shortest."""
    backoff = Backoff(0.5, 20, random=lambda: 0.0)
    assert {backoff.wait(n) for n in range(1, 50)} == {0.5}


def test_the_waits_of_a_crowd_are_spread() -> None:
    """A thousand clients that lost the same node do not come back at one moment, nor on a grid."""
    backoff = Backoff(random=random.Random(7).random)
    waits = sorted(backoff.wait(4) for _ in range(1000))
    assert waits[0] < 0.6
    assert waits[-1] > 4.4
    assert max(late - early for early, late in pairwise(waits)) < 0.05


def test_a_week_without_a_server_does_not_overflow() -> None:
    """An attempt number without bounds is still a wait of at most the longest."""
    assert Backoff(random=lambda: 1.0).wait(10**9) == 20.0


@pytest.mark.parametrize(("shortest", "longest"), [(-1.0, 2.0), (3.0, 2.0)])
def test_bounds_that_make_no_sense_are_refused(shortest: float, longest: float) -> None:
    """The shortest wait is not negative and not above the longest."""
    with pytest.raises(ValueError, match="shortest"):
        Backoff(shortest, longest)
