"""Session: hello and what it is answered with, tokens that run out, who is let in, and what ends a live session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import pytest

from protocol.closing import CloseCode
from protocol.envelope import SessionId
from protocol.refusals import ErrorCode
from server import resume
from server.hub.hub import Hub
from server.session import Changed
from server.settings import Settings
from server.tokens import Tokens
from storage.postgres.pool import Pool
from storage.session import LiveSession, live_sessions
from tests.hosting import SIGNING_KEY, Host, hosting, make_room
from tests.http.serving import serving
from tests.redis.valkeys import Valkey
from tests.standing import Room, Standing
from tests.stores import SEALING_KEY
from tests.visitors import Visitor, approach, arrive, bystander, visit
from tests.waiting import until


class Later:
    """A node whose connections live in a time that a test moves."""

    def __init__(self, hub: Hub, host: Host) -> None:
        self._hub = hub
        self.host = host
        self._ahead = 0.0
        hub.clock = hub.wheel._clock = self._now

    def _now(self) -> float:
        return self._hub.loop.time() + self._ahead

    def pass_by(self, seconds: float) -> None:
        """Let so many seconds pass, and do what is due."""
        self._ahead += seconds
        self._hub.wheel.turn()


@pytest.fixture
async def later(database_url: str, valkey: Valkey, pool: Pool) -> AsyncIterator[Later]:
    """Run a node that gives tokens of ten minutes, and lets time pass when it is told to."""
    settings = Settings(
        database_url=database_url,
        redis_url=valkey.url,
        signing_keys=(SIGNING_KEY,),
        sealing_keys=(SEALING_KEY,),
        heartbeat_seconds=600,
    )
    async with serving(settings) as site:
        url = f"ws://127.0.0.1:{site.port}/ws"
        yield Later(site.node.hub, Host(url, Tokens(settings), pool, AsyncExitStack()))


def renewed(host: Host, visitor: Visitor) -> str:
    """Return a new token of the session that somebody has."""
    return host.sign(visitor.person.id, SessionId(UUID(visitor.welcome["session"])))


def warnings(visitor: Visitor) -> list[float]:
    """Return how many seconds were left each time that somebody was told that their token runs out."""
    return [message["expires_in"] for message in visitor.heard if message["type"] == "token.expiring"]


async def test_what_a_welcome_says(nodes: Standing) -> None:
    """Who one is, in which session and epoch, for how long, and how long silence may last."""
    visitor = await visit(nodes.north, "Ada")
    welcome = visitor.welcome
    assert welcome == {
        "type": "welcome",
        "id": 1,
        "session": welcome["session"],
        "user": {"id": welcome["user"]["id"], "name": "Ada"},
        "epoch": welcome["epoch"],
        "heartbeat": 25.0,
        "expires_in": welcome["expires_in"],
        "server_time": welcome["server_time"],
        "person": {"offset": 0, "subscription": welcome["person"]["subscription"]},
    }
    assert 590 < welcome["expires_in"] <= 600
    assert abs(welcome["server_time"] / 1000 - time.time()) < 60
    other = await visit(nodes.south, visitor.person)
    assert other.welcome["epoch"] == welcome["epoch"]
    assert other.welcome["session"] != welcome["session"]


async def test_what_is_sent_behind_hello_waits_for_it(nodes: Standing, room: Room) -> None:
    """A client that doesn't wait for its welcome is served in order all the same."""
    visitor = await approach(nodes.north)
    token = await nodes.north.token("Ada")
    answers = await asyncio.gather(
        visitor.call("hello", token=token),
        visitor.call("room.join", room=room.slug),
        visitor.say(room.id, "hello"),
        visitor.call("session.ping"),
    )
    assert [answer["type"] for answer in answers] == ["welcome", "room.joined", "chat.sent", "session.ponged"]


async def test_no_hello(database_url: str, valkey: Valkey, pool: Pool) -> None:
    """Whoever says nothing, or nothing but nonsense, is gone when the time is over: 4004, and they may come back."""
    async with hosting(database_url, valkey.url, pool, hello_timeout_seconds=0.3) as host:
        silent, talking, ada = await approach(host), await approach(host), await visit(host, "Ada")
        await talking.call("session.ping")
        for stranger in (silent, talking):
            gone = await stranger.connection.gone
            assert (gone.code, gone.reason) == (
                CloseCode.HELLO_TIMEOUT,
                "No hello came in time. Reconnect and send it first.",
            )
        await ada.settle()


async def test_a_token_runs_out(later: Later) -> None:
    """It is told once, a minute before; half a minute after the end the connection is closed: get a new one, come back."""
    visitor = await visit(later.host, "Ada")
    later.pass_by(535)
    await visitor.settle()
    assert warnings(visitor) == []
    later.pass_by(10)
    later.pass_by(20)
    await visitor.settle()
    assert len(warnings(visitor)) == 1
    assert 50 < warnings(visitor)[0] < 60
    later.pass_by(60)  # the token is over, its grace is not
    await visitor.settle()
    later.pass_by(10)
    assert (await visitor.connection.gone).code == CloseCode.TOKEN_EXPIRED
    assert len(warnings(visitor)) == 1


@pytest.mark.parametrize("when", [100, 550, 610])
async def test_a_token_is_renewed_in_place(later: Later, pool: Pool, when: int) -> None:
    """Before it is told, after it, and after the end: with a new token the connection goes on, and is told again in time."""
    room = await make_room(pool, "calm")
    visitor = await visit(later.host, "Ada", room)
    later.pass_by(when)
    again = renewed(later.host, visitor)
    refreshed = await visitor.call("token.refresh", token=again)
    assert refreshed["type"] == "token.refreshed"
    assert 590 < refreshed["expires_in"] <= 600
    told = len(warnings(visitor))
    assert told == (when > 540)
    later.pass_by(535)
    assert (await visitor.say(room, "still here"))["type"] == "chat.sent"
    assert len(warnings(visitor)) == told
    later.pass_by(10)
    await visitor.settle()
    assert len(warnings(visitor)) == told + 1


async def test_three_tabs_are_one_person(nodes: Standing, room: Room) -> None:
    """They come with the first, on whichever node, and leave with the last; each tab hears everything."""
    watcher = await visit(nodes.north, "watcher", room.id)
    tabs = [await visit(nodes.north, "Ada", room.id)]
    for host in (nodes.north, nodes.south):
        tabs.append(await visit(host, tabs[0].person, room.id))
    ada = tabs[0].welcome["user"]["id"]

    def told(kind: str) -> int:
        return sum(
            str(message.get(kind)).count(ada) for message in watcher.heard if message["type"] == "room.pulse"
        )

    await until(lambda: told("joins") == 1)
    listed = await watcher.call("presence.list", room=room.slug)
    assert (listed["online"], len(listed["members"])) == (2, 2)
    await watcher.say(room.id, "hello")
    for tab in tabs:
        await tab.hear(1)
    for tab in tabs[:2]:
        await tab.call("room.leave", room=room.slug)
    await watcher.say(room.id, "who is there?")
    await tabs[2].hear(2)
    assert (told("joins"), told("leaves")) == (1, 0)
    tabs[2].connection.leave()
    await until(lambda: told("leaves") == 1)
    assert told("joins") == 1


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("update sessions set ended_at = now() where user_id = $1", CloseCode.SESSION_ENDED),
        ("delete from sessions where user_id = $1", CloseCode.SESSION_ENDED),
        ("update users set banned_at = now() where id = $1", CloseCode.BANNED),
    ],
)
async def test_the_sweep_finds_who_may_not_be_here(
    database_url: str, valkey: Valkey, pool: Pool, monkeypatch: pytest.MonkeyPatch, statement: str, code: int
) -> None:
    """What nobody announced is found when sessions are read again; the code says that there is no coming back."""
    monkeypatch.setattr("server.session.SWEEP_SECONDS", 0.05)
    room = await make_room(pool, "calm")
    async with hosting(database_url, valkey.url, pool) as host, bystander(host, room):
        visitor = await visit(host, "visitor", room)
        await pool.execute(statement, visitor.person.id)
        assert (await visitor.connection.gone).code == code
        stranger = await approach(host)
        stranger.connection.send({"type": "hello", "id": 1, "token": renewed(host, visitor)})
        assert (await stranger.connection.gone).code == code


async def test_the_sweep_reads_a_few_at_a_time(
    database_url: str, valkey: Valkey, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All who are here are looked at, and no statement is so long that the others wait for it."""
    monkeypatch.setattr("server.session.SWEEP_SECONDS", 0.05)
    monkeypatch.setattr("server.session.AT_ONCE", 2)
    read: list[int] = []

    async def noted(pool: Pool, ids: Sequence[SessionId], number: int) -> dict[SessionId, LiveSession]:
        read.append(len(ids))
        return await live_sessions(pool, ids, number)

    async with hosting(database_url, valkey.url, pool) as host:
        crowd = [await visit(host, f"visitor {number}") for number in range(5)]
        monkeypatch.setattr("server.session.live_sessions", noted)
        await pool.execute("update sessions set ended_at = now()")
        for visitor in crowd:
            assert (await visitor.connection.gone).code == CloseCode.SESSION_ENDED
    assert max(read) == 2


async def test_the_sweep_finds_what_one_may_do(
    database_url: str, valkey: Valkey, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role takes effect on a live connection, given and taken back."""
    monkeypatch.setattr("server.session.SWEEP_SECONDS", 0.05)
    room = await make_room(pool, "calm")
    async with hosting(database_url, valkey.url, pool) as host:
        author, other = await visit(host, "Ada", room), await visit(host, "Bo", room)
        line = (await author.say(room, "hello"))["line"]["id"]

        async def becomes(role: str, answer: str) -> None:
            await pool.execute("update users set role = $2::user_role where id = $1", other.person.id, role)
            async with asyncio.timeout(5):
                while True:
                    told = await other.call("chat.edit", room="calm", line=line, text="changed")
                    if told.get("code", told["type"]) == answer:
                        return
                    await asyncio.sleep(0.05)

        await becomes("MODERATOR", "chat.edited")
        await becomes("MEMBER", ErrorCode.FORBIDDEN)


@pytest.mark.parametrize("word", ["of the session", "of the person", "that they left"])
async def test_what_ends_while_somebody_is_on_their_way_in(
    database_url: str, valkey: Valkey, pool: Pool, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """An end that comes between the reading of a session and its welcome is no secret: the connection is closed at once."""
    truly = resume.prepare
    read, ended = asyncio.Event(), asyncio.Event()

    async def prepare(*arguments: Any) -> list[resume.Place]:
        read.set()
        await ended.wait()
        return await truly(*arguments)

    monkeypatch.setattr(resume, "prepare", prepare)
    settings = Settings(
        database_url=database_url,
        redis_url=valkey.url,
        signing_keys=(SIGNING_KEY,),
        sealing_keys=(SEALING_KEY,),
    )
    async with serving(settings) as site, AsyncExitStack() as stack:
        host = Host(f"ws://127.0.0.1:{site.port}/ws", site.node.tokens, pool, stack)
        token = await host.token("Ada")
        stranger = await approach(host)
        stranger.connection.send({"type": "hello", "id": 1, "token": token})
        await read.wait()
        claims = site.node.tokens.verify(token)
        await pool.execute("update sessions set ended_at = now()")
        site.node.announcements.announce(
            {
                "of the session": Changed(sessions=[claims.session]),
                "of the person": Changed(users=[claims.user]),
                "that they left": Changed(gone=[claims.user]),
            }[word]
        )
        ended.set()
        assert (await asyncio.wait_for(stranger.connection.gone, 5)).code == CloseCode.SESSION_ENDED
        await until(lambda: not site.node.announcements._coming)


async def test_more_sessions_than_a_node_takes(
    database_url: str, valkey: Valkey, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New sessions wait for their turn, and who would wait for too long is told to come later; who returns goes first."""
    monkeypatch.setattr("server.hub.admission.MOST_WAIT", 0.5)
    async with hosting(
        database_url, valkey.url, pool, new_sessions_per_second=4, resumes_per_second=1000
    ) as host:
        crowd = [await approach(host) for _ in range(10)]
        token = await host.token("Ada")
        for stranger in crowd:
            stranger.connection.send({"type": "hello", "id": 1, "token": token})
        position = {"room": "x", "epoch": "", "offset": 0}
        returning = await arrive(host, token, resume=[position])
        assert returning.welcome["type"] == "welcome"
        await until(lambda: all(one.heard or one.connection.gone.done() for one in crowd))
        sent_away = [one.connection.gone.result() for one in crowd if not one.heard]
        assert 0 < len(sent_away) < 10
        for gone in sent_away:
            assert (gone.code, gone.reason) == (
                CloseCode.BUSY,
                "This node takes no more sessions right now. Reconnect later.",
            )


async def test_bad_tokens_take_nobody_s_place(database_url: str, valkey: Valkey, pool: Pool) -> None:
    """However many come with a token that is not ours, whoever has a good one is let in at once."""
    async with hosting(
        database_url, valkey.url, pool, new_sessions_per_second=0.01, resumes_per_second=0.01
    ) as host:
        for resume in ([], [{"room": "x", "epoch": "", "offset": 0}]):
            for _ in range(10):
                stranger = await arrive(host, "x", resume=resume)
                assert stranger.welcome["code"] == ErrorCode.TOKEN_INVALID
        assert (await visit(host, "Ada")).welcome["type"] == "welcome"


async def test_are_you_there(nodes: Standing, room: Room) -> None:
    """A ping is answered with the server's time, whatever rooms it speaks of."""
    visitor = await visit(nodes.north, "Ada", room.id)
    seen = [{"room": str(room.id), "offset": 0}, {"room": str(uuid4()), "offset": 2**63 - 1}]
    answer = await visitor.call("session.ping", seen=seen)
    assert answer == {"type": "session.ponged", "id": answer["id"], "server_time": answer["server_time"]}
    assert abs(answer["server_time"] / 1000 - time.time()) < 60
    refused = await visitor.call("session.ping", seen=seen * 33)
    assert (refused["code"], refused["path"]) == (ErrorCode.INVALID, "$.seen")
