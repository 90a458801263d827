"""Publications are lost on their way between nodes, as Redis may lose them: every gap heals, in the middle and at the tail."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.nodes.cluster import Cluster
from tests.nodes.raw import Message, open_raw
from tests.nodes.traffic import under_load

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(60)]

MIDDLE_SECONDS = 1.0
TAIL_SECONDS = 5.0


async def test_lost_publications_are_made_good(cluster: Cluster, seed: int) -> None:
    """Every third publication is lost under load: all readers see every line, once, in order."""
    nodes = await cluster.start(2, bug="lossy")
    async with under_load(cluster, nodes, seed) as traffic:
        await traffic.acknowledged(300)
        await traffic.everywhere(TAIL_SECONDS)
    assert traffic.history.snapshots == 0
    assert await nodes[0].metric("looprooms_events_healed_total") > 0


@pytest.mark.parametrize(("bug", "within"), [("lossy", MIDDLE_SECONDS), ("deaf", TAIL_SECONDS)])
async def test_how_soon_a_gap_is_filled(cluster: Cluster, bug: str, within: float) -> None:
    """A line that was lost on its way is shown a second after the next one, or 5 s after itself when none follows."""
    nodes = await cluster.start(2, bug=bug)
    room = await cluster.room()
    seen: dict[int, float] = {}

    def heard(message: Message) -> None:
        if message["type"] == "chat.line":
            seen[message["offset"]] = time.monotonic()

    connections = []
    for account, node in zip(await cluster.accounts(["writer", "reader"]), nodes, strict=True):
        connection = await open_raw(node.port, heard if node is nodes[1] else lambda _: None)
        await connection.call("hello", token=account.token)
        await connection.call("room.join", room=str(room))
        connections.append(connection)
    said: dict[int, float] = {}
    for number in range(1, 8):
        answer = await connections[0].call("chat.send", room=str(room), text="x", key=f"k{number}")
        said[answer["offset"]] = time.monotonic()
        await asyncio.sleep(0.3)
        if bug == "deaf":
            break
    last = max(said) - (bug == "lossy")  # the very last has nobody after it
    deadline = time.monotonic() + TAIL_SECONDS
    while not set(range(1, last + 1)) <= seen.keys():
        assert time.monotonic() < deadline, sorted(seen)
        await asyncio.sleep(0.01)
    for offset in range(1, last + 1):
        known = said.get(offset + 1, said[offset])
        assert seen[offset] - known < within


async def test_nobody_is_taken_back(cluster: Cluster) -> None:
    """Someone comes from a node that is ahead to one that has heard nothing yet: resumed where they are, and the room goes on."""
    nodes = await cluster.start(2, bug="deaf")
    room = await cluster.room()
    heard: list[Message] = []
    connections = []
    accounts = await cluster.accounts(["writer", "resident"])
    epoch = ""
    for account, node in zip(accounts, nodes, strict=True):
        connection = await open_raw(node.port, heard.append if node is nodes[1] else lambda _: None)
        await connection.call("hello", token=account.token)
        epoch = (await connection.call("room.join", room=str(room)))["epoch"]
        connections.append(connection)
    for number in range(3):
        await connections[0].call("chat.send", room=str(room), text="x", key=f"k{number}")
    moved = await open_raw(nodes[1].port, lambda _: None)
    position = {"room": str(room), "epoch": epoch, "offset": 3}
    welcome = await moved.call("hello", token=accounts[0].token, resume=[position])
    (result,) = welcome["resumed"]
    assert (result["recovered"], result["offset"], result.get("missed", 0)) == (True, 3, 0)
    await connections[1].call("session.ping")
    assert [message["offset"] for message in heard if message["type"] == "chat.line"] == [1, 2, 3]
