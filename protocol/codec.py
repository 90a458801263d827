"""Bytes to messages and back, for both subprotocols: the same structs, as JSON text or as MessagePack.

The decoders check everything that the types say, so a command that comes out of here is well formed. Decoding raises three
unrelated types in the library; here they all become `Unreadable`, which knows the command's id if it could be found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from protocol.contract import JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL, AnyCommand, AnyReply
from protocol.envelope import CommandId, Message
from protocol.refusals import ErrorCode, Refused

TEXT: Final = 0x1
BINARY: Final = 0x2

_LONGEST_PROBLEM: Final = 120
"""Characters. An unknown name of a reaction, say, is quoted by the library however long it is."""


class Unreadable(Refused):
    """A message that is not a message of the contract. `id` is the command's, if that much could be read."""

    def __init__(
        self,
        code: ErrorCode,
        message: str | None = None,
        *,
        id: int | None,  # noqa: A002 - the field's name on the wire
        path: str | None,
    ) -> None:
        super().__init__(code, message, path=path)
        self.id = id


class _OnlyId(msgspec.Struct):
    id: CommandId | None = None


class Codec:
    """One subprotocol. `opcode` is that of its websocket frames (RFC 6455, section 5.2)."""

    def __init__(
        self,
        name: str,
        opcode: int,
        encode: Callable[[Any], bytes],
        decoder: Callable[[Any], Callable[[bytes], Any]],
    ) -> None:
        self.name = name
        self.opcode = opcode
        self.encode: Callable[[Message], bytes] = encode
        self._command: Callable[[bytes], AnyCommand] = decoder(AnyCommand)
        self._reply: Callable[[bytes], AnyReply] = decoder(AnyReply)
        self._only_id: Callable[[bytes], _OnlyId] = decoder(_OnlyId)

    def __repr__(self) -> str:
        return f"<Codec {self.name}>"

    def decode_command(self, data: bytes) -> AnyCommand:
        """Read a command. Raises `Unreadable`."""
        try:
            return self._command(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._explain(data, error) from None

    def decode_reply(self, data: bytes) -> AnyReply:
        """Read an answer or an event. Raises `Unreadable`."""
        try:
            return self._reply(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise self._explain(data, error) from None

    def _explain(self, data: bytes, error: Exception) -> Unreadable:
        if not isinstance(error, msgspec.ValidationError):
            return Unreadable(ErrorCode.MALFORMED, id=None, path=None)
        try:
            found = self._only_id(data).id
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            found = None
        problem, path = _problem(str(error))
        if path == "$.type" or (path == "$" and "missing required field `type`" in problem):
            return Unreadable(ErrorCode.UNKNOWN_TYPE, id=found, path="$.type")
        return Unreadable(ErrorCode.INVALID, f"{problem} (at {path}).", id=found, path=path)


def _problem(sentence: str) -> tuple[str, str]:
    """Split what the library says, such as "Expected `int` >= 0 - at `$.id`". The client's own words may stand in it."""
    problem, _, path = sentence.rpartition(" - at `")
    if not problem:
        problem, path = sentence, "$"
    path = path.rstrip("`").rpartition("`")[2]
    if len(problem) > _LONGEST_PROBLEM:
        problem = problem[:_LONGEST_PROBLEM] + "..."
    return problem, path


JSON: Final = Codec(
    JSON_SUBPROTOCOL, TEXT, msgspec.json.Encoder().encode, lambda t: msgspec.json.Decoder(t).decode
)
MSGPACK: Final = Codec(
    MSGPACK_SUBPROTOCOL, BINARY, msgspec.msgpack.Encoder().encode, lambda t: msgspec.msgpack.Decoder(t).decode
)
CODECS: Final = {codec.name: codec for codec in (JSON, MSGPACK)}
