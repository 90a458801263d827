"""Who is at the other end: the address of a client, seen through the proxies that are trusted, for HTTP and the websocket alike."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

_LOGGER = logging.getLogger("looprooms.addresses")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_LONGEST: Final = 64
"""Characters that are kept of what is no address: a proxy may write a name."""


class Addresses:
    """Reads addresses. `proxies` are the addresses and networks whose ``X-Forwarded-*`` headers are believed."""

    def __init__(self, proxies: Iterable[str]) -> None:
        self._proxies = tuple(ipaddress.ip_network(network, strict=False) for network in proxies)
        self._said = False

    def of(self, peer: str, forwarded: Sequence[str]) -> str:
        """Return who asks: an IPv4 address, or the /64 of an IPv6 one.

        `forwarded` are the values of ``X-Forwarded-For``. They are read from their end, where our own proxies write; what
        stands before the first address that is not one of them was written by a stranger.
        """
        address = peer
        if self._proxies:
            hops = [hop for hop in (part.strip() for part in ",".join(forwarded).split(",")) if hop]
            while hops and self.trusts(address):
                address = hops.pop()
        elif forwarded and not self._said and _is_near(peer):
            self._said = True
            _LOGGER.warning(
                "%s forwards requests and is no trusted proxy, so all whom it forwards for are limited as one address; "
                "if it is yours, name it in LOOPROOMS_TRUSTED_PROXIES",
                peer,
            )
        return subnet(address)

    def trusts(self, address: str) -> bool:
        """Say whether `address` is a proxy of ours."""
        return bool(self._proxies) and _is_in(address, self._proxies)


def _is_near(address: str) -> bool:
    """Say whether it is an address of this machine or of a private network, as a proxy of one's own has."""
    parsed = _parsed(address)
    return parsed is not None and parsed.is_private


@lru_cache(maxsize=256)
def _is_in(address: str, networks: tuple[Network, ...]) -> bool:
    parsed = _parsed(address)
    return parsed is not None and any(parsed in network for network in networks)


@lru_cache(maxsize=4096)
def subnet(address: str) -> str:
    """Return what one asker has at least: an IPv4 address, or a /64, of which a home gets one and a host all addresses."""
    parsed = _parsed(address)
    if parsed is None:
        return address[:_LONGEST]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def _parsed(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an address, also with a port or a zone, as some proxies write it."""
    host = address.strip()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        parsed = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed
