"""What programs see of the client: calls, events, and an end. `protocol.client.traffic` does the work."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

from protocol.chat import ChatSent, SendChat
from protocol.client.link import LinkLost, websocket_url
from protocol.client.options import Options, TokenSource
from protocol.client.states import Disconnected, Occurrence
from protocol.client.traffic import Traffic
from protocol.contract import tag_of
from protocol.envelope import AnswerT, Command, Person, RoomId
from protocol.session import Welcome


class Client:
    """One person's connection, which outlives its websockets; made by `protocol.client.connect`, used with ``async with``."""

    def __init__(self, url: str, token: str | TokenSource, options: Options) -> None:
        self._traffic = Traffic(websocket_url(url), token, options)
        self._call_timeout = options.call_timeout
        self._closed = False

    @property
    def welcome(self) -> Welcome:
        """The newest welcome: the session, the epoch, the server's time."""
        if self._traffic.welcome is None:
            raise RuntimeError("Enter the client first: async with connect(...) as client.")
        return self._traffic.welcome

    @property
    def user(self) -> Person:
        """Who this client is, as others see them."""
        return self.welcome.user

    @property
    def connected(self) -> bool:
        """Whether there is a websocket at this moment. Calls may be made either way."""
        link = self._traffic.carrier.link
        return link is not None and link.lost is None

    @property
    def rooms(self) -> list[RoomId]:
        """The rooms that this client is in."""
        return list(self._traffic.rooms.positions)

    @property
    def waiting(self) -> int:
        """How many events wait to be iterated over."""
        return len(self._traffic.inbox)

    async def call(self, command: Command[AnswerT], *, timeout: float | None = None) -> AnswerT:  # noqa: ASYNC109 - the limit is a part of the call
        """Send a command and return its answer.

        While the connection is away the command waits for it. One that was on its way when the connection broke is sent
        again if doing it twice is doing it once. Raises `protocol.refusals.Refused`; TimeoutError after `timeout` seconds;
        `Unanswered` when nobody can know whether it was done; `Disconnected` when there is no coming back.
        """
        if self._traffic.end is not None:
            raise self._traffic.end
        if self._traffic.welcome is None:
            raise RuntimeError("Enter the client first: async with connect(...) as client.")
        limit = self._call_timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(limit):
                answer: AnswerT = await self._traffic.call(command)
                return answer
        except TimeoutError:
            raise TimeoutError(f"{tag_of(type(command))} was not answered within {limit:g} s.") from None

    async def send_chat(
        self,
        room: str,
        text: str,
        *,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - see call
    ) -> ChatSent:
        """Say `text` in `room` once, whatever happens to the connection. A key is made when none is given."""
        return await self.call(SendChat(room, text, key or uuid.uuid4().hex), timeout=timeout)

    def __aiter__(self) -> AsyncIterator[Occurrence]:
        return self

    async def __anext__(self) -> Occurrence:
        """Return the next event or state. Raises `Disconnected` when there is no coming back."""
        return await self._traffic.inbox.get()

    async def __aenter__(self) -> Self:
        try:
            await self._traffic.carrier.start()
        except LinkLost as lost:
            raise Disconnected(lost.code, lost.reason) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave, with close code 1000. Who waits for an answer gets `Disconnected`; the iteration stops."""
        if not self._closed:
            self._closed = True
            self._traffic.closed(Disconnected(1000, "This client was closed."))
            await self._traffic.carrier.close()
