"""People who post vybes on the standing nodes, and who stand to each other in every way that there is."""

from __future__ import annotations

import itertools
from typing import Any
from uuid import UUID

from protocol.envelope import Person, UserId
from storage.postgres.pool import Pool
from tests.hosting import Host
from tests.nodes.raw import Message
from tests.visitors import PATIENCE, Visitor, visit
from tests.waiting import until

_KEYS = itertools.count(1)

VYBE = {"kind": "REFLECTION", "privacy": "PUBLIC", "text": "a vybe"}
BLOCK = "insert into blocks (blocker_id, blocked_id) values ($1, $2)"
MUTE = "insert into mutes (muter_id, muted_id) values ($1, $2)"
BEFRIEND = """
insert into friendships (first_id, second_id) values (least($1::uuid, $2::uuid), greatest($1::uuid, $2::uuid))
"""


def key() -> str:
    """Return an idempotency key that nobody has used."""
    return f"posting-{next(_KEYS)}"


def who(visitor: Visitor) -> UUID:
    """Return whose account it is."""
    return UUID(visitor.welcome["user"]["id"])


async def post(visitor: Visitor, text: str, privacy: str = "PUBLIC", **fields: Any) -> Message:
    """Post a vybe, and return it."""
    sent = {"kind": "REFLECTION", "privacy": privacy, "text": text, "key": key(), **fields}
    answer = await visitor.call("vybe.post", **sent)
    assert answer["type"] == "vybe.posted", answer
    vybe: Message = answer["vybe"]
    return vybe


async def share(visitor: Visitor, vybe: str, privacy: str = "PUBLIC", **fields: Any) -> Message:
    """Pass a vybe on, and return the new one."""
    answer = await visitor.call("vybe.share", **{"vybe": vybe, "privacy": privacy, "key": key(), **fields})
    assert answer["type"] == "vybe.shared", answer
    shared: Message = answer["vybe"]
    return shared


async def comment(visitor: Visitor, vybe: str, text: str) -> Message:
    """Say something about a vybe, and return the comment."""
    answer = await visitor.call("comment.add", vybe=vybe, text=text, key=key())
    assert answer["type"] == "comment.added", answer
    added: Message = answer["comment"]
    return added


async def react(visitor: Visitor, kind: str, target: str, reaction: str = "HEART") -> Message:
    """React to a vybe or a comment; return the answer."""
    return await visitor.call("reaction.add", target={"kind": kind, "id": target}, reaction=reaction)


async def say_something(author: Visitor) -> tuple[str, str, str]:
    """Post a vybe for everyone, one for nobody else, and a comment about the first; return the ids of the three."""
    public, private = [await post(author, "a vybe", privacy) for privacy in ("PUBLIC", "PRIVATE")]
    return public["id"], private["id"], (await comment(author, public["id"], "a comment"))["id"]


async def feed(visitor: Visitor, limit: int = 50) -> list[str]:
    """Return the ids of the newest vybes in somebody's feed."""
    return [vybe["id"] for vybe in (await visitor.call("feed.list", limit=limit))["vybes"]]


async def heard(visitor: Visitor, type_: str, **fields: Any) -> Message:
    """Wait for an event of a type with these fields."""

    def found() -> list[Message]:
        return [
            message
            for message in visitor.heard
            if message["type"] == type_ and fields.items() <= message.items()
        ]

    await until(found, PATIENCE)
    return found()[0]


async def moderator(host: Host, pool: Pool) -> Visitor:
    """Bring somebody who looks after everyone."""
    user = await pool.fetchval("insert into users (name, role) values ('mo', 'MODERATOR') returning id")
    return await visit(host, Person(id=UserId(user), name="mo"))


async def several(host: Host, *names: str) -> list[Visitor]:
    """Bring new people."""
    return [await visit(host, name) for name in names]
