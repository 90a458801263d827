"""The terminal client: what is shown, what typed lines do, and two terminals in one room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

import pytest

from protocol.chat import (
    ChatEdited,
    ChatLine,
    ChatRemoval,
    ChatRemoved,
    ChatRevision,
    ChatSent,
    EditChat,
    RemoveChat,
    SendChat,
)
from protocol.client import CaughtUp, Client, Reconnecting, Snapshot, connect
from protocol.envelope import Answer, Error, LineId, Person, UserId
from protocol.notifications import Notice, Notification, Thing
from protocol.presence import (
    Confidence,
    ConfidenceNoted,
    ListPresence,
    PresenceListed,
    RoomPulse,
    RoomState,
    SetConfidence,
    SetTyping,
    TypingNoted,
)
from protocol.reactions import (
    AddReaction,
    Reaction,
    ReactionAdded,
    ReactionRemoved,
    Reactor,
    RemoveReaction,
    Tally,
)
from protocol.relations import (
    BlockPerson,
    ListRelations,
    PersonBlocked,
    PersonUnblocked,
    Relation,
    RelationKind,
    RelationsListed,
    UnblockPerson,
)
from protocol.rooms import Cue, Departure, JoinRoom, LeaveRoom, OnAir, RoomLeft, RoomUnlocked
from protocol.session import Shed
from server.terminal.join import Visit, readable, run
from server.terminal.line import Terminal
from tests.protocol.client.peer import ADA, BO, EPOCH, ROOM, CommandT, Conversation, Peer, line, listening

CY = Person(id=UserId(UUID("00000000-0000-7000-8000-00000000000c")), name="Cy\x1b[2J")


class Paper(Terminal):
    """A terminal that keeps what is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str] = []

    def show(self, text: str) -> None:
        """Keep a line."""
        self.shown.append(text)

    def type(self, text: str) -> None:
        """Finish a line."""
        self._lines.put_nowait(text)

    def fresh(self) -> list[str]:
        """Return what was shown since the last time."""
        shown, self.shown = self.shown, []
        return shown


@asynccontextmanager
async def visiting(peer: Peer) -> AsyncIterator[tuple[Visit, Paper, Conversation]]:
    """Let Ada be in Bo's room, over a scripted server."""
    client: Client = connect(peer.url, token="t")
    entering = asyncio.create_task(client.__aenter__())
    server = await peer.accept()
    await server.welcomes()
    await entering
    joining = asyncio.create_task(client.call(JoinRoom("calm")))
    await server.lets_in(0)
    paper = Paper()
    try:
        yield Visit(client, await joining, paper), paper, server
    finally:
        await client.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A scripted server."""
    async with listening() as peer:
        yield peer


def clock(shown: list[str]) -> list[str]:
    """Replace the time of day, which depends on where one is."""
    return [f"HH:MM{text[5:]}" if text[2:3] == ":" else text for text in shown]


async def test_what_happens_is_shown(peer: Peer) -> None:
    """Every kind of event is a line that a person understands."""
    async with visiting(peer) as (visit, paper, _):
        said = line(1)
        visit.show(ChatLine(ROOM, 1, said))
        said.text = "better"
        visit.show(ChatRevision(ROOM, 2, said))
        visit.show(ChatRemoval(ROOM, 3, said.id, 1))
        visit.show(ChatRemoval(ROOM, 4, LineId(UUID(int=99)), 1))
        visit.show(RoomPulse(ROOM, joins=[CY], online=3))
        visit.show(RoomPulse(ROOM, leaves=[CY.id], online=2))
        visit.show(RoomPulse(ROOM, leaves=[CY.id]))
        visit.show(RoomPulse(ROOM, joins=[ADA]))
        visit.show(RoomPulse(ROOM, online=812))
        visit.show(RoomPulse(ROOM, confidence=Confidence(mean=6.5, count=2)))
        visit.show(RoomPulse(ROOM, confidence=Confidence(mean=7, count=1)))
        visit.show(RoomPulse(ROOM, confidence=Confidence(mean=0, count=0)))
        visit.show(Cue(ROOM, "breathe in"))
        visit.show(Shed(3, 1))
        assert clock(paper.fresh()) == [
            "HH:MM Bo: line 1",
            "HH:MM Bo: now says: better",
            "* A line of Bo's was removed.",
            "* A line of someone's was removed.",
            "* Cy[2J came in (3 here)",
            "* Cy[2J left (2 here)",
            "* 812 here",
            "* The room's confidence is 6.5 (2 people)",
            "* The room's confidence is 7.0 (1 person)",
            "* The confidence meter is empty",
            "* Bo: breathe in",
            "* Your terminal reads slowly; some reactions and typing were left out.",
        ]


async def test_reactions_are_shown_with_who_gave_them(peer: Peer) -> None:
    """A few by name, the rest by number, and the total."""
    async with visiting(peer) as (visit, paper, _):
        hearts = [Reactor(person=BO, reaction=Reaction.HEART)]
        visit.show(RoomPulse(ROOM, reactions={Reaction.HEART: Tally(added=1, total=5)}, reactors=hearts))
        visit.show(RoomPulse(ROOM, reactions={Reaction.HEART: Tally(added=4, total=9)}, reactors=hearts))
        visit.show(RoomPulse(ROOM, reactions={Reaction.CLAP: Tally(added=40, total=41)}))
        visit.show(RoomPulse(ROOM, reactions={Reaction.FIRE: Tally(added=-1, total=0)}))
        assert paper.fresh() == [
            "* ❤ 1 heart from Bo (5 in all)",
            "* ❤ 4 heart from Bo and 3 more (9 in all)",
            "* 👏 40 clap (41 in all)",
            "* 🔥 1 fire taken back (0 in all)",
        ]


async def test_a_lost_connection_is_visible(peer: Peer) -> None:
    """What was missed is counted; what could not be replayed is said."""
    async with visiting(peer) as (visit, paper, _):
        visit.show(Reconnecting(attempt=1, wait=0.7, code=1006, reason=""))
        visit.show(Reconnecting(attempt=4, wait=4.2, code=1006, reason=""))
        visit.show(CaughtUp(missed=3))
        state = RoomState(online=1, members=[ADA], confidence=Confidence(mean=0, count=0), typing=[BO])
        visit.show(Snapshot(room=ROOM, epoch=EPOCH, offset=9, recent=[line(9)], state=state))
        thing = Thing(kind="vybe", id=ROOM)
        happened = Notification(id=ROOM, kind="comment", thing=thing, at=0, offset=1, actor=CY)
        visit.show(Notice(notification=happened))
        visit.show(OnAir(ROOM, live=True))
        visit.show(OnAir(ROOM, live=False))
        visit.show(RoomUnlocked(ROOM))
        visit.show(Departure(ROOM, "premium_required", "Subscribe.", pay="http://here/pay"))
        assert clock(paper.fresh()) == [
            "* reconnecting…",
            "* reconnecting… (attempt 4, in 4 s)",
            "* caught up (3 missed)",
            "* You were away for too long to be told everything. The newest lines:",
            "HH:MM Bo: line 9",
            "* Bo is writing…",
            "* To you: Cy[2J commented on your vybe.",
            "* The room is live.",
            "* The room is not live any more.",
            "* The room is open to you now, for as long as you like.",
            "* You were taken out of the room. Subscribe. http://here/pay",
        ]
        assert paper.prompt == "(Bo writing…) > "
        visit.show(RoomPulse(ROOM, typing=[]))
        assert paper.prompt == "> "


async def test_typed_lines(peer: Peer) -> None:
    """Each command is one call; what it answers is shown where it says something new."""
    async with visiting(peer) as (visit, paper, server):

        async def typed(text: str, kind: type[CommandT], answer: Answer) -> CommandT:
            doing = asyncio.create_task(visit.obey(text))
            command = await server.hears(kind)
            answer.id = command.id
            await server.says(answer)
            await doing
            return command

        said = await typed("hello", SendChat, ChatSent(line(7), 7, id=0))
        assert (said.room, said.text) == (str(ROOM), "hello")
        slashed = await typed("//shrug", SendChat, ChatSent(line(8), 8, id=0))
        assert slashed.text == "/shrug"
        edited = await typed("/edit  better ", EditChat, ChatEdited(line(8), 9, id=0))
        assert (edited.line, edited.text) == (line(8).id, "better")
        removed = await typed("/remove", RemoveChat, ChatRemoved(line(8).id, 10, id=0))
        assert removed.line == line(8).id
        for reaction in Reaction:
            given = await typed(f"/{reaction.lower()}", AddReaction, ReactionAdded(True, {}, id=0))
            assert (given.reaction, given.target.id) == (reaction, ROOM)
        await typed("/confidence 10", SetConfidence, ConfidenceNoted(Confidence(mean=10, count=1), id=0))
        await typed("/who", ListPresence, PresenceListed(5, [ADA, CY], id=0))
        await typed("/heart", AddReaction, ReactionAdded(False, {}, id=0))
        await typed("/heart off", RemoveReaction, ReactionRemoved(True, {}, id=0))
        await typed("/heart off", RemoveReaction, ReactionRemoved(False, {}, id=0))
        assert paper.fresh() == [
            "* You are at 10.",
            "* 5 here: Ada, Cy[2J and 3 more",
            "! You have given your heart already.",
            "! You have given no heart.",
        ]


async def test_blocking_by_name(peer: Peer) -> None:
    """Somebody is blocked by the name that one sees, as they are seen in this room; and again by name it is taken back."""
    async with visiting(peer) as (visit, paper, server):

        async def asked(kind: type[CommandT], answer: Answer) -> CommandT:
            command = await server.hears(kind)
            answer.id = command.id
            await server.says(answer)
            return command

        blocking = asyncio.create_task(visit.obey("/block Bo"))
        named = await asked(BlockPerson, PersonBlocked(Relation(person=BO, blocked=True), id=0))
        await blocking
        assert (named.person, named.room) == (BO.id, str(ROOM))
        await visit.obey("/block Nobody\x1b[2J")
        for name in ("Bo", "Di"):
            undoing = asyncio.create_task(visit.obey(f"/unblock {name}"))
            listed = await asked(ListRelations, RelationsListed([Relation(person=BO, blocked=True)], id=0))
            assert listed.kind is RelationKind.BLOCKED
            if name == "Bo":
                assert (await asked(UnblockPerson, PersonUnblocked(BO.id, id=0))).person == BO.id
            await undoing
        assert paper.fresh() == [
            "* You and Bo are not there for each other any more.",
            "! You see nobody here who is called Nobody[2J.",
            "* Bo is there for you again.",
            "! You have blocked nobody who is called Di.",
        ]


async def test_lines_that_need_no_server(peer: Peer) -> None:
    """Help, nothing, and what is not understood."""
    async with visiting(peer) as (visit, paper, _):
        for text in ("", "/edit x", "/remove", "/confidence 11", "/heart on", "/dance\x1b[31m", "/help"):
            await visit.obey(text)
        *first, last = paper.fresh()
        assert first == [
            "! You have said nothing here yet.",
            "! You have said nothing here yet.",
            "! /confidence 11 is nothing that this terminal knows. /help says what it does.",
            "! /heart on is nothing that this terminal knows. /help says what it does.",
            "! /dance[31m is nothing that this terminal knows. /help says what it does.",
        ]
        for reaction in Reaction:
            assert f"/{reaction.lower()}" in last


async def test_a_whole_visit(peer: Peer) -> None:
    """Who is there is told at the door; a refusal is a sentence; quitting tells the server before it closes."""
    async with visiting(peer) as (visit, paper, server):
        visiting_ = asyncio.create_task(visit.run())
        paper.type("hello")
        said = await server.hears(SendChat)
        await server.says(Error(id=said.id, code="rate_limited", message="Slowly, \x07please."))
        paper.type("/quit")
        leave = await server.hears(LeaveRoom)
        await server.says(RoomLeft(ROOM, id=leave.id))
        assert await visiting_ == 0
        assert paper.fresh() == [
            "You are Ada in Calm, by Bo.",
            "* Here: Bo. /help says what you can do.",
            "! Slowly, please.",
        ]


async def test_a_departure_ends_the_visit(peer: Peer) -> None:
    """Who is taken out of the room has no more to do there."""
    async with visiting(peer) as (visit, paper, server):
        visiting_ = asyncio.create_task(visit.run())
        await server.says(Departure(ROOM, "premium_required", "Subscribe."))
        assert await visiting_ == 1
        assert paper.fresh()[-1] == "* You were taken out of the room. Subscribe."


async def test_writing_is_told_now_and_then(peer: Peer) -> None:
    """The room hears at the first key and when the line is gone, not at each key, and nothing of commands."""
    async with visiting(peer) as (visit, _, server):
        for text in ("/", "/w", "", "h", "he", "hel", ""):
            visit._edited(text)
        for expected in (True, False):
            typing = await server.hears(SetTyping)
            assert typing.typing is expected
            await server.says(TypingNoted(id=typing.id))


def test_what_others_write_can_do_nothing_to_the_terminal() -> None:
    """No escape, no bell, no direction override; further lines are indented, so nobody can fake another's line."""
    assert readable("a\x1b]0;title\x07b\x9b31m\u202ec\r\nd") == "a]0;titleb31mc\n      d"


@pytest.mark.parametrize("url", ["nonsense", "ftp://x", ""])
def test_an_address_that_is_none(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence and exit code 2."""
    assert run("calm", name="Ada", url=url, data_dir=tmp_path) == 2
    assert "is not an address" in capsys.readouterr().err


def test_no_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence that says what to do, and exit code 2."""
    assert run("calm", name="Ada", url="http://127.0.0.1:9", data_dir=tmp_path) == 2
    assert capsys.readouterr().err == (
        "No server answers at http://127.0.0.1:9 (Connection refused). "
        "Start one with `make run`, or name another with --url.\n"
    )


def test_no_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who has none is told so, before any server is asked."""
    assert run("calm", name="  ", url="http://127.0.0.1:9", data_dir=tmp_path) == 2
    assert capsys.readouterr().err == "Your name in the room needs a letter at least.\n"
