"""The client against a server that plays exact scenarios: loss, gaps, duplicates, close codes, drains, slow readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

import pytest

from protocol.chat import ChatEdited, ChatLine, ChatSent, EditChat, SendChat
from protocol.client import (
    Backoff,
    CaughtUp,
    Client,
    Disconnected,
    Occurrence,
    Reconnecting,
    Snapshot,
    Unanswered,
    connect,
)
from protocol.client.link import websocket_url
from protocol.closing import CloseCode
from protocol.envelope import Epoch, Error, RoomId
from protocol.presence import RoomPulse
from protocol.reactions import AddReaction, Reaction, ReactionAdded, Target, TargetKind
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import Departure, GetRoom, JoinRoom, LeaveRoom, RoomJoined, RoomLeft
from protocol.session import (
    Drain,
    Hello,
    Ping,
    Position,
    RefreshToken,
    Resumed,
    Shed,
    TokenExpiring,
    TokenRefreshed,
)
from tests.protocol.client.peer import (
    ADA,
    EPOCH,
    ROOM,
    STATE,
    Conversation,
    Peer,
    joined,
    line,
    listening,
    recovered,
    said,
    welcome,
)

T = TypeVar("T")

SLUG = "calm"
OTHER = RoomId(UUID("00000000-0000-7000-8000-000000000002"))


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A scripted server."""
    async with listening() as peer:
        yield peer


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """Nothing of a client runs on after its end."""
    before = asyncio.all_tasks()
    yield
    async with asyncio.timeout(5):
        while left := [t for t in asyncio.all_tasks() - before if "protocol.client" in repr(t.get_coro())]:
            await asyncio.wait(left)


def dial(peer: Peer, **options: Any) -> Client:
    """Make a client that comes back at once."""
    options.setdefault("token", "a-token")
    options.setdefault("backoff", Backoff(0.0, 0.0))
    return connect(peer.url, **options)


async def welcomed(peer: Peer, *resumed: Resumed, heartbeat: float = 25.0) -> tuple[Conversation, Hello]:
    """Take the next websocket and welcome it."""
    conversation = await peer.accept()
    return conversation, await conversation.welcomes(*resumed, heartbeat=heartbeat)


@asynccontextmanager
async def meeting(
    peer: Peer, *, at: int | None = None, heartbeat: float = 25.0, **options: Any
) -> AsyncIterator[tuple[Client, Conversation]]:
    """Connect a client, and let it join the room at an offset if one is given."""
    welcoming = asyncio.create_task(welcomed(peer, heartbeat=heartbeat))
    async with dial(peer, **options) as client:
        conversation, _ = await welcoming
        if at is not None:
            await both(client.call(JoinRoom(SLUG)), conversation.lets_in(at))
        yield client, conversation


async def both(calling: Awaitable[T], answering: Awaitable[object]) -> T:
    """Call, and let the peer answer."""
    answer, _ = await asyncio.wait_for(asyncio.gather(calling, answering), 5)
    return answer


async def following(client: Client) -> Occurrence:
    """Return what comes next out of the client."""
    return await asyncio.wait_for(anext(client), 5)


async def lines(client: Client, count: int) -> list[int]:
    """Return the offsets of the next lines, with nothing between them."""
    offsets = []
    for _ in range(count):
        event = await following(client)
        assert isinstance(event, ChatLine), event
        offsets.append(event.offset)
    return offsets


async def lines_until_caught_up(client: Client) -> list[int]:
    """Return the offsets of the lines before the next `CaughtUp`, which must tell their number."""
    offsets = []
    while not isinstance(event := await following(client), CaughtUp):
        assert isinstance(event, ChatLine), event
        offsets.append(event.offset)
    assert event.missed == len(offsets)
    return offsets


async def everything(client: Client) -> list[Occurrence]:
    """Iterate to the end."""
    return [occurrence async for occurrence in client]


# Calls


async def test_a_call_returns_the_answer_of_its_command(peer: Peer) -> None:
    """Answers find their callers by id, in whatever order they come."""
    async with meeting(peer) as (client, server):
        first = asyncio.create_task(client.send_chat(SLUG, "one"))
        one = await server.hears(SendChat)
        second = asyncio.create_task(client.send_chat(SLUG, "two", key="mine"))
        two = await server.hears(SendChat)
        await server.says(
            ChatSent(id=two.id, offset=2, line=line(2)), ChatSent(id=one.id, offset=1, line=line(1))
        )
        assert [(await first).offset, (await second).offset] == [1, 2]
        assert (one.text, two.key) == ("one", "mine")
        assert one.key != two.key


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("compression", [False, True], ids=["plain", "deflate"])
async def test_both_encodings_with_and_without_compression(encoding: str, compression: bool) -> None:
    """The same session over each subprotocol."""
    async with (
        listening(compression="deflate") as peer,
        meeting(peer, at=0, encoding=encoding, compression=compression) as (client, server),
    ):
        assert server.websocket.subprotocol == f"looprooms.v1+{encoding}"
        assert bool(server.websocket.protocol.extensions) is compression
        await server.says(said(1, "ä" * 900))
        event = await following(client)
        assert isinstance(event, ChatLine)
        assert event.line.text == "ä" * 900


async def test_a_refusal_is_raised_with_all_that_it_says(peer: Peer) -> None:
    """Code, sentence, waiting time and path of an error answer arrive at the caller."""
    async with meeting(peer) as (client, server):
        calling = asyncio.create_task(client.call(JoinRoom(SLUG)))
        join = await server.hears(JoinRoom)
        await server.says(
            Error(id=join.id, code="rate_limited", message="Slowly.", retry_after=1.5, path="$.room")
        )
        with pytest.raises(Refused, match="Slowly") as caught:
            await calling
        refused = caught.value
        assert refused.code is ErrorCode.RATE_LIMITED
        assert (refused.retry_after, refused.path) == (1.5, "$.room")


async def test_a_refusal_that_only_a_newer_server_knows(peer: Peer) -> None:
    """A code without a name here is still that code, with the server's own advice."""
    async with meeting(peer) as (client, server):
        calling = asyncio.create_task(client.call(JoinRoom(SLUG)))
        join = await server.hears(JoinRoom)
        await server.says(Error(id=join.id, code="moon_too_full", message="Wait for the new moon."))
        with pytest.raises(Refused, match="new moon") as caught:
            await calling
        assert caught.value.code == "moon_too_full"
        assert not caught.value.code.retryable
        assert caught.value.code.advice == "Wait for the new moon."


async def test_a_call_that_is_not_answered_times_out(peer: Peer) -> None:
    """The caller is told which command and after how long; the late answer harms nobody."""
    async with meeting(peer) as (client, server):
        with pytest.raises(TimeoutError, match=r"room\.get was not answered within 0\.05 s"):
            await client.call(GetRoom(SLUG), timeout=0.05)
        late = await server.hears(GetRoom)
        await server.says(Error(id=late.id, code="not_found", message="Too late."))
        sent = await both(client.send_chat(SLUG, "on"), confirm(server, 1))
        assert sent.offset == 1


async def confirm(server: Conversation, offset: int) -> SendChat:
    """Answer the next line."""
    command = await server.hears(SendChat)
    await server.says(ChatSent(id=command.id, offset=offset, line=line(offset, command.text)))
    return command


async def test_a_cancelled_join_that_is_answered_later_is_still_a_join(peer: Peer) -> None:
    """The server has let us in, so the room's events are ours."""
    async with meeting(peer) as (client, server):
        calling = asyncio.create_task(client.call(JoinRoom(SLUG)))
        join = await server.hears(JoinRoom)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        await server.says(joined(join, 4), said(5))
        assert await lines(client, 1) == [5]


async def test_the_same_command_object_may_be_sent_twice_at_once(peer: Peer) -> None:
    """The client numbers a copy, so a command is a value."""
    async with meeting(peer) as (client, server):
        command = SendChat(SLUG, "again", "key-1")
        calls = [asyncio.create_task(client.call(command)) for _ in range(2)]
        numbers = {(await confirm(server, n)).id for n in (1, 2)}
        assert len(numbers) == 2
        assert [(await call).offset for call in calls] == [1, 2]
        assert command.id == 0


async def test_before_entering_nothing_can_be_called(peer: Peer) -> None:
    """A client that was not entered says so, instead of waiting for ever."""
    client = dial(peer)
    with pytest.raises(RuntimeError, match="async with"):
        await client.call(GetRoom(SLUG))
    with pytest.raises(RuntimeError, match="async with"):
        _ = client.user


# Entering


async def test_the_welcome_says_who_we_are(peer: Peer) -> None:
    """The token goes with the hello, never with the address."""
    async with meeting(peer, token="secret") as (client, server):
        assert client.user == ADA
        assert client.connected
        assert server.websocket.request is not None
        assert "secret" not in server.websocket.request.path


async def test_no_server_is_an_error_at_once(unused_tcp_port: int) -> None:
    """Who starts without a server learns it immediately, and is not left waiting."""
    with pytest.raises(OSError, match=str(unused_tcp_port)):
        async with connect(f"ws://127.0.0.1:{unused_tcp_port}/ws", token="t"):
            pass


async def test_a_token_that_is_not_taken_is_refused(peer: Peer) -> None:
    """The refusal of a hello is raised where the client is entered."""
    entering = asyncio.create_task(dial(peer).__aenter__())
    server = await peer.accept()
    hello = await server.hears(Hello)
    await server.says(Error(id=hello.id, code="token_invalid", message="No."))
    with pytest.raises(Refused) as caught:
        await entering
    assert caught.value.code is ErrorCode.TOKEN_INVALID
    assert await server.ends() == 1006


async def test_a_close_that_says_no_is_raised_on_entering(peer: Peer) -> None:
    """A banned account is not tried again."""
    entering = asyncio.create_task(dial(peer).__aenter__())
    server = await peer.accept()
    await server.closes(CloseCode.BANNED, "gone")
    with pytest.raises(Disconnected, match="gone") as caught:
        await entering
    assert caught.value.code == 4502
    assert peer.opened == 1


async def test_a_busy_server_is_asked_again_on_entering(peer: Peer) -> None:
    """Both ways to say "later", an error and a close code, are waited out."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def play() -> None:
        first = await peer.accept()
        await first.closes(CloseCode.BUSY)
        second = await peer.accept()
        hello = await second.hears(Hello)
        await second.says(Error(id=hello.id, code="busy", message="Later.", retry_after=3))
        await second.ends()
        await welcomed(peer)

    client = dial(peer, backoff=Backoff(0.5, 20, random=lambda: 1.0), sleep=sleep)
    await both(client.__aenter__(), play())
    assert waits == [1.0, 3]
    await client.close()


async def test_a_server_that_never_welcomes_times_out(peer: Peer) -> None:
    """Entering is bounded."""
    with pytest.raises(TimeoutError):
        async with dial(peer, open_timeout=0.05):
            pass


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://127.0.0.1:8000", "ws://127.0.0.1:8000/ws"),
        ("https://example.org/", "wss://example.org/ws"),
        ("ws://[::1]:80/other", "ws://[::1]:80/other"),
    ],
)
def test_addresses_as_people_write_them(given: str, meant: str) -> None:
    """An HTTP address of the server is understood."""
    assert websocket_url(given) == meant


@pytest.mark.parametrize("address", ["", "127.0.0.1:8000", "ftp://host/ws", "ws://"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    """Before anything is sent anywhere."""
    with pytest.raises(ValueError, match="not an address"):
        connect(address, token="t")


# Events


async def test_durable_events_come_once_and_in_order(peer: Peer) -> None:
    """Duplicates and events of before the join are dropped."""
    async with meeting(peer, at=7) as (client, server):
        await server.says(said(7), said(8), said(8), said(6), said(9))
        assert await lines(client, 2) == [8, 9]


async def test_events_of_other_rooms_are_dropped(peer: Peer) -> None:
    """Before joining and after leaving, a room says nothing here."""
    async with meeting(peer, at=0) as (client, server):
        await server.says(said(1, room=OTHER), RoomPulse(OTHER, online=3))
        leaving = asyncio.create_task(client.call(LeaveRoom(SLUG)))
        leave = await server.hears(LeaveRoom)
        await server.says(RoomLeft(ROOM, id=leave.id), said(1), RoomPulse(ROOM, online=1), Shed(1, 2))
        await leaving
        assert client.rooms == []
        assert await following(client) == Shed(1, 2)


async def test_a_departure_ends_the_room(peer: Peer) -> None:
    """Who was taken out hears why, and nothing after."""
    async with meeting(peer, at=0) as (client, server):
        gone = Departure(ROOM, "premium_required", "Subscribe.")
        await server.says(gone, said(1), Shed(1, 0))
        assert await following(client) == gone
        assert await following(client) == Shed(1, 0)
        assert client.rooms == []


async def test_joining_again_loses_nothing(peer: Peer) -> None:
    """A second join's snapshot is ahead of events that are still on their way."""
    async with meeting(peer, at=3) as (client, server):
        await both(client.call(JoinRoom(SLUG)), server.lets_in(5))
        await server.says(said(4), said(5), said(6))
        assert await lines(client, 3) == [4, 5, 6]


async def test_messages_of_a_newer_server_are_passed_over(peer: Peer) -> None:
    """An event of an unknown type keeps its place in the count, so the next one is no gap; bytes that are no message at all are ignored."""
    async with meeting(peer, at=0) as (client, server):
        await server.says_bytes(b'{"type": "room.confetti", "room": "%s", "offset": 1}' % str(ROOM).encode())
        await server.says_bytes(b'{"type": "room.weather", "wind": 3}')
        await server.says_bytes(b'{"type": "room.weather", "room": "not-an-id"}')
        await server.says_bytes(b"not json")
        await server.says(Error(code="malformed", message="What?"), said(2))
        assert await lines(client, 1) == [2]


async def test_an_answer_that_can_not_be_read_reaches_its_caller(peer: Peer) -> None:
    """Instead of a timeout the caller sees what was wrong."""
    async with meeting(peer) as (client, server):
        calling = asyncio.create_task(client.call(GetRoom(SLUG)))
        command = await server.hears(GetRoom)
        await server.says_bytes(b'{"type": "room.found", "id": %d, "room": 5}' % command.id)
        with pytest.raises(Refused, match="room"):
            await calling


# Coming back


async def test_three_missed_lines_are_caught_up(peer: Peer) -> None:
    """After a lost connection the positions go with the hello, the replay comes out once, and the end of it is told."""
    async with meeting(peer, at=40) as (client, server):
        await server.says(said(41), said(42))
        assert await lines(client, 2) == [41, 42]
        server.breaks()
        server, hello = await welcomed(peer, recovered(45, missed=3))
        assert hello.resume == [Position(room=str(ROOM), epoch=EPOCH, offset=42)]
        await server.says(said(43), said(44), said(45), said(46))
        gone = await following(client)
        assert isinstance(gone, Reconnecting)
        assert (gone.attempt, gone.code) == (1, 1006)
        assert await lines_until_caught_up(client) == [43, 44, 45]
        assert await lines(client, 1) == [46]


async def test_nothing_missed_is_told_at_once(peer: Peer) -> None:
    """A return without a replay is a `CaughtUp` of 0."""
    async with meeting(peer, at=2) as (client, server):
        server.breaks()
        await welcomed(peer, recovered(2))
        assert isinstance(await following(client), Reconnecting)
        assert await following(client) == CaughtUp(missed=0)


async def test_a_loss_in_the_middle_of_the_replay(peer: Peer) -> None:
    """What the first replay brought is not asked for again, and the count at the end is of both."""
    async with meeting(peer, at=0) as (client, server):
        server.breaks()
        server, _ = await welcomed(peer, recovered(3, missed=3))
        await server.says(said(1))
        assert isinstance(await following(client), Reconnecting)
        assert await lines(client, 1) == [1]
        server.breaks()
        server, hello = await welcomed(peer, recovered(3, missed=2))
        assert hello.resume[0].offset == 1
        await server.says(said(2), said(3))
        assert isinstance(await following(client), Reconnecting)
        assert await lines(client, 2) == [2, 3]
        assert await following(client) == CaughtUp(missed=3)


async def test_a_replay_that_is_not_possible_gives_a_snapshot(peer: Peer) -> None:
    """Past the window, or in another epoch: said so, and the count goes on from the snapshot."""
    async with meeting(peer, at=10) as (client, server):
        server.breaks()
        lost = Resumed(
            room=str(ROOM),
            recovered=False,
            id=ROOM,
            epoch=Epoch("e2"),
            offset=4,
            state=STATE,
            recent=[line(4)],
        )
        server, _ = await welcomed(peer, lost)
        await server.says(said(5))
        assert isinstance(await following(client), Reconnecting)
        assert await following(client) == Snapshot(
            room=ROOM, epoch=Epoch("e2"), offset=4, state=STATE, recent=[line(4)]
        )
        assert await following(client) == CaughtUp(missed=0)
        assert await lines(client, 1) == [5]
        server.breaks()
        _, hello = await welcomed(peer, recovered(5))
        assert hello.resume == [Position(room=str(ROOM), epoch="e2", offset=5)]


async def test_a_position_ahead_of_the_server_is_not_kept(peer: Peer) -> None:
    """A server that was restored to before our position says so, and its events are heard from there."""
    async with meeting(peer, at=10) as (client, server):
        server.breaks()
        behind = Resumed(room=str(ROOM), recovered=False, id=ROOM, epoch=EPOCH, offset=4)
        server, _ = await welcomed(peer, behind)
        await server.says(said(5))
        assert isinstance(await following(client), Reconnecting)
        snapshot = await following(client)
        assert isinstance(snapshot, Snapshot)
        assert snapshot.offset == 4
        assert await following(client) == CaughtUp(missed=0)
        assert await lines(client, 1) == [5]


async def test_a_room_that_may_not_be_entered_again_is_a_departure(peer: Peer) -> None:
    """The other rooms go on."""
    async with meeting(peer, at=1) as (client, server):
        await both(client.call(JoinRoom("other")), server.lets_in(8, room=OTHER))
        server.breaks()
        refused = Resumed(room=str(ROOM), recovered=False, error="premium_required", message="Subscribe.")
        server, _ = await welcomed(peer, refused, recovered(9, 1, room=OTHER))
        await server.says(said(9, room=OTHER))
        assert isinstance(await following(client), Reconnecting)
        assert await following(client) == Departure(ROOM, "premium_required", "Subscribe.")
        assert await lines(client, 1) == [9]
        assert client.rooms == [OTHER]


async def test_the_state_of_a_recovered_room_comes_as_a_pulse(peer: Peer) -> None:
    """Who came and went meanwhile is not replayed; the state replaces what was known."""
    async with meeting(peer, at=1) as (client, server):
        server.breaks()
        back = recovered(1)
        back.state = STATE
        await welcomed(peer, back)
        assert isinstance(await following(client), Reconnecting)
        assert await following(client) == RoomPulse(ROOM, state=STATE)


async def test_rooms_that_do_not_fit_into_a_hello_are_joined_again(peer: Peer) -> None:
    """The hello stays within 4 KiB; what was missed in the rest is told by a snapshot, or nothing was."""
    rooms = [RoomId(UUID(int=number)) for number in range(1, 61)]
    async with meeting(peer) as (client, server):
        for room in rooms:
            await both(client.call(JoinRoom(SLUG)), server.lets_in(1, room=room))
        server.breaks()
        server = await peer.accept()
        hello = await server.hears(Hello)
        asked = [RoomId(UUID(position.room)) for position in hello.resume]
        assert 20 < len(asked) < 60
        assert len(server.codec.encode(hello)) <= 4096
        await server.says(welcome(hello, *(recovered(1, room=room) for room in asked)))
        for number, room in enumerate(rooms[len(asked) :]):
            join = await server.hears(JoinRoom)
            assert join.room == str(room)
            await server.says(joined(join, 2 if number == 0 else 1, room=room))
        assert isinstance(await following(client), Reconnecting)
        snapshot = await following(client)
        assert isinstance(snapshot, Snapshot)
        assert (snapshot.room, snapshot.offset) == (rooms[len(asked)], 2)
        assert await following(client) == CaughtUp(missed=0)


async def test_backoff_and_attempts_are_told(peer: Peer) -> None:
    """Each attempt waits longer; what nobody looked at yet is replaced, so a long night does not fill the memory."""
    waits: list[float] = []
    enough = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 4:
            enough.set()
            await asyncio.sleep(3600)

    async with meeting(peer, sleep=sleep, backoff=Backoff(0.5, 20, random=lambda: 1.0)) as (client, server):
        for _ in range(3):
            await server.closes(CloseCode.INTERNAL, "oops")
            server = await peer.accept()
        await server.closes(CloseCode.BUSY, "full")
        await asyncio.wait_for(enough.wait(), 5)
        assert waits == [1.0, 1.5, 2.5, 4.5]
        assert await following(client) == Reconnecting(attempt=4, wait=4.5, code=4006, reason="full")
        assert not client.connected


async def test_a_refused_hello_while_coming_back(peer: Peer) -> None:
    """One that may succeed later is tried again after the time it names; one that may not ends the iteration."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with meeting(peer, sleep=sleep) as (client, server):
        server.breaks()
        server = await peer.accept()
        hello = await server.hears(Hello)
        await server.says(Error(id=hello.id, code="rate_limited", message="Later.", retry_after=2))
        server = await peer.accept()
        hello = await server.hears(Hello)
        await server.says(Error(id=hello.id, code="session_ended", message="Sign in again."))
        with pytest.raises(Refused) as caught:
            await everything(client)
        assert caught.value.code is ErrorCode.SESSION_ENDED
        assert waits == [0.0, 2]
        with pytest.raises(Refused):
            await client.call(GetRoom(SLUG))


async def test_a_server_that_is_away_for_a_while() -> None:
    """Refused connections are waited out like anything else."""
    attempts: list[float] = []
    gone, third = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        attempts.append(seconds)
        await gone.wait()
        if len(attempts) == 3:
            third.set()
            await asyncio.sleep(3600)

    async with listening() as peer:
        client = dial(peer, sleep=sleep)
        _, (server, _) = await asyncio.gather(client.__aenter__(), welcomed(peer))
        server.breaks()
    gone.set()
    await asyncio.wait_for(third.wait(), 5)
    told = await following(client)
    assert isinstance(told, Reconnecting)
    assert told.attempt == 3
    await client.close()


@pytest.mark.parametrize(
    "code", [1000, CloseCode.TOKEN_REFUSED, CloseCode.SESSION_ENDED, CloseCode.BANNED, 4999]
)
async def test_a_close_that_says_no_ends_everything(peer: Peer, code: int) -> None:
    """Calls in flight, the iteration and later calls all get the code; nobody connects again."""
    async with meeting(peer) as (client, server):
        calling = asyncio.create_task(client.send_chat(SLUG, "hello"))
        await server.hears(SendChat)
        await server.closes(code, "no")
        with pytest.raises(Disconnected) as caught:
            await following(client)
        assert (caught.value.code, caught.value.reason) == (code, "no")
        with pytest.raises(Disconnected):
            await calling
        with pytest.raises(Disconnected):
            await client.call(GetRoom(SLUG))
    assert peer.opened == 1


# Calls and lost connections


async def test_a_line_in_flight_is_sent_again_with_its_key(peer: Peer) -> None:
    """The caller does not notice; the key makes it one line."""
    async with meeting(peer, at=0) as (client, server):
        calling = asyncio.create_task(client.send_chat(SLUG, "hello"))
        first = await server.hears(SendChat)
        server.breaks()
        server, _ = await welcomed(peer, recovered(0))
        second = await confirm(server, 1)
        assert second == first
        assert (await calling).offset == 1


async def test_a_line_sent_again_is_not_given_up_for_want_of_room(peer: Peer) -> None:
    """The first sending may have been committed, so "later" is no answer to the second: it is sent once more."""
    async with meeting(peer, at=0) as (client, server):
        calling = asyncio.create_task(client.send_chat(SLUG, "hello"))
        await server.hears(SendChat)
        server.breaks()
        server, _ = await welcomed(peer, recovered(0))
        second = await server.hears(SendChat)
        await server.says(Error(id=second.id, code="rate_limited", message="Slowly.", retry_after=0.01))
        third = await confirm(server, 1)
        assert third.key == second.key
        assert (await calling).offset == 1


async def test_everything_that_may_be_done_twice_is_sent_again(peer: Peer) -> None:
    """Joins, reads and reactions, in the order in which they were made."""
    target = Target(kind=TargetKind.LOOPROOM, id=ROOM)
    async with meeting(peer) as (client, server):
        calls: list[asyncio.Task[Any]] = []
        commands = (JoinRoom(SLUG), GetRoom(SLUG), AddReaction(target, Reaction.HEART))
        for command in commands:
            calls.append(asyncio.create_task(client.call(command)))
            await server.hears(type(command))
        server.breaks()
        server, _ = await welcomed(peer)
        await server.lets_in(3)
        found = await server.hears(GetRoom)
        await server.says(Error(id=found.id, code="not_found", message="No."))
        added = await server.hears(AddReaction)
        await server.says(ReactionAdded(added=True, counts={Reaction.HEART: 1}, id=added.id))
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(results[0], RoomJoined)
        assert isinstance(results[1], Refused)
        assert isinstance(results[2], ReactionAdded)


async def test_what_must_not_be_done_twice_is_not(peer: Peer) -> None:
    """A second edit could overwrite another's, so the caller is told that the outcome is unknown."""
    async with meeting(peer, at=0) as (client, server):
        calling = asyncio.create_task(client.call(EditChat(SLUG, line(1).id, "new")))
        await server.hears(EditChat)
        server.breaks()
        server, _ = await welcomed(peer, recovered(0))
        with pytest.raises(Unanswered, match=r"chat\.edit"):
            await calling


async def test_a_call_made_while_away_waits_for_the_connection(peer: Peer) -> None:
    """Even one that must not be done twice: it has not been sent yet."""
    away, back = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        away.set()
        await back.wait()

    async with meeting(peer, at=0, sleep=sleep) as (client, server):
        server.breaks()
        await asyncio.wait_for(away.wait(), 5)
        calling = asyncio.create_task(client.call(EditChat(SLUG, line(1).id, "new")))
        await asyncio.sleep(0)
        back.set()
        server, _ = await welcomed(peer, recovered(0))
        edit = await server.hears(EditChat)
        await server.says(ChatEdited(line=line(1), offset=2, id=edit.id))
        assert (await calling).offset == 2


# Gaps


async def test_a_gap_is_filled_by_resuming(peer: Peer) -> None:
    """A skipped offset makes the client come again with its position; the old websocket is closed when the new one stands."""
    async with meeting(peer, at=0) as (client, old):
        await old.says(said(1), said(3), said(4))
        new, hello = await welcomed(peer, recovered(4, missed=3))
        assert hello.resume[0].offset == 1
        assert await old.ends() == 1000
        await new.says(said(2), said(3), said(4), said(5))
        assert await lines(client, 5) == [1, 2, 3, 4, 5]


async def test_a_gap_that_the_replay_does_not_fill_becomes_a_snapshot(peer: Peer) -> None:
    """The server is asked for a snapshot instead of being asked for ever; nothing is skipped in silence."""
    async with meeting(peer, at=0) as (client, old):
        await old.says(said(2))
        new, _ = await welcomed(peer, recovered(2, missed=2))
        await old.ends()
        await new.says(said(2), said(3))
        join = await new.lets_in(3)
        assert join.room == str(ROOM)
        await new.says(said(4))
        snapshot = await following(client)
        assert isinstance(snapshot, Snapshot)
        assert snapshot.offset == 3
        assert await lines(client, 1) == [4]
        assert peer.opened == 2


async def test_a_snapshot_that_is_refused_is_a_departure(peer: Peer) -> None:
    """If the room can't even be joined again, that is what the client says."""
    async with meeting(peer, at=0) as (client, old):
        await old.says(said(2))
        new, _ = await welcomed(peer, recovered(2, missed=2))
        await old.ends()
        await new.says(said(2))
        join = await new.hears(JoinRoom)
        await new.says(Error(id=join.id, code="not_found", message="Closed."))
        assert await following(client) == Departure(ROOM, "not_found", "Closed.")


# Drains


async def test_a_drain_is_not_felt(peer: Peer) -> None:
    """The new connection stands before the old one goes: no state is told, no line is lost or seen twice, no pulse counted twice."""
    async with meeting(peer, at=0) as (client, old):
        await old.says(Drain(0.05), said(1))
        new = await peer.accept()
        hello = await new.hears(Hello)
        await old.says(said(2))
        assert await lines(client, 2) == [1, 2]
        assert hello.resume[0].offset in {0, 1}
        await new.says(welcome(hello, recovered(2, missed=2 - hello.resume[0].offset)))
        assert await old.ends() == 1000
        await new.says(said(1), said(2), said(3))
        assert await lines(client, 1) == [3]
        assert peer.opened == 2


async def test_what_was_asked_of_the_old_connection_is_answered_there(peer: Peer) -> None:
    """A command that must not be done twice keeps the old websocket open until its answer."""
    async with meeting(peer, at=0) as (client, old):
        calling = asyncio.create_task(client.call(EditChat(SLUG, line(1).id, "new")))
        edit = await old.hears(EditChat)
        await old.says(Drain(0.0))
        new, _ = await welcomed(peer, recovered(0))
        await new.says(said(1))
        assert await lines(client, 1) == [1]
        await old.says(said(2), ChatEdited(line=line(1), offset=2, id=edit.id))
        assert (await calling).offset == 2
        assert await old.ends() == 1000
        await new.says(said(2))
        assert await lines(client, 1) == [2]


async def test_a_line_in_flight_moves_to_the_new_connection(peer: Peer) -> None:
    """It is sent there again; the first of the two answers counts, the other is ignored."""
    async with meeting(peer, at=0) as (client, old):
        calling = asyncio.create_task(client.send_chat(SLUG, "hello"))
        first = await old.hears(SendChat)
        await old.says(Drain(0.0))
        new, _ = await welcomed(peer, recovered(0))
        assert await confirm(new, 1) == first
        assert (await calling).offset == 1
        assert await old.ends() == 1000


async def test_joins_and_leaves_during_a_drain(peer: Peer) -> None:
    """What the old connection was told while the new one was opening holds on the new one too."""
    async with meeting(peer, at=0) as (client, old):
        await old.says(Drain(0.0))
        new = await peer.accept()
        hello = await new.hears(Hello)
        await both(client.call(JoinRoom("other")), old.lets_in(5, room=OTHER))
        leaving = asyncio.create_task(client.call(LeaveRoom(str(ROOM))))
        leave = await old.hears(LeaveRoom)
        await old.says(RoomLeft(ROOM, id=leave.id))
        await leaving
        await new.says(welcome(hello, recovered(0)))
        left = await new.hears(LeaveRoom)
        assert left.room == str(ROOM)
        await new.says(RoomLeft(ROOM, id=left.id))
        await new.lets_in(5, room=OTHER)
        await new.says(said(6, room=OTHER))
        assert await lines(client, 1) == [6]
        assert client.rooms == [OTHER]


async def test_a_drain_whose_successor_is_not_there_yet(peer: Peer) -> None:
    """The old connection is used as long as it lasts; its end asks no longer wait than the hint."""
    async with meeting(peer, at=0) as (client, old):
        await old.says(Drain(0.0))
        refused = await peer.accept()
        await refused.closes(CloseCode.BUSY)
        new, _ = await welcomed(peer, recovered(0))
        await old.says(said(1))
        assert await old.ends() == 1000
        await new.says(said(1))
        assert await lines(client, 1) == [1]


async def test_a_drained_connection_that_ends_early_waits_for_its_hint(peer: Peer) -> None:
    """The server spreads the returns, so the time that it gave is kept even when it closes before."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async with meeting(peer, at=0, sleep=sleep) as (client, old):
        await old.says(Drain(60.0), said(1))
        assert await lines(client, 1) == [1]
        await old.closes(CloseCode.DRAINING)
        await welcomed(peer, recovered(1))
        gone = await following(client)
        assert isinstance(gone, Reconnecting)
        assert gone.code == 4000
        assert 59 < waits[0] <= 60


async def test_an_old_connection_that_ends_while_the_new_one_opens(peer: Peer) -> None:
    """The new one takes over; still nothing is felt, and what was in flight is sent again."""
    async with meeting(peer, at=0) as (client, old):
        edit = asyncio.create_task(client.call(EditChat(SLUG, line(1).id, "new")))
        await old.hears(EditChat)
        calling = asyncio.create_task(client.send_chat(SLUG, "hello"))
        await old.hears(SendChat)
        await old.says(Drain(0.0))
        new = await peer.accept()
        hello = await new.hears(Hello)
        await old.closes(CloseCode.DRAINING)
        while client.connected:  # noqa: ASYNC110 - no event is told of it: that is the point
            await asyncio.sleep(0.001)
        await new.says(welcome(hello, recovered(0)))
        await confirm(new, 1)
        assert (await calling).offset == 1
        with pytest.raises(Unanswered):
            await edit
        await new.says(said(1))
        assert await lines(client, 1) == [1]


async def test_an_edit_that_the_old_connection_never_answers(peer: Peer) -> None:
    """The old websocket is not kept for ever: after the patience its outcome is in doubt."""
    async with meeting(peer, at=0, patience=0.05) as (client, old):
        edit = asyncio.create_task(client.call(EditChat(SLUG, line(1).id, "new")))
        await old.hears(EditChat)
        await old.says(Drain(0.0))
        await welcomed(peer, recovered(0))
        with pytest.raises(Unanswered):
            await edit
        assert await old.ends() == 1000


async def test_a_snapshot_that_can_not_be_read_is_a_departure(peer: Peer) -> None:
    """The client's own join was answered by something that only a newer client understands."""
    async with meeting(peer, at=0) as (client, old):
        await old.says(said(2))
        new, _ = await welcomed(peer, recovered(2, missed=2))
        await old.ends()
        await new.says(said(2))
        join = await new.hears(JoinRoom)
        await new.says_bytes(b'{"type": "room.joined", "id": %d, "room": 5}' % join.id)
        gone = await following(client)
        assert isinstance(gone, Departure)
        assert gone.code == "invalid"


async def test_a_bug_of_the_client_is_not_silence(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that trips the client is logged and the connection begun anew, with the event asked for again."""
    async with meeting(peer, at=0) as (client, server):
        with monkeypatch.context() as broken:
            broken.setattr("protocol.client.rooms.DURABLE", None)
            await server.says(said(1))
            await server.ends()
        assert "could not go on" in caplog.text
        server, hello = await welcomed(peer, recovered(1, 1))
        assert hello.resume[0].offset == 0
        await server.says(said(1))
        gone = await following(client)
        assert isinstance(gone, Reconnecting)
        assert gone.code == CloseCode.INTERNAL
        assert await lines(client, 1) == [1]


# Tokens


async def test_a_token_is_asked_for_at_each_connection_and_when_one_expires(peer: Peer) -> None:
    """The new token is given in place; nothing of it is seen outside."""
    made = 0

    async def token() -> str:
        nonlocal made
        made += 1
        return f"token-{made}"

    entering = asyncio.create_task(dial(peer, token=token).__aenter__())
    server, hello = await welcomed(peer)
    client = await entering
    assert hello.token == "token-1"
    await server.says(TokenExpiring(30))
    refresh = await server.hears(RefreshToken)
    assert refresh.token == "token-2"
    await server.says(TokenRefreshed(600, id=refresh.id))
    server.breaks()
    _, hello = await welcomed(peer)
    assert hello.token == "token-3"
    assert isinstance(await following(client), Reconnecting)
    assert await following(client) == CaughtUp(missed=0)
    await client.close()


async def test_an_expired_token_is_renewed_by_coming_back(peer: Peer) -> None:
    """With a source of tokens, expiry by error or by close code is no end."""
    tokens = iter(["old", "older", "new"])

    async def token() -> str:
        return next(tokens)

    entering = asyncio.create_task(dial(peer, token=token).__aenter__())
    server, _ = await welcomed(peer)
    client = await entering
    await server.closes(CloseCode.TOKEN_EXPIRED)
    server = await peer.accept()
    hello = await server.hears(Hello)
    await server.says(Error(id=hello.id, code="token_expired", message="Old."))
    _, hello = await welcomed(peer)
    assert hello.token == "new"
    await client.close()


async def test_a_fixed_token_that_expires_is_the_end(peer: Peer) -> None:
    """The same token would be refused again, so the client does not come back."""
    async with meeting(peer, token="fixed") as (client, server):
        await server.says(TokenExpiring(30))
        await server.closes(CloseCode.TOKEN_EXPIRED, "expired")
        with pytest.raises(Disconnected, match="expired"):
            await following(client)
    assert peer.opened == 1


async def test_a_source_of_tokens_that_fails(peer: Peer) -> None:
    """An unreachable sign-in is waited out; anything else is seen by who iterates."""
    outcomes: list[str | Exception] = ["good", OSError("no route"), "good", KeyError("a bug")]

    async def token() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    entering = asyncio.create_task(dial(peer, token=token).__aenter__())
    server, _ = await welcomed(peer)
    client = await entering
    server.breaks()
    server, _ = await welcomed(peer)
    first = await following(client)
    assert isinstance(first, Reconnecting)
    while not isinstance(await following(client), CaughtUp):
        pass
    server.breaks()
    with pytest.raises(KeyError, match="a bug"):
        await everything(client)
    await client.close()


async def test_a_refresh_that_fails_leaves_the_connection(peer: Peer) -> None:
    """The old token still counts for a while; the return after 4001 brings a new one."""
    outcomes: list[str | Exception] = ["first", OSError("no route"), "second"]

    async def token() -> str:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    entering = asyncio.create_task(dial(peer, token=token).__aenter__())
    server, _ = await welcomed(peer)
    client = await entering
    await server.says(TokenExpiring(30))
    sent = await both(client.send_chat(SLUG, "still here"), confirm(server, 1))
    assert sent.offset == 1
    await server.closes(CloseCode.TOKEN_EXPIRED)
    _, hello = await welcomed(peer)
    assert hello.token == "second"
    await client.close()


# Silence


async def test_a_silent_server_is_left(peer: Peer) -> None:
    """No answer to a ping, and nothing else: the client gives the connection up and comes back."""
    async with meeting(peer, at=3, heartbeat=0.1, patience=0.1) as (client, server):
        await server.websocket.recv()  # the ping, which is not answered
        _, hello = await welcomed(peer, recovered(3))
        assert hello.resume[0].offset == 3
        gone = await following(client)
        assert isinstance(gone, Reconnecting)
        assert gone.code == 1006


async def test_a_ping_tells_what_was_seen(peer: Peer) -> None:
    """The server learns how far its lines have come, and an answered ping keeps the connection."""
    async with meeting(peer, at=3, heartbeat=0.1, patience=0.1) as (client, server):
        await server.says(said(4))
        assert await lines(client, 1) == [4]
        for _ in range(3):
            ping = await server.hears(Ping)
            assert [(seen.room, seen.offset) for seen in ping.seen] == [(ROOM, 4)]
        assert client.connected
    assert peer.opened == 1


async def test_anything_heard_counts_as_life(peer: Peer) -> None:
    """Websocket pings will do: the server has nothing else to say in a quiet room."""
    async with meeting(peer, heartbeat=0.1, patience=0.1) as (client, server):
        for _ in range(10):
            await (await server.websocket.ping())
            await asyncio.sleep(0.05)
        assert client.connected
    assert peer.opened == 1


# Slow readers


async def test_who_does_not_iterate_slows_the_socket_and_not_the_memory(peer: Peer) -> None:
    """The server's writes come to a stand; when the reader goes on, everything is there, and nobody was declared dead."""
    async with meeting(peer, at=0, waiting=10, heartbeat=0.1, patience=0.1) as (client, server):
        count = 3000
        speaking = asyncio.create_task(server.says(*(said(n, "x" * 2000) for n in range(1, count + 1))))
        done, _ = await asyncio.wait({speaking}, timeout=0.5)
        assert not done
        assert client.waiting <= 10
        answering = asyncio.create_task(answer_pings(server))
        assert await lines(client, count) == list(range(1, count + 1))
        await speaking
        answering.cancel()
    assert peer.opened == 1


async def answer_pings(server: Conversation) -> None:
    """Answer whatever pings come."""
    while True:
        await server.hears(Ping)


async def test_a_call_is_answered_although_nobody_iterates(peer: Peer) -> None:
    """The answer stands behind events that wait, so reading goes on while a call does."""
    async with meeting(peer, at=0, waiting=10) as (client, server):
        await server.says(*(said(n) for n in range(1, 30)))
        sent = await both(client.send_chat(SLUG, "hello"), confirm(server, 30))
        assert sent.offset == 30
        assert await lines(client, 29) == list(range(1, 30))


# The end


async def test_close_is_clean(peer: Peer) -> None:
    """The server sees 1000, the iteration stops, calls say why, and closing again does nothing."""
    async with meeting(peer) as (client, server):
        calling = asyncio.create_task(client.send_chat(SLUG, "hello"))
        await server.hears(SendChat)
        ending = asyncio.create_task(server.ends())
        await client.close()
        assert await ending == 1000
        with pytest.raises(Disconnected):
            await calling
        with pytest.raises(StopAsyncIteration):
            await anext(client)
        await client.close()


async def test_close_while_away(peer: Peer) -> None:
    """A client that waits to come back can be closed at once."""
    away = asyncio.Event()

    async def sleep(seconds: float) -> None:
        away.set()
        await asyncio.sleep(3600)

    async with meeting(peer, sleep=sleep) as (client, server):
        server.breaks()
        await asyncio.wait_for(away.wait(), 5)
        async with asyncio.timeout(1):
            await client.close()


async def test_close_with_a_server_that_does_not_answer(peer: Peer) -> None:
    """Closing is bounded by its timeout, even when events wait unread."""
    async with meeting(peer, at=0, waiting=2, close_timeout=0.1) as (client, server):
        await server.says(*(said(n, "x" * 2000) for n in range(1, 200)))
        server.websocket.transport.pause_reading()
        async with asyncio.timeout(2):
            await client.close()


async def test_a_cancelled_user_leaves_nothing_behind(peer: Peer) -> None:
    """Cancelling whoever is inside closes the connection with 1000."""
    inside = asyncio.Event()

    async def use() -> None:
        async with dial(peer) as client:
            inside.set()
            await everything(client)

    using = asyncio.create_task(use())
    server, _ = await welcomed(peer)
    await asyncio.wait_for(inside.wait(), 5)
    using.cancel()
    assert await server.ends() == 1000
    with pytest.raises(asyncio.CancelledError):
        await using


async def test_cancelling_the_entering(peer: Peer) -> None:
    """Someone who gives up before the welcome leaves no socket open."""
    entering = asyncio.create_task(dial(peer).__aenter__())
    server = await peer.accept()
    await server.hears(Hello)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert await server.ends() == 1006
