"""Coming back: the cases that `server.resume` lists. (Nodes that die, and a connection that is not known to be dead, are in
`nodes/test_resume`.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest

from protocol.closing import CloseCode
from protocol.envelope import RoomId
from protocol.refusals import ErrorCode, Refused
from server.chat import ChatHistory
from server.hub.members import Room as ActiveRoom
from server.hub.subscriptions import Subscriptions
from server.settings import Settings
from server.tokens import Tokens
from storage.postgres.embedded import EmbeddedPostgres
from storage.postgres.pool import Pool, open_pool
from tests.hosting import SIGNING_KEY, Host, hosting, make_room
from tests.http.serving import serving
from tests.nodes.raw import Message
from tests.redis.valkeys import Valkey
from tests.standing import Room, Standing
from tests.stores import SEALING_KEY, counted_statements, make_database
from tests.visitors import Visitor, approach, arrive, visit
from tests.waiting import until

WINDOW = 20
MOST_ROOMS = 8

FILL = """
with moved as (
    update room_positions set last = $2 where room_id = $1
)
insert into chat_lines (room_id, "offset", author_id, text)
select $1, n, host_id, 'line ' || n from rooms, generate_series(1, $2::int) n where id = $1
"""


@pytest.fixture(scope="module")
async def short(postgres: EmbeddedPostgres) -> AsyncIterator[Standing]:
    """Run two nodes whose window is short, and who let people speak as fast as they can."""
    url = await make_database(postgres)
    pool = await open_pool(url, size=5)
    settings = {
        "replay_window": WINDOW,
        "max_rooms_per_connection": MOST_ROOMS,
        "commands_per_second": 5000,
        "commands_burst": 5000,
    }
    with Valkey() as redis:
        async with (
            hosting(url, redis.url, pool, **settings) as north,
            hosting(url, redis.url, pool, **settings) as south,
        ):
            yield Standing(north, south, pool)
    await pool.close()


@pytest.fixture
async def calm(short: Standing) -> Room:
    """Make a room in which nobody has been, on the nodes with the short window."""
    slug = f"calm-{uuid4().hex[:8]}"
    return Room(await make_room(short.pool, slug), slug)


async def talk(host: Host, room: RoomId, lines: int) -> Visitor:
    """Say so many lines, in order; return who said them, who is still there."""
    visitor = await visit(host, "author", room)
    said = await asyncio.gather(*(visitor.say(room, f"line {number}") for number in range(1, lines + 1)))
    assert [answer["offset"] for answer in said] == list(range(1, lines + 1))
    return visitor


def position(visitor: Visitor, room: object, offset: object, epoch: str | None = None) -> Message:
    """Return a position in the epoch in which somebody was welcomed, or another."""
    return {
        "room": str(room),
        "epoch": visitor.welcome["epoch"] if epoch is None else epoch,
        "offset": offset,
    }


async def back(host: Host, *positions: Message) -> Visitor:
    """Come back with positions; return who did, and has been sent everything that follows at once."""
    visitor = await arrive(host, await host.token("returner"), resume=list(positions))
    assert visitor.welcome["type"] == "welcome", visitor.welcome
    await visitor.settle()
    return visitor


def told(visitor: Visitor) -> list[tuple[bool, int, int]]:
    """Return what became of positions: recovered, the room's offset, and how many were missed."""
    return [
        (one["recovered"], one.get("offset", 0), one.get("missed", 0)) for one in visitor.welcome["resumed"]
    ]


@pytest.mark.parametrize("node", ["where it was", "another"])
async def test_case_1_nothing_missed(short: Standing, calm: Room, node: str) -> None:
    """The room is recovered as it was known, no event follows, and the next one is the next."""
    author = await talk(short.north, calm.id, 3)
    host = short.north if node == "where it was" else short.south
    visitor = await back(host, position(author, calm.slug, 3))
    (result,) = visitor.welcome["resumed"]
    assert result == {
        "room": calm.slug,
        "you": {"id": str(visitor.person.id), "name": "returner"},
        "recovered": True,
        "id": str(calm.id),
        "epoch": author.welcome["epoch"],
        "offset": 3,
        "state": result["state"],
    }
    assert visitor.events == []
    await author.say(calm.id, "next")
    await visitor.hear(4)
    assert visitor.offsets == [4]


@pytest.mark.parametrize("node", ["where it was", "another"])
@pytest.mark.parametrize("missed", [1, WINDOW - 1, WINDOW])
async def test_case_2_up_to_a_window_missed(short: Standing, calm: Room, node: str, missed: int) -> None:
    """Exactly what was missed follows: the same events as others heard, in order, once; and then what is new."""
    author = await talk(short.north, calm.id, 3)
    witness = await visit(short.north, "witness", calm.id)
    line = (await author.say(calm.id, "teh line"))["line"]["id"]
    await author.call("chat.edit", room=calm.slug, line=line, text="the line")
    for number in range(6, 4 + missed):
        await author.say(calm.id, f"line {number}")
    last = max(5, 3 + missed)
    await witness.hear(last)
    host = short.north if node == "where it was" else short.south
    visitor = await back(host, position(author, calm.id, last - missed))
    assert told(visitor) == [(True, last, missed)]
    assert visitor.offsets == list(range(last - missed + 1, last + 1))
    expected = witness.events[-missed:]
    if missed > 1:
        expected[0] = {
            **expected[0],
            "line": witness.events[1]["line"],
        }  # a line is replayed as it stands now
    assert visitor.events == expected
    await author.say(calm.id, "next")
    await visitor.hear(last + 1)
    assert visitor.offsets == list(range(last - missed + 1, last + 2))


@pytest.mark.parametrize("node", ["where it was", "another"])
@pytest.mark.parametrize("missed", [WINDOW + 1, 3 * WINDOW])
async def test_case_3_more_than_a_window(short: Standing, calm: Room, node: str, missed: int) -> None:
    """It is said that what is known is worth nothing; what is to replace it is there, and the next event joins on."""
    author = await talk(short.north, calm.id, 3 * WINDOW)
    host = short.north if node == "where it was" else short.south
    visitor = await back(host, position(author, calm.id, 3 * WINDOW - missed))
    assert told(visitor) == [(False, 3 * WINDOW, 0)]
    (result,) = visitor.welcome["resumed"]
    newcomer = await (await visit(host, "newcomer")).join(calm.id)
    assert result["recent"] == newcomer["recent"]
    assert result["recent"][-1]["offset"] == 3 * WINDOW
    assert visitor.events == []
    await author.say(calm.id, "next")
    await visitor.hear(3 * WINDOW + 1)
    assert visitor.offsets == [3 * WINDOW + 1]


async def test_cases_2_and_3_after_two_days(database_url: str, valkey: Valkey, pool: Pool) -> None:
    """How long it has been counts for nothing, only how much was said; nodes have come and gone, and keys are forgotten."""
    room = await make_room(pool, "calm")
    settings = {"replay_window": WINDOW}
    async with hosting(database_url, valkey.url, pool, **settings) as host:
        author = await talk(host, room, 2 * WINDOW)
    await pool.execute("update chat_lines set sent_at = sent_at - interval '2 days'")
    await pool.execute("delete from idempotency_keys")
    async with hosting(database_url, valkey.url, pool, **settings) as host:
        near = await back(host, position(author, room, 2 * WINDOW - 3))
        assert (told(near), near.offsets) == ([(True, 2 * WINDOW, 3)], [38, 39, 40])
        far = await back(host, position(author, room, 2))
        assert (told(far), far.offsets) == ([(False, 2 * WINDOW, 0)], [])


@pytest.mark.parametrize("epoch", ["", "another", "6f" * 64])
async def test_case_4_another_epoch(short: Standing, calm: Room, epoch: str) -> None:
    """An offset of another history means nothing here, whether it could be one of ours or not."""
    author = await talk(short.north, calm.id, 3)
    for offset in (0, 2, 3, 500):
        visitor = await back(short.north, position(author, calm.id, offset, epoch))
        assert (told(visitor), visitor.events) == ([(False, 3, 0)], [])
        assert [line["offset"] for line in visitor.welcome["resumed"][0]["recent"]] == [1, 2, 3]


async def test_case_4_a_restored_database(database_url: str, valkey: Valkey, pool: Pool) -> None:
    """After a restore to an earlier moment nobody waits for offsets that have been: they start anew, and miss nothing."""
    room = await make_room(pool, "calm")
    async with hosting(database_url, valkey.url, pool) as host:
        author = await talk(host, room, 8)
    await pool.execute("update server_identity set value = 'restored'")
    await pool.execute('delete from chat_lines where "offset" > 5')
    await pool.execute("update room_positions set last = 5")
    async with hosting(database_url, valkey.url, pool) as host:
        visitor = await back(host, position(author, room, 8))
        assert visitor.welcome["epoch"] != author.welcome["epoch"]
        assert told(visitor) == [(False, 5, 0)]
        other = await visit(host, "other", room)
        for _ in range(3):
            await other.say(room, "again")
        await visitor.hear(8)
        assert visitor.offsets == [6, 7, 8]


@pytest.mark.parametrize("offset", [4, 2**53, 2**63 - 1])
async def test_case_5_ahead_of_the_room(short: Standing, calm: Room, offset: int) -> None:
    """A position that nobody can have is answered with a snapshot."""
    author = await talk(short.north, calm.id, 3)
    visitor = await back(short.north, position(author, calm.id, offset))
    assert (told(visitor), visitor.events) == ([(False, 3, 0)], [])
    await author.say(calm.id, "next")
    await visitor.hear(4)


async def test_case_5_ahead_of_this_node(
    short: Standing, calm: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has seen more than this node has heard is not taken back: the node catches up first, for all who are there."""
    author = await talk(short.north, calm.id, 3)
    behind = await visit(short.south, "behind", calm.id)
    monkeypatch.setattr(Subscriptions, "received", lambda *_: None)
    for number in (4, 5, 6):
        await author.say(calm.id, f"line {number}")
    visitor = await back(short.south, position(author, calm.id, 5))
    assert (told(visitor), visitor.offsets) == ([(True, 6, 1)], [6])
    await behind.hear(6)
    assert behind.offsets == [4, 5, 6]


@pytest.mark.parametrize("offset", [-1, 2**63, 2**70, 1.5, "1", None, [], {}, True])
async def test_case_6_no_position_at_all(short: Standing, calm: Room, offset: object) -> None:
    """The hello is refused with the field that is wrong; said again as it should be, it is heard."""
    author = await talk(short.north, calm.id, 3)
    visitor = await approach(short.north)
    token = await short.north.token("returner")
    refused = await visitor.call("hello", token=token, resume=[position(author, calm.id, offset)])
    assert (refused["code"], refused["path"]) == (ErrorCode.INVALID, "$.resume[0].offset")
    welcome = await visitor.call("hello", token=token, resume=[position(author, calm.id, 2)])
    assert welcome["resumed"][0]["missed"] == 1


async def test_case_7_rooms_that_are_closed(short: Standing, calm: Room) -> None:
    """A hidden room, one that never was and one that asks for money are answered with the error; the open one is entered."""
    author = await talk(short.north, calm.id, 3)
    hidden = await make_room(short.pool, f"{calm.slug}-hidden", status="ARCHIVED")
    premium = await make_room(short.pool, f"{calm.slug}-premium", preview=0)
    nowhere = uuid4()
    visitor = await back(
        short.north, *(position(author, room, 0) for room in (hidden, premium, calm.id, nowhere))
    )
    results = {one["room"]: one.get("error", one["recovered"]) for one in visitor.welcome["resumed"]}
    assert results == {
        str(hidden): ErrorCode.NOT_FOUND,
        str(premium): ErrorCode.PREMIUM_REQUIRED,
        str(nowhere): ErrorCode.NOT_FOUND,
        str(calm.id): True,
    }
    assert visitor.offsets == [1, 2, 3]
    assert (await visitor.say(hidden, "x"))["code"] == ErrorCode.NOT_IN_ROOM


async def test_case_8_one_room_under_several_names(short: Standing, calm: Room) -> None:
    """By slug, by id, and by the id in other spellings it is one room: what was missed is not told twice."""
    author = await talk(short.north, calm.id, 5)
    names = (calm.slug, str(calm.id), str(calm.id).upper(), calm.id.hex)
    visitor = await back(short.north, *(position(author, name, offset) for offset, name in enumerate(names)))
    assert (told(visitor), visitor.offsets) == ([(True, 5, 2)], [4, 5])


async def test_case_9_more_rooms_than_allowed(short: Standing, calm: Room) -> None:
    """As many as one may be in are entered; the others are refused, and nothing was read for them."""
    rooms = [await make_room(short.pool, f"{calm.slug}-{number}") for number in range(2 * MOST_ROOMS)]
    author = await visit(short.north, "author")
    async with counted_statements(short.pool) as count:
        visitor = await back(short.north, *(position(author, room, 0) for room in rooms))
        opened = sum(calls for query, calls in await count() if "chat_lines l" in query)
    results = [one.get("error", one["recovered"]) for one in visitor.welcome["resumed"]]
    assert results == [True] * MOST_ROOMS + [ErrorCode.TOO_MANY_ROOMS] * MOST_ROOMS
    assert opened == MOST_ROOMS
    too_long = await approach(short.north)
    refused = await too_long.call("hello", token="x", resume=[{"room": "x", "epoch": "", "offset": 0}] * 65)
    assert (refused["code"], refused["path"]) == (ErrorCode.INVALID, "$.resume")


@pytest.mark.parametrize(("claimed", "recovered"), [(2**53, False), (0, True)])
async def test_cases_2_and_5_cost_one_read_a_room(
    nodes: Standing, room: Room, claimed: int, recovered: bool
) -> None:
    """Of rooms that are in memory, positions that memory doesn't cover, true or not, are one read of each one's history."""
    rooms = [await make_room(nodes.pool, f"{room.slug}-{number}") for number in range(10)]
    for one in rooms:
        await nodes.pool.execute(FILL, one, 150)
    author = await visit(nodes.north, "author", *rooms)
    async with counted_statements(nodes.pool) as count:
        visitor = await back(nodes.north, *(position(author, one, claimed) for one in rooms))
        statements = await count()
    assert told(visitor) == [(recovered, 150, 150 if recovered else 0)] * 10
    assert len(visitor.offsets) == (1500 if recovered else 0)
    assert sum(calls for query, calls in statements if "chat_lines l" in query) == 10
    assert sum(calls for _, calls in statements) <= 10 + 5  # an account, a session, the catalogue, positions


async def test_case_10_a_store_is_away(short: Standing, calm: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """One room can't be read: the hello is turned away with when to come again, and nobody is half in."""
    other = await make_room(short.pool, f"{calm.slug}-too")
    author = await talk(short.north, calm.id, 3)

    async def away(self: ChatHistory, room: RoomId) -> None:
        raise Refused(ErrorCode.UNAVAILABLE, retry_after=1.0)

    positions = [position(author, room, 0) for room in (calm.id, other)]
    with monkeypatch.context() as patched:
        patched.setattr(ChatHistory, "begin", away)
        visitor = await approach(short.north)
        answer = await visitor.call("hello", token=await short.north.token("returner"), resume=positions)
        assert (answer["code"], answer["retry_after"]) == (ErrorCode.UNAVAILABLE, 1.0)
        assert (await visitor.connection.gone).code == CloseCode.BUSY
    assert (await author.call("presence.list", room=calm.slug))["online"] == 1
    assert told(await back(short.north, *positions)) == [(True, 3, 3), (True, 0, 0)]


async def test_a_room_that_is_closed_while_the_others_are_looked_at(
    short: Standing, calm: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is put into a room that the node has closed meanwhile and hears no more: they come again, and miss nothing."""
    other = await make_room(short.pool, f"{calm.slug}-too")
    author = await talk(short.south, calm.id, 3)
    positions = [position(author, room, 0) for room in (calm.id, other)]
    truly = Subscriptions.covering

    async def stand_still(self: Subscriptions, room: ActiveRoom, offset: int) -> bool:
        covered = await truly(self, room, offset)
        self._left_at[room.id] = float("-inf")
        self._close_idle()  # as a node would that had stood still for as long as an empty room stays open
        return covered

    with monkeypatch.context() as patched:
        patched.setattr(Subscriptions, "covering", stand_still)
        visitor = await approach(short.north)
        answer = await visitor.call("hello", token=await short.north.token("returner"), resume=positions)
        assert (answer.get("code"), answer["type"]) == (ErrorCode.UNAVAILABLE, "error")
        assert (await visitor.connection.gone).code == CloseCode.BUSY
    returner = await back(short.north, *positions)
    assert told(returner) == [(True, 3, 3), (True, 0, 0)]
    await author.say(calm.id, "and one more")
    await returner.hear(4)


async def test_while_a_thousand_lines_a_second_arrive(nodes: Standing, room: Room) -> None:
    """Somebody comes and goes between two nodes while twenty people speak as fast as they may: every line once, in order."""
    authors = [await visit(nodes.both[number % 2], f"author {number}", room.id) for number in range(20)]

    async def speak(author: Visitor) -> None:
        for number in range(75):
            assert (await author.say(room.id, f"{number}"))["type"] == "chat.sent"
            await asyncio.sleep(0.01)

    visitor = await visit(nodes.north, "restless", room.id)
    speaking = asyncio.gather(*map(speak, authors))
    heard: list[int] = []
    comebacks = 0
    while heard[-1:] != [1500]:
        await until(lambda visitor=visitor: len(visitor.events) > 50 or 1500 in visitor.offsets)  # type: ignore[misc] # bound now
        visitor.connection.reset()
        await visitor.connection.gone
        heard += visitor.offsets
        comebacks += 1
        host = nodes.both[comebacks % 2]
        token = await host.token("restless", visitor.person)
        visitor = await arrive(host, token, resume=[position(visitor, room.id, heard[-1])])
        assert visitor.welcome["resumed"][0]["recovered"]
    await speaking
    assert heard == list(range(1, 1501))
    assert comebacks > 5


async def test_after_an_hour_of_silence(database_url: str, valkey: Valkey, pool: Pool) -> None:
    """A connection on which nothing is said for as many heartbeats as an hour has stands, and comes back like any other."""
    room = await make_room(pool, "calm")
    settings = Settings(
        database_url=database_url,
        redis_url=valkey.url,
        signing_keys=(SIGNING_KEY,),
        sealing_keys=(SEALING_KEY,),
        access_token_seconds=86400,
    )
    hour = 3600.0
    async with hosting(database_url, valkey.url, pool) as south, serving(settings) as site:
        hub, later = site.node.hub, 0.0
        hub.clock = hub.wheel._clock = lambda: asyncio.get_running_loop().time() + later
        north = Host(f"ws://127.0.0.1:{site.port}/ws", Tokens(settings), pool, AsyncExitStack())
        visitor = await visit(north, "quiet", room)
        (connection,) = hub.members.connections
        while later < hour:
            later += settings.heartbeat_seconds
            hub.wheel.turn()
            await until(lambda: connection._pinged_at is None)
        assert visitor.welcome["heartbeat"] == settings.heartbeat_seconds
        assert visitor.connection.pings > 100
        visitor.connection.reset()
        await visitor.connection.gone
        author = await talk(south, room, 1)
        for host in (north, south):
            assert told(await back(host, position(author, room, 0))) == [(True, 1, 1)]
            assert told(await back(host, position(author, room, 1))) == [(True, 1, 0)]
