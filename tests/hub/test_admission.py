"""Who is let in when many come at once, with the time in the test's hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.hub.admission import MOST_WAIT, Admission

NOW = 1000.0


def test_nobody_waits_in_quiet_times() -> None:
    """Those who come one by one are let in at once."""
    admission = Admission(new=10.0, resumes=100.0)
    for second in range(20):
        assert admission.ask(NOW + second, resuming=bool(second % 2)) == 0.0
    assert (admission.admitted, admission.resumed, admission.refused) == (10, 10, 0)


def test_a_burst_and_then_the_rate() -> None:
    """Half a second's worth goes at once; those after it wait for their place in the row."""
    admission = Admission(new=10.0, resumes=100.0)
    waits = [admission.ask(NOW, resuming=False) for _ in range(10)]
    assert waits == pytest.approx([0.0] * 6 + [0.1, 0.2, 0.3, 0.4])


def test_too_many() -> None:
    """Whoever would wait too long is told to come back, and takes no place from those who come later."""
    admission = Admission(new=8.0, resumes=100.0)
    waits = [admission.ask(NOW, resuming=False) for _ in range(100)]
    let_in = [wait for wait in waits if wait is not None]
    assert max(let_in) == MOST_WAIT
    assert (admission.admitted, admission.refused) == (len(let_in), 100 - len(let_in))
    assert admission.ask(NOW + 0.125, resuming=False) == MOST_WAIT


def test_resumes_go_first() -> None:
    """A storm of those who come back keeps new ones waiting; new ones keep nobody from coming back."""
    admission = Admission(new=10.0, resumes=100.0)
    for _ in range(300):
        admission.ask(NOW, resuming=True)
    assert admission.ask(NOW, resuming=False) == pytest.approx(2.5)
    quiet = Admission(new=10.0, resumes=100.0)
    while quiet.ask(NOW, resuming=False) is not None:
        pass
    assert quiet.ask(NOW, resuming=True) == 0.0


@given(st.lists(st.tuples(st.floats(0.0, 0.3), st.booleans()), max_size=200))
def test_never_more_than_it_says(comers: list[tuple[float, bool]]) -> None:
    """Whatever the order of arrivals, no stretch of time sees more sessions begin than rate and burst allow."""
    admission = Admission(new=10.0, resumes=40.0)
    now = 0.0
    begun: dict[bool, list[float]] = {True: [], False: []}
    for pause, resuming in comers:
        now += pause
        wait = admission.ask(now, resuming=resuming)
        if wait is not None:
            assert 0.0 <= wait <= MOST_WAIT
            begun[resuming].append(now + wait)
    for resuming, rate in ((False, 10.0), (True, 40.0)):
        times = sorted(begun[resuming])
        for first in range(len(times)):
            for last in range(first, len(times)):
                assert last - first <= (times[last] - times[first] + 0.5) * rate + 1e-6
