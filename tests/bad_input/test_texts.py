"""Texts that deceive: what is kept of them reaches the room in one normal form; nothing readable is no text."""

from __future__ import annotations

import re
import unicodedata

import pytest

from protocol.refusals import ErrorCode
from tests.standing import Room, Standing
from tests.visitors import bystander, visit

ZALGO = "".join(letter + "".join(map(chr, range(0x300, 0x300 + 40))) for letter in "calm")
MOST_MARKS = 5
"""Combining marks that a letter may keep: four, and one that is a letter with it."""
UNREADABLE = {
    "empty": "",
    "spaces": "   ",
    "line breaks": "\n\r\n\u2028",
    "control characters": "".join(map(chr, range(0x20))) + "\x7f\x85\x9b",
    "zero": "\x00",
    "zero width": "\u200b\u200c\u200d\u2060\ufeff",
    "overrides": "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    "marks alone": "\u0301" * 100,
    "fillers": "\u3164\uffa0\u2800\u115f",
    "private use": "\ue000\U000f0000",
    "no characters": "\ufffe\U0001ffff",
    "tags": "\U000e0041\U000e0042",
}
KEPT = {
    "control characters": ("a\x00b\x07c\x1b[31md\x9be\x7f", "abc[31mde"),
    "zalgo": (ZALGO, None),
    "overrides": ("gnp\u202egpj.exe\u202c", "gnpgpj.exe"),
    "isolates": ("\u2067abc\u2069", "abc"),
    "zero width": ("pay\u200bpal\ufeff", "paypal"),
    "spaces of all kinds": ("\u3000 a \u00a0\t\u2003 b ", "a b"),
    "line breaks of all kinds": ("a\n\n\n\n\nb \n c", "a\n\nb\nc"),
    "an emoji family": (
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    ),
    "Vietnamese": ("Vie\u0323\u0302t", "Vi\u1ec7t"),
    "markup": ("<script>alert(1)</script>", "<script>alert(1)</script>"),
    "SQL": ("'; drop table rooms; --", "'; drop table rooms; --"),
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_nothing_readable(nodes: Standing, room: Room, text: str) -> None:
    """A text of which nothing can be seen is refused, new or as an edit, and nobody hears of it."""
    async with bystander(nodes.north, room.id, alone=False):
        visitor = await visit(nodes.north, "visitor", room.id)
        line = (await visitor.say(room.id, "something"))["line"]
        expected = {
            "type": "error",
            "code": ErrorCode.TEXT_EMPTY,
            "message": ErrorCode.TEXT_EMPTY.advice,
            "path": "$.text",
        }
        for answer in (
            await visitor.say(room.id, text),
            await visitor.call("chat.edit", room=room.slug, line=line["id"], text=text),
        ):
            assert answer == {**expected, "id": answer["id"]}
        mine = [event for event in visitor.events if event["line"]["author"] == visitor.welcome["user"]]
        assert [event["line"] for event in mine] == [line]


@pytest.mark.parametrize(("text", "kept"), KEPT.values(), ids=KEPT.keys())
async def test_what_is_kept(nodes: Standing, room: Room, text: str, kept: str | None) -> None:
    """Everyone is shown the same normal form: in the answer, live, in the history, on the other node, and as an edit."""
    async with bystander(nodes.north, room.id, alone=False) as witness:
        visitor = await visit(nodes.north, "visitor", room.id)
        far = await visit(nodes.south, "far", room.id)
        sent = await visitor.say(room.id, text)
        shown = sent["line"]["text"]
        if kept is None:
            decomposed = unicodedata.normalize("NFD", shown)
            assert "".join(letter for letter in decomposed if letter.isascii()) == "calm"
            assert max(map(len, re.split("[calm]", decomposed))) == MOST_MARKS
        else:
            assert shown == kept
        for listener in (witness, far):
            await listener.hear(sent["offset"])
            (event,) = [event for event in listener.events if event["offset"] == sent["offset"]]
            assert event["line"] == sent["line"]
        history = await far.call("chat.history", room=room.slug, before=sent["offset"] + 1, limit=1)
        assert history["lines"] == [sent["line"]]
        edited = await visitor.call("chat.edit", room=room.slug, line=sent["line"]["id"], text=f"x{text}")
        assert edited["line"]["text"].removeprefix("x").strip() == shown
