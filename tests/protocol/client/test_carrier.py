"""The carrier: it comes back by itself, in the server's own time, with tokens that are good, and notices silence."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from protocol.chat import ChatEdited, EditChat, SendChat
from protocol.client import Backoff, CaughtUp, Disconnected, Reconnecting, Unanswered, carrier
from protocol.client.options import Options
from protocol.closing import CloseCode
from protocol.envelope import Error
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import Departure, GetRoom, JoinRoom, LeaveRoom, RoomLeft
from protocol.session import Drain, Hello, Ping, RefreshToken, TokenExpiring, TokenRefreshed
from tests.protocol.client.meeting import (
    OTHER,
    SLUG,
    both,
    confirm,
    dial,
    everything,
    following,
    lines,
    meeting,
    welcomed,
)
from tests.protocol.client.peer import ROOM, Peer, line, listening, recovered, said, welcome

# Coming back


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


async def test_a_connection_that_stood_begins_anew(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts are counted while it does not work: after a connection that was good for a while they start over."""
    for stable, attempts in ((10.0, [1, 2]), (0.0, [1, 1])):
        monkeypatch.setattr(carrier, "STABLE", stable)
        async with meeting(peer) as (client, server):
            told = []
            for _ in range(2):
                server.breaks()
                server, _ = await welcomed(peer)
                while not isinstance(event := await following(client), Reconnecting):
                    pass
                told.append(event.attempt)
        assert told == attempts


async def test_closed_before_it_was_started() -> None:
    """What was never opened is closed without a word."""
    nobody: Any = None
    await carrier.Carrier("ws://127.0.0.1:1/ws", "token", Options(), nobody).close()


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


async def test_a_token_that_comes_when_the_connection_is_gone(peer: Peer) -> None:
    """A token that was asked for on a connection that is lost is not sent on none; the next hello brings one."""
    asked, given = asyncio.Event(), asyncio.Event()
    tokens = 0

    async def token() -> str:
        nonlocal tokens
        tokens += 1
        number = tokens
        if number == 2:
            asked.set()
            await given.wait()
        return f"token {number}"

    away, back = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        away.set()
        await back.wait()

    async with meeting(peer, token=token, sleep=sleep) as (client, server):
        await server.says(TokenExpiring(30))
        await asyncio.wait_for(asked.wait(), 5)
        server.breaks()
        await asyncio.wait_for(away.wait(), 5)
        given.set()
        await asyncio.sleep(0.01)
        back.set()
        server, hello = await welcomed(peer)
        assert hello.token == "token 3"
        calling = asyncio.create_task(client.call(JoinRoom(SLUG)))
        await server.lets_in()  # nothing came before it
        await calling


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
