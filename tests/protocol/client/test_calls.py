"""Calls: each has its one answer, also over a lost connection, and nothing is done twice that must not be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from protocol.chat import ChatEdited, ChatLine, ChatSent, EditChat, SendChat
from protocol.client import Unanswered
from protocol.client.calls import PendingCall
from protocol.envelope import Error
from protocol.reactions import AddReaction, Reaction, ReactionAdded, Target, TargetKind
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import GetRoom, JoinRoom, LeaveRoom, RoomJoined, RoomLeft
from protocol.session import Drain
from tests.protocol.client.meeting import SLUG, both, confirm, dial, following, lines, meeting, welcomed
from tests.protocol.client.peer import ROOM, Conversation, Peer, joined, line, listening, recovered, said

# Answers


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


# Lost connections


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


async def test_a_late_answer_on_the_connection_before(peer: Peer) -> None:
    """What was sent again on a new websocket is answered there; what the old one still says about it is not taken."""
    async with meeting(peer, at=0) as (client, old):
        calling = asyncio.create_task(client.send_chat(SLUG, "hello"))
        sent = await old.hears(SendChat)
        edit = asyncio.create_task(client.call(EditChat(SLUG, line(1).id, "new")))  # keeps the old one open
        asked = await old.hears(EditChat)
        await old.says(Drain(0.0))
        new, _ = await welcomed(peer, recovered(0))
        again = await new.hears(SendChat)
        assert again == sent
        await old.says(Error(id=sent.id, code="not_in_room", message="No."), said(1))
        await old.says(ChatEdited(line=line(1), offset=2, id=asked.id))
        assert (await edit).offset == 2
        await new.says(ChatSent(id=again.id, offset=1, line=line(1, again.text)))
        assert (await calling).offset == 1


async def test_later_on_a_connection_that_is_lost(peer: Peer) -> None:
    """A line that was to be sent once more on a websocket that is lost meanwhile goes over the next one alone."""
    async with meeting(peer, at=0) as (client, server):
        calling = asyncio.create_task(client.send_chat(SLUG, "hello"))
        await server.hears(SendChat)
        server.breaks()
        server, _ = await welcomed(peer, recovered(0))
        second = await server.hears(SendChat)
        await server.says(Error(id=second.id, code="rate_limited", message="Slowly.", retry_after=0.05))
        await server.says(said(1))
        while not isinstance(await following(client), ChatLine):
            pass  # until it has heard all that was said before
        server.breaks()
        server, _ = await welcomed(peer, recovered(1))
        await confirm(server, 2)
        assert (await calling).offset == 2
        await asyncio.sleep(0.06)
        with pytest.raises(Refused):
            await both(client.call(GetRoom(SLUG)), refuses(server))


async def refuses(server: Conversation) -> None:
    """Answer the next command, which must be a look at a room: nothing else came before it."""
    found = await server.hears(GetRoom)
    await server.says(Error(id=found.id, code="not_found", message="No."))


async def test_an_answer_to_nobody() -> None:
    """An answer is given once: not to one who has given up, not twice, and not to the client's own calls."""
    loop = asyncio.get_running_loop()
    answer = RoomLeft(ROOM, id=1)
    for internal in (False, True):
        call = PendingCall(LeaveRoom(SLUG, id=1), b"", loop.create_future(), internal=internal)
        call.answer.cancel()
        call.resolve(answer)
        call.fail(OSError())
        assert call.answer.cancelled()
    call = PendingCall(LeaveRoom(SLUG, id=1), b"", loop.create_future(), internal=True)
    call.resolve(answer)
    call.fail(OSError())
    assert not call.answer.done()
