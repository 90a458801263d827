"""Who may connect: a flood of connections from one address is turned away at the door, before it costs memory or a place.

Two thousand connections a second from one address cost a core a few tenths of its time, and nobody notices; but those that are
kept open until a deadline would take every file descriptor of the process. So each address has a bucket of connections.

Behind a proxy all connections come from one address; there the proxy has to hold off floods, and what it lets through is
counted by the addresses that it names: requests by the limits of HTTP, websockets here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from server.addresses import Addresses, subnet
from server.limits import Quotas
from storage.redis.limits import Limit

CONNECTIONS: Final = Limit("connections", burst=500, rate=50)
"""Connections from one address: a school behind one comes back within ten seconds."""


class Door:
    """The door of one node."""

    def __init__(self, addresses: Addresses, quotas: Quotas) -> None:
        self._addresses = addresses
        self._quotas = quotas
        self.turned_away = 0
        self.lingering = 0
        """Connections that were turned away, and are still there to be told so."""

    def admits(self, peer: str) -> bool:
        """Say whether one more connection of `peer` may stay: asked when it was accepted."""
        return self._addresses.trusts(peer) or self._count(subnet(peer))

    def admits_behind(self, peer: str, forwarded: Sequence[str]) -> bool:
        """Say whether a websocket may be opened that came through a proxy of ours; any other was asked for already."""
        return not self._addresses.trusts(peer) or self._count(self._addresses.of(peer, forwarded))

    def _count(self, address: str) -> bool:
        allowed = self._quotas.spend(CONNECTIONS, address).allowed
        if not allowed:
            self.turned_away += 1
        return allowed
