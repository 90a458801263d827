"""One node, put together by hand: stores, hub, domains, and the port. There are no globals; a process may run several."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn
from websockets.typing import Origin

from protocol.envelope import RoomId, SessionId, UserId
from protocol.presence import RoomPulse
from server import chat as _chat_handlers  # noqa: F401 - importing a domain registers its handlers
from server import checkouts as _checkout_jobs  # noqa: F401 - and its jobs
from server import identities as _identity_jobs  # noqa: F401 - and its jobs
from server import letters as _letters  # noqa: F401 - importing them registers what sends them
from server import moderation as _moderation_handlers  # noqa: F401 - the same
from server import notifications as _notifications  # noqa: F401 - the same
from server import privacy as _privacy_jobs  # noqa: F401 - and its jobs
from server import push as _push  # noqa: F401 - and what pushes them
from server import relations as _relation_handlers  # noqa: F401 - the same
from server import sales as _sales  # noqa: F401 - what takes the provider's events of them
from server.addresses import Addresses
from server.chat import ChatHistory, ChatWriter
from server.comments import Comments
from server.door import Door
from server.engagement import EngagementCounter
from server.feed import CHANNEL as FEED_CHANNEL
from server.feed import FEED, Feed
from server.gateways.cards import Cards, open_cards
from server.gateways.identity import Providers
from server.gateways.mail import Mailer, open_mailer
from server.gateways.objects import Objects, open_objects
from server.gateways.push import Fcm, open_push
from server.histories import Histories
from server.http.app import create_app
from server.http.connection import HttpConnection
from server.hub.admission import Admission
from server.hub.connection import Connection
from server.hub.dispatch import Dispatcher
from server.hub.drain import drain
from server.hub.hub import Hub, Limits
from server.hub.lag import Lags
from server.hub.members import Room
from server.hub.subscriptions import Subscriptions
from server.jobs import Jobs
from server.limits import Quotas
from server.media import Uploads
from server.passes import PassExpiry
from server.payouts import PayoutCounts
from server.people import Faces
from server.person_events import PersonEvents, is_channel
from server.postage import Postage
from server.presence import PresenceTracker
from server.previews import Previews
from server.process.garbage import Garbage
from server.push import Acknowledged, PushCounts
from server.reactions import ReactionWriter
from server.resealing import seal_in_background
from server.rooms import Catalogue, RoomWatch, seen_state
from server.rotation import KeyFile
from server.session import CHANNEL, Announcements, Changed, LiveSessions, greet
from server.settings import Settings
from server.subscriptions import Expiry
from server.tokens import Tokens
from server.vybes import Vybes
from storage import Stores, person_events
from storage.chat import prune_keys
from storage.postgres.pool import database_epoch, open_pool
from storage.postgres.timing import StatementTimes
from storage.redis.broker import Broker
from storage.redis.limits import Limiter
from storage.redis.pool import open_redis
from storage.redis.publications import NODE_ID_BYTES, Kind
from storage.sealing import open_sealer
from storage.session import forget_sessions
from storage.subscriptions import forget_events

_LOGGER = logging.getLogger("looprooms.node")

_KEYS_KEPT_HOURS = 24
_PERSON_EVENTS_KEPT_DAYS = 30
_PAYMENT_EVENTS_KEPT_DAYS = 90
_HOUSEKEEPING_SECONDS = 600.0
_AGAIN_SECONDS = 1.0


class Node:
    """What a handler can reach. Made by `Node.open`."""

    settings: Settings
    stores: Stores
    hub: Hub
    tokens: Tokens
    providers: Providers
    dispatcher: Dispatcher
    subscriptions: Subscriptions
    presence: PresenceTracker
    faces: Faces
    quotas: Quotas
    person_events: PersonEvents
    door: Door
    sessions: LiveSessions
    admission: Admission
    announcements: Announcements
    catalogue: Catalogue
    room_watch: RoomWatch
    previews: Previews
    cards: Cards | None
    payouts: PayoutCounts
    expiry: Expiry
    engagement: EngagementCounter
    chat: ChatWriter
    reactions: ReactionWriter
    vybes: Vybes
    comments: Comments
    feed: Feed
    jobs: Jobs
    mailer: Mailer
    postage: Postage
    objects: Objects
    uploads: Uploads
    push: Fcm | None
    acknowledged: Acknowledged

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.id = os.urandom(NODE_ID_BYTES)
        self.addresses = Addresses(settings.trusted_proxies)
        self.slugs: dict[str, RoomId] = {}
        """The ids of rooms that were entered by their slug."""
        self.lags = Lags()
        self.garbage = Garbage()
        self.statement_times = StatementTimes()
        self.pushes = PushCounts()
        self.replayed = 0
        """Events that were replayed to clients who came back."""
        self.snapshots = 0
        """Positions that could not be taken up by a replay."""
        self.webhooks: Counter[tuple[str, str]] = Counter()
        """What the payment provider has sent, by the kind of object and by what became of it."""
        self._background: list[asyncio.Task[Any]] = []

    @classmethod
    async def open(cls, settings: Settings) -> Node:
        """Open the stores and start everything but the port. Raises `Refused` (unavailable) when Postgres is not there."""
        node = cls(settings)
        loop = asyncio.get_running_loop()
        pool = await open_pool(
            settings.database_url, size=settings.postgres_pool_size, times=node.statement_times
        )
        node.hub = Hub(_limits(settings), loop)
        broker = Broker(
            settings.redis_url,
            node.id,
            on_publication=node._received,
            on_restored=node._restored,
        )
        sealer = await open_sealer(pool, settings.sealing_keys)
        node.stores = Stores(pool, open_redis(settings.redis_url), broker, await database_epoch(pool), sealer)
        node.quotas = Quotas(Limiter(node.stores.redis), settings.limits_factor)
        node.door = Door(node.addresses, node.quotas)
        node.tokens = Tokens(settings)
        key_file = KeyFile(Path(settings.signing_keys_file), node.tokens.take)
        if settings.signing_keys_file:
            await key_file.look()
            node._background.append(loop.create_task(for_life(key_file.run)))
        node.providers = Providers(settings, loop.time)
        node.presence = PresenceTracker(node.id, node.stores, settings, emit=node._pulse)
        node.comments = Comments(node)
        node.vybes = Vybes(node)
        node.feed = Feed(node)
        node.subscriptions = Subscriptions(
            node.hub,
            broker,
            Histories(ChatHistory(pool), node.comments),
            window=settings.replay_window,
            opened=node.presence.open,
            closed=node._closed,
            changed=node.presence.receive,
            idle=node.presence.idle,
        )
        node.admission = Admission(settings.new_sessions_per_second, settings.resumes_per_second)
        node.previews = Previews(node.hub, pool, f"{settings.home}/pay")
        node.faces = Faces(sealer, node.presence, loop, shuffle=settings.switch_seconds)
        node.sessions = LiveSessions(pool, broker, changed=node._reconsider)
        node.announcements = Announcements(node)
        node.person_events = PersonEvents(
            node.hub,
            broker,
            pool,
            window=settings.replay_window,
            changed=lambda user: node.announcements.look(Changed(users=[user])),
        )
        node.catalogue = Catalogue(pool, sealer, loop)
        node.room_watch = RoomWatch(node)
        node.cards = open_cards(settings)
        node.payouts = PayoutCounts(node)
        node.push = open_push(settings, loop.time)
        node.acknowledged = Acknowledged(pool)
        node.expiry = Expiry(node)
        node.engagement = EngagementCounter(node)
        node.chat = ChatWriter(pool, node.subscriptions)
        node.reactions = ReactionWriter(node)
        node.dispatcher = Dispatcher(node, lambda connection, hello: greet(node, connection, hello))
        node.hub.receive = node.dispatcher.receive
        node.hub.admits = node.door.admits_behind
        node.hub.left = node._left
        node.hub.refresh = node._refresh
        node.objects = open_objects(settings.media_folder, settings.data_dir)
        node.uploads = Uploads(node, node.objects)
        await broker.start()
        await broker.subscribe(CHANNEL)
        node.hub.wheel.start(loop)
        for work in (
            node.subscriptions.run,
            node.person_events.run,
            node.previews.run,
            node.expiry.run,
            PassExpiry(node).run,
            node.engagement.run,
            node.presence.run,
            node.vybes.run,
            node.feed.run,
            partial(node.sessions.run, node.hub.members),
            node.objects.run,
            node.room_watch.run,
            node.payouts.run,
            node._keep_house,
            partial(seal_in_background, pool, sealer),
        ):
            node._background.append(loop.create_task(for_life(work)))
        node.mailer = open_mailer(settings)
        node.postage = Postage(node.quotas, settings.letters_per_hour)
        node.jobs = Jobs(node)
        node.jobs.start()
        return node

    async def aclose(self) -> None:
        """Finish what was begun and close the stores."""
        await self.dispatcher.settle()
        await self.jobs.aclose()
        await self.chat.gather.drain()
        await self.reactions.gather.drain()
        await self.vybes.gather.drain()
        await self.comments.gather.drain()
        await self.previews.gather.drain()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.subscriptions.aclose()
        await self.person_events.aclose()
        await self.presence.aclose()
        self.hub.wheel.stop()
        self.objects.aclose()
        await self.acknowledged.aclose()
        if self.cards is not None:
            await self.cards.aclose()
        if self.push is not None:
            await self.push.aclose()
        await self.quotas.limiter.aclose()
        await self.providers.aclose()
        await self.stores.broker.aclose()
        await self.stores.redis.aclose()
        await self.stores.pool.close()

    def session_ended(self, session: SessionId) -> None:
        """Tell every node that a session was ended; its connections are closed within moments."""
        self.announcements.announce(Changed(sessions=[session]))

    def person_left(self, user: UserId, rooms: list[RoomId]) -> None:
        """Tell every node that a person has left for good, and with them the rooms of which they were the host."""
        self.announcements.announce(Changed(gone=[user], rooms=rooms))

    def _reconsider(self, connection: Connection) -> None:
        self.previews.reconsider(connection)
        self.faces.reconsider(connection)
        session = connection.session
        assert session is not None
        unveiled = [
            room.id
            for room in list(connection.rooms.values())
            if room.id != FEED
            and self.hub.veil(connection, room, session.veil(room.id))
            and room.id in session.faces
        ]
        if unveiled:  # among them may be one whose host is not there any more for this person
            self.announcements.look(Changed(rooms=unveiled))
        self.vybes.reconsider(connection)
        self.feed.reconsider(connection)

    async def apart(self, users: Sequence[UserId]) -> None:
        """Have the sessions of people read again who see more or less of each other: here before it returns, elsewhere soon."""
        await self.announcements.see_to(Changed(users=list(users)))

    def room_changed(self, room: RoomId) -> None:
        """Tell every node that a room is to be looked at again: who may stay in it does."""
        self.announcements.announce(Changed(rooms=[room]))

    def room_aired(self, room: RoomId) -> None:
        """Tell every node that a room has gone live, or has ended: everyone in it sees that."""
        self.announcements.announce(Changed(aired=[room]))

    def _received(self, channel: str, publication: bytes) -> None:
        if channel == CHANNEL:
            self.announcements.received(publication)
        elif channel == FEED_CHANNEL:
            self.feed.received(publication)
        elif is_channel(channel):
            self.person_events.received(channel, publication)
        else:
            self.subscriptions.received(channel, publication)

    def _closed(self, room: RoomId) -> None:
        self.presence.close(room)
        self.comments.forget(room)

    def _left(self, connection: Connection, room: Room, *, at_once: bool) -> None:
        self.previews.leave(connection, room.id)
        self.faces.leave(connection, room.id, at_once=at_once)

    def _pulse(self, room: RoomId, pulse: RoomPulse) -> None:
        active = self.hub.members.rooms.get(room)
        if active is not None and active.connections:
            self.hub.tell(active, pulse, Kind.PULSE)

    def _refresh(self, connection: Connection, room: RoomId) -> None:
        if room == FEED:
            self.feed.refresh(connection)
        elif (active := connection.rooms.get(room)) is not None:
            connection.send(RoomPulse(room=room, state=seen_state(self, connection, active)))

    def _restored(self) -> None:
        self.subscriptions.restored()
        self.person_events.restored()
        self.presence.restored()
        self.feed.restored()

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            try:
                await prune_keys(self.stores.pool, _KEYS_KEPT_HOURS)
                await forget_sessions(self.stores.pool, self.settings.refresh_token_days * 86400)
                await person_events.forget(self.stores.pool, _PERSON_EVENTS_KEPT_DAYS * 86400)
                await forget_events(self.stores.pool, _PAYMENT_EVENTS_KEPT_DAYS * 86400)
            except Exception:
                _LOGGER.exception("old idempotency keys, sessions and events could not be forgotten")


async def for_life(run: Callable[[], Awaitable[object]]) -> None:
    """Run what goes on beside everything else until it is done: a bug ends one turn of it, and it begins again."""
    while True:
        try:
            await run()
        except Exception:
            _LOGGER.exception("what runs in the background failed, and begins again")
            await asyncio.sleep(_AGAIN_SECONDS)
        else:
            return


class _Server(uvicorn.Server):
    """Uvicorn, without its signal handlers (the process has its own) and with a way to stop listening first."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._leaving = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        """Write the date of answers anew each second, as uvicorn does, without sleeping on when it is to end."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._leaving.wait()

    def leave(self) -> None:
        """End."""
        self.should_exit = True
        self._leaving.set()

    def stop_listening(self) -> None:
        """Take no new connections."""
        for server in self.servers:
            server.close()


async def serve_node(
    settings: Settings,
    *,
    sockets: list[socket.socket],
    stop: asyncio.Event,
    ready: Callable[[], None] | None = None,
    alone: bool = False,
) -> None:
    """Run a node on `sockets` until `stop` is set, then drain it.

    `ready` is called when the node takes connections. `alone` says that the process is the node's, and that its garbage
    collector may be set for it. Raises `Refused` (unavailable) when Postgres is not there.
    """
    node = await Node.open(settings)
    server = _Server(
        uvicorn.Config(
            create_app(node),
            http=cast("Any", partial(HttpConnection, door=node.door)),
            ws=cast("Any", node.hub.connect),  # uvicorn calls it like a class
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=4096,
            timeout_graceful_shutdown=3,
        )
    )
    collecting: asyncio.Task[None] | None = None
    serving = asyncio.create_task(server.serve(sockets=sockets))
    stopping = asyncio.create_task(stop.wait())
    try:
        while not server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        if alone:
            node.garbage.start()
            collecting = asyncio.create_task(node.garbage.run())
        if ready is not None and server.started:
            ready()
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        server.stop_listening()
        await drain(node.hub, most=settings.drain_seconds)
        server.leave()
        await serving
    finally:
        stopping.cancel()
        if collecting is not None:
            collecting.cancel()
        await node.aclose()


def _limits(settings: Settings) -> Limits:
    origins: list[Origin | re.Pattern[str] | None] = [Origin(origin) for origin in settings.allowed_origins]
    return Limits(
        heartbeat=settings.heartbeat_seconds,
        heartbeat_timeout=settings.heartbeat_timeout_seconds,
        hello_timeout=settings.hello_timeout_seconds,
        slow_close=settings.slow_close_seconds,
        message_bytes=settings.max_message_bytes,
        outbox_bytes=settings.outbox_limit_bytes,
        commands_rate=settings.commands_per_second,
        commands_burst=settings.commands_burst,
        person_connections=settings.max_connections_per_person,
        rooms=settings.max_rooms_per_connection,
        connections=settings.max_connections,
        origins=[*origins, None],  # a client that is not a browser sends no Origin
        hosts=frozenset(host.lower() for host in settings.allowed_hosts),
    )
