"""What one may not do, tried by one who knows all the ids: a clear answer, no effect, and the room notices nothing."""

from __future__ import annotations

import pytest

from protocol.refusals import ErrorCode
from tests.hosting import make_room
from tests.nodes.raw import Message
from tests.standing import Room, Standing
from tests.visitors import arrive, bystander, visit
from tests.waiting import until


def refusal(answer: Message, code: ErrorCode) -> Message:
    """Return what an answer that refuses with `code` has to be."""
    return {"type": "error", "id": answer["id"], "code": code, "message": code.advice}


@pytest.mark.parametrize(("command", "fields"), [("chat.edit", {"text": "mine now"}), ("chat.remove", {})])
async def test_the_line_of_somebody_else(nodes: Standing, room: Room, command: str, fields: Message) -> None:
    """A member can't touch another's line, whether they are in its room, in another, or in none."""
    other = await make_room(nodes.pool, f"{room.slug}-too")
    async with bystander(nodes.north, room.id) as author:
        visitor = await visit(nodes.north, "visitor", room.id, other)
        await until(lambda: author.offsets)
        line = author.events[0]["line"]["id"]
        for place, code in (
            (room.slug, ErrorCode.FORBIDDEN),
            (str(other), ErrorCode.NOT_FOUND),
            ("elsewhere", ErrorCode.NOT_IN_ROOM),
        ):
            answer = await visitor.call(command, room=place, line=line, **fields)
            assert answer == refusal(answer, code)


async def test_a_draft_by_its_id(nodes: Standing, room: Room) -> None:
    """Its id opens nothing: it can't be seen, entered, resumed, reacted to, spoken or looked around in."""
    draft = await make_room(nodes.pool, f"{room.slug}-draft", status="DRAFT")
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor", room.id)
        for command, fields, code in (
            ("room.get", {"room": str(draft)}, ErrorCode.NOT_FOUND),
            ("room.join", {"room": str(draft)}, ErrorCode.NOT_FOUND),
            ("room.join", {"room": f"{room.slug}-draft"}, ErrorCode.NOT_FOUND),
            ("room.leave", {"room": str(draft)}, ErrorCode.NOT_IN_ROOM),
            ("chat.send", {"room": str(draft), "text": "x", "key": "k"}, ErrorCode.NOT_IN_ROOM),
            ("chat.history", {"room": str(draft)}, ErrorCode.NOT_IN_ROOM),
            ("presence.list", {"room": str(draft)}, ErrorCode.NOT_IN_ROOM),
            ("typing.set", {"room": str(draft), "typing": True}, ErrorCode.NOT_IN_ROOM),
            ("confidence.set", {"room": str(draft), "level": 5}, ErrorCode.NOT_IN_ROOM),
            ("cue.send", {"room": str(draft), "cue": "x"}, ErrorCode.NOT_IN_ROOM),
            (
                "reaction.add",
                {"target": {"kind": "looproom", "id": str(draft)}, "reaction": "HEART"},
                ErrorCode.NOT_FOUND,
            ),
        ):
            answer = await visitor.call(command, **fields)
            assert answer == refusal(answer, code)
        position = {"room": str(draft), "epoch": visitor.welcome["epoch"], "offset": 0}
        back = await arrive(nodes.north, await nodes.north.token("back"), resume=[position])
        assert back.welcome["resumed"] == [
            {
                "room": str(draft),
                "recovered": False,
                "error": ErrorCode.NOT_FOUND,
                "message": ErrorCode.NOT_FOUND.advice,
            }
        ]


async def test_a_premium_room_for_nothing(nodes: Standing, room: Room) -> None:
    """A free member has the preview and no more: told how long it is, and at its end why they are out and what to do."""
    premium = await make_room(nodes.pool, f"{room.slug}-premium", preview=1)
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor", room.id)
        joined = await visitor.join(premium)
        assert 0 < joined["preview_ends_in"] <= 1
        await visitor.say(premium, "a look around")
        await until(lambda: any(message["type"] == "room.departure" for message in visitor.heard))
        (end,) = [message for message in visitor.heard if message["type"] == "room.departure"]
        assert end == {
            "type": "room.departure",
            "room": str(premium),
            "code": ErrorCode.PREMIUM_REQUIRED,
            "message": "Your preview of this looproom is over. Subscribe to stay.",
            "pay": end["pay"],
        }
        answer = await visitor.call("room.join", room=str(premium))
        assert answer == refusal(answer, ErrorCode.PREMIUM_REQUIRED)
        answer = await visitor.say(premium, "one more word")
        assert answer == refusal(answer, ErrorCode.NOT_IN_ROOM)
        assert (await visitor.say(room.id, " \u200b"))[
            "code"
        ] == ErrorCode.TEXT_EMPTY  # still in the other room


async def test_a_key_reused_with_another_body(nodes: Standing, room: Room) -> None:
    """It is refused, the first line stands, and a line under a new key goes through."""
    own = await make_room(nodes.pool, f"{room.slug}-own")
    async with bystander(nodes.north, room.id):
        visitor = await visit(nodes.north, "visitor", room.id, own)
        first = await visitor.say(own, "one", "k")
        for place, text in ((own, "two"), (room.id, "one")):
            answer = await visitor.say(place, text, "k")
            assert answer == refusal(answer, ErrorCode.KEY_REUSED)
        await visitor.say(own, "two", "k2")
        history = await visitor.call("chat.history", room=str(own))
        assert [line["text"] for line in history["lines"]] == ["one", "two"]
        assert history["lines"][0] == first["line"]
