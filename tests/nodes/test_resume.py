"""Coming back on another node: exactly what was missed, or a snapshot that says so; and lies, which cost little."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from protocol.envelope import RoomId
from tests.nodes.cluster import Account, Cluster, NodeProcess
from tests.nodes.raw import Gone, Message, RawConnection, open_raw

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(60)]

WINDOW = 120
SAID = 300


async def talk(cluster: Cluster, node: NodeProcess, lines: int) -> tuple[RoomId, str, RawConnection]:
    """Say so many lines in a new room; return the room, its epoch, and who said them, who is still there."""
    room = await cluster.room()
    (author,) = await cluster.accounts(["author"])
    connection = await open_raw(node.port, lambda _: None)
    await connection.call("hello", token=author.token)
    joined = await connection.call("room.join", room=str(room))
    for start in range(0, lines, 50):
        answers = await asyncio.gather(
            *(
                connection.call("chat.send", room=str(room), text=f"line {n}", key=f"key-{n}")
                for n in range(start, min(lines, start + 50))
            )
        )
        assert {answer["type"] for answer in answers} == {"chat.sent"}
    return room, joined["epoch"], connection


async def come_back(node: NodeProcess, account: Account, resume: list[Message]) -> tuple[Message, list[int]]:
    """Say hello with positions; return the answer and the offsets of the lines that follow it at once."""
    lines: list[int] = []
    connection = await open_raw(
        node.port, lambda message: lines.append(message["offset"]) if message["type"] == "chat.line" else None
    )
    welcome = await connection.call("hello", token=account.token, resume=resume)
    if welcome["type"] == "welcome":
        await connection.call("session.ping")
    connection.leave()
    return welcome, lines


@pytest.mark.parametrize("warm", [True, False], ids=["to a node in the room", "to a node that is not"])
async def test_what_was_missed_is_replayed_exactly(cluster: Cluster, warm: bool) -> None:
    """0, 1, window - 1 and window missed: exactly those; one more, or two days' worth: told so, with a snapshot."""
    first, second = await cluster.start(2, replay_window=WINDOW)
    room, epoch, _ = await talk(cluster, first, SAID)
    (account,) = await cluster.accounts(["returner"])
    for missed in (0, 1, WINDOW - 1, WINDOW, WINDOW + 1, SAID):
        position = {"room": str(room), "epoch": epoch, "offset": SAID - missed}
        welcome, lines = await come_back(first if warm else second, account, [position])
        (result,) = welcome["resumed"]
        assert result["offset"] == SAID
        if missed <= WINDOW:
            assert result["recovered"]
            assert result.get("missed", 0) == missed
            assert lines == list(range(SAID - missed + 1, SAID + 1))
        else:
            assert not result["recovered"]
            assert result["recent"][-1]["offset"] == SAID
            assert lines == []


async def test_lies_get_an_answer_and_cost_little(cluster: Cluster) -> None:
    """Ahead, another epoch, a draft room, no room: a snapshot or an error each, at most one history read a room."""
    (node,) = await cluster.start(1, replay_window=WINDOW)
    room, epoch, _ = await talk(cluster, node, 20)
    (account,) = await cluster.accounts(["liar"])
    async with cluster.connection() as connection:
        await connection.execute("create extension pg_stat_statements")
        await connection.execute("select pg_stat_statements_reset()")
        told: list[Message] = []
        for place, offset in ((epoch, 21), (epoch, 2**53), ("another", 3), ("", 0)):
            welcome, lines = await come_back(
                node, account, [{"room": str(room), "epoch": place, "offset": offset}]
            )
            assert lines == []
            told += welcome["resumed"]
        reads = await connection.fetchval(
            "select coalesce(sum(calls), 0) from pg_stat_statements "
            "where query like '%chat_lines l%' and query not like '%pg_stat%'"
        )
        await connection.execute("update rooms set status = 'DRAFT' where id = $1", room)
    assert [(one["recovered"], one["offset"]) for one in told] == [(False, 20)] * 4
    assert reads <= 4
    await asyncio.sleep(1.1)  # what a node knows of the catalogue is a second old at most
    welcome, _ = await come_back(
        node,
        account,
        [{"room": str(one), "epoch": epoch, "offset": 1} for one in (room, uuid4())],
    )
    assert [one["error"] for one in welcome["resumed"]] == ["not_found", "not_found"]


@pytest.mark.parametrize("offset", [-1, 2**63, 2**70, 1.5, "1", None, []])
async def test_an_offset_that_is_none_is_refused(cluster: Cluster, offset: object) -> None:
    """Negative, huge and of a wrong type: the hello is answered with the field that is wrong."""
    (node,) = await cluster.start(1)
    (account,) = await cluster.accounts(["liar"])
    position = {"room": str(uuid4()), "epoch": "e", "offset": offset}
    answer, _ = await come_back(node, account, [position])
    assert (answer["type"], answer["code"]) == ("error", "invalid")
    assert answer["path"].startswith("$.resume[...].offset") or "resume" in answer["path"]


async def test_ten_thousand_rooms_are_no_hello(cluster: Cluster) -> None:
    """A hello past 4 KiB closes the connection with a code that says not to come back."""
    (node,) = await cluster.start(1)
    (account,) = await cluster.accounts(["liar"])
    positions = [{"room": str(uuid4()), "epoch": "e", "offset": 1} for _ in range(10_000)]
    with pytest.raises(Gone) as gone:
        await come_back(node, account, positions)
    assert gone.value.code in (4503, 1009)


async def test_the_new_connection_before_the_old_one_is_dead(cluster: Cluster) -> None:
    """Someone's network changes: they come back on another node while the old connection stands; nobody sees them leave."""
    nodes = await cluster.start(2, presence_grace_seconds=1)
    room, epoch, _ = await talk(cluster, nodes[0], 5)
    account, watcher = await cluster.accounts(["mover", "watcher"])
    pulses: list[Message] = []
    watching = await open_raw(nodes[0].port, pulses.append)
    await watching.call("hello", token=watcher.token)
    await watching.call("room.join", room=str(room))
    old = await open_raw(nodes[0].port, lambda _: None)
    await old.call("hello", token=account.token)
    await old.call("room.join", room=str(room))
    await asyncio.sleep(0.5)
    pulses.clear()
    old.vanish()
    new = await open_raw(nodes[1].port, lambda _: None)
    position = {"room": str(room), "epoch": epoch, "offset": 5}
    welcome = await new.call("hello", token=account.token, resume=[position], within=1.0)
    assert welcome["resumed"][0]["recovered"]
    await asyncio.sleep(0.5)
    old.reset()
    await asyncio.sleep(2.5)  # the grace of the old one is over
    assert str(account.user) not in str(pulses)


async def test_one_key_is_one_line_everywhere(cluster: Cluster) -> None:
    """A key sent 100 times over 10 connections and 2 nodes: one line, equal answers; with another text it is refused."""
    nodes = await cluster.start(2)
    room = await cluster.room()
    (account,) = await cluster.accounts(["author"])
    connections = []
    for number in range(10):
        connection = await open_raw(nodes[number % 2].port, lambda _: None)
        await connection.call("hello", token=account.token)
        await connection.call("room.join", room=str(room))
        connections.append(connection)
    answers = await asyncio.gather(
        *(
            connection.call("chat.send", room=str(room), text="once", key="k")
            for connection in connections
            for _ in range(10)
        )
    )
    assert {(a["type"], a["offset"], a["line"]["id"]) for a in answers} == {
        ("chat.sent", 1, answers[0]["line"]["id"])
    }
    other = await connections[0].call("chat.send", room=str(room), text="twice", key="k")
    assert other["code"] == "key_reused"
    assert await cluster.stored(room) == [(1, "k")]
