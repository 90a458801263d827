"""What comes out of a client: durable events once and in order, and a snapshot where that can't be, never silence."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pytest

from protocol.chat import ChatEdited, ChatLine, EditChat
from protocol.client import CaughtUp, Reconnecting, Snapshot
from protocol.closing import CloseCode
from protocol.envelope import Epoch, Error, RoomId
from protocol.presence import RoomPulse
from protocol.refusals import Refused
from protocol.rooms import Departure, GetRoom, JoinRoom, LeaveRoom, RoomLeft
from protocol.session import Drain, Hello, PersonPosition, PersonState, Ping, Position, Resumed, Shed
from tests.protocol.client.meeting import (
    OTHER,
    SLUG,
    both,
    confirm,
    dial,
    everything,
    following,
    lines,
    lines_until_caught_up,
    meeting,
    welcomed,
)
from tests.protocol.client.peer import (
    EPOCH,
    ROOM,
    STATE,
    Conversation,
    Peer,
    joined,
    line,
    recovered,
    said,
    welcome,
)

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


async def test_a_person_s_event_of_a_newer_server(peer: Peer) -> None:
    """What can't be read of one's own events is passed over, and counts as seen."""
    welcoming = asyncio.create_task(peer.accept())
    client = dial(peer)
    entering = asyncio.create_task(client.__aenter__())
    server = await welcoming
    hello = await server.hears(Hello)
    answer = welcome(hello)
    answer.person = PersonState(offset=4)
    await server.says(answer)
    await entering
    await server.says_bytes(b'{"type": "person.sparkle", "person_offset": 5, "sparkle": true}')
    await server.closes(CloseCode.INTERNAL)
    server = await peer.accept()
    hello = await server.hears(Hello)
    assert hello.person == PersonPosition(epoch=EPOCH, offset=5)
    await server.says(welcome(hello))
    await client.close()


async def test_what_the_connection_before_still_says(peer: Peer) -> None:
    """Events of a websocket that was replaced come over its successor; those of the old one are not taken, readable or not."""
    async with meeting(peer, at=0) as (client, old):
        edit = asyncio.create_task(client.call(EditChat(SLUG, line(1).id, "new")))  # keeps the old one open
        asked = await old.hears(EditChat)
        await old.says(Drain(0.0))
        new, _ = await welcomed(peer, recovered(0))
        await new.says(said(1))
        assert await lines(client, 1) == [1]
        await old.says(said(2, "of the old one"))
        await old.says_bytes(b'{"type": "room.sparkle", "room": "%s", "offset": 3}' % str(ROOM).encode())
        await old.says(ChatEdited(line=line(1), offset=9, id=asked.id))
        await edit
        await new.says(said(2))
        event = await following(client)
        assert isinstance(event, ChatLine)
        assert (event.offset, event.line.text) == (2, "line 2")


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


# Slow readers


async def test_who_does_not_iterate_slows_the_socket_and_not_the_memory(peer: Peer) -> None:
    """The server's writes come to a stand; when the reader goes on, everything is there, and nobody was declared dead."""
    async with meeting(peer, at=0, waiting=10, heartbeat=0.1, patience=0.1) as (client, server):
        count = 2000
        # Far more than the kernel keeps for the two.
        speaking = asyncio.create_task(server.says(*(said(n, "x" * 10_000) for n in range(1, count + 1))))
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


async def test_a_drain_while_nobody_iterates(peer: Peer) -> None:
    """A websocket that is not read because too much waits is left for its successor all the same; nothing is lost."""
    async with meeting(peer, at=0, waiting=10) as (client, old):
        edit = asyncio.create_task(client.call(EditChat(SLUG, line(1).id, "new")))
        asked = await old.hears(EditChat)
        await old.says(Drain(0.0), *(said(n) for n in range(1, 40)))
        new, hello = await welcomed(peer, recovered(39))
        missed = range(hello.resume[0].offset + 1, 40)
        await new.says(*(said(n) for n in missed))
        await old.says(ChatEdited(line=line(1), offset=40, id=asked.id))
        assert await lines(client, 39) == list(range(1, 40))
        await edit


async def test_the_end_while_nobody_iterates(peer: Peer) -> None:
    """A connection that is closed for good while it is not read ends the iteration behind what waits."""
    async with meeting(peer, at=0, waiting=10) as (client, server):
        await server.says(*(said(n) for n in range(1, 12)))
        while client.waiting < 10:  # noqa: ASYNC110 - no event is told of it
            await asyncio.sleep(0.001)
        await client.close()
        assert len(await everything(client)) >= 10
