"""Which channels a node wants to hear, and which Redis has confirmed. One link at a time is told, in few commands.

What is wanted is a set; what Redis was told follows it. So however fast subscribing and unsubscribing change places, the last
word is what was wanted last, and a new link is simply told everything again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from storage.redis.link import Link, Replies, pack

_CHANNELS_A_COMMAND: Final = 512
"""Redis runs nothing else while it works on one command."""


class Subscriptions:
    """The wanted channels of one subscriber link, in the loop that is running when it is made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._link: Link | None = None
        self._wanted: set[str] = set()
        self._told: set[str] = set()
        self._changed: dict[str, None] = {}
        self._unconfirmed: dict[str, int] = {}
        self._waiters: dict[str, asyncio.Future[bool]] = {}
        self._telling = False
        self.settled: asyncio.Future[None] = self._loop.create_future()

    def __contains__(self, channel: str) -> bool:
        """Say whether `channel` is wanted: what still comes on any other is late."""
        return channel in self._wanted

    def __len__(self) -> int:
        """Count the wanted channels."""
        return len(self._wanted)

    def want(self, channel: str) -> asyncio.Future[bool]:
        """Hear `channel` from now on. The future is true when Redis has confirmed, false when it is no longer wanted.

        Without a link the future waits for the next one: the caller must bound its own wait.
        """
        self._wanted.add(channel)
        waiter = self._waiters.get(channel)
        if waiter is None:
            waiter = self._loop.create_future()
            if channel in self._told and channel not in self._unconfirmed:
                waiter.set_result(True)
                return waiter
            self._waiters[channel] = waiter
            self._change(channel)
        return waiter

    def forget(self, channel: str) -> None:
        """Hear `channel` no more."""
        if channel in self._wanted:
            self._wanted.discard(channel)
            self._change(channel)
            self._answer(channel, confirmed=False)

    def attach(self, link: Link) -> asyncio.Future[None]:
        """Tell a new link everything that is wanted; the future is done when all of it is confirmed."""
        self.detach()
        self._link = link
        self.settled = self._loop.create_future()
        self._changed = dict.fromkeys(self._wanted)
        self._tell()
        if not self._unconfirmed:
            self.settled.set_result(None)
        return self.settled

    def detach(self) -> None:
        """Nothing is confirmed any more. What is wanted, and who waits for it, is kept."""
        self._link = None
        self._told.clear()
        self._unconfirmed.clear()
        self._changed.clear()

    def confirmed(self, channel: str) -> None:
        """Take note of Redis' word on one channel, whichever way: words come in the order of the commands."""
        left = self._unconfirmed.pop(channel, 0) - 1
        if left > 0:
            self._unconfirmed[channel] = left
            return
        if channel in self._told:
            self._answer(channel, confirmed=True)
        if not self._unconfirmed and not self.settled.done():
            self.settled.set_result(None)

    def _answer(self, channel: str, *, confirmed: bool) -> None:
        waiter = self._waiters.pop(channel, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(confirmed)

    def _change(self, channel: str) -> None:
        self._changed[channel] = None
        if not self._telling:
            self._telling = True
            self._loop.call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = False
        if self._link is not None:
            subscribe = [c for c in self._changed if c in self._wanted and c not in self._told]
            unsubscribe = [c for c in self._changed if c not in self._wanted and c in self._told]
            self._told.update(subscribe)
            self._told.difference_update(unsubscribe)
            self._send(b"SUBSCRIBE", subscribe)
            self._send(b"UNSUBSCRIBE", unsubscribe)
        self._changed.clear()

    def _send(self, verb: bytes, channels: Sequence[str]) -> None:
        for start in range(0, len(channels), _CHANNELS_A_COMMAND):
            some = channels[start : start + _CHANNELS_A_COMMAND]
            for channel in some:
                self._unconfirmed[channel] = self._unconfirmed.get(channel, 0) + 1
            if self._link is not None:
                self._link.send(pack(verb, *(channel.encode() for channel in some)), 0, _no_replies)


def _no_replies(replies: Replies) -> None:
    """Subscribing is answered by pushes."""
