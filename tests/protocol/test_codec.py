"""Bytes to messages and back: what is well formed survives, and what is not gets a refusal that names the trouble."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.chat import SendChat
from protocol.codec import BINARY, CODECS, JSON, MSGPACK, TEXT, Codec, Unreadable
from protocol.contract import ANSWERS, COMMANDS, EVENTS, tag_of
from protocol.refusals import ErrorCode
from protocol.session import Hello
from tests.protocol.messages import messages

REPLIES = (*ANSWERS, *EVENTS)
BOTH = pytest.mark.parametrize("codec", CODECS.values(), ids=["json", "msgpack"])

SAMPLES = {
    JSON: b'{"type":"chat.send","id":7,"room":"calm","text":"hello","key":"a1"}',
    MSGPACK: msgspec.msgpack.encode(
        {"type": "chat.send", "id": 7, "room": "calm", "text": "hello", "key": "a1"}
    ),
}


def encoded(codec: Codec, content: Any) -> bytes:
    """Encode anything as the codec's format."""
    return msgspec.json.encode(content) if codec is JSON else msgspec.msgpack.encode(content)


def refusal(codec: Codec, data: bytes) -> Unreadable:
    """Return why a message is refused."""
    with pytest.raises(Unreadable) as caught:
        codec.decode_command(data)
    return caught.value


def outcome(decode: Callable[[bytes], Any], data: bytes) -> msgspec.Struct | Unreadable:
    """Return the message, or why it is refused; anything else is raised."""
    try:
        message = decode(data)
    except Unreadable as error:
        return error
    assert isinstance(message, msgspec.Struct)
    return message


@pytest.mark.parametrize("command", COMMANDS, ids=tag_of)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_commands_survive_both_ways(command: type[msgspec.Struct], data: st.DataObject) -> None:
    """Every command that its type allows comes out of either subprotocol as it went in."""
    message = data.draw(messages(command))
    assert {
        codec.name: codec.decode_command(codec.encode(message)) for codec in CODECS.values()
    } == dict.fromkeys(CODECS, message)


@pytest.mark.parametrize("reply", REPLIES, ids=tag_of)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_replies_survive_both_ways(reply: type[msgspec.Struct], data: st.DataObject) -> None:
    """Every answer and event that its type allows comes out of either subprotocol as it went in."""
    message = data.draw(messages(reply))
    assert {
        codec.name: codec.decode_reply(codec.encode(message)) for codec in CODECS.values()
    } == dict.fromkeys(CODECS, message)


def test_opcodes() -> None:
    """JSON travels in text frames, MessagePack in binary ones."""
    assert (JSON.opcode, MSGPACK.opcode) == (TEXT, BINARY) == (1, 2)
    assert repr(JSON) == "<Codec looprooms.v1+json>"


@BOTH
@settings(max_examples=300, deadline=None)
@given(noise=st.binary(max_size=300))
def test_any_bytes(codec: Codec, noise: bytes) -> None:
    """Whatever bytes come, the outcome is a message or a refusal, in either direction."""
    for decode in (codec.decode_command, codec.decode_reply):
        result = outcome(decode, noise)
        if isinstance(result, Unreadable):
            assert result.code in (ErrorCode.MALFORMED, ErrorCode.INVALID, ErrorCode.UNKNOWN_TYPE)


@BOTH
@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_bytes_changed(codec: Codec, data: st.DataObject) -> None:
    """A good message with bytes changed, cut out or put in is a message or a refusal."""
    message = data.draw(st.sampled_from(COMMANDS).flatmap(messages))
    good = bytearray(codec.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good)))
        good[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    result = outcome(codec.decode_command, bytes(good))
    assert not isinstance(result, Unreadable) or len(result.message) < 300


CONTENT = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@BOTH
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_fields_of_other_types(codec: Codec, data: st.DataObject) -> None:
    """A command with anything in the place of a field is refused with the path of a field, or means what it says."""
    command = data.draw(st.sampled_from(COMMANDS))
    fields = msgspec.to_builtins(data.draw(messages(command)))
    changed = data.draw(st.sampled_from(sorted(set(fields) - {"type"}) or ["id"]))
    fields[changed] = data.draw(CONTENT)
    result = outcome(codec.decode_command, encoded(codec, fields))
    if isinstance(result, Unreadable):
        assert result.code is ErrorCode.INVALID
        assert result.path is not None
        assert result.path.startswith(f"$.{changed}")
        assert result.id == (None if changed == "id" else fields.get("id"))


@pytest.mark.parametrize(
    ("content", "code", "found", "path"),
    [
        ({"type": "chat.sing", "id": 3}, ErrorCode.UNKNOWN_TYPE, 3, "$.type"),
        ({"type": 5, "id": 3}, ErrorCode.UNKNOWN_TYPE, 3, "$.type"),
        ({"id": 3}, ErrorCode.UNKNOWN_TYPE, 3, "$.type"),
        ({"type": "chat.sent", "id": 3}, ErrorCode.UNKNOWN_TYPE, 3, "$.type"),
        ({"type": "a - at `$.id`", "id": 3}, ErrorCode.UNKNOWN_TYPE, 3, "$.type"),
        ({"type": "room.join", "id": 3}, ErrorCode.INVALID, 3, "$"),
        ({"type": "room.join", "id": 3, "room": 4}, ErrorCode.INVALID, 3, "$.room"),
        ({"type": "room.join", "id": 3, "room": ""}, ErrorCode.INVALID, 3, "$.room"),
        ({"type": "room.join", "id": 3, "room": "a" * 65}, ErrorCode.INVALID, 3, "$.room"),
        ({"type": "room.join", "id": 3, "room": "a\n"}, ErrorCode.INVALID, 3, "$.room"),
        ({"type": "room.join", "id": -1, "room": "a"}, ErrorCode.INVALID, None, "$.id"),
        ({"type": "room.join", "id": 2**53, "room": "a"}, ErrorCode.INVALID, None, "$.id"),
        ({"type": "room.join", "id": "3", "room": "a"}, ErrorCode.INVALID, None, "$.id"),
        ({"type": "hello", "id": 3, "token": "t", "resume": [{}]}, ErrorCode.INVALID, 3, "$.resume[0]"),
        ({"type": "hello", "id": 3, "token": "t" * 4097}, ErrorCode.INVALID, 3, "$.token"),
        ([], ErrorCode.INVALID, None, "$"),
        (None, ErrorCode.INVALID, None, "$"),
        ("hello", ErrorCode.INVALID, None, "$"),
    ],
)
@BOTH
def test_what_is_wrong_is_named(
    codec: Codec, content: object, code: ErrorCode, found: int | None, path: str
) -> None:
    """A refusal has its code, the command's id if it could be read, and the path of the field."""
    error = refusal(codec, encoded(codec, content))
    assert (error.code, error.id, error.path) == (code, found, path)


@BOTH
@pytest.mark.parametrize("key", ["", "a b", "a\n", "é", "a" * 65, "\x00"])
def test_keys(codec: Codec, key: str) -> None:
    """An idempotency key is 1 to 64 visible ASCII characters and nothing else, not even a line's end."""
    content = {"type": "chat.send", "id": 7, "room": "calm", "text": "hello", "key": key}
    assert refusal(codec, encoded(codec, content)).path == "$.key"


@BOTH
def test_long_text(codec: Codec) -> None:
    """A text of 2,000 characters is taken, one more is not, ten million cost little, and nothing of it is sent back."""
    content = {"type": "chat.send", "id": 7, "room": "calm", "text": "é" * 2000, "key": "k"}
    assert isinstance(codec.decode_command(encoded(codec, content)), SendChat)
    for length in (2001, 10_000_000):
        error = refusal(codec, encoded(codec, content | {"text": "é" * length}))
        assert (error.code, error.path, error.id) == (ErrorCode.INVALID, "$.text", 7)
        assert len(error.message) < 300


@BOTH
def test_the_clients_words_do_not_come_back(codec: Codec) -> None:
    """A long unknown name is quoted in part; words that look like a path are not taken for one."""
    target = {"kind": "looproom", "id": "00000000-0000-0000-0000-000000000001"}
    for name in ("x" * 60_000, "x - at `$.secret`"):
        error = refusal(
            codec, encoded(codec, {"type": "reaction.add", "id": 7, "target": target, "reaction": name})
        )
        assert (error.code, error.path) == (ErrorCode.INVALID, "$.reaction")
        assert len(error.message) < 200


@pytest.mark.parametrize("depth", [1_000, 30_000])
@BOTH
def test_deep_nesting(codec: Codec, depth: int) -> None:
    """Nesting that would exhaust the stack is refused, where a field is known and where it is skipped."""
    if codec is JSON:
        deep = b"[" * depth + b"0" + b"]" * depth
        hidden = b'{"type":"hello","id":7,"token":"t","later":' + deep + b"}"
    else:
        deep = b"\x91" * depth + b"\x00"
        hidden = encoded(codec, {"type": "hello", "id": 7, "token": "t", "later": 0})[:-1] + deep
    assert refusal(codec, deep).code is ErrorCode.INVALID
    assert refusal(codec, hidden).code is ErrorCode.MALFORMED


@BOTH
def test_invalid_utf8(codec: Codec) -> None:
    """A string that is not UTF-8, in a value or in a name, is malformed; no half of it is taken."""
    for invalid in (b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"):
        padded = b"hello"[: 5 - len(invalid)] + invalid
        assert refusal(codec, SAMPLES[codec].replace(b"hello", padded)).code is ErrorCode.MALFORMED
        assert isinstance(
            outcome(codec.decode_command, SAMPLES[codec].replace(b"text", (b"text" + invalid)[-4:])),
            Unreadable,
        )


@pytest.mark.parametrize("escape", [rb"\ud800", rb"\udc00x", rb"\ud800\ud800", rb"\uD83D"])
def test_half_of_a_surrogate_pair(escape: bytes) -> None:
    """JSON can escape half of a character, which no store takes: malformed."""
    assert refusal(JSON, SAMPLES[JSON].replace(b"hello", escape)).code is ErrorCode.MALFORMED


@pytest.mark.parametrize("head", [b"\xdd", b"\xdf", b"\xdb", b"\xc6", b"\xc9"])
def test_claimed_sizes(head: bytes) -> None:
    """MessagePack that claims four thousand million elements is refused at once, and takes no memory for them."""
    began = time.monotonic()
    for field in (b"resume", b"later", b"token"):
        data = (
            b"\x83"
            + b"".join(msgspec.msgpack.encode(word) for word in ("type", "hello", "id", 1, field.decode()))
            + head
            + b"\xff" * 4
        )
        assert refusal(MSGPACK, data).code in (ErrorCode.MALFORMED, ErrorCode.INVALID)
    assert time.monotonic() - began < 1


@BOTH
def test_cut_anywhere(codec: Codec) -> None:
    """A message cut at any byte is malformed."""
    whole = SAMPLES[codec]
    assert isinstance(codec.decode_command(whole), SendChat)
    assert {ErrorCode.MALFORMED} == {refusal(codec, whole[:end]).code for end in range(len(whole))}


@BOTH
def test_unknown_fields_are_ignored(codec: Codec) -> None:
    """A field of a later version does not trouble this one: a message may grow."""
    content = {"type": "hello", "id": 1, "token": "t", "colour": {"of": ["the", "sky", 1, None, 2.5]}}
    assert codec.decode_command(encoded(codec, content)) == Hello(id=1, token="t")


@BOTH
def test_unreadable_replies(codec: Codec) -> None:
    """The client's side refuses in the same way."""
    with pytest.raises(Unreadable) as caught:
        codec.decode_reply(encoded(codec, {"type": "chat.send", "id": 1}))
    assert caught.value.code is ErrorCode.UNKNOWN_TYPE
