"""A room goes live: everyone in it sees it, on every node, and everyone who follows its host is notified, once each time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from protocol.envelope import RoomId, UserId
from server import live as airing
from server.live import tell_followers
from storage import relations
from storage.live import TellFollowers
from tests.http.conftest import Servers, servers
from tests.leaving import Member, Town, town
from tests.nodes.raw import open_raw
from tests.visitors import Visitor
from tests.waiting import until

__all__ = ["servers"]  # fixtures


@pytest.fixture(scope="module")
async def place(servers: Servers) -> AsyncIterator[Town]:
    """Run two nodes."""
    async with town(await servers.settings()) as running:
        yield running


async def a_host(place: Town, slug: str) -> tuple[Member, Visitor, RoomId]:
    """Make a creator with a looproom."""
    room = await place.room(slug)
    host = await place.member("Host")
    await place.pool.execute("update users set role = 'CREATOR' where id = $1", host.id)
    await place.pool.execute("update rooms set host_id = $1 where id = $2", host.id, room)
    return host, await host.come(), room


async def followers(place: Town, host: UserId, number: int) -> list[UserId]:
    """Make people who follow somebody."""
    rows = await place.pool.fetch(
        "insert into users (name) select 'follower' from generate_series(1, $1) returning id", number
    )
    await place.pool.execute(
        "insert into follows (follower_id, creator_id) select id, $2 from unnest($1::uuid[]) as f (id)",
        [row["id"] for row in rows],
        host,
    )
    return [UserId(row["id"]) for row in rows]


async def noted(place: Town, room: RoomId) -> dict[UserId, int]:
    """Return who was notified of a room, and how often it was told."""
    rows = await place.pool.fetch("select user_id, count from notifications where thing_id = $1", room)
    return {row["user_id"]: row["count"] for row in rows}


def aired(visitor: Visitor) -> list[Any]:
    """Return what somebody was told of rooms that are live."""
    return [message["live"] for message in visitor.heard if message["type"] == "room.air"]


async def test_who_is_in_it_sees_it(place: Town) -> None:
    """On both nodes, each time that it changes; who comes, and who comes back, is told how it is."""
    _, host, room = await a_host(place, "seen")
    guest = await place.member("Guest")
    guests = [await guest.come(site, room) for site in place.sites]
    answer = await host.call("room.live", room="seen", live=True)
    assert (answer["type"], answer["room"]["live"]) == ("room.switched", True)
    await host.call("room.live", room="seen", live=True)
    for visitor in guests:
        await until(lambda v=visitor: aired(v) == [True])  # type: ignore[misc] # early bound
    assert (await guests[0].join(room))["room"]["live"] is True
    position = {"room": "seen", "epoch": place.sites[0].node.stores.epoch, "offset": 0}
    await host.call("room.live", room="seen", live=False)
    for visitor in guests:
        await until(lambda v=visitor: aired(v) == [True, False])  # type: ignore[misc] # early bound
    await host.call("room.live", room="seen", live=True)
    again = await _come_back(guest, position)
    assert again.welcome["resumed"][0]["live"] is True


async def _come_back(member: Member, position: dict[str, Any]) -> Visitor:
    visitor = Visitor()
    visitor.connection = await open_raw(member.site.port, visitor.heard.append)
    visitor.welcome = await visitor.call("hello", token=member.access_token, resume=[position])
    return visitor


async def test_who_follows_the_host_is_notified(place: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches, each once; who is connected is told live. Muted and blocked there is nothing; the next time it is told again."""
    monkeypatch.setattr(airing, "FOLLOWERS", 7)
    monkeypatch.setattr(airing, "PAUSE_SECONDS", 0.0)
    host, visitor, room = await a_host(place, "followed")
    follower = await place.member("Follower")
    connected = await follower.come(place.sites[1])
    await relations.follow(place.pool, follower.id, host.id)
    others = await followers(place, host.id, 30)
    await place.pool.execute("insert into mutes (muter_id, muted_id) values ($1, $2)", others[0], host.id)
    await relations.block(place.pool, others[1], host.id)
    await visitor.call("room.live", room="followed", live=True)
    await until(lambda: [one for one in connected.heard if one["type"] == "notification.notice"])
    await place.cleared("rooms.live")
    expected = {follower.id, *others[2:]}
    assert await noted(place, room) == dict.fromkeys(expected, 1)
    (notice,) = [one for one in connected.heard if one["type"] == "notification.notice"]
    assert notice["notification"]["thing"] == {"kind": "looproom", "id": str(room)}
    assert "actor" not in notice["notification"]
    for on in (False, True):
        await visitor.call("room.live", room="followed", live=on)
    await place.cleared("rooms.live")
    assert await noted(place, room) == dict.fromkeys(expected, 2)


async def test_a_job_that_is_done_again_tells_nobody_twice(place: Town) -> None:
    """Its node was lost in the middle; and when the room is not live any more by then, nobody is told at all."""
    host, visitor, room = await a_host(place, "again")
    others = await followers(place, host.id, 5)
    await visitor.call("room.live", room="again", live=True)
    await place.cleared("rooms.live")
    since: int = await place.pool.fetchval(
        "select (extract(epoch from live_since) * 1000)::bigint from rooms where id = $1", room
    )
    node = place.sites[0].node
    await tell_followers(node, TellFollowers(room=room, since=since))
    assert await noted(place, room) == dict.fromkeys(others, 1)
    await place.pool.execute("delete from notifications where thing_id = $1", room)
    await tell_followers(node, TellFollowers(room=room, since=since - 1))
    await visitor.call("room.live", room="again", live=False)
    await tell_followers(node, TellFollowers(room=room, since=since))
    assert await noted(place, room) == {}


async def test_whoever_is_anonymous_is_followed_by_nobody(place: Town) -> None:
    """A notification would tell who is behind the host's pseudonym."""
    host, visitor, room = await a_host(place, "masked")
    await followers(place, host.id, 3)
    await visitor.call("person.anonymous", on=True)
    await until(lambda: [one for one in visitor.heard if one["type"] == "person.anonymity"])
    answer = await visitor.call("room.live", room="masked", live=True)
    assert answer["room"]["live"] is True
    await place.cleared("rooms.live")
    assert await noted(place, room) == {}


async def test_only_a_published_room_of_ones_own(place: Town) -> None:
    """Another's is forbidden, and a draft of one's own."""
    _, visitor, room = await a_host(place, "own")
    stranger = await (await place.member("Stranger")).come()
    assert (await stranger.call("room.live", room="own", live=True))["code"] == "forbidden"
    await place.pool.execute("update rooms set status = 'DRAFT' where id = $1", room)
    place.sites[0].node.room_changed(room)
    assert (await visitor.call("room.live", room="own", live=True))["code"] == "forbidden"
