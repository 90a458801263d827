"""What ends or changes a session reaches every live connection of the person, on every node, with Redis and without."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import pytest

from protocol.envelope import RoomId
from server.session import CHANNEL, Changed
from storage.redis.broker import Broker
from storage.redis.publications import Kind, Packet
from tests.nodes.cluster import Account, Cluster, NodeProcess
from tests.nodes.raw import RawConnection, open_raw

pytestmark = [pytest.mark.nodes, pytest.mark.patient, pytest.mark.timeout(90)]

SOON = 1.0
WITHOUT_REDIS = 30.0


async def come(account: Account, node: NodeProcess, room: RoomId | None = None) -> RawConnection:
    """Connect somebody."""
    connection = await open_raw(node.port, lambda _: None)
    assert (await connection.call("hello", token=account.token))["type"] == "welcome"
    if room is not None:
        assert (await connection.call("room.join", room=str(room)))["type"] == "room.joined"
    return connection


async def announce(cluster: Cluster, changed: Changed) -> None:
    """Say what a node says after the commit."""
    broker = Broker(cluster.valkey.url, b"operator", on_publication=lambda *_: None, on_restored=lambda: None)
    await broker.start()
    broker.publish(CHANNEL, Packet(Kind.CHANGE, 0, msgspec.json.encode(changed), b""))
    await broker.aclose()


async def change(cluster: Cluster, statement: str, account: Account) -> None:
    """Commit a change to somebody."""
    async with cluster.connection() as connection:
        await connection.execute(statement, account.user)


async def closed(connections: list[RawConnection], within: float) -> list[int]:
    """Wait until all are closed and return the codes."""
    async with asyncio.timeout(within):
        return [gone.code for gone in await asyncio.gather(*(one.gone for one in connections))]


END = "update sessions set ended_at = now() where user_id = $1"
BAN = "update users set banned_at = now() where id = $1"


@pytest.mark.parametrize(("statement", "code"), [(END, 4501), (BAN, 4502)])
async def test_an_end_reaches_every_connection(cluster: Cluster, statement: str, code: int) -> None:
    """A revoked session and a ban close the person's connections on both nodes within a second, and nobody else's."""
    nodes = await cluster.start(2)
    person, other = await cluster.accounts(["person", "other"])
    theirs = [await come(person, node) for node in nodes for _ in range(2)]
    others = [await come(other, node) for node in nodes]
    await change(cluster, statement, person)
    await announce(cluster, Changed(users=[person.user]))
    assert await closed(theirs, SOON) == [code] * 4
    assert not any(one.gone.done() for one in others)
    refused = await open_raw(nodes[0].port, lambda _: None)
    refused.send({"type": "hello", "id": 1, "token": person.token})
    assert (await closed([refused], 2.0)) == [code]


async def test_a_session_that_its_owner_ends(cluster: Cluster) -> None:
    """Who ends their other sessions on one node is rid of those on both within a second, and stays themselves."""
    nodes = await cluster.start(2)
    (person,) = await cluster.accounts(["person"])
    asking = await come(person, nodes[0])
    lost = [await come(await cluster.signed_in_again(person), node) for node in nodes]
    answer = await asking.call("session.revoke", others=True)
    assert (answer["type"], answer["count"]) == ("session.revoked", 2)
    assert await closed(lost, SOON) == [4501, 4501]
    assert (await asking.call("session.list"))["sessions"][0]["current"]
    assert not asking.gone.done()


async def test_a_role_and_a_tier_reach_every_connection(cluster: Cluster) -> None:
    """A new moderator may remove lines on both nodes within a second, and no longer when the role is taken."""
    nodes = await cluster.start(2)
    room = await cluster.room()
    person, author = await cluster.accounts(["person", "author"])
    theirs = [await come(person, node, room) for node in nodes]
    writing = await come(author, nodes[0], room)

    async def may(expected: str) -> None:
        for connection in theirs:
            said = await writing.call("chat.send", room=str(room), text="x", key=f"{time.monotonic()}")
            line = said["line"]["id"]
            answer = await until(
                lambda line=line, connection=connection: connection.call(  # type: ignore[misc]
                    "chat.remove", room=str(room), line=line
                ),
                lambda found: found["type"] == expected,
            )
            assert answer["type"] == expected

    async def until(
        ask: Callable[[], object], good: Callable[[dict[str, object]], bool]
    ) -> dict[str, object]:
        deadline = time.monotonic() + SOON
        while True:
            answer: dict[str, object] = await ask()  # type: ignore[misc]
            if good(answer) or time.monotonic() > deadline:
                return answer
            await asyncio.sleep(0.02)

    await may("error")
    await change(cluster, "update users set role = 'MODERATOR' where id = $1", person)
    await announce(cluster, Changed(users=[person.user]))
    await may("chat.removed")
    await change(cluster, "update users set role = 'MEMBER' where id = $1", person)
    await announce(cluster, Changed(users=[person.user]))
    await asyncio.sleep(SOON)
    await may("error")


async def test_without_redis_the_sweep_finds_it(cluster: Cluster) -> None:
    """With Redis down a revoked session is still closed on both nodes within 30 s."""
    nodes = await cluster.start(2)
    (person,) = await cluster.accounts(["person"])
    theirs = [await come(person, node) for node in nodes]
    cluster.valkey.kill()
    await change(cluster, END, person)
    began = time.monotonic()
    assert await closed(theirs, WITHOUT_REDIS) == [4501, 4501]
    print(f"found after {time.monotonic() - began:.1f} s")
