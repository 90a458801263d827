"""The commands that wait for their answers, and which of them may be sent a second time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

from protocol.chat import EditChat
from protocol.contract import tag_of
from protocol.envelope import Answer, Command, Error
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import SendCue

ONCE: Final = (EditChat, SendCue)
"""Commands that a lost answer leaves in doubt: a second edit would overwrite another's, a second cue would be heard twice.

Everything else may be sent again. A chat line has its key; joining, leaving, reading, reacting and removing have the same
effect twice as once.
"""


_KNOWN: Final = {code.value: code for code in ErrorCode}


class PendingCall:
    """One command on its way. `link` is the websocket that it was sent on, None while there is none.

    Nobody waits for the answer of an `internal` one, which the client sends by itself.
    """

    __slots__ = ("answer", "command", "data", "internal", "link", "repeated")

    def __init__(
        self, command: Command[Any], data: bytes, answer: asyncio.Future[Any], *, internal: bool
    ) -> None:
        self.command = command
        self.data = data
        self.answer = answer
        self.internal = internal
        self.link: object | None = None
        self.repeated = False
        """Whether it may have been done already by an earlier sending."""

    @property
    def again(self) -> bool:
        """Whether it may be sent a second time."""
        return not isinstance(self.command, ONCE)

    @property
    def name(self) -> str:
        """The command's name on the wire."""
        return tag_of(type(self.command))

    def resolve(self, answer: Answer | Error) -> None:
        """Give the caller what came."""
        if not self.internal and not self.answer.done():
            if isinstance(answer, Error):
                self.answer.set_exception(refused(answer))
            else:
                self.answer.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Give the caller an exception."""
        if not self.internal and not self.answer.done():
            self.answer.set_exception(error)


class Calls:
    """All that wait, by id, in the order in which they were made."""

    def __init__(self) -> None:
        self._waiting: dict[int, PendingCall] = {}
        self._last_id = 0

    def __iter__(self) -> Iterator[PendingCall]:
        return iter(list(self._waiting.values()))

    @property
    def awaited(self) -> bool:
        """Whether anybody waits for an answer."""
        return any(not call.internal for call in self._waiting.values())

    def next_id(self) -> int:
        """Return an id that was not used on this client before."""
        self._last_id += 1
        return self._last_id

    def add(self, id: int, call: PendingCall) -> None:  # noqa: A002 - the field's name on the wire
        """Remember that `call` waits for the answer with `id`."""
        self._waiting[id] = call

    def get(self, id: int | None) -> PendingCall | None:  # noqa: A002 - see add
        """Return the call with this id, if it still waits."""
        return self._waiting.get(id) if id is not None else None

    def discard(self, id: int) -> None:  # noqa: A002 - see add
        """Forget a call; an answer that comes later is ignored."""
        self._waiting.pop(id, None)

    def fail_all(self, error: Exception) -> None:
        """Give `error` to everyone who waits."""
        for call in self:
            call.fail(error)


def refused(error: Error) -> Refused:
    """Return the exception for an error answer. A code that a newer server knows and we don't is kept as it is."""
    code = _KNOWN.get(error.code) or _unknown(error)
    return Refused(code, error.message, retry_after=error.retry_after, path=error.path)


def _unknown(error: Error) -> ErrorCode:
    code = str.__new__(ErrorCode, error.code)
    code._name_ = error.code.upper()
    code._value_ = error.code
    code.status = 400
    code.retryable = error.retry_after is not None
    code.advice = error.message
    return code
