"""A node dies while a line is being committed, and its author says it again elsewhere: cases 6 and 7 of `storage.chat`."""

from __future__ import annotations

import pytest

from tests.nodes.cluster import Cluster
from tests.nodes.raw import Gone, Message, open_raw
from tests.waiting import until

pytestmark = [pytest.mark.nodes, pytest.mark.patient, pytest.mark.timeout(60)]

TAIL_SECONDS = 5.0
"""Within which a line is found that nobody published."""


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_cases_6_and_7_a_crash_around_the_commit(cluster: Cluster, moment: str) -> None:
    """Whether the node died before the commit or after it: said again on another node it is one line, seen once by all."""
    dying, other = cluster.node(bug=f"dying {moment}"), cluster.node()
    await dying.ready()
    await other.ready()
    room = await cluster.room()
    author, listener = await cluster.accounts(["author", "listener"])
    heard: list[Message] = []
    listening = await open_raw(other.port, heard.append)
    await listening.call("hello", token=listener.token)
    await listening.call("room.join", room=str(room))
    first = await open_raw(dying.port, lambda _: None)
    await first.call("hello", token=author.token)
    await first.call("room.join", room=str(room))
    with pytest.raises(Gone):
        await first.call("chat.send", room=str(room), text="once", key="k")
    assert await cluster.stored(room) == ([] if moment == "before" else [(1, "k")])
    again = await open_raw(other.port, lambda _: None)
    await again.call("hello", token=author.token)
    await again.call("room.join", room=str(room))
    answers = [
        await again.call("chat.send", room=str(room), text="once", key="k", within=TAIL_SECONDS)
        for _ in range(2)
    ]
    assert [(answer["type"], answer["offset"]) for answer in answers] == [("chat.sent", 1)] * 2
    assert answers[0]["line"] == answers[1]["line"]
    await until(lambda: any(message["type"] == "chat.line" for message in heard), TAIL_SECONDS)
    await again.call("chat.send", room=str(room), text="then", key="k2")
    await until(lambda: heard[-1].get("offset") == 2)
    assert [message["offset"] for message in heard if message["type"] == "chat.line"] == [1, 2]
    assert await cluster.stored(room) == [(1, "k"), (2, "k2")]
