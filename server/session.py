"""Session: hello and coming back, staying with a new token, and what ends a live session.

The access token only proves who asks and for which session. What a person may do is read from the live session, which is
loaded at hello and read again every `SWEEP_SECONDS`, because the event that announces a change may be lost on its way.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from protocol.closing import CloseCode
from protocol.envelope import Error, Person, RoomId, SessionId, UserId
from protocol.refusals import Disconnect, ErrorCode, Refused
from protocol.session import (
    Hello,
    ListSessions,
    PersonPosition,
    PersonState,
    Ping,
    Ponged,
    RefreshToken,
    RevokeSession,
    SessionRevoked,
    SessionsListed,
    TokenRefreshed,
    Welcome,
)
from server import resume
from server.hub.connection import Connection
from server.hub.dispatch import Call, handles
from server.hub.identity import Session
from server.hub.members import Members
from server.live import tell_live
from server.person_events import Feed
from server.rooms import put_out, show
from server.tokens import Claims
from storage.postgres.gather import Gather
from storage.postgres.pool import Pool
from storage.redis.broker import Broker
from storage.redis.publications import Kind, Packet, unpack
from storage.session import LiveSession, live_sessions, revoke_others, revoke_session, sessions_of

if TYPE_CHECKING:
    from server.node import Node

_LOGGER = logging.getLogger("looprooms.session")

SWEEP_SECONDS: Final = 15.0
AT_ONCE: Final = 500
"""Sessions in one statement of a sweep: ten thousand would hold the loop for 190 ms, these for 2."""
STORM_PAUSE: Final = 0.03
"""Seconds between two reads of sessions: in a storm of reconnects one statement serves all who came meanwhile."""
CHANNEL: Final = "lr:nodes"
"""What every node hears."""


class LiveSessions:
    """Reads sessions from Postgres: one statement for all who say hello at the same time.

    What they have to hear from then on is heard before that: one wait for Redis for all of them, too. The other order would lose
    what happens in between.

    `changed` is told of each connection whose session may now do more or less than before.
    """

    def __init__(self, pool: Pool, broker: Broker, *, changed: Callable[[Connection], None]) -> None:
        self._pool = pool
        self._broker = broker
        self._changed = changed
        self._gather: Gather[tuple[SessionId, asyncio.Future[bool] | None], LiveSession] = Gather(
            self._read, pause=STORM_PAUSE
        )
        self._reads = itertools.count(1)

    async def find(self, session: SessionId, hearing: asyncio.Future[bool] | None = None) -> LiveSession:
        """Return a live session, as it is after the channel of `hearing` is heard. Raises `Refused` (session_ended)."""
        return await self._gather.ask((session, hearing))

    async def _read(
        self, asked: Sequence[tuple[SessionId, asyncio.Future[bool] | None]]
    ) -> Sequence[LiveSession | Exception]:
        await self._broker.heard(hearing for _, hearing in asked if hearing is not None)
        found = await live_sessions(self._pool, [session for session, _ in asked], next(self._reads))
        return [found.get(session) or Refused(ErrorCode.SESSION_ENDED) for session, _ in asked]

    async def look_again(self, members: Members, sessions: Sequence[SessionId]) -> None:
        """Read sessions that are connected here again, and act on what changed."""
        if not sessions:
            return
        found = await live_sessions(self._pool, list(sessions), next(self._reads))
        for session in sessions:
            for connection in members.of_session(session):
                self.apply(connection, found.get(session))

    def apply(self, connection: Connection, live: LiveSession | None) -> None:
        """Let a connection's session be what was read; close the connection when it has ended."""
        session = connection.session
        assert session is not None
        if (code := ended_code(live)) is not None:
            connection.close(code)
        # Readings may overtake one another, and what others do, such as a block, is no event of the person.
        elif live is not None and live.person_last >= session.as_of and live.read >= session.read:
            before = _rights(session)
            session.as_of = live.person_last
            session.read = live.read
            session.role = live.role
            session.tier = live.subscription.tier
            session.anonymous = live.anonymous
            session.passes = live.passes
            session.user = Person(id=live.user_id, name=live.name, avatar=live.avatar)
            session.hidden = live.hidden
            session.muted = live.muted
            if before != _rights(session):
                self._changed(connection)

    async def run(self, members: Members) -> None:
        """Look at all of them again every `SWEEP_SECONDS`, for ever."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            sessions = members.sessions()
            try:
                for start in range(0, len(sessions), AT_ONCE):
                    await self.look_again(members, sessions[start : start + AT_ONCE])
            except Refused:
                _LOGGER.warning("sessions could not be read again: Postgres is out of reach")


def _rights(session: Session) -> tuple[object, ...]:
    """Return what a session may do and see, to be compared."""
    return (
        session.role,
        session.tier,
        session.anonymous,
        session.passes,
        session.user,
        session.hidden,
        session.muted,
    )


class Changed(Struct):
    """Tells every node to look at sessions again, or at rooms. It carries no decision: what holds now is read from Postgres.

    `gone` are people who have left for good: that can't be taken back, so nothing is read. `shown` are rooms that have another
    picture, or play something else; `aired` have gone live, or have ended.
    """

    sessions: list[SessionId] = []
    users: list[UserId] = []
    gone: list[UserId] = []
    rooms: list[RoomId] = []
    shown: list[RoomId] = []
    aired: list[RoomId] = []


class Announcements:
    """Carries word of changed sessions to every node, this one first."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._looking: set[asyncio.Task[None]] = set()
        self._coming: dict[UserId | SessionId, set[asyncio.Event]] = {}

    @contextmanager
    def coming(self, user: UserId, session: SessionId) -> Iterator[asyncio.Event]:
        """Listen for a session that is about to be read, and has no connection yet that word of it could reach.

        What it gives is set when the session has changed meanwhile.
        """
        stale = asyncio.Event()
        for name in (user, session):
            self._coming.setdefault(name, set()).add(stale)
        try:
            yield stale
        finally:
            for name in (user, session):
                self._coming[name].discard(stale)
                if not self._coming[name]:
                    del self._coming[name]

    def announce(self, changed: Changed) -> None:
        """Tell all nodes that sessions, or all sessions of users, have changed; call it after the commit."""
        self._publish(changed)
        self.look(changed)

    async def see_to(self, changed: Changed) -> None:
        """Do the same, and return when this node has looked."""
        self._publish(changed)
        await self._look_quietly(self._noted(changed), changed)

    def _publish(self, changed: Changed) -> None:
        payload = msgspec.json.encode(changed)
        self._node.stores.broker.publish(CHANNEL, Packet(Kind.CHANGE, 0, payload, b""))

    def received(self, publication: bytes) -> None:
        """Take the word of another node."""
        for packet in unpack(publication):
            self.look(msgspec.json.decode(packet.json, type=Changed))

    def look(self, changed: Changed) -> None:
        """Look at sessions that are connected here, and remember it of those that are on their way."""
        sessions = self._noted(changed)
        task = self._node.hub.loop.create_task(self._look_quietly(sessions, changed))
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    def _noted(self, changed: Changed) -> list[SessionId]:
        """Remember it of sessions that are on their way; return those that are connected here."""
        members = self._node.hub.members
        names: list[UserId | SessionId] = [*changed.sessions, *changed.users, *changed.gone]
        for name in names:
            for stale in self._coming.get(name, ()):
                stale.set()
        for user in changed.gone:
            self._part_with(user)
        sessions = {session for session in changed.sessions if members.of_session(session)}
        for user in changed.users:
            sessions |= {c.session.id for c in members.of_user(user) if c.session is not None}
        return list(sessions)

    def _part_with(self, user: UserId) -> None:
        """End every connection of somebody who has left for good; the rooms that they were in see them go at once."""
        for connection in self._node.hub.members.of_user(user):
            for room in list(connection.rooms.values()):
                self._node.hub.leave(connection, room, at_once=True)
            connection.close(CloseCode.SESSION_ENDED)
        self._node.faces.forget(user)
        self._node.feed.left()

    async def _look_quietly(self, sessions: list[SessionId], changed: Changed) -> None:
        try:
            await self._node.sessions.look_again(self._node.hub.members, sessions)
            for room in changed.rooms:
                await put_out(self._node, room)
            for room in changed.shown:
                await show(self._node, room)
            for room in changed.aired:
                await tell_live(self._node, room)
        except Refused:
            _LOGGER.warning("changed sessions could not be read: they are found by the next sweep")


def ended_code(live: LiveSession | None) -> CloseCode | None:
    """Return the code to close a connection of this session with; None while the session lives."""
    if live is not None and live.banned:
        return CloseCode.BANNED
    if live is None or live.ended:
        return CloseCode.SESSION_ENDED
    return None


def session_of(node: Node, live: LiveSession, expires_at: float) -> Session:
    """Make what a person may do of what was read; `expires_at` is in loop time."""
    return Session(
        live.id,
        Person(id=live.user_id, name=live.name, avatar=live.avatar),
        role=live.role,
        tier=live.subscription.tier,
        expires_at=expires_at,
        as_of=live.person_last,
        anonymous=live.anonymous,
        masks=node.faces,
        passes=live.passes,
        hidden=live.hidden,
        muted=live.muted,
        read=live.read,
    )


async def greet(node: Node, connection: Connection, command: Hello) -> None:
    """Answer the first message: check the token, load the session, rejoin rooms and replay what was missed."""
    try:
        claims = node.tokens.verify(
            command.token
        )  # before it takes the place of somebody whose token is good
        if len(node.hub.members.of_user(claims.user)) >= node.hub.limits.person_connections:
            raise Disconnect(CloseCode.CROWDED)
        wait = node.admission.ask(node.hub.clock(), resuming=bool(command.resume))
        if wait is None:
            raise Disconnect(CloseCode.BUSY)
        if wait:
            await asyncio.sleep(wait)
        with (
            node.announcements.coming(claims.user, claims.session) as stale,
            node.person_events.opening(claims.user) as (feed, hearing),
        ):
            live = await node.sessions.find(claims.session, hearing)
            if (code := ended_code(live)) is not None or live.user_id != claims.user:
                raise Disconnect(code or CloseCode.TOKEN_REFUSED)
            await node.person_events.catch_up(claims.user, feed, live.person_last)
            missed = await _missed(node, live, feed, command.person)
            if missed is not None and command.person is not None and live.pushed is not None:
                node.acknowledged.note(live.id, command.person.offset)
            await _welcome(node, connection, command, _Arrival(claims, live, feed, missed))
        if stale.is_set():
            node.announcements.look(Changed(sessions=[claims.session]))
    except Refused as refused:
        _turn_away(connection, command, refused)


class _Arrival(Struct):
    """A session that may come in. `missed` are the person's events since the position that was sent, if all are to be had."""

    claims: Claims
    live: LiveSession
    feed: Feed
    missed: list[Packet] | None


async def _missed(
    node: Node, live: LiveSession, feed: Feed, position: PersonPosition | None
) -> list[Packet] | None:
    """Return the person's events after `position`, or None where a replay can't bring them. Raises `Refused`."""
    if position is None or position.epoch != node.stores.epoch:
        return None
    if not node.person_events.within(position.offset, live.person_last):
        return None
    if position.offset == live.person_last:
        return []
    found = await node.person_events.since(live.user_id, position.offset)
    node.person_events.take(live.user_id, found)  # this may be news to the other connections, too
    whole = bool(found) and found[-1].offset == position.offset + len(found) >= live.person_last
    return found if whole and found[-1].offset <= feed.last else None


async def _welcome(node: Node, connection: Connection, command: Hello, arrival: _Arrival) -> None:
    """Let a session in. Raises `Refused` when a store is away."""
    live = arrival.live
    session = session_of(node, live, _in_loop_time(node, arrival.claims))
    places = await resume.prepare(node, session, command.resume)
    if not connection.open:
        return
    if len(node.hub.members.of_user(live.user_id)) >= node.hub.limits.person_connections:
        raise Disconnect(CloseCode.CROWDED)  # they all came at once
    connection.session = session
    node.hub.members.signed_in(connection)
    # From here to the end without a wait: the snapshot, the replay and what follows must join on exactly.
    person, packets = _stand(arrival, command.person)
    resumed = [resume.take_up(node, connection, place) for place in places]
    node.replayed += len(packets) + sum(result.missed for result in resumed)
    node.snapshots += sum(1 for result in resumed if not result.recovered)
    connection.send(
        Welcome(
            id=command.id,
            session=session.id,
            user=session.user,
            epoch=node.stores.epoch,
            heartbeat=node.hub.limits.heartbeat,
            expires_in=round(arrival.claims.expires_at - time.time(), 3),
            server_time=int(time.time() * 1000),
            resumed=resumed,
            person=person,
        )
    )
    connection.replay(packets)
    for place in places:
        resume.replay(connection, place)


def _stand(arrival: _Arrival, position: PersonPosition | None) -> tuple[PersonState, list[Packet]]:
    """Say where the person's events stand for this connection, and return those that it is to be sent."""
    feed, last = arrival.feed, arrival.live.person_last
    if arrival.missed is None or position is None:
        later = [packet for packet in feed.passed if packet.offset > last]
        state = PersonState(
            offset=last,
            subscription=arrival.live.subscription,
            anonymous=arrival.live.anonymous,
            unread=arrival.live.unread,
            pushed=arrival.live.pushed or 0,
        )
        return state, later
    packets = arrival.missed
    last = position.offset + len(packets)
    packets = packets + [packet for packet in feed.passed if packet.offset > last]
    state = PersonState(
        offset=position.offset + len(packets),
        recovered=True,
        missed=len(packets),
        unread=arrival.live.unread,
        pushed=arrival.live.pushed or 0,
    )
    return state, packets


def _turn_away(connection: Connection, command: Hello, refused: Refused) -> None:
    connection.send(
        Error(id=command.id, code=refused.code, message=refused.message, retry_after=refused.retry_after)
    )
    if refused.code is ErrorCode.TOKEN_EXPIRED:
        connection.close(CloseCode.TOKEN_EXPIRED)
    elif refused.code is ErrorCode.SESSION_ENDED:
        connection.close(CloseCode.SESSION_ENDED)
    elif refused.code is ErrorCode.TOKEN_INVALID:
        connection.close(CloseCode.TOKEN_REFUSED)
    else:
        connection.close(CloseCode.BUSY, refused.message)


def _in_loop_time(node: Node, claims: Claims) -> float:
    left: float = claims.expires_at - time.time()
    return node.hub.clock() + left


@handles(RefreshToken)
async def refresh(call: Call, command: RefreshToken) -> TokenRefreshed:
    """Go on with a new token: it must be of the same session."""
    claims = call.node.tokens.verify(command.token)
    if claims.session != call.session.id or claims.user != call.session.user_id:
        raise Refused(ErrorCode.TOKEN_INVALID, "Refresh with a token of the session that said hello.")
    live = await call.node.sessions.find(claims.session)
    call.node.sessions.apply(call.connection, live)
    call.session.expires_at = _in_loop_time(call.node, claims)
    call.session.warned = False
    return TokenRefreshed(id=command.id, expires_in=round(claims.expires_at - time.time(), 3))


@handles(ListSessions)
async def list_sessions(call: Call, command: ListSessions) -> SessionsListed:
    """Say where this person is signed in."""
    found = await sessions_of(
        call.node.stores.pool,
        call.node.stores.sealer,
        call.session.user_id,
        call.session.id,
        lifetime=call.node.settings.refresh_token_days * 86400,
    )
    return SessionsListed(id=command.id, sessions=found)


@handles(RevokeSession)
async def revoke(call: Call, command: RevokeSession) -> SessionRevoked:
    """End sessions of this person; of their own, too, whose answer still goes out."""
    if (command.session is None) is not command.others:
        raise Refused(ErrorCode.INVALID, "Name a session, or all others; one of the two.", path="$.session")
    if command.session is None:
        return SessionRevoked(
            id=command.id, count=await end_others(call.node, call.session.user_id, call.session.id)
        )
    await end_session(call.node, call.session.user_id, command.session)
    return SessionRevoked(id=command.id, count=1)


async def end_session(node: Node, user: UserId, session: SessionId) -> None:
    """End one session of `user`, everywhere. Raises `Refused` (not_found), also for somebody else's."""
    if not await revoke_session(node.stores.pool, user, session):
        raise Refused(ErrorCode.NOT_FOUND)
    node.announcements.announce(Changed(sessions=[session]))


async def end_others(node: Node, user: UserId, session: SessionId) -> int:
    """End all sessions of `user` but one, everywhere; return how many."""
    ended = await revoke_others(node.stores.pool, user, session)
    if ended:
        node.announcements.announce(Changed(sessions=ended))
    return len(ended)


@handles(Ping)
def ping(call: Call, command: Ping) -> Ponged:
    """Answer a client that cannot see websocket pings, and note how far behind its screen is."""
    for seen in command.seen:
        if (room := call.connection.rooms.get(seen.room)) is not None:
            call.node.lags.report(room.id, room.replay.last - seen.offset, call.node.hub.clock())
    if command.person is not None:
        call.node.acknowledged.note(call.session.id, command.person)
    return Ponged(id=command.id, server_time=int(time.time() * 1000))
