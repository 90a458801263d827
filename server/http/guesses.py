"""Slows down who guesses passwords: wrong ones of one address are counted, right ones cost nothing.

Each wrong answer takes one from a bucket that refills slowly; who has used it up waits, whatever they send. Guesses sent
at once, before the first was answered, put the bucket into debt. It lives in this process alone, which is enough to keep one
address from filling the queue of the password hashes.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from starlette.requests import Request

from protocol.refusals import ErrorCode, Refused

BURST: Final = 20.0
RATE: Final = 0.2
"""Wrong passwords a second on the long run."""
MOST_ADDRESSES: Final = 10_000

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Guesses:
    """Wrong passwords by address. `clock` is in seconds."""

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        burst: float = BURST,
        rate: float = RATE,
        most: int = MOST_ADDRESSES,
    ) -> None:
        self._clock = clock
        self._burst = burst
        self._rate = rate
        self._most = most
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, address: str) -> None:
        """Raise `Refused` (rate_limited) for one who must wait."""
        left = self._now(address)
        if left < 1.0:
            raise Refused(ErrorCode.RATE_LIMITED, retry_after=round((1.0 - left) / self._rate, 1))

    def wrong(self, address: str) -> None:
        """Count a wrong password."""
        self._left[address] = (self._now(address) - 1.0, self._clock())
        self._left.move_to_end(address)
        if len(self._left) > self._most:
            self._left.popitem(last=False)

    def _now(self, address: str) -> float:
        left, at = self._left.get(address, (self._burst, 0.0))
        return min(self._burst, left + (self._clock() - at) * self._rate)


def address_of(request: Request, proxies: Sequence[Network]) -> str:
    """Return who asks: an IPv4 address, or the /64 of an IPv6 one, behind the proxies that are trusted.

    ``X-Forwarded-For`` is read from its end, where our own proxies write; what stands before the first address that is not
    one of them was written by a stranger.
    """
    address = request.client.host if request.client is not None else ""
    forwarded = [part.strip() for part in ",".join(request.headers.getlist("x-forwarded-for")).split(",")]
    while forwarded and _is_in(address, proxies):
        address = forwarded.pop() or address
    return _subnet(address)


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def _subnet(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))
