"""What travels over the websockets: commands out, answers to whoever called, events to the rooms.

`Traffic` is the carrier's passenger: the carrier keeps a websocket open, this knows what was sent on which, and what has
to be sent again on the next one.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final
from uuid import UUID

import msgspec

from protocol.client.calls import Calls, PendingCall, refused
from protocol.client.carrier import Carrier
from protocol.client.inbox import Inbox
from protocol.client.link import Link
from protocol.client.options import Options, TokenSource
from protocol.client.positions import Place
from protocol.client.rooms import Rooms
from protocol.client.states import Occurrence, Reconnecting, Unanswered
from protocol.codec import JSON, Unreadable
from protocol.envelope import Answer, Command, Error, RoomId
from protocol.refusals import Refused
from protocol.rooms import JoinRoom, LeaveRoom, RoomJoined, RoomLeft
from protocol.session import Drain, Hello, Ping, Position, RefreshToken, TokenExpiring, Welcome

log = logging.getLogger("looprooms.client")

HELLO_BYTES: Final = 4096
"""What the server takes as a first message."""

MOST_POSITIONS: Final = 64
"""What a hello and a ping may carry."""

CALLS_GO_ON: Final = 16
"""While an answer is awaited the inbox may hold so many times its limit, because the answer stands behind the events."""


class Traffic:
    """Everything of one client between its users and its websockets. `end` is why there is no more of it, once so."""

    def __init__(self, url: str, token: str | TokenSource, options: Options) -> None:
        self.carrier = Carrier(url, token, options, self)
        self.inbox: Inbox[Occurrence] = Inbox(options.waiting)
        self.rooms = Rooms(
            self.inbox, resume=lambda: self.carrier.replace(0.0), join=self._join, leave=self._leave
        )
        self.welcome: Welcome | None = None
        self.end: Exception | None = None
        self._calls = Calls()
        self._codec = options.codec
        self._patience = options.patience
        self._place = (msgspec.json if self._codec is JSON else msgspec.msgpack).Decoder(Place).decode

    # Out

    async def call(self, command: Command[Any]) -> Any:
        """Send a command and return its answer, however many websockets it takes. May be cancelled at any moment."""
        call = self._prepare(command, internal=False)
        self.inbox.nudge()  # a reader that stands still goes on while an answer is awaited
        try:
            link = self.carrier.link
            if link is not None and link.lost is None:
                call.link = link
                await link.send(call.data)
            return await call.answer
        finally:
            self._calls.discard(call.command.id)
            if call.answer.done() and not call.answer.cancelled():
                call.answer.exception()  # one that came as the caller was cancelled is not to be complained about

    def _prepare(self, command: Command[Any], *, internal: bool) -> PendingCall:
        command = msgspec.structs.replace(command, id=self._calls.next_id())
        answer = asyncio.get_running_loop().create_future()
        call = PendingCall(command, self._codec.encode(command), answer, internal=internal)
        self._calls.add(command.id, call)
        return call

    def _post(self, command: Command[Any]) -> None:
        """Send a command of the client's own; `_answered` takes the answer, nobody waits for it."""
        link = self.carrier.link
        if link is not None:
            call = self._prepare(command, internal=True)
            call.link = link
            link.post(call.data)

    def _join(self, room: RoomId) -> None:
        self._post(JoinRoom(str(room)))

    def _leave(self, room: RoomId) -> None:
        self._post(LeaveRoom(str(room)))

    async def _refresh(self) -> None:
        """Give the server a new token in place. Failing that, it closes with 4001, and the return brings one."""
        try:
            token = await self.carrier.fresh_token()
        except (OSError, Refused) as problem:
            log.warning("no new token: %s", problem)
        else:
            if token is not None:
                self._post(RefreshToken(token))

    # In

    def take(self, link: Link, data: bytes) -> None:
        """See `Passenger`."""
        try:
            message = self._codec.decode_reply(data)
        except Unreadable as problem:
            self._pass_over(link, data, problem)
            return
        if isinstance(message, Answer | Error):
            self._answered(link, message)
        elif link is not self.carrier.link:
            return  # of a websocket that was replaced: its successor brings the same events
        elif isinstance(message, TokenExpiring):
            self.carrier.begin(self._refresh())
        elif isinstance(message, Drain):
            self.carrier.replace(message.reconnect_in)
        else:
            self.rooms.take(message)

    def _pass_over(self, link: Link, data: bytes, problem: Unreadable) -> None:
        """A newer server says more than we know: keep what keeps us in step, ignore the rest."""
        log.debug("passed over a message: %s", problem)
        if (call := self._calls.get(problem.id)) is not None:
            call.fail(problem)
            if call.internal:
                self._answered(link, Error(id=problem.id, code=problem.code, message=problem.message))
        elif link is self.carrier.link:
            try:
                place = self._place(data)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return
            if place.person_offset is not None:
                self.rooms.pass_over_own(place.person_offset)
            elif place.room is not None and place.offset is not None:
                self.rooms.pass_over(place.room, place.offset)

    def _answered(self, link: Link, answer: Answer | Error) -> None:
        call = self._calls.get(answer.id)
        if call is not None and call.link is not link:
            call = None  # sent again on another websocket, which answers it too
        if call is not None and call.internal:
            self._calls.discard(call.command.id)
            if isinstance(call.command, JoinRoom) and isinstance(answer, RoomJoined | Error):
                self.rooms.rejoined(RoomId(UUID(call.command.room)), answer)
            return
        if link is self.carrier.link:
            if isinstance(answer, RoomJoined):
                self.rooms.joined(answer)  # even when nobody waits any more: the server has let us in
            elif isinstance(answer, RoomLeft):
                self.rooms.left(answer)
        if call is not None and call.repeated and isinstance(answer, Error) and _says_later(answer):
            # The first sending may have been done, so this is no answer yet.
            asyncio.get_running_loop().call_later(answer.retry_after or 1.0, self._send_again, link, call)
        elif call is not None:
            call.resolve(answer)
        elif isinstance(answer, Error) and answer.id is None:
            log.warning("the server could not read a message of ours: %s", answer.message)

    def _send_again(self, link: Link, call: PendingCall) -> None:
        if call.link is link and self._calls.get(call.command.id) is call:
            link.post(call.data)

    async def ready(self, link: Link) -> None:
        """See `Passenger`. When too much waits to be iterated over, the socket is not read, and TCP slows the server."""
        while self.inbox.full and self._stands_still(link):
            link.held = True
            await self.inbox.change()
        link.held = False

    def _stands_still(self, link: Link) -> bool:
        if self.end is not None or link is not self.carrier.link:
            return False
        return not self._calls.awaited or len(self.inbox) >= self.inbox.limit * CALLS_GO_ON

    # From one websocket to the next

    def hello(self, token: str) -> Hello:
        """See `Passenger`. It has as many positions as fit; the other rooms are joined again."""
        positions = self.rooms.positions.resume(MOST_POSITIONS)
        hello = Hello(token, positions, self.rooms.asking(), id=self._calls.next_id())
        while positions and (size := len(self._codec.encode(hello))) > HELLO_BYTES:
            del positions[int(len(positions) * HELLO_BYTES / size) :]
        return hello

    def changed(self, link: Link, asked: list[Position]) -> None:
        """See `Passenger`. Rooms come first, since what is sent again may need them."""
        self.welcome = link.welcome
        self.inbox.nudge()  # the reader of the one before may stand still
        for call in self._calls:
            if call.internal:
                self._calls.discard(call.command.id)
        self.rooms.stands(link.welcome.epoch, link.welcome.person)
        self.rooms.resumed(asked, link.welcome.resumed)
        for call in self._calls:
            if not call.internal and (call.link is None or call.again):
                call.repeated = call.repeated or call.link is not None
                call.link = link
                link.post(call.data)

    def lost(self, link: Link) -> None:
        """See `Passenger`."""
        self.rooms.lost()
        self.left(link)

    def left(self, link: Link) -> None:
        """See `Passenger`. What was sent on `link` waits for the next one, or is in doubt."""
        for call in self._calls:
            if call.link is link:
                if call.again:
                    call.link = None
                    call.repeated = True
                else:
                    call.fail(Unanswered(call.name))

    async def finished(self, link: Link) -> None:
        """See `Passenger`."""
        waiting = [call.answer for call in self._calls if call.link is link]
        if waiting:
            await asyncio.wait(waiting, timeout=self._patience)

    def announced(self, state: Reconnecting) -> None:
        """See `Passenger`. What nobody has looked at yet is replaced, or a long night would fill the memory."""
        if isinstance(self.inbox.last, Reconnecting):
            self.inbox.replace_last(state)
        else:
            self.inbox.put(state)

    def ask(self) -> None:
        """See `Passenger`. A ping tells the server what has been seen."""
        self._post(Ping(self.rooms.positions.seen(MOST_POSITIONS)))

    def ended(self, error: Exception) -> None:
        """See `Passenger`."""
        self._finish(error, error)

    def closed(self, error: Exception) -> None:
        """End because the user wants it: the iteration stops, and calls raise `error`."""
        self._finish(error, None)

    def _finish(self, error: Exception, last: Exception | None) -> None:
        if self.end is None:
            self.end = error
            self.inbox.end(last)
            self._calls.fail_all(error)


def _says_later(error: Error) -> bool:
    return refused(error).code.retryable
