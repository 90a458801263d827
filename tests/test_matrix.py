"""Who may do what: every command of the contract and every route, by everyone, with what is theirs, another's, or not there.

A command or a route that is not in the tables fails; so does one that lets in somebody else than it says there. What is
another's and what does not exist get the same answer.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from protocol.closing import CloseCode
from protocol.contract import COMMANDS, tag_of
from protocol.envelope import Person, RoomId, SessionId, UserId
from protocol.notifications import NotificationKind, Thing, ThingKind
from protocol.refusals import ErrorCode
from storage.notifications import NewNotice, notify
from tests.hosting import Host, make_room
from tests.posting import VYBE, say_something
from tests.standing import Standing
from tests.visitors import Visitor, approach, arrive, visit

PEOPLE = (
    "silent",
    "outsider",
    "member",
    "author",
    "host",
    "elsewhere",
    "moderator",
    "blocked",
    "blocker",
    "shunned",
)
"""Who has not said hello; a signed-in person who is not in the room; one who is; the author of the line or the vybe; the room's
host; the host of another room, here as a member; a moderator; somebody whom the host has blocked, and somebody who has blocked
the host; and one who is in the room and whom the author of the line or the vybe has blocked."""

MATRIX = """
command           what     silent      outsider     member       author       host         elsewhere    moderator    blocked      blocker     shunned
hello             again    -           hello_again  hello_again  hello_again  hello_again  hello_again  hello_again  hello_again  hello_again -
token.refresh     foreign  hello_first token_invalid token_invalid token_invalid token_invalid token_invalid token_invalid token_invalid token_invalid -
session.list      own      hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
session.revoke    others   hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
session.revoke    foreign  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
session.revoke    unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
session.ping      own      hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
room.list         all      hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
room.get          here     hello_first ok           ok           ok           ok           ok           ok           not_found    not_found   -
room.get          draft    hello_first not_found    not_found    not_found    ok           not_found    ok           not_found    not_found   -
room.get          unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
room.join         here     hello_first ok           ok           ok           ok           ok           ok           not_found    not_found   -
room.join         draft    hello_first not_found    not_found    not_found    ok           not_found    ok           not_found    not_found   -
room.join         unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
room.leave        here     hello_first not_in_room  ok           ok           ok           ok           ok           not_in_room  not_in_room -
room.leave        draft    hello_first not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room -
room.leave        unknown  hello_first not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room -
cue.send          here     hello_first not_in_room  forbidden    forbidden    ok           forbidden    forbidden    not_in_room  not_in_room -
cue.send          draft    hello_first not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room -
cue.send          unknown  hello_first not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room -
room.live         here     hello_first forbidden    forbidden    forbidden    ok           forbidden    forbidden    not_found    not_found   -
room.live         draft    hello_first not_found    not_found    not_found    forbidden    not_found    forbidden    not_found    not_found   -
room.live         unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
room.offer        here     hello_first forbidden    forbidden    forbidden    ok           forbidden    forbidden    not_found    not_found   -
room.offer        draft    hello_first not_found    not_found    not_found    ok           not_found    forbidden    not_found    not_found   -
room.offer        unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
presence.list     here     hello_first not_in_room  ok           ok           ok           ok           ok           not_in_room  not_in_room -
presence.list     draft    hello_first not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room -
presence.list     unknown  hello_first not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room -
typing.set        here     hello_first not_in_room  ok           ok           ok           ok           ok           not_in_room  not_in_room -
typing.set        draft    hello_first not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room -
typing.set        unknown  hello_first not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room -
confidence.set    here     hello_first not_in_room  ok           ok           ok           ok           ok           not_in_room  not_in_room -
confidence.set    draft    hello_first not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room -
confidence.set    unknown  hello_first not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room -
chat.send         here     hello_first not_in_room  ok           ok           ok           ok           ok           not_in_room  not_in_room ok
chat.send         draft    hello_first not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room not_in_room
chat.send         unknown  hello_first not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room not_in_room
chat.edit         line     hello_first not_in_room  forbidden    ok           ok           forbidden    ok           not_in_room  not_in_room forbidden
chat.edit         elsewhere hello_first not_in_room  not_found    not_found    not_found    not_found    not_found    not_in_room  not_in_room not_found
chat.edit         no_line  hello_first not_in_room  not_found    not_found    not_found    not_found    not_found    not_in_room  not_in_room not_found
chat.remove       line     hello_first not_in_room  forbidden    ok           ok           forbidden    ok           not_in_room  not_in_room forbidden
chat.remove       elsewhere hello_first not_in_room  not_found    not_found    not_found    not_found    not_found    not_in_room  not_in_room not_found
chat.remove       no_line  hello_first not_in_room  not_found    not_found    not_found    not_found    not_found    not_in_room  not_in_room not_found
chat.history      here     hello_first not_in_room  ok           ok           ok           ok           ok           not_in_room  not_in_room ok
chat.history      draft    hello_first not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room not_in_room
chat.history      unknown  hello_first not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room  not_in_room not_in_room
reaction.add      here     hello_first not_in_room  ok           ok           ok           ok           ok           not_found    not_found   -
reaction.add      draft    hello_first not_found    not_found    not_found    not_in_room  not_found    not_in_room  not_found    not_found   -
reaction.add      unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
reaction.remove   here     hello_first not_in_room  ok           ok           ok           ok           ok           not_found    not_found   -
reaction.remove   draft    hello_first not_found    not_found    not_found    not_in_room  not_found    not_in_room  not_found    not_found   -
reaction.remove   unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
reaction.add      vybe     hello_first ok           ok           ok           ok           ok           ok           ok           ok           not_found
reaction.add      private  hello_first not_found    not_found    ok           not_found    not_found    not_found    not_found    not_found    not_found
reaction.add      comment  hello_first ok           ok           ok           ok           ok           ok           ok           ok           not_found
reaction.add      no_vybe  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found    -
reaction.remove   vybe     hello_first ok           ok           ok           ok           ok           ok           ok           ok           not_found
reaction.remove   private  hello_first not_found    not_found    ok           not_found    not_found    not_found    not_found    not_found    not_found
reaction.remove   comment  hello_first ok           ok           ok           ok           ok           ok           ok           ok           not_found
reaction.remove   no_vybe  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found    -
subscription.get  own      hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
creator.apply     own      hello_first ok           ok           ok           forbidden    forbidden    forbidden    ok           ok          -
creator.get       own      hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
creator.list      all      hello_first forbidden    forbidden    forbidden    forbidden    forbidden    ok           forbidden    forbidden   -
creator.decide    foreign  hello_first forbidden    forbidden    forbidden    forbidden    forbidden    ok           forbidden    forbidden   -
creator.decide    unknown  hello_first forbidden    forbidden    forbidden    forbidden    forbidden    not_found    forbidden    forbidden   -
person.anonymous  own      hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
person.get        host     hello_first ok           ok           ok           ok           ok           ok           not_found    not_found   -
person.get        unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
person.block      host     hello_first ok           ok           ok           invalid      ok           ok           not_found    ok          -
person.block      unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
person.block      line     hello_first not_in_room  ok           invalid      ok           ok           ok           not_in_room  not_in_room not_found
person.block      elsewhere hello_first not_in_room  not_found    not_found    not_found    not_found    not_found    not_in_room  not_in_room not_found
person.block      no_line  hello_first not_in_room  not_found    not_found    not_found    not_found    not_found    not_in_room  not_in_room not_found
person.mute       host     hello_first ok           ok           ok           invalid      ok           ok           not_found    not_found   -
person.mute       unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
person.mute       line     hello_first not_in_room  ok           invalid      ok           ok           ok           not_in_room  not_in_room not_found
person.mute       elsewhere hello_first not_in_room  not_found    not_found    not_found    not_found    not_found    not_in_room  not_in_room not_found
person.mute       no_line  hello_first not_in_room  not_found    not_found    not_found    not_found    not_found    not_in_room  not_in_room not_found
person.unblock    host     hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
person.unblock    unknown  hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
person.unmute     host     hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
person.unmute     unknown  hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
friend.request    host     hello_first ok           ok           ok           invalid      ok           ok           not_found    not_found   -
friend.request    unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
friend.accept     host     hello_first not_found    not_found    not_found    invalid      not_found    not_found    not_found    not_found   -
friend.accept     unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
friend.decline    host     hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
friend.decline    unknown  hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
friend.remove     host     hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
friend.remove     unknown  hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
creator.unfollow  host     hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
creator.unfollow  unknown  hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
creator.follow    host     hello_first ok           ok           ok           invalid      ok           ok           not_found    not_found   -
creator.follow    unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
relation.list     own      hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
notification.list own      hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
notification.read own      hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
notification.read foreign  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
notification.read unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found   -
notification.settings own      hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
device.register   own      hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
device.forget     own      hello_first ok           ok           ok           ok           ok           ok           ok           ok          -
vybe.get          public   hello_first ok           ok           ok           ok           ok           ok           ok           ok           not_found
vybe.get          private  hello_first not_found    not_found    ok           not_found    not_found    not_found    not_found    not_found    not_found
vybe.get          no_vybe  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found    -
vybe.open         public   hello_first ok           ok           ok           ok           ok           ok           ok           ok           not_found
vybe.open         private  hello_first not_found    not_found    ok           not_found    not_found    not_found    not_found    not_found    not_found
vybe.open         no_vybe  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found    -
vybe.share        public   hello_first ok           ok           ok           ok           ok           ok           ok           ok           not_found
vybe.share        private  hello_first not_found    not_found    ok           not_found    not_found    not_found    not_found    not_found    not_found
comment.list      public   hello_first ok           ok           ok           ok           ok           ok           ok           ok           not_found
comment.list      private  hello_first not_found    not_found    ok           not_found    not_found    not_found    not_found    not_found    not_found
comment.add       public   hello_first ok           ok           ok           ok           ok           ok           ok           ok           not_found
comment.add       private  hello_first not_found    not_found    ok           not_found    not_found    not_found    not_found    not_found    not_found
vybe.edit         public   hello_first not_found    not_found    ok           not_found    not_found    not_found    not_found    not_found    not_found
vybe.edit         no_vybe  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found    -
vybe.remove       public   hello_first not_found    not_found    ok           not_found    not_found    ok           not_found    not_found    not_found
vybe.remove       private  hello_first not_found    not_found    ok           not_found    not_found    not_found    not_found    not_found    not_found
vybe.remove       no_vybe  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found    -
vybe.post         own      hello_first ok           ok           ok           ok           ok           ok           ok           ok           -
vybe.post         draft    hello_first not_found    not_found    not_found    ok           not_found    ok           not_found    not_found    -
vybe.list         foreign  hello_first ok           ok           ok           ok           ok           ok           ok           ok           -
vybe.close        no_vybe  hello_first ok           ok           ok           ok           ok           ok           ok           ok           -
comment.edit      comment  hello_first not_found    not_found    ok           not_found    not_found    not_found    not_found    not_found    not_found
comment.edit      unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found    -
comment.remove    comment  hello_first not_found    not_found    ok           not_found    not_found    ok           not_found    not_found    not_found
comment.remove    unknown  hello_first not_found    not_found    not_found    not_found    not_found    not_found    not_found    not_found    -
feed.list         own      hello_first ok           ok           ok           ok           ok           ok           ok           ok           -
feed.open         own      hello_first ok           ok           ok           ok           ok           ok           ok           ok           -
feed.close        own      hello_first ok           ok           ok           ok           ok           ok           ok           ok           -
"""

UNDER_A_NAME = ("friend.request", "friend.accept")
"""What nobody does who is anonymous: others would see who it is."""

_NUMBERS = itertools.count(1)


@dataclass
class Scene:
    """What the commands are about, made anew for each of them."""

    room: RoomId
    draft: RoomId
    host: UUID
    line: str
    line_elsewhere: str
    session: SessionId
    token: str
    application: str
    notification: str
    vybe: str = ""
    private: str = ""
    comment: str = ""


def _in(room: Callable[[Scene], object], **fields: Any) -> Callable[[Scene], dict[str, Any]]:
    return lambda scene: {"room": str(room(scene)), **fields}


def _rooms(**fields: Any) -> dict[str, Callable[[Scene], dict[str, Any]]]:
    return {
        "here": _in(lambda scene: scene.room, **fields),
        "draft": _in(lambda scene: scene.draft, **fields),
        "unknown": _in(lambda _: uuid4(), **fields),
    }


def _lines(**fields: Any) -> dict[str, Callable[[Scene], dict[str, Any]]]:
    return {
        "line": lambda scene: {"room": str(scene.room), "line": scene.line, **fields},
        "elsewhere": lambda scene: {"room": str(scene.room), "line": scene.line_elsewhere, **fields},
        "no_line": lambda scene: {"room": str(scene.room), "line": str(uuid4()), **fields},
    }


def _targets() -> dict[str, Callable[[Scene], dict[str, Any]]]:
    def target(what: object, kind: str = "looproom") -> dict[str, Any]:
        return {"target": {"kind": kind, "id": str(what)}, "reaction": "HEART"}

    return {
        "here": lambda scene: target(scene.room),
        "draft": lambda scene: target(scene.draft),
        "unknown": lambda _: target(uuid4()),
        "vybe": lambda scene: target(scene.vybe, "vybe"),
        "private": lambda scene: target(scene.private, "vybe"),
        "comment": lambda scene: target(scene.comment, "comment"),
        "no_vybe": lambda _: target(uuid4(), "vybe"),
    }


def _vybes(*about: str, **fields: Any) -> dict[str, Callable[[Scene], dict[str, Any]]]:
    everything: dict[str, Callable[[Scene], dict[str, Any]]] = {
        "public": lambda scene: {"vybe": scene.vybe, **fields},
        "private": lambda scene: {"vybe": scene.private, **fields},
        "no_vybe": lambda _: {"vybe": str(uuid4()), **fields},
        "comment": lambda scene: {"comment": scene.comment, **fields},
        "unknown": lambda _: {"comment": str(uuid4()), **fields},
    }
    return {what: everything[what] for what in about}


def _people() -> dict[str, Callable[[Scene], dict[str, Any]]]:
    return {
        "host": lambda scene: {"person": str(scene.host)},
        "unknown": lambda _: {"person": str(uuid4())},
    }


FIELDS: dict[str, dict[str, Callable[[Scene], dict[str, Any]]]] = {
    "hello": {"again": lambda scene: {"token": scene.token}},
    "token.refresh": {"foreign": lambda scene: {"token": scene.token}},
    "session.list": {"own": lambda _: {}},
    "session.revoke": {
        "others": lambda _: {"others": True},
        "foreign": lambda scene: {"session": str(scene.session)},
        "unknown": lambda _: {"session": str(uuid4())},
    },
    "session.ping": {"own": lambda _: {}},
    "room.list": {"all": lambda _: {}},
    "room.get": _rooms(),
    "room.join": _rooms(),
    "room.leave": _rooms(),
    "room.offer": _rooms(session_cents=None),
    "room.live": _rooms(live=True),
    "cue.send": _rooms(cue="breathe in"),
    "presence.list": _rooms(),
    "typing.set": _rooms(typing=True),
    "confidence.set": _rooms(level=7),
    "chat.send": _rooms(text="hello", key="k"),
    "chat.edit": _lines(text="otherwise"),
    "chat.remove": _lines(),
    "chat.history": _rooms(),
    "reaction.add": _targets(),
    "reaction.remove": _targets(),
    "subscription.get": {"own": lambda _: {}},
    "creator.apply": {"own": lambda _: {"about": "breathing"}},
    "creator.get": {"own": lambda _: {}},
    "creator.list": {"all": lambda _: {}},
    "creator.decide": {
        "foreign": lambda scene: {"application": scene.application, "approve": False, "reason": "not yet"},
        "unknown": lambda _: {"application": str(uuid4()), "approve": False, "reason": "not yet"},
    },
    "notification.list": {"own": lambda _: {}},
    "notification.read": {
        "own": lambda _: {"upto": 7},
        "foreign": lambda scene: {"notification": scene.notification},
        "unknown": lambda _: {"notification": str(uuid4())},
    },
    "notification.settings": {"own": lambda _: {"settings": {"ways": {"reaction": "none"}}}},
    "device.register": {"own": lambda _: {"token": f"device-{uuid4()}"}},
    "device.forget": {"own": lambda _: {}},
    "vybe.post": {
        "own": lambda _: {**VYBE, "key": "k"},
        "draft": lambda scene: {**VYBE, "key": "k", "looproom": str(scene.draft)},
    },
    "vybe.get": _vybes("public", "private", "no_vybe"),
    "vybe.open": _vybes("public", "private", "no_vybe"),
    "vybe.close": _vybes("no_vybe"),
    "vybe.share": _vybes("public", "private", privacy="PUBLIC", key="k"),
    "vybe.edit": _vybes("public", "no_vybe", text="otherwise"),
    "vybe.remove": _vybes("public", "private", "no_vybe"),
    "vybe.list": {"foreign": lambda _: {"author": str(uuid4())}},
    "comment.add": _vybes("public", "private", text="well said", key="k"),
    "comment.list": _vybes("public", "private"),
    "comment.edit": _vybes("comment", "unknown", text="otherwise"),
    "comment.remove": _vybes("comment", "unknown"),
    "feed.list": {"own": lambda _: {}},
    "feed.open": {"own": lambda _: {}},
    "feed.close": {"own": lambda _: {}},
    "person.anonymous": {"own": lambda _: {"on": True}},
    "person.get": _people(),
    "person.block": {**_people(), **_lines()},
    "person.unblock": _people(),
    "person.mute": {**_people(), **_lines()},
    "person.unmute": _people(),
    "friend.request": _people(),
    "friend.accept": _people(),
    "friend.decline": _people(),
    "friend.remove": _people(),
    "creator.follow": _people(),
    "creator.unfollow": _people(),
    "relation.list": {"own": lambda _: {"kind": "FRIENDS"}},
}


def rows() -> list[tuple[str, str, dict[str, str]]]:
    """Read the matrix: command, what it is about, and the expected answer to each of `PEOPLE`."""
    found = []
    for line in MATRIX.strip().splitlines()[1:]:
        command, what, *expected = line.split()
        found.append((command, what, dict(zip(PEOPLE, expected, strict=True))))
    return found


def test_every_command_is_in_the_matrix() -> None:
    """A new command has an expectation for everyone before it is done, and so has each thing that it can be about."""
    assert {command for command, _, _ in rows()} == {tag_of(command) for command in COMMANDS}
    assert {(command, what) for command, what, _ in rows()} == {
        (command, what) for command, about in FIELDS.items() for what in about
    }


async def _scene(nodes: Standing, command: str, who: str) -> tuple[Scene, list[Visitor]]:
    """Make a room, a draft, and what else the command is about; bring who sends it, and those who are needed for that."""
    pool, node, number = nodes.pool, nodes.north, next(_NUMBERS)
    room = await make_room(pool, f"matrix-{number}")
    draft = await make_room(pool, f"matrix-{number}-draft", status="DRAFT")
    other = await make_room(pool, f"matrix-{number}-other")
    host: UUID = await pool.fetchval(
        "update rooms set host_id = (select host_id from rooms where id = $1) "
        "where id = $2 returning host_id",
        room,
        draft,
    )
    elsewhere: UUID = await pool.fetchval("select host_id from rooms where id = $1", other)
    await pool.execute("update users set role = 'CREATOR' where id = any($1)", [host, elsewhere])
    moderator: UUID = await pool.fetchval(
        "insert into users (name, role) values ('mo', 'MODERATOR') returning id"
    )
    known = {"host": host, "elsewhere": elsewhere, "moderator": moderator}
    rooms = () if who in ("outsider", "blocked", "blocker") else (room,)
    if who == "silent":
        actor = await approach(node)
    elif who in known:
        actor = await visit(node, Person(id=UserId(known[who]), name=who), *rooms)
    else:
        actor = await visit(node, who, *rooms)
    scene = Scene(room, draft, host, "", "", SessionId(uuid4()), "", "", "")
    company = [actor]
    if who in ("blocked", "blocker"):
        await _apart(nodes, actor, Person(id=UserId(host), name="host"), who)
    if command.startswith("chat.") or command in ("person.block", "person.mute"):
        author = actor if who == "author" else await visit(node, "author", room)
        company.append(author)
        await author.join(other)
        scene.line = (await author.say(room, "a line"))["line"]["id"]
        scene.line_elsewhere = (await author.say(other, "a line elsewhere"))["line"]["id"]
        await author.call("room.leave", room=str(other))
        if who == "shunned":
            await author.call("person.block", person=actor.welcome["user"]["id"])
    if command.startswith(("vybe.", "comment.", "reaction.")):
        author = actor if who == "author" else await visit(node, "author")
        company.append(author)
        scene.vybe, scene.private, scene.comment = await say_something(author)
        if who == "shunned":
            await author.call("person.block", person=actor.welcome["user"]["id"])
    if command in ("hello", "token.refresh", "session.revoke", "creator.decide"):
        stranger, scene.session, scene.token = await _stranger(node)
        company.append(stranger)
        application = await stranger.call("creator.apply", about="stretching")
        scene.application = application["application"]["id"]
    if command == "notification.read":
        stranger, _, _ = await _stranger(node)
        company.append(stranger)
        scene.notification = await _notified(nodes, stranger)
    return scene, company


async def _apart(nodes: Standing, actor: Visitor, host: Person, who: str) -> None:
    """Let the actor block the host, or the host the actor."""
    if who == "blocker":
        done = await actor.call("person.block", person=str(host.id))
    else:
        hosting = await visit(nodes.north, host)
        done = await hosting.call("person.block", person=actor.welcome["user"]["id"])
        hosting.connection.reset()
    assert done["type"] == "person.blocked", done


async def _stranger(node: Host) -> tuple[Visitor, SessionId, str]:
    """Sign in somebody who has nothing to do with the others; return also their session and a token of it."""
    token = await node.token("stranger")
    stranger = await arrive(node, token)
    return stranger, SessionId(UUID(stranger.welcome["session"])), token


async def _notified(nodes: Standing, visitor: Visitor) -> str:
    """Have something happen to somebody; return the id of their notification."""
    new = NewNotice(
        user=visitor.person.id,
        kind=NotificationKind.DECISION,
        thing=Thing(kind=ThingKind.APPLICATION, id=uuid4()),
    )
    async with nodes.pool.acquire() as connection, connection.transaction():
        await notify(connection, [new])
    return str((await visitor.call("notification.list"))["notifications"][0]["id"])


@pytest.mark.parametrize(
    ("command", "what", "expected"), rows(), ids=lambda part: part if isinstance(part, str) else ""
)
async def test_who_may_do_what(nodes: Standing, command: str, what: str, expected: dict[str, str]) -> None:
    """Everyone sends the command, each in a scene of their own where it could change something for the next."""
    for who in PEOPLE:
        if expected[who] == "-":
            continue
        scene, company = await _scene(nodes, command, who)
        answer = await company[0].call(command, **FIELDS[command][what](scene))
        outcome = answer["code"] if answer["type"] == "error" else "ok"
        assert outcome == expected[who], f"{who}: {answer}"
        if outcome == ErrorCode.NOT_FOUND:
            assert answer["message"] == ErrorCode.NOT_FOUND.advice
        for visitor in company:
            visitor.connection.reset()


async def test_being_anonymous_changes_nothing(nodes: Standing) -> None:
    """Whoever is anonymous may do what they may do under their name, as a member, as an author, and as a host: no more, and
    no less but what would tell who it is.
    """
    for command, what, expected in rows():
        for who in ("member", "author", "host"):
            if command == "hello":
                continue
            scene, company = await _scene(nodes, command, who)
            assert (await company[0].call("person.anonymous", on=True))["type"] == "person.switched"
            answer = await company[0].call(command, **FIELDS[command][what](scene))
            outcome = answer["code"] if answer["type"] == "error" else "ok"
            allowed = "forbidden" if command in UNDER_A_NAME else expected[who]
            assert outcome == allowed, f"{command} {what}, {who}: {answer}"
            for visitor in company:
                visitor.connection.reset()


async def _gone(nodes: Standing, how: str) -> str:
    """Return a token of somebody whose session has ended, or who is banned; or one that has expired."""
    token = await nodes.north.token("gone")
    visitor = await arrive(nodes.north, token)
    if how == "expired":
        user, session = (
            UUID(visitor.welcome[part]["id"] if part == "user" else visitor.welcome[part])
            for part in ("user", "session")
        )
        token = nodes.north.sign(UserId(user), SessionId(session), days_ago=1)
    elif how == "banned":
        await nodes.pool.execute(
            "update users set banned_at = now() where id = $1", UUID(visitor.welcome["user"]["id"])
        )
    else:
        await nodes.pool.execute(
            "update sessions set ended_at = now() where id = $1", UUID(visitor.welcome["session"])
        )
    visitor.connection.reset()
    return token


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("ended", CloseCode.SESSION_ENDED),
        ("banned", CloseCode.BANNED),
        ("expired", CloseCode.TOKEN_EXPIRED),
    ],
    ids=["ended", "banned", "expired"],
)
async def test_who_is_out_is_out_of_everything(nodes: Standing, how: str, code: CloseCode) -> None:
    """Somebody whose session has ended, who is banned, or whose token has expired, is told so at hello and heard no further.

    Whatever they send along behind their hello is not done, and not answered.
    """
    token = await _gone(nodes, how)
    scene, company = await _scene(nodes, "chat.send", "author")
    scene.token = token
    visitor = await approach(nodes.north)
    visitor.connection.send({"type": "hello", "id": 1, "token": token})
    for number, (command, about) in enumerate(FIELDS.items(), 2):
        if command != "hello":  # a second one is told that it is one
            fields = next(iter(about.values()))(scene)
            visitor.connection.send({"type": command, "id": number, **fields})
    assert (await visitor.connection.gone).code == code
    # The form of a message is looked at before it is asked who sends it.
    answered = [message for message in visitor.heard if message.get("code") != ErrorCode.INVALID]
    assert {(message["type"], message["id"]) for message in answered} <= {("error", 1)}
    await company[0].settle()
    assert [event["line"]["text"] for event in company[0].events] == ["a line", "a line elsewhere"]
    company[0].connection.reset()


# Over HTTP.

OPEN = {
    "POST /auth/register",
    "POST /auth/login",
    "POST /auth/refresh",
    "POST /auth/logout",
    "GET /auth/providers",
    "GET /auth/{provider}/start",
    "GET /auth/{provider}/callback",
    "POST /auth/{provider}/callback",
    "POST /auth/{provider}/token",
    "POST /auth/email/verify",
    "POST /auth/email/confirm",
    "POST /auth/email/undo",
    "POST /auth/password/forgot",
    "POST /auth/password/reset",
    "POST /waitlist",
    "POST /waitlist/confirm",
    "GET /account/{page}",
    "POST /account/{page}",
    "GET /media/{media}",
    "GET /payments/plans",
    "POST /payments/webhook",
    "GET /.well-known/jwks.json",
    "GET /health/live",
    "GET /health/ready",
    "GET /metrics",
}
"""What anybody may ask for; of media, pictures alone. Everything else needs a session that lives."""


@pytest.fixture
async def web(nodes: Standing) -> AsyncIterator[httpx2.AsyncClient]:
    """Give a client of the first node's HTTP side."""
    address = nodes.north.url.replace("ws://", "http://").removesuffix("/ws")
    async with httpx2.AsyncClient(base_url=address, timeout=30) as client:
        yield client


def _sample(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """Make something that a schema allows: what is needed, and no more."""
    if "$ref" in schema:
        return _sample(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return _sample(schema[choice][0], schemas)
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "object":
        return {name: _sample(schema["properties"][name], schemas) for name in schema.get("required", ())}
    if schema.get("format") == "uuid":
        return str(uuid4())
    if schema.get("type") == "string":
        return "x" * max(1, schema.get("minLength", 1))
    return {"integer": 1, "number": 1, "boolean": True, "array": []}[schema["type"]]


async def _closed(web: httpx2.AsyncClient) -> list[tuple[str, str, Any]]:
    """Return every route that needs a session: method, path with an unknown id for each parameter, and a body."""
    described = (await web.get("/openapi.json")).json()
    routes = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            if f"{method.upper()} {path}" in OPEN:
                continue
            body = None
            content = operation.get("requestBody", {"content": {}})["content"]
            if "application/json" in content:
                body = _sample(content["application/json"]["schema"], described["components"]["schemas"])
            routes.append((method.upper(), re.sub(r"{\w+}", str(uuid4()), path), body))
    return routes


async def _statuses(web: httpx2.AsyncClient, token: str | None) -> dict[str, int]:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    found = {}
    for method, path, body in await _closed(web):
        answer = await web.request(method, path, json=body, headers=headers)
        found[f"{method} {path}"] = answer.status_code
        if answer.status_code == 401:
            assert answer.json()["code"] in ("token_invalid", "token_expired", "session_ended"), answer.text
    return found


async def test_the_open_routes_are_the_documented_ones(web: httpx2.AsyncClient) -> None:
    """What the documents say to need no token is what stands here, so that a new route is decided upon."""
    described = (await web.get("/openapi.json")).json()
    assert {
        f"{method.upper()} {path}"
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
        if not operation["security"]
    } == OPEN


@pytest.mark.parametrize("who", ["nobody", "forger", "ended", "banned", "expired"])
async def test_without_a_living_session_nothing_is_told(
    nodes: Standing, web: httpx2.AsyncClient, who: str
) -> None:
    """Every other route refuses with 401, before it says anything of what was asked for."""
    token = (
        None if who == "nobody" else await (nodes.north.token("x") if who == "forger" else _gone(nodes, who))
    )
    if who == "forger":
        assert token is not None
        head, body, signature = token.split(".")
        token = f"{head}.{body}.{signature[::-1]}"
    statuses = await _statuses(web, token)
    assert len(statuses) > 12
    assert {route: status for route, status in statuses.items() if status != 401} == {}


OTHERS = {
    "DELETE /me/sessions/{session}",
    "GET /me/exports/{export}",
    "GET /me/exports/{export}/document",
    "GET /uploads/{upload}",
    "PUT /uploads/{upload}",
    "DELETE /uploads/{upload}",
    "DELETE /media/{media}",
}
"""Routes that name what is somebody's. What is another one's is not there."""
NOBODYS = {
    "GET /creators/statements/{period}",
    "POST /me/identities/{provider}",
    "DELETE /me/identities/{provider}",
}
"""Routes that name a month or a provider: everyone has their own."""


async def test_another_ones_is_not_there(nodes: Standing, web: httpx2.AsyncClient) -> None:
    """Somebody else's session, export, upload and picture get the answer that an unknown one gets, word for word."""
    described = (await web.get("/openapi.json")).json()
    named = {
        f"{method.upper()} {path}"
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
        if "{" in path and operation["security"]
    }
    assert named == OTHERS | NOBODYS
    stranger, session, stranger_token = await _stranger(nodes.north)
    export = (await web.post("/me/export", headers={"authorization": f"Bearer {stranger_token}"})).json()[
        "id"
    ]
    upload, media = uuid4(), uuid4()
    whose: UUID = await nodes.pool.fetchval("select user_id from sessions where id = $1", session)
    await nodes.pool.execute(
        "insert into uploads (id, user_id, kind, media_type, bytes) values ($1, $2, 'AVATAR', 'image/png', 9)",
        upload,
        whose,
    )
    await nodes.pool.execute(
        "insert into media (id, user_id, kind, media_type, bytes, sha256) values ($1, $2, 'AVATAR', 'image/webp', 9, $3)",
        media,
        whose,
        bytes(32),
    )
    token = await nodes.north.token("curious")
    headers = {"authorization": f"Bearer {token}"}
    theirs = {"session": session, "export": export, "upload": upload, "media": media}
    for route in sorted(OTHERS):
        method, path = route.split()
        answers = [
            await web.request(method, path.format_map(ids), headers=headers)
            for ids in (theirs, {name: uuid4() for name in theirs})
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].json() == answers[1].json()
    assert (await stranger.call("session.ping"))["type"] == "session.ponged"
