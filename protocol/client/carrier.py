"""Keeps one current websocket: opens the first, notices when it is lost or silent, and opens its successors.

Two kinds of task run: a reader for each websocket, and the supervisor, which alone decides which one is current; so there
is nothing to lock. What travels over the websockets is the `Passenger`'s business.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from protocol.client.heartbeat import Beat, Heartbeat
from protocol.client.link import Link, LinkLost, open_link
from protocol.client.options import Options, TokenSource
from protocol.client.states import Disconnected, Reconnecting
from protocol.closing import CloseCode
from protocol.refusals import ErrorCode, Refused
from protocol.session import Hello, Position

log = logging.getLogger("looprooms.client")

STABLE: Final = 10.0
"""Seconds that a websocket must have lasted for its loss to count as the first again."""


class Passenger(Protocol):
    """Who travels."""

    def hello(self, token: str) -> Hello:
        """Return the first message of a new websocket, with the positions of this moment."""

    def take(self, link: Link, data: bytes) -> None:
        """Take a message of any websocket that still lives; `link` may no longer be the current one."""

    async def ready(self, link: Link) -> None:
        """Wait while no further message can be taken from `link`."""

    def changed(self, link: Link, asked: list[Position]) -> None:
        """Go on with `link`, whose hello had the positions `asked`."""

    def lost(self, link: Link) -> None:
        """The current websocket is gone, and there is no other yet."""

    def left(self, link: Link) -> None:
        """Nothing comes from this websocket any more."""

    async def finished(self, link: Link) -> None:
        """Wait until `link`, which is no longer current, has answered what only it can answer."""

    def announced(self, state: Reconnecting) -> None:
        """Another attempt is made."""

    def ask(self) -> None:
        """Send a ping."""

    def ended(self, error: Exception) -> None:
        """There is no coming back."""


class Carrier:
    """The websockets of one client, one after the other. `link` is the current one, None while there is none."""

    def __init__(self, url: str, token: str | TokenSource, options: Options, passenger: Passenger) -> None:
        self.link: Link | None = None
        self._url = url
        self._token = token
        self._options = options
        self._passenger = passenger
        self._heartbeat: Heartbeat | None = None
        self._replace_at: float | None = None
        self._attempts = 0
        self._wake = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the first websocket and look after it from then on.

        A server that says "later" is asked again, one that is not there is an OSError at once. Raises what `open_link`
        raises, within the time for opening.
        """
        async with asyncio.timeout(self._options.open_timeout):
            link, asked = await self._enter()
        self._change(link, asked)
        self._attempts = 0
        self._supervisor = asyncio.create_task(self._supervise())
        self._tasks.add(self._supervisor)

    def replace(self, seconds: float) -> None:
        """Change to a new websocket in so many seconds."""
        self._replace_at = _now() + seconds
        self._wake.set()

    async def fresh_token(self) -> str | None:
        """Return a new token, if there is more than one."""
        return None if isinstance(self._token, str) else await self._token()

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something until it ends or the carrier is closed."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Close the current websocket with 1000 and stop everything."""
        if self._supervisor is not None:
            self._supervisor.cancel()  # or it would see a websocket lost, and open another
        link, self.link = self.link, None
        try:
            if link is not None and link.lost is None:
                await link.close()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _enter(self) -> tuple[Link, list[Position]]:
        while True:
            self._attempts += 1
            try:
                return await self._open()
            except LinkLost as lost:
                if self._is_final(lost):
                    raise
                wait = lost.wait
            except Refused as refused:
                if not self._may_retry(refused):
                    raise
                wait = refused.retry_after or 0.0
            await self._options.sleep(max(wait, self._options.backoff.wait(self._attempts)))

    async def _open(self) -> tuple[Link, list[Position]]:
        token = self._token if isinstance(self._token, str) else await self._token()
        hello = self._passenger.hello(token)
        link = await open_link(
            self._url,
            self._options.codec,
            hello=hello,
            compression=self._options.compression,
            open_timeout=self._options.open_timeout,
            close_timeout=self._options.close_timeout,
        )
        return link, hello.resume

    def _change(self, link: Link, asked: list[Position]) -> None:
        self.link = link
        self._replace_at = None
        self._heartbeat = Heartbeat(
            interval=link.welcome.heartbeat,
            patience=self._options.patience,
            now=_now(),
            jitter=self._options.backoff.random(),
        )
        self._passenger.changed(link, asked)
        self.begin(self._read(link))

    async def _read(self, link: Link) -> None:
        try:
            while True:
                self._passenger.take(link, await link.receive())
                await self._passenger.ready(link)
        except LinkLost as lost:
            link.lost = lost
        except Exception as bug:
            log.exception("this client could not go on")
            link.lost = LinkLost(CloseCode.INTERNAL, f"This client could not go on: {bug!r}")
            link.abort()
        self._wake.set()

    # The supervisor

    async def _supervise(self) -> None:
        try:
            while True:
                link = await self._until_something_is_due()
                if link.lost is not None:
                    await self._come_back(link, link.lost)
                elif self._replace_at is not None and _now() >= self._replace_at:
                    await self._replace(link)
                else:
                    self._beat(link)
        except LinkLost as lost:
            self._passenger.ended(Disconnected(lost.code, lost.reason))
        except Exception as error:  # noqa: BLE001 - of the token source, or a bug: whoever iterates shall see it
            self._passenger.ended(error)

    async def _until_something_is_due(self) -> Link:
        assert self.link is not None
        assert self._heartbeat is not None
        due = self._heartbeat.due if self._replace_at is None else min(self._heartbeat.due, self._replace_at)
        try:
            async with asyncio.timeout_at(due):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
        return self.link

    def _beat(self, link: Link) -> None:
        assert self._heartbeat is not None
        now = _now()
        if link.held:
            self._heartbeat.forgive(now)
            return
        beat = self._heartbeat.tick(now, link.heard)
        if beat is Beat.ASK:
            self._passenger.ask()
        elif beat is Beat.DEAD:
            log.info("nothing was heard of the server any more")
            link.abort()

    async def _come_back(self, link: Link, lost: LinkLost) -> None:
        hint = 0.0 if self._replace_at is None else max(0.0, self._replace_at - _now())
        self.link = None
        self._replace_at = None
        self._passenger.lost(link)
        if _now() - link.opened >= STABLE:
            self._attempts = 0
        while True:
            if self._is_final(lost):
                raise lost
            self._attempts += 1
            wait = max(hint, lost.wait, self._options.backoff.wait(self._attempts))
            self._passenger.announced(
                Reconnecting(attempt=self._attempts, wait=wait, code=lost.code, reason=lost.reason)
            )
            await self._options.sleep(wait)
            hint = 0.0
            try:
                self._change(*await self._open())
            except LinkLost as again:
                lost = again
            except Refused as refused:
                if not self._may_retry(refused):
                    raise
                lost = LinkLost(lost.code, refused.message, wait=refused.retry_after or 0.0)
            except OSError as error:
                lost = LinkLost(lost.code, str(error))
            else:
                return

    async def _replace(self, old: Link) -> None:
        """Open the next websocket while the current one still works, then close that one. Nothing is felt of it."""
        self._attempts += 1
        try:
            new, asked = await self._open()
        except (LinkLost, Refused, OSError) as problem:
            log.info("could not replace the connection yet: %s", problem)
            self._replace_at = _now() + self._options.backoff.wait(self._attempts)
            return
        self._attempts = 0
        if old.lost is not None:
            self._passenger.left(old)
        self._change(new, asked)
        self.begin(self._retire(old))

    async def _retire(self, link: Link) -> None:
        if link.lost is None:
            await self._passenger.finished(link)
        self._passenger.left(link)
        await link.close()

    def _is_final(self, lost: LinkLost) -> bool:
        return lost.final or (lost.code == CloseCode.TOKEN_EXPIRED and isinstance(self._token, str))

    def _may_retry(self, refused: Refused) -> bool:
        if refused.code == ErrorCode.TOKEN_EXPIRED:
            return not isinstance(self._token, str)
        return refused.code.retryable


def _now() -> float:
    return asyncio.get_running_loop().time()
