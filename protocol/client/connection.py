"""One person's connection to the server, which outlives the websockets that carry it.

Three things run: a reader for each websocket, which takes every message; a supervisor, which replaces the websocket when
it is lost, when the server is about to stop, or when an offset was skipped; and whoever calls and iterates. The supervisor
alone decides which websocket is the current one, so there is nothing to lock.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Coroutine
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

import msgspec

from protocol.chat import ChatSent, SendChat
from protocol.client.calls import Calls, PendingCall
from protocol.client.heartbeat import Beat, Heartbeat
from protocol.client.inbox import Inbox
from protocol.client.link import Link, LinkLost, open_link, websocket_url
from protocol.client.options import Options, TokenSource
from protocol.client.positions import Place
from protocol.client.rooms import Rooms
from protocol.client.states import Disconnected, Occurrence, Reconnecting, Unanswered
from protocol.closing import CloseCode
from protocol.codec import JSON, Unreadable
from protocol.envelope import Answer, AnswerT, Command, Error, Person, RoomId
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import JoinRoom, LeaveRoom, RoomJoined, RoomLeft
from protocol.session import Drain, Hello, Ping, Position, RefreshToken, TokenExpiring, Welcome

log = logging.getLogger("looprooms.client")

HELLO_BYTES: Final = 4096
"""What the server takes as a first message."""

MOST_POSITIONS: Final = 64
"""What a hello and a ping may carry."""

STABLE: Final = 10.0
"""Seconds that a websocket must have lasted for its loss to count as the first again."""

CALLS_GO_ON: Final = 16
"""While an answer is awaited the inbox may hold so many times its limit, because the answer stands behind the events."""


class Client:
    """A connection to the server; made by `protocol.client.connect`, used with ``async with``."""

    def __init__(self, url: str, token: str | TokenSource, options: Options) -> None:
        self._url = websocket_url(url)
        self._token = token
        self._options = options
        self._codec = options.codec
        self._place = (msgspec.json if self._codec is JSON else msgspec.msgpack).Decoder(Place).decode
        self._calls = Calls()
        self._inbox: Inbox[Occurrence] = Inbox(options.waiting)
        self._rooms = Rooms(self._inbox, resume=self._resume, join=self._join, leave=self._leave)
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._supervisor: asyncio.Task[None] | None = None
        self._link: Link | None = None
        self._welcome: Welcome | None = None
        self._heartbeat: Heartbeat | None = None
        self._replace_at: float | None = None
        self._attempts = 0
        self._ended: Exception | None = None
        self._closing = False

    # For whoever uses it

    @property
    def welcome(self) -> Welcome:
        """The newest welcome: the session, the epoch, the server's time."""
        if self._welcome is None:
            raise RuntimeError("Enter the client first: async with connect(...) as client.")
        return self._welcome

    @property
    def user(self) -> Person:
        """Who this client is, as others see them."""
        return self.welcome.user

    @property
    def connected(self) -> bool:
        """Whether there is a websocket at this moment. Calls may be made either way."""
        return self._link is not None and self._link.lost is None

    @property
    def rooms(self) -> list[RoomId]:
        """The rooms that this client is in."""
        return list(self._rooms.positions)

    async def call(self, command: Command[AnswerT], *, timeout: float | None = None) -> AnswerT:  # noqa: ASYNC109 - the limit is a part of the call
        """Send a command and return its answer.

        While the connection is away the command waits for it. One that was on its way when the connection broke is sent
        again if doing it twice is doing it once. Raises `protocol.refusals.Refused`; TimeoutError after `timeout` seconds;
        `Unanswered` when nobody can know whether it was done; `Disconnected` when there is no coming back.
        """
        if self._ended is not None:
            raise self._ended
        if self._welcome is None:
            raise RuntimeError("Enter the client first: async with connect(...) as client.")
        number, call = self._prepare(command)
        limit = self._options.call_timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(limit):
                if self._link is not None and self._link.lost is None:
                    call.link = self._link
                    await self._link.send(call.data)
                answer: AnswerT = await call.answer
                return answer
        except TimeoutError:
            raise TimeoutError(f"{call.name} was not answered within {limit:g} s.") from None
        finally:
            self._calls.discard(number)
            if call.answer.done() and not call.answer.cancelled():
                call.answer.exception()  # one that came as the caller was cancelled is not to be complained about

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
        return await self._inbox.get()

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(self._options.open_timeout):
                self._adopt(*await self._enter())
        except LinkLost as lost:
            raise Disconnected(lost.code, lost.reason) from None
        self._attempts = 0
        self._supervisor = asyncio.create_task(self._supervise())
        self._tasks.add(self._supervisor)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave, with close code 1000. Who waits for an answer gets `Disconnected`; the iteration stops."""
        if self._closing:
            return
        self._closing = True
        self._end(Disconnected(1000, "This client was closed."))
        if self._supervisor is not None:
            self._supervisor.cancel()  # or it would see a connection lost, and open another
        link, self._link = self._link, None
        try:
            if link is not None and link.lost is None:
                await link.close()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # Sending

    def _prepare(self, command: Command[Any], *, internal: bool = False) -> tuple[int, PendingCall]:
        number = self._calls.next_id()
        command = msgspec.structs.replace(command, id=number)
        answer = asyncio.get_running_loop().create_future()
        call = PendingCall(command, self._codec.encode(command), answer, internal=internal)
        self._calls.add(number, call)
        self._inbox.nudge()  # a reader that stands still goes on while an answer is awaited
        return number, call

    def _post(self, command: Command[Any]) -> None:
        """Send a command of the client's own; `_answered` takes the answer, nobody waits for it."""
        if self._link is not None:
            _, call = self._prepare(command, internal=True)
            call.link = self._link
            self._link.post(call.data)

    def _join(self, room: RoomId) -> None:
        self._post(JoinRoom(str(room)))

    def _leave(self, room: RoomId) -> None:
        self._post(LeaveRoom(str(room)))

    def _resume(self) -> None:
        self._replace_at = _now()
        self._wake.set()

    # Receiving

    async def _read(self, link: Link) -> None:
        try:
            while True:
                self._take(link, await link.receive())
                while self._inbox.full and self._stands_still(link):
                    link.held = True
                    await self._inbox.change()
                link.held = False
        except LinkLost as lost:
            link.lost = lost
        except Exception as bug:
            log.exception("this client could not go on")
            link.lost = LinkLost(CloseCode.INTERNAL, f"This client could not go on: {bug!r}")
            link.abort()
        self._wake.set()

    def _stands_still(self, link: Link) -> bool:
        if self._closing or link is not self._link:
            return False
        return not self._calls.awaited or len(self._inbox) >= self._inbox.limit * CALLS_GO_ON

    def _take(self, link: Link, data: bytes) -> None:
        try:
            message = self._codec.decode_reply(data)
        except Unreadable as problem:
            self._pass_over(link, data, problem)
            return
        if isinstance(message, Answer | Error):
            self._answered(link, message)
        elif link is not self._link:
            return  # of a websocket that was replaced: its successor brings the same events
        elif isinstance(message, TokenExpiring):
            self._start(self._refresh())
        elif isinstance(message, Drain):
            self._replace_at = _now() + message.reconnect_in
            self._wake.set()
        else:
            self._rooms.take(message)

    def _pass_over(self, link: Link, data: bytes, problem: Unreadable) -> None:
        """A newer server says more than we know: keep what keeps us in step, ignore the rest."""
        log.debug("passed over a message: %s", problem)
        if (call := self._calls.get(problem.id)) is not None:
            call.fail(problem)
            if call.internal:
                self._answered(link, Error(id=problem.id, code=problem.code, message=problem.message))
        elif link is self._link:
            try:
                place = self._place(data)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return
            self._rooms.pass_over(place.room, place.offset)

    def _answered(self, link: Link, answer: Answer | Error) -> None:
        call = self._calls.get(answer.id)
        if call is not None and call.link is not link:
            call = None  # sent again on another websocket, which answers it too
        if call is not None and call.internal:
            self._calls.discard(call.command.id)
            if isinstance(call.command, JoinRoom) and isinstance(answer, RoomJoined | Error):
                self._rooms.rejoined(RoomId(UUID(call.command.room)), answer)
            return
        if link is self._link:
            if isinstance(answer, RoomJoined):
                self._rooms.joined(answer)  # even when nobody waits any more: the server has let us in
            elif isinstance(answer, RoomLeft):
                self._rooms.left(answer)
        if call is not None:
            call.resolve(answer)
        elif isinstance(answer, Error) and answer.id is None:
            log.warning("the server could not read a message of ours: %s", answer.message)

    # The websocket and its successors

    async def _enter(self) -> tuple[Link, list[Position]]:
        """Open the first one. A server that says "later" is asked again; one that is not there is an OSError at once."""
        while True:
            self._attempts += 1
            try:
                return await self._open()
            except LinkLost as lost:
                if self._is_final(lost):
                    raise
                wait = max(lost.wait, self._options.backoff.wait(self._attempts))
            except Refused as refused:
                if not self._may_retry(refused):
                    raise
                wait = max(refused.retry_after or 0.0, self._options.backoff.wait(self._attempts))
            await self._options.sleep(wait)

    async def _open(self) -> tuple[Link, list[Position]]:
        token = self._token if isinstance(self._token, str) else await self._token()
        positions = self._rooms.positions.resume(MOST_POSITIONS)
        hello = Hello(token, positions, id=self._calls.next_id())
        while positions and (size := len(self._codec.encode(hello))) > HELLO_BYTES:
            del positions[int(len(positions) * HELLO_BYTES / size) :]
        link = await open_link(
            self._url,
            self._codec,
            hello=hello,
            compression=self._options.compression,
            open_timeout=self._options.open_timeout,
            close_timeout=self._options.close_timeout,
        )
        return link, positions

    def _adopt(self, link: Link, asked: list[Position]) -> None:
        """Make `link` the current websocket: take up its rooms, send what waits, read."""
        self._link = link
        self._welcome = link.welcome
        self._replace_at = None
        self._inbox.nudge()  # the reader of the one before may stand still
        now = _now()
        self._heartbeat = Heartbeat(
            interval=link.welcome.heartbeat,
            patience=self._options.patience,
            now=now,
            jitter=self._options.backoff.random(),
        )
        for call in self._calls:
            if call.internal:
                self._calls.discard(call.command.id)
        self._rooms.resumed(asked, link.welcome.resumed)
        for call in self._calls:
            if not call.internal and (call.link is None or call.again):
                call.link = link
                link.post(call.data)
        self._start(self._read(link))

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
            self._end(Disconnected(lost.code, lost.reason))
        except Exception as error:  # noqa: BLE001 - of the token source, or a bug: whoever iterates shall see it
            self._end(error)

    async def _until_something_is_due(self) -> Link:
        assert self._link is not None
        assert self._heartbeat is not None
        due = self._heartbeat.due if self._replace_at is None else min(self._heartbeat.due, self._replace_at)
        try:
            async with asyncio.timeout_at(due):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
        return self._link

    def _beat(self, link: Link) -> None:
        assert self._heartbeat is not None
        now = _now()
        if link.held:
            self._heartbeat.forgive(now)
            return
        match self._heartbeat.tick(now, link.heard):
            case Beat.ASK:
                self._post(Ping(self._rooms.positions.seen(MOST_POSITIONS)))
            case Beat.DEAD:
                log.info("nothing was heard of the server any more")
                link.abort()
            case Beat.NOTHING:
                pass

    async def _come_back(self, link: Link, lost: LinkLost) -> None:
        self._link = None
        self._rooms.lost()
        hint = 0.0 if self._replace_at is None else max(0.0, self._replace_at - _now())
        self._replace_at = None
        self._give_up_on(link)
        if _now() - link.opened >= STABLE:
            self._attempts = 0
        while True:
            if self._is_final(lost):
                raise lost
            self._attempts += 1
            wait = max(hint, lost.wait, self._options.backoff.wait(self._attempts))
            self._announce(
                Reconnecting(attempt=self._attempts, wait=wait, code=lost.code, reason=lost.reason)
            )
            await self._options.sleep(wait)
            hint = 0.0
            try:
                self._adopt(*await self._open())
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
            self._give_up_on(old)
        self._adopt(new, asked)
        self._start(self._retire(old))

    async def _retire(self, link: Link) -> None:
        """Close a websocket that has a successor, once what can't be sent again is answered."""
        waiting = [call.answer for call in self._calls if call.link is link]
        if waiting and link.lost is None:
            await asyncio.wait(waiting, timeout=self._options.patience)
        self._give_up_on(link)
        await link.close()

    def _give_up_on(self, link: Link) -> None:
        for call in self._calls:
            if call.link is link:
                if call.again:
                    call.link = None
                else:
                    call.fail(Unanswered(call.name))

    def _announce(self, state: Reconnecting) -> None:
        """Tell of an attempt; one that nobody has looked at yet is replaced, or a long night would fill the memory."""
        if isinstance(self._inbox.last, Reconnecting):
            self._inbox.replace_last(state)
        else:
            self._inbox.put(state)

    def _is_final(self, lost: LinkLost) -> bool:
        return lost.final or (lost.code == CloseCode.TOKEN_EXPIRED and isinstance(self._token, str))

    def _may_retry(self, refused: Refused) -> bool:
        if refused.code == ErrorCode.TOKEN_EXPIRED:
            return not isinstance(self._token, str)
        return refused.code.retryable

    async def _refresh(self) -> None:
        """Give the server a new token in place. Failing that, it closes with 4001, and the return brings one."""
        if isinstance(self._token, str):
            return
        try:
            self._post(RefreshToken(await self._token()))
        except (OSError, Refused) as problem:
            log.warning("no new token: %s", problem)

    def _end(self, error: Exception) -> None:
        if self._ended is None:
            self._ended = error
            self._inbox.end(None if self._closing else error)
            self._calls.fail_all(error)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _now() -> float:
    return asyncio.get_running_loop().time()
