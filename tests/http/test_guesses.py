"""Wrong passwords are counted by who sends them."""

from __future__ import annotations

import ipaddress

import pytest
from starlette.requests import Request

from protocol.refusals import ErrorCode, Refused
from server.http.guesses import Guesses, address_of

PROXIES = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1")]


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def wait(guesses: Guesses, address: str) -> float:
    """Return how long one must wait."""
    try:
        guesses.check(address)
    except Refused as refused:
        return refused.retry_after or 0.0
    return 0.0


def test_a_burst_then_a_rate() -> None:
    """The first few are free; then one each so many seconds. Others are not slowed."""
    clock = Clock()
    guesses = Guesses(clock, burst=3, rate=0.5)
    for _ in range(3):
        assert wait(guesses, "1.2.3.4") == 0
        guesses.wrong("1.2.3.4")
    assert wait(guesses, "1.2.3.4") == 2.0
    with pytest.raises(Refused) as refused:
        guesses.check("1.2.3.4")
    assert refused.value.code is ErrorCode.RATE_LIMITED
    assert wait(guesses, "1.2.3.5") == 0
    clock.now += 2.0
    assert wait(guesses, "1.2.3.4") == 0
    guesses.wrong("1.2.3.4")
    assert wait(guesses, "1.2.3.4") == 2.0
    clock.now += 3600
    for _ in range(3):
        guesses.wrong("1.2.3.4")
    assert wait(guesses, "1.2.3.4") == 2.0, "a long rest gives no more than a burst"


def test_all_at_once_is_a_debt() -> None:
    """Guesses that were sent before the first was answered are all counted."""
    clock = Clock()
    guesses = Guesses(clock, burst=3, rate=0.5)
    for _ in range(103):
        guesses.wrong("1.2.3.4")
    assert wait(guesses, "1.2.3.4") == 202.0


def test_bounded() -> None:
    """However many addresses guess, few are kept: those who guessed last."""
    guesses = Guesses(Clock(), burst=1, rate=0.5, most=100)
    for number in range(1000):
        guesses.wrong(str(number))
    assert len(guesses._left) == 100
    assert wait(guesses, "999") > 0
    assert wait(guesses, "0") == 0


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("1.2.3.4", None, "1.2.3.4"),
        ("1.2.3.4", "5.6.7.8", "1.2.3.4"),
        ("10.0.0.1", "5.6.7.8", "5.6.7.8"),
        ("10.0.0.1", "9.9.9.9, 5.6.7.8", "5.6.7.8"),
        ("10.0.0.1", "9.9.9.9, 5.6.7.8, 10.0.0.2", "5.6.7.8"),
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "nonsense", "nonsense"),
        ("::1", "5.6.7.8", "5.6.7.8"),
        ("::ffff:1.2.3.4", None, "1.2.3.4"),
        ("2001:db8::1", None, "2001:db8::/64"),
        ("2001:db8::ffff:2", None, "2001:db8::/64"),
        (None, None, ""),
    ],
)
def test_who_asks(peer: str | None, forwarded: str | None, expected: str) -> None:
    """Only what our own proxies wrote is believed; an IPv6 network is one asker."""
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded.encode())]
    request = Request({"type": "http", "headers": headers, "client": None if peer is None else (peer, 1)})
    assert address_of(request, PROXIES) == expected
