"""When a service outside is left alone, and when it is tried again."""

from __future__ import annotations

import pytest

from protocol.refusals import ErrorCode, Refused
from server.gateways.breaker import Breaker


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give a clock."""
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """Give a breaker that opens after three failures, for two seconds."""
    return Breaker("Google", clock, failures=3, pause=2.0, longest=8.0)


def fail(breaker: Breaker, times: int = 1) -> None:
    """Make calls that fail."""
    for _ in range(times):
        breaker.ask()
        breaker.failed()


def wait(breaker: Breaker) -> float:
    """Return how long one is told to wait."""
    with pytest.raises(Refused) as refused:
        breaker.ask()
    assert refused.value.code is ErrorCode.UNAVAILABLE
    assert "Google" in refused.value.message
    assert refused.value.retry_after is not None
    return refused.value.retry_after


def test_a_few_failures_are_nothing(breaker: Breaker) -> None:
    """It opens at the third failure in a row, not at the third in all."""
    fail(breaker, 2)
    breaker.ask()
    breaker.worked()
    fail(breaker, 2)
    assert not breaker.open
    fail(breaker)
    assert wait(breaker) == 2.0


def test_one_tries(breaker: Breaker, clock: Clock) -> None:
    """After the pause one call may try while all others still wait; when it works, everybody may."""
    fail(breaker, 3)
    clock.now += 2.0
    breaker.ask()
    assert wait(breaker) == 1.0
    breaker.worked()
    breaker.ask()
    breaker.ask()


def test_the_pause_grows(breaker: Breaker, clock: Clock) -> None:
    """Each try that fails makes the next pause twice as long, up to a bound; once it works they are short again."""
    fail(breaker, 3)
    pauses = []
    for _ in range(4):
        pauses.append(wait(breaker))
        clock.now += pauses[-1]
        fail(breaker)
    assert pauses == [2.0, 4.0, 8.0, 8.0]
    clock.now += 8.0
    breaker.ask()
    breaker.worked()
    fail(breaker, 3)
    assert wait(breaker) == 2.0


def test_failures_under_way_do_not_grow_it(breaker: Breaker, clock: Clock) -> None:
    """Ten calls that fail together are one failure of the service, not ten tries."""
    for _ in range(10):
        breaker.ask()
    for _ in range(10):
        breaker.failed()
    assert wait(breaker) == 2.0
    clock.now += 2.0
    breaker.ask()


def test_who_goes_away_gives_the_try_back(breaker: Breaker, clock: Clock) -> None:
    """A try whose caller went away before there was an outcome does not keep all others out for ever."""
    fail(breaker, 3)
    clock.now += 2.0
    breaker.ask()
    breaker.left()
    breaker.ask()
    breaker.worked()
    assert not breaker.open
