"""Stopping without being felt: everyone is told when to come back, spread over time, and what was begun is finished."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from protocol.closing import CloseCode
from protocol.session import Drain
from server.hub.connection import Connection
from server.hub.hub import Hub

DEPARTURES_PER_SECOND: Final = 200
"""How fast a node sends its clients away: slow enough that the others take them in without noticing."""


def departure_times(connections: int, most: float) -> list[float]:
    """Return, in random order, when each of `connections` is to go: seconds from now, evenly spread, at most `most`."""
    window = min(most, connections / DEPARTURES_PER_SECOND)
    times = [window * (i + 1) / connections for i in range(connections)]
    random.shuffle(times)
    return times


async def drain(hub: Hub, *, most: float) -> None:
    """Tell every client when to come back and close each at that time; return when all are gone, or soon after `most` seconds.

    From the first moment no new connection is taken.
    """
    hub.draining = True
    connections = [connection for connection in hub.members.connections if connection.session is not None]
    leaving: dict[Connection, float] = dict(
        zip(connections, departure_times(len(connections), most), strict=True)
    )
    for connection, seconds in leaving.items():
        connection.send(Drain(reconnect_in=round(seconds, 3)))
        hub.loop.call_later(seconds, connection.close, CloseCode.DRAINING)
    for connection in hub.members.connections - leaving.keys():
        connection.close(CloseCode.DRAINING)
    last = hub.clock() + max(leaving.values(), default=0.0) + 1.0
    while hub.members.connections and hub.clock() < last:  # noqa: ASYNC110 - once in the life of a node
        await asyncio.sleep(0.05)
