"""Engagement: the time that members of premium are with creators, counted, and the month's pool shared out by it.

Every `COUNT_SECONDS` a node counts for everyone who is in a premium looproom then the time since it counted last. Who came just
before is given a little too much, who left just before too little: over a month that evens out, and it costs one statement.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from protocol.envelope import RoomId, UserId
from protocol.refusals import Refused
from server.jobs import DAY, performs
from storage import engagement, pools
from storage.jobs import Periodic

if TYPE_CHECKING:
    from server.node import Node

_LOGGER = logging.getLogger("looprooms.engagement")

COUNT_SECONDS: Final = 10.0
LONGEST_STRETCH: Final = 60.0
"""More than that is not counted at once, however long Postgres was away: nobody knows who was there meanwhile."""
TOGETHER: Final = 2000
"""People in one statement, and looked at in one turn of the loop."""
LATE_DAYS: Final = 3
"""A month is shared out so many days after its end: until then word of payments may be late."""


class EngagementCounter:
    """Counts who is in premium looprooms on one node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._since = node.hub.clock()
        self.counted = 0
        """Stretches that were counted."""

    async def run(self) -> None:
        """Count every `COUNT_SECONDS`, for ever."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            try:
                await self.count()
            except Refused:
                _LOGGER.warning("engagement is not counted: Postgres is out of reach")

    async def count(self) -> None:
        """Count those who are there now. Raises `Refused`; then the time is counted with the next one."""
        now = self._node.hub.clock()
        seconds = min(LONGEST_STRETCH, now - self._since)
        most = self._node.settings.engagement_hours_a_day * 3600
        present: set[tuple[RoomId, UserId]] = set()
        for number, connection in enumerate(self._node.previews.connections(), start=1):
            present.update(self._node.previews.engaged(connection))
            if not number % TOGETHER:
                await asyncio.sleep(0)
        pairs = list(present)
        for start in range(0, len(pairs), TOGETHER):
            await engagement.count(self._node.stores.pool, pairs[start : start + TOGETHER], seconds, most)
        self.counted += len(pairs)
        self._since = now


class ClosePools(Periodic, tag="pools.close"):
    """Shares out the months that are over."""


@performs(ClosePools, every=DAY, at=5 * 3600, together=1, within=600.0)
async def close_nightly(node: Node, job: ClosePools) -> None:  # noqa: ARG001 - whichever night it is
    """Share out what is over for `LATE_DAYS`."""
    await close_pools(node, time.time())


async def close_pools(node: Node, at: float) -> None:
    """Share out the months that are over for `LATE_DAYS` at a moment (seconds since 1970), and forget what was counted for them."""
    pool = node.stores.pool
    before = pools.months(at - LATE_DAYS * DAY, 1)[0]
    for period in await pools.to_close(pool, before):
        if await pools.close(pool, period):
            _LOGGER.info("the pool of %s is shared out", period)
    await engagement.forget(pool, before)
