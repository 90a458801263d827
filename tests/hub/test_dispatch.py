"""From a message to its one answer: order, those that run alone, phases, limits, and the two ways to say no."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import pytest

from protocol.chat import ChatRemoved, RecallChat, RemoveChat, SendChat
from protocol.closing import CloseCode
from protocol.codec import JSON, MSGPACK
from protocol.envelope import Error, LineId, RoomId
from protocol.refusals import Disconnect, ErrorCode, Refused
from protocol.rooms import JoinRoom, RoomLeft, SendCue
from protocol.session import Hello, Ping, Ponged, RefreshToken, TokenRefreshed
from server.hub import dispatch
from server.hub.dispatch import MOST_UNDER_WAY, Call, handles
from server.hub.limits import PATIENCE
from server.hub.members import Room
from server.hub.replay import Replay
from storage.redis.limits import Limit, Verdict
from tests.clocks import in_no_time
from tests.hub.desk import ROOM, Desk, Doubling, at_once, cue, handlers, leave, sent, welcome

__all__ = ["handlers"]  # a fixture

LINE = LineId(UUID(int=2))


# One answer.


@at_once
async def test_answers() -> None:
    """Each command is answered once with its id, in both encodings; a plain function is answered without a task."""
    desk = Desk()
    for codec in (JSON, MSGPACK):
        guest = desk.guest(codec)
        guest.say(Ping(id=5))
        assert guest.take() == [Ponged(id=5, server_time=1)]
        guest.say(cue(6))
        await desk.dispatcher.settle()
        assert guest.take() == sent(6)
    assert (desk.dispatcher.commands, desk.dispatcher.refused, desk.dispatcher.bugs) == (4, 0, 0)


@at_once
async def test_commands_overlap() -> None:
    """Commands begin in the order in which they came, and each is answered when it is done."""
    desk = Desk()
    guest = desk.guest()
    desk.hold(1, 2)
    guest.say(cue(1), cue(2), cue(3), Ping(id=4))
    await asyncio.sleep(0.001)
    assert sorted(desk.begun) == [1, 2, 3, 4]
    assert [number for number in desk.begun if number < 4] == [1, 2, 3]
    assert guest.take() == [Ponged(id=4, server_time=1), *sent(3)]
    await desk.let_go(2)
    await desk.let_go(1)
    assert guest.take() == sent(2, 1)


@at_once
async def test_alone() -> None:
    """One that runs alone waits for all before it; all after it wait for it, and then begin in their order."""
    desk = Desk()
    guest = desk.guest()
    desk.hold(1, 2, 3)
    guest.say(cue(1), leave(2), cue(3), leave(4), Ping(id=5))
    await asyncio.sleep(0.001)
    assert desk.begun == [1]
    await desk.let_go(1)
    assert desk.begun == [1, 2]
    guest.say(cue(6))
    await desk.let_go(2)
    assert desk.begun == [1, 2, 3]
    await desk.let_go(3)
    assert desk.begun == [1, 2, 3, 4, 5, 6]
    assert [answer.id for answer in guest.take()] == [1, 2, 3, 4, 5, 6]


@at_once
async def test_others_do_not_wait() -> None:
    """What runs alone on one connection keeps nobody else waiting."""
    desk = Desk()
    guest, other = desk.guest(), desk.guest()
    desk.hold(1)
    guest.say(leave(1))
    other.say(leave(2))
    await asyncio.sleep(0.001)
    assert other.take() == [RoomLeft(id=2, room=ROOM)]
    await desk.let_go(1)


@at_once
async def test_settle() -> None:
    """Settling waits for every command that was begun, and for those behind them."""
    desk = Desk()
    guest = desk.guest()
    desk.hold(1)
    guest.say(leave(1), cue(2))
    settling = asyncio.create_task(desk.dispatcher.settle())
    await asyncio.sleep(10.0)
    assert not settling.done()
    desk.gates[1].set()
    await settling
    assert [answer.id for answer in guest.take()] == [1, 2]
    await desk.dispatcher.settle()


@at_once
async def test_lost_meanwhile() -> None:
    """What was begun for somebody who is gone is finished, what waited is not begun, and nothing is sent."""
    desk = Desk()
    guest = desk.guest()
    desk.hold(1, 2)
    guest.say(cue(1), leave(2), cue(3))
    await asyncio.sleep(0.001)
    guest.transport.end()
    await desk.let_go(1)
    assert desk.begun == [1]
    await desk.dispatcher.settle()
    assert desk.dispatcher.bugs == 0


# What is gathered.


@at_once
async def test_gathered() -> None:
    """Commands that only wait for a batch make one task in all, and each is answered by one write when it is done."""
    desk = Desk(commands_rate=1000.0, commands_burst=1000.0)
    doubling = Doubling(desk)
    guests = [desk.guest() for _ in range(100)]
    before = [len(guest.transport.written) for guest in guests]
    tasks = 0

    def counting(loop: asyncio.AbstractEventLoop, work: Any, **how: Any) -> asyncio.Task[Any]:
        nonlocal tasks
        tasks += 1
        return asyncio.Task(work, loop=loop, **how)

    desk.loop.set_task_factory(counting)
    for number, guest in enumerate(guests, 1):
        guest.say(cue(number))
    assert tasks == 1
    await desk.dispatcher.settle()
    assert tasks == 1
    assert doubling.batches == [list(range(1, 101))]
    assert [len(guest.transport.written) for guest in guests] == [count + 1 for count in before]
    assert [guest.take() for guest in guests] == [sent(number) for number in range(1, 101)]


@at_once
async def test_gathered_and_alone() -> None:
    """What runs alone waits for what is gathered, and what came after it is gathered afterwards."""
    desk = Desk()
    Doubling(desk)
    guest = desk.guest()
    guest.say(cue(1), leave(2), cue(3))
    await asyncio.sleep(0.05)
    assert desk.begun == [1]
    await desk.dispatcher.settle()
    assert [answer.id for answer in guest.take()] == [1, 2, 3]


@at_once
async def test_gathered_and_lost() -> None:
    """What came is done also for a client who has gone, what waited behind it is not; and settling waits for both."""
    desk = Desk()
    doubling = Doubling(desk)
    guest, other = desk.guest(), desk.guest()
    guest.say(cue(1), leave(2), cue(3))
    other.say(cue(4))
    guest.transport.end()
    await asyncio.gather(desk.dispatcher.settle(), desk.dispatcher.settle())
    assert (doubling.batches, desk.begun) == ([[1, 4]], [1, 4])
    assert other.take() == sent(4)
    assert desk.dispatcher.bugs == 0


# Saying no.


@at_once
async def test_refused() -> None:
    """A refusal is the answer: its code, its advice or a better sentence, when to try again, and the field."""
    desk = Desk()
    guest = desk.guest()
    desk.raises = {
        1: Refused(ErrorCode.FORBIDDEN),
        2: Refused(ErrorCode.BUSY, "Later.", retry_after=1.5, path="$.room"),
        3: Refused(ErrorCode.NOT_FOUND),
    }
    guest.say(cue(1), cue(2), Ping(id=3))
    await desk.dispatcher.settle()
    assert sorted(guest.take(), key=lambda error: cast("int", error.id)) == [
        Error(id=1, code="forbidden", message=ErrorCode.FORBIDDEN.advice),
        Error(id=2, code="busy", message="Later.", retry_after=1.5, path="$.room"),
        Error(id=3, code="not_found", message=ErrorCode.NOT_FOUND.advice),
    ]
    assert (desk.dispatcher.refused, desk.dispatcher.bugs) == (3, 0)


@at_once
async def test_disconnect() -> None:
    """A disconnection closes, and nothing that waited behind it begins."""
    desk = Desk()
    guest = desk.guest()
    desk.raises = {1: Disconnect(CloseCode.BANNED, "Out.")}
    guest.say(leave(1), cue(2))
    await desk.dispatcher.settle()
    guest.listen()
    assert (guest.heard.closed, guest.heard.reason) == (CloseCode.BANNED, "Out.")
    assert desk.begun == [1]
    other = desk.guest()
    desk.raises = {3: Disconnect(CloseCode.BANNED)}
    other.say(Ping(id=3), Ping(id=4))
    assert (other.heard.closed, other.take()) == (CloseCode.BANNED, [])


def test_bug(caplog: pytest.LogCaptureFixture) -> None:
    """Anything else is a bug: one answer with a reference, one entry in the log with it, and the next one is heard."""

    async def run() -> None:
        desk = Desk()
        guest = desk.guest()
        desk.raises = {1: ZeroDivisionError("secret"), 2: ZeroDivisionError("secret")}
        for command in (cue(1), Ping(id=2)):
            caplog.clear()
            guest.say(command)
            await desk.dispatcher.settle()
            [error] = guest.take()
            assert isinstance(error, Error)
            assert (error.id, error.code, error.retry_after) == (command.id, "internal_error", 1.0)
            assert "secret" not in error.message
            [record] = caplog.records
            reference = error.message.rpartition("reference ")[2].rstrip(")")
            assert len(reference) == 12
            assert reference in record.getMessage()
            assert type(command).__name__ in record.getMessage()
            assert record.exc_info is not None
        guest.say(Ping(id=3))
        assert guest.take() == [Ponged(id=3, server_time=1)]
        assert desk.dispatcher.bugs == 2

    with caplog.at_level(logging.ERROR, "looprooms.dispatch"):
        in_no_time(run())


@at_once
async def test_no_message() -> None:
    """What is no message is refused, with the id and the field if they can be read, and costs nobody the connection."""
    desk = Desk()
    guest = desk.guest()
    guest.say_bytes(b"{")
    guest.say_bytes(b'{"type":"session.ping","id":7,"seen":1}')
    guest.say_bytes(b'{"type":"nothing","id":8}')
    guest.say_bytes(JSON.encode(Ping(id=9)), MSGPACK.opcode)
    errors = guest.take()
    assert [(error.id, error.code, error.path) for error in errors] == [
        (None, "malformed", None),
        (7, "invalid", "$.seen"),
        (8, "unknown_type", "$.type"),
        (None, "malformed", None),
    ]
    guest.say(Ping(id=10))
    assert guest.take() == [Ponged(id=10, server_time=1)]


# Hello.


@at_once
async def test_hello_first() -> None:
    """Before hello nothing else is heard; after it everything is; a second one is refused."""
    desk = Desk()
    peer = desk.peer()
    peer.say(Ping(id=1), Hello(id=2, token="t"))
    await desk.dispatcher.settle()
    peer.say(Ping(id=3), Hello(id=4, token="t"))
    errors = peer.take()
    assert [(error.id, getattr(error, "code", type(error).__name__)) for error in errors] == [
        (1, "hello_first"),
        (2, "Welcome"),
        (3, "Ponged"),
        (4, "hello_again"),
    ]


@at_once
async def test_hello_is_alone() -> None:
    """What comes while hello is answered waits for it, and hears of its refusal; another hello does not wait."""
    desk = Desk()
    peer = desk.peer()
    desk.hold(1)
    peer.say(Hello(id=1, token="t"), Ping(id=2), cue(3), Hello(id=4, token="t"))
    await asyncio.sleep(0.001)
    assert [(error.id, error.code) for error in peer.take()] == [(4, "hello_again")]
    await desk.let_go(1)
    assert peer.take() == [welcome(1), Ponged(id=2, server_time=1), *sent(3)]


@at_once
async def test_hello_that_is_refused() -> None:
    """After a refused hello those who waited for it are not heard, and a better one is."""
    desk = Desk()
    peer = desk.peer()
    desk.hold(1)
    desk.raises = {1: Refused(ErrorCode.UNAVAILABLE, retry_after=1.0)}
    peer.say(Hello(id=1, token="t"), Ping(id=2), leave(3))
    await desk.let_go(1)
    assert [(error.id, error.code) for error in peer.take()] == [
        (1, "unavailable"),
        (2, "hello_first"),
        (3, "hello_first"),
    ]
    assert desk.begun == [1]
    peer.say(Hello(id=5, token="t"))
    await desk.dispatcher.settle()
    assert peer.take() == [welcome(5)]


# Limits.


@at_once
async def test_rate() -> None:
    """Past the burst a command is refused with the time to wait, and who waits is heard."""
    desk = Desk(commands_rate=10.0, commands_burst=2.0)
    guest = desk.guest()
    guest.say(Ping(id=1), Ping(id=2), Ping(id=3))
    assert guest.take() == [
        Ponged(id=1, server_time=1),
        Ponged(id=2, server_time=1),
        Error(id=3, code="rate_limited", message=ErrorCode.RATE_LIMITED.advice, retry_after=0.1),
    ]
    await asyncio.sleep(0.11)
    guest.say(Ping(id=4))
    assert guest.take() == [Ponged(id=4, server_time=1)]


@pytest.mark.parametrize("data", [JSON.encode(Ping(id=1)), b"{", b'{"type":"nothing"}'])
@pytest.mark.parametrize("said_hello", [True, False])
def test_flood(data: bytes, said_hello: bool) -> None:
    """Who goes on without heeding refusals is closed, whatever it sends, before hello too; a word counts like a command."""

    async def run() -> None:
        desk = Desk(commands_rate=10.0, commands_burst=5.0)
        guest = desk.guest() if said_hello else desk.peer()
        for _ in range(5 + PATIENCE):
            guest.say_bytes(data)
        assert guest.heard.closed is None
        assert [error.code for error in guest.take()[5:]] == ["rate_limited"] * PATIENCE
        guest.say_bytes(data)
        guest.listen()
        assert guest.heard.closed == CloseCode.FLOODING

    in_no_time(run())


@at_once
async def test_what_follows_hello_at_once_is_counted() -> None:
    """Commands that are sent along with hello, before it is answered, cost as much as those that come later."""
    desk = Desk(commands_rate=10.0, commands_burst=3.0)
    peer = desk.peer()
    desk.hold(1)
    peer.say(Hello(id=1, token="t"), *[Ping(id=number) for number in range(2, 7)])
    assert [(error.id, error.code) for error in peer.take()] == [(5, "rate_limited"), (6, "rate_limited")]
    await desk.let_go(1)
    assert [answer.id for answer in peer.take()] == [1, 2, 3, 4]


@at_once
async def test_late() -> None:
    """A command that has waited in the intake for too long is refused, whatever it is, and nothing of it is begun."""
    desk = Desk(commands_rate=10.0, commands_burst=3.0)
    guest, newcomer = desk.guest(), desk.peer()
    desk.hub.intake.late = True
    guest.say(cue(1), Ping(id=2))
    newcomer.say(Hello(id=3, token="t"))
    desk.hub.intake.late = False
    busy = ErrorCode.BUSY.advice
    assert guest.take() == [Error(id=n, code="busy", message=busy, retry_after=1.0) for n in (1, 2)]
    guest.say(cue(4), cue(5))
    await desk.dispatcher.settle()
    assert [(answer.id, getattr(answer, "code", None)) for answer in guest.take()] == [
        (5, "rate_limited"),
        (4, None),
    ]
    assert newcomer.take() == [welcome(3)]
    assert desk.begun == [3, 4]


@at_once
async def test_limit_of_a_person() -> None:
    """What is dear is counted by person, however they send it: over several connections, or along with hello."""
    desk = Desk(commands_rate=1000.0, commands_burst=1000.0)
    limit = Limit("test.dear", burst=2.0, rate=0.1)
    asked: list[tuple[Limit, str, object]] = []

    def spend(limit: Limit, who: str, standing: object) -> Verdict:
        asked.append((limit, who, standing))
        return Verdict(allowed=len(asked) <= 2, left=0, retry_after=7.0, full_after=20.0)

    desk.node.quotas = SimpleNamespace(spend=spend)
    dispatch.HANDLERS.clear()
    handles(SendCue, limit=limit)(desk._cue)
    guest, newcomer = desk.guest(), desk.peer()
    guest.say(cue(1))
    newcomer.say(Hello(id=2, token="t"), cue(3), cue(4))
    await desk.dispatcher.settle()
    assert guest.take() == sent(1)
    assert newcomer.take() == [
        welcome(2),
        Error(id=4, code="rate_limited", message=ErrorCode.RATE_LIMITED.advice, retry_after=7.0),
        *sent(3),
    ]
    session = desk.connection_of(guest).session
    assert session is not None
    assert asked[0] == (limit, str(session.user_id), session)


@at_once
async def test_too_much_under_way() -> None:
    """Past so many commands the connection is not read, until there are half as many; nothing is lost by it."""
    desk = Desk(commands_rate=1000.0, commands_burst=1000.0)
    guest = desk.guest()
    numbers = range(1, MOST_UNDER_WAY + 1)
    desk.hold(*numbers)
    guest.say(*[cue(number) for number in numbers][:-1])
    assert guest.transport.reads()
    guest.say(cue(MOST_UNDER_WAY))
    assert not guest.transport.reads()
    half = MOST_UNDER_WAY // 2
    for number in numbers[: half - 1]:
        await desk.let_go(number)
        assert not guest.transport.reads()
    await desk.let_go(numbers[half - 1])
    assert guest.transport.reads()
    await desk.let_go(*numbers)
    assert [answer.id for answer in guest.take()] == list(numbers)


@at_once
async def test_too_much_waiting() -> None:
    """Commands that wait behind one that runs alone count like those that run."""
    desk = Desk(commands_rate=1000.0, commands_burst=1000.0)
    guest = desk.guest()
    desk.hold(1)
    guest.say(leave(1), *[cue(number) for number in range(2, MOST_UNDER_WAY + 1)])
    assert not guest.transport.reads()
    await desk.let_go(1)
    assert guest.transport.reads()
    assert len(guest.take()) == MOST_UNDER_WAY


# Handlers.


def test_one_handler_per_command() -> None:
    """A second handler, or one that takes another command, is an error where it is written."""
    dispatch.HANDLERS.clear()

    async def remove(call: Call, command: RemoveChat) -> ChatRemoved:
        return ChatRemoved(id=command.id, line=LINE, offset=1)

    async def refresh(call: Call, command: SendChat) -> TokenRefreshed:
        return TokenRefreshed(id=command.id, expires_in=1.0)

    assert handles(RemoveChat)(remove) is remove
    with pytest.raises(TypeError, match="RemoveChat has a handler already"):
        handles(RemoveChat)(remove)
    with pytest.raises(TypeError, match="refresh must take a RefreshToken"):
        handles(RefreshToken)(refresh)
    assert list(dispatch.HANDLERS) == [RemoveChat]
    assert RecallChat not in dispatch.HANDLERS
    assert JoinRoom not in dispatch.HANDLERS


@at_once
async def test_rooms_of_a_call() -> None:
    """A room is found by its slug or its id, if the connection is in it; else one is told to join."""
    desk = Desk()
    guest = desk.guest()
    guest.say(cue(1))
    await desk.dispatcher.settle()
    [call] = desk.calls
    assert call.connection is desk.connection_of(guest)
    assert call.node is desk.node
    assert call.session is call.connection.session
    active, other = (
        Room(number, Replay(1, renew=lambda old, _newest: old)) for number in (ROOM, RoomId(UUID(int=9)))
    )
    desk.hub.enter(call.connection, active)
    desk.node.slugs = {"calm": ROOM, "elsewhere": other.id}
    with pytest.raises(Refused):
        call.room("calm")  # one looks at it, and is seen by nobody there
    call.session.faces[ROOM] = call.session.user
    for ref in ("calm", str(ROOM)):
        assert call.room(ref) is active
        assert call.member_of(ref) == ROOM
    for ref in ("elsewhere", str(other.id), "no-such-room"):
        with pytest.raises(Refused) as refusal:
            call.room(ref)
        assert refusal.value.code is ErrorCode.NOT_IN_ROOM


@at_once
async def test_answer_must_be_an_answer() -> None:
    """A handler that returns something else is a bug, not silence."""
    desk = Desk()
    guest = desk.guest()

    def nothing(call: Call, command: Ping) -> None:
        return None

    dispatch.HANDLERS.clear()
    handles(Ping)(cast("Any", nothing))
    logging.getLogger("looprooms.dispatch").disabled = True
    try:
        guest.say(Ping(id=1))
    finally:
        logging.getLogger("looprooms.dispatch").disabled = False
    assert [error.code for error in guest.take()] == ["internal_error"]
