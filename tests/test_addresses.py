"""Who is at the other end, and whom that is believed of."""

from __future__ import annotations

import pytest

from server.addresses import Addresses, subnet

ADDRESSES = Addresses(["10.0.0.0/8", "::1", "fd00::/8"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("1.2.3.4", [], "1.2.3.4"),
        ("1.2.3.4", ["5.6.7.8"], "1.2.3.4"),
        ("10.0.0.1", ["5.6.7.8"], "5.6.7.8"),
        ("10.0.0.1", ["9.9.9.9, 5.6.7.8"], "5.6.7.8"),
        ("10.0.0.1", ["9.9.9.9", "5.6.7.8"], "5.6.7.8"),
        ("10.0.0.1", ["9.9.9.9, 5.6.7.8, 10.0.0.2"], "5.6.7.8"),
        ("10.0.0.1", ["10.0.0.3,10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", ["5.6.7.8, "], "5.6.7.8"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["nonsense"], "nonsense"),
        ("10.0.0.1", ["1.2.3.4, nonsense"], "nonsense"),
        ("10.0.0.1", ["x" * 1000], "x" * 64),
        ("10.0.0.1", ["5.6.7.8:4711"], "5.6.7.8"),
        ("10.0.0.1", ["[2001:db8::1]:4711"], "2001:db8::/64"),
        ("::1", ["5.6.7.8"], "5.6.7.8"),
        ("::ffff:10.0.0.1", ["5.6.7.8"], "5.6.7.8"),
        ("::ffff:1.2.3.4", [], "1.2.3.4"),
        ("2001:db8::1", [], "2001:db8::/64"),
        ("2001:db8::ffff:2", ["5.6.7.8"], "2001:db8::/64"),
        ("fd00::1", ["2001:db8:0:1::9"], "2001:db8:0:1::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("", [], ""),
    ],
)
def test_who_asks(peer: str, forwarded: list[str], expected: str) -> None:
    """Only what our own proxies wrote is believed; an IPv6 network is one asker, in whatever spelling."""
    assert ADDRESSES.of(peer, forwarded) == expected


def test_without_proxies() -> None:
    """Where no proxy is listed nobody is believed, not even loopback."""
    assert Addresses([]).of("127.0.0.1", ["5.6.7.8"]) == "127.0.0.1"
    assert not Addresses([]).trusts("127.0.0.1")
    assert ADDRESSES.trusts("10.255.0.1")
    assert not ADDRESSES.trusts("")


def test_a_proxy_that_nobody_listed(caplog: pytest.LogCaptureFixture) -> None:
    """An operator who forgot to list a proxy is told so, once; what strangers send from far away is nothing to tell."""
    addresses = Addresses([])
    for peer in ("8.8.8.8", "2a00::1", "10.0.0.1", "10.0.0.2"):
        assert addresses.of(peer, ["5.6.7.8"]) == subnet(peer)
    assert addresses.of("10.0.0.1", []) == "10.0.0.1"
    (said,) = caplog.messages
    assert said.startswith("10.0.0.1 forwards requests")
    assert "LOOPROOMS_TRUSTED_PROXIES" in said


@pytest.mark.parametrize(
    "spelling",
    [
        "2001:db8::1",
        "2001:0db8:0000:0000:0000:0000:0000:0001",
        "2001:DB8::FFFF:FFFF:FFFF:FFFF",
        "2001:db8::1%1",
        "[2001:db8::1]",
    ],
)
def test_spellings_of_a_network(spelling: str) -> None:
    """All addresses of a /64 are one, in every way of writing them."""
    assert subnet(spelling) == "2001:db8::/64"
