"""The feed: pages of what somebody may see, and word of what is new to all who have it open.

While busy, gather: what comes between two pulses is told together, as the same bytes for everyone, and a pulse costs the same
however much happened. Up to `TOLD_WHOLE` vybes are told as they are; of more there is only a count, and whoever wants to see
them lists again. Pulses go at most every `feed_pulse_seconds`, and the more feeds are open the rarer, so that all of them
together cost a node `WRITES_A_SECOND`: with 10,000 open feeds, however much is posted, each has two frames a second.

What is live is a hint, and its class is *latest*: nothing is replayed. Each change has an offset, given by Postgres in the commit,
so a node that has missed one (Redis may lose anything) sees a hole, and one at the tail by looking every `CHECK_SECONDS`; then
a count is told where the vybe would have been. A client that was away says how far it had come, and is told how many
changes it has missed. One that reads too slowly is told to list again.

Whoever does not see everyone, because of a block or a mute, is written to apart, each with what they see. Counts are everyone's.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from protocol.codec import JSON, MSGPACK
from protocol.envelope import Epoch, Event, Offset, Person, RoomId, VybeId
from protocol.feed import (
    CloseFeed,
    FeedClosed,
    FeedListed,
    FeedOpened,
    FeedPulse,
    FeedRemoval,
    FeedVybe,
    ListFeed,
    OpenFeed,
    VybeTotals,
)
from protocol.reactions import Reaction
from protocol.refusals import ErrorCode, Refused
from protocol.vybes import Vybe
from server.hub.connection import Connection
from server.hub.dispatch import Call, handles
from server.hub.identity import Session
from server.hub.members import Room
from server.hub.replay import Replay
from storage import feed
from storage.reactions import Total
from storage.redis.limits import Limit
from storage.redis.publications import Kind, Packet, unpack

if TYPE_CHECKING:
    from server.node import Node

_LOGGER = logging.getLogger("looprooms.feed")

PAGES: Final = Limit("feed_pages", burst=100, rate=5)
"""Pages of the feed that a person may read."""
FEED: Final = RoomId(UUID("feed0000-0000-4000-8000-000000000000"))
"""The feed among the rooms of a connection."""
CHANNEL: Final = "lr:{feed}:changes"
TOLD_WHOLE: Final = 5
"""Changes in one pulse that are told as they are: what fits on a screen. Twenty pulses of them a second are 60 KB."""
WRITES_A_SECOND: Final = 20_000
"""Of all open feeds of a node: a fifth of a core."""
SHOWN: Final = 100
"""The newest vybes, whose totals are told: further down hardly anybody looks."""
PATIENCE: Final = 0.1
"""Seconds that a hole may fill itself: another node's publication takes some milliseconds more than ours."""
CHECK_SECONDS: Final = 3.0

_Told = FeedVybe | FeedRemoval | FeedPulse

_changes = msgspec.json.Decoder(FeedVybe | FeedRemoval)


class _Counted(Struct, tag=True):
    """Totals of a vybe, for nodes: each with the revision as of which it is. Of two the higher revision counts."""

    vybe: VybeId
    reactions: dict[Reaction, tuple[int, int]] = {}
    comments: tuple[int, int] | None = None


_counted = msgspec.json.Decoder(_Counted)


class _Shown:
    """What is known of a vybe that clients show: whose it is, as others see it, and the revisions of its totals."""

    __slots__ = ("author", "comments", "reactions")

    def __init__(self, author: Person) -> None:
        self.author = author
        self.comments = 0
        self.reactions: dict[Reaction, int] = {}


class Feed:
    """The open feeds of one node. Nothing is heard while there is none."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._hub = node.hub
        self._pool = node.stores.pool
        self._broker = node.stores.broker
        self._interval = node.settings.feed_pulse_seconds
        self._all = Room(FEED, Replay(0, renew=_nothing))
        """Those who see everyone: they share the same bytes."""
        self._apart = Room(FEED, Replay(0, renew=_nothing))
        """Those who don't."""
        self._live = False
        self._unused = False
        """Whether nobody had it open when it was looked at last."""
        self._opening: asyncio.Task[None] | None = None
        self._last = 0
        """The newest change that is known."""
        self._told = 0
        """Up to where everyone was told."""
        self._news: dict[int, tuple[Packet, FeedVybe | FeedRemoval]] = {}
        self._hole_since: float | None = None
        self._totals: dict[VybeId, VybeTotals] = {}
        self._shown: OrderedDict[VybeId, _Shown] = OrderedDict()
        self._pulsed_at = float("-inf")
        self._armed: asyncio.TimerHandle | None = None
        self._looking: set[asyncio.Task[None]] = set()
        self.pulses = 0
        """Times that open feeds were told something."""
        self.told_whole = 0
        """Changes that were told as they are."""

    def __len__(self) -> int:
        """Count the connections that have the feed open."""
        return len(self._all.connections) + len(self._apart.connections)

    # Who has it open.

    async def begin(self) -> None:
        """Hear of changes: subscribe, then read where the feed stands. All who wait share one beginning. Raises `Refused`."""
        self._unused = False
        if self._live:
            return
        if self._opening is None:
            self._opening = self._hub.loop.create_task(self._begin())
            self._opening.add_done_callback(self._begun_or_not)
        await asyncio.shield(self._opening)

    async def _begin(self) -> None:
        await self._broker.subscribe(CHANNEL)
        for vybe, author in await feed.newest(self._pool, SHOWN):
            self._show(vybe, Person(id=author, name=""))
        self._last = self._told = max(self._last, await feed.position(self._pool))
        self._news.clear()
        self._live = True
        self._unused = False

    def _begun_or_not(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # those who wait have it

    def enter(self, connection: Connection) -> Offset:
        """Let a connection hear of every change after the offset that is returned."""
        self._hub.enter(connection, self._room_of(connection))
        return self._told

    def _room_of(self, connection: Connection) -> Room:
        session = connection.session
        assert session is not None
        return self._apart if session.hidden or session.muted else self._all

    def reconsider(self, connection: Connection) -> None:
        """Let a connection see what its person sees now; what it has listed may be wrong."""
        room = connection.rooms.get(FEED)
        if room is None:
            return
        if room is not (now := self._room_of(connection)):
            self._hub.leave(connection, room, at_once=True)
            self._hub.enter(connection, now)
        self.refresh(connection)

    def refresh(self, connection: Connection) -> None:
        """Have a client list again."""
        connection.send(FeedPulse(offset=self._told, again=True))

    # What has happened.

    def tell(self, events: Iterable[FeedVybe | FeedRemoval]) -> None:
        """Tell all open feeds, here and on other nodes, of committed changes."""
        for event in events:
            packet, _ = _encoded(event)
            self._broker.publish(CHANNEL, packet)
            self._take(packet)

    def reacted(self, vybe: VybeId, totals: Mapping[Reaction, Total]) -> None:
        """Tell of committed reactions to a vybe."""
        reactions = {kind: (total.total, total.revision) for kind, total in totals.items()}
        self._tell_counted(_Counted(vybe, reactions=reactions))

    def commented(self, vybe: VybeId, comments: int, revision: int) -> None:
        """Tell of committed comments about a vybe, or of their removal."""
        self._tell_counted(_Counted(vybe, comments=(comments, revision)))

    def _tell_counted(self, counted: _Counted) -> None:
        self._broker.publish(CHANNEL, Packet(Kind.CHANGE, 0, msgspec.json.encode(counted), b""))
        self._count(counted)

    def received(self, publication: bytes) -> None:
        """Take a publication of another node."""
        try:
            for packet in unpack(publication):
                self._take(packet)
        except (ValueError, msgspec.MsgspecError):
            _LOGGER.warning("a publication of the feed cannot be read")

    def _take(self, packet: Packet) -> None:
        if packet.kind is Kind.CHANGE:
            self._count(_counted.decode(packet.json))
        elif self._live and packet.offset > self._told:
            event = _changes.decode(packet.json)  # once for all who have it open
            self._supersede(event)
            self._news[packet.offset] = packet, event
            self._last = max(self._last, packet.offset)
            if isinstance(event, FeedVybe):
                self._show(event.vybe.id, event.vybe.author)
            else:
                self._shown.pop(event.vybe, None)
                self._totals.pop(event.vybe, None)
            self._stir()

    def _supersede(self, event: FeedVybe | FeedRemoval) -> None:
        """Let what waits to be told of a vybe be what it has become: what was taken back is not told any more."""
        if isinstance(event, FeedVybe) and event.vybe.edited_at is None:
            return  # it is new
        for offset, (_, before) in self._news.items():
            if isinstance(before, FeedVybe) and (now := _become(before, event)) is not None:
                self._news[offset] = _encoded(now)

    def _count(self, counted: _Counted) -> None:
        shown = self._shown.get(counted.vybe)
        if shown is None or not self._live:
            return
        waiting = self._totals.setdefault(counted.vybe, VybeTotals(vybe=counted.vybe))
        for kind, (total, revision) in counted.reactions.items():
            if revision > shown.reactions.get(kind, -1):
                shown.reactions[kind] = revision
                waiting.reactions = {**waiting.reactions, kind: total}
        if counted.comments is not None and counted.comments[1] > shown.comments:
            waiting.comments, shown.comments = counted.comments
        self._stir()

    def _show(self, vybe: VybeId, author: Person) -> None:
        self._shown.setdefault(vybe, _Shown(author))
        while len(self._shown) > SHOWN:
            self._shown.popitem(last=False)

    # Telling.

    def _stir(self) -> None:
        """Have the feed pulse as soon as it may."""
        if self._live and self._armed is None:
            now = self._hub.clock()
            at = max(now, self._pulsed_at + max(self._interval, len(self) / WRITES_A_SECOND))
            self._armed = self._hub.loop.call_later(at - now, self._beat)

    def _beat(self) -> None:
        self._armed = None
        now = self._hub.clock()
        if self._waits_for_a_hole(now):
            self._armed = self._hub.loop.call_later(PATIENCE, self._beat)
            return
        self._hole_since = None
        new = self._last - self._told
        whole = len(self._news) == new <= TOLD_WHOLE
        told = [self._news[offset] for offset in sorted(self._news)]
        totals = [one for one in self._totals.values() if one.reactions or one.comments is not None]
        self._news.clear()
        self._totals.clear()
        self._told = self._last
        news: list[tuple[Packet, _Told]] = [*told] if whole else []
        if not whole or totals:
            pulse = FeedPulse(offset=self._told, new=0 if whole else new, totals=totals)
            news.append((_packet(pulse), pulse))
        if not whole:  # what is gone is counted, and told all the same: it may be on somebody's screen
            news += [(packet, event) for packet, event in told if isinstance(event, FeedRemoval)]
        if news:
            self._pulsed_at = now
            self.pulses += 1
            self.told_whole += new if whole else 0
            self._tell_all(news)

    def _tell_all(self, news: Sequence[tuple[Packet, _Told]]) -> None:
        self._hub.fanout.add(self._all, [packet for packet, _ in news])
        for connection in list(self._apart.connections):
            if connection.session is not None:
                seen = [
                    one for packet, event in news if (one := self._seen(connection.session, packet, event))
                ]
                connection.hold(self._apart, seen)

    def _seen(self, session: Session, packet: Packet, event: _Told) -> Packet | None:
        """Return what is left of an event for somebody who does not see everyone."""
        if isinstance(event, FeedVybe):
            return packet if _sees(session, event.vybe) else None
        if isinstance(event, FeedPulse):
            left = [one for one in event.totals if self._sees_shown(session, one.vybe)]
            return _packet(replace(event, totals=left)) if left or event.new else None
        return packet

    def _waits_for_a_hole(self, now: float) -> bool:
        """Say whether a change is missing that may still come by itself."""
        if self._last - self._told > TOLD_WHOLE or len(self._news) == self._last - self._told:
            return False
        if self._hole_since is None:
            self._hole_since = now
        return now - self._hole_since < PATIENCE

    def _sees_shown(self, session: Session, vybe: VybeId) -> bool:
        shown = self._shown.get(vybe)
        return shown is None or _hears(session, shown.author, vybe)

    # Keeping it right.

    def left(self) -> None:
        """Note that somebody has left for good: those who show what was theirs are told that it is gone."""
        task = self._hub.loop.create_task(self._look_for_removed())
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _look_for_removed(self) -> None:
        shown = list(self._shown)
        if not self._live or not shown:
            return
        try:
            there = await feed.there(self._pool, shown)
        except Refused:
            _LOGGER.warning("what is left of the feed could not be read: Postgres is out of reach")
            return
        gone = [vybe for vybe in shown if vybe not in there]
        for vybe in gone:
            self._shown.pop(vybe, None)
        removals = [FeedRemoval(offset=self._told, vybe=vybe) for vybe in gone]
        self._tell_all([(_packet(removal), removal) for removal in removals])

    async def check(self) -> None:
        """Find changes that no publication has brought. Raises `Refused` (unavailable)."""
        last = await feed.position(self._pool)
        if self._live and last > self._last:
            self._last = last
            self._stir()

    def restored(self) -> None:
        """Look for losses now: the broker was away."""
        if self._live:
            task = self._hub.loop.create_task(self._check_quietly())
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def run(self) -> None:
        """Check while somebody has the feed open, and hear no more when nobody has, for ever."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if not self._live:
                continue
            if len(self):
                self._unused = False
                await self._check_quietly()
            elif self._unused:
                self._end()
            else:  # somebody may be about to have it open
                self._unused = True

    async def _check_quietly(self) -> None:
        try:
            await self.check()
        except Refused:
            _LOGGER.warning("the feed's position could not be compared: Postgres is out of reach")

    def _end(self) -> None:
        self._live = False
        self._broker.unsubscribe(CHANNEL)
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None
        self._news.clear()
        self._totals.clear()
        self._shown.clear()


def missed(command: OpenFeed, epoch: Epoch, told: Offset) -> int | None:
    """Return how many changes there were since the position of a client; None where nobody can say."""
    if command.epoch != epoch or command.offset is None:
        return None
    return max(0, told - command.offset)


def _sees(session: Session, vybe: Vybe) -> bool:
    shared = vybe.shared
    return _hears(session, vybe.author, vybe.id) and (
        shared is None or _hears(session, shared.author, shared.id)
    )


def _hears(session: Session, author: Person, vybe: VybeId) -> bool:
    """Say whether somebody hears of what is posted as `author`; by a mute nobody learns who is behind a pseudonym."""
    return author.id not in session.muted and not session.hides(author, RoomId(vybe))


def _become(before: FeedVybe, event: FeedVybe | FeedRemoval) -> FeedVybe | FeedRemoval | None:
    """Return what is told in place of a vybe, or of one that passes it on, after another change of it; None: it is as it was."""
    vybe, shared, offset = before.vybe, before.vybe.shared, before.offset
    if isinstance(event, FeedRemoval):
        gone = event.vybe in (vybe.id, shared and shared.id)
        return FeedRemoval(offset=offset, vybe=vybe.id) if gone else None
    if event.vybe.id == vybe.id:
        return replace(event, offset=offset)
    if shared is not None and event.vybe.id == shared.id:
        newer = replace(shared, text=event.vybe.text, edited_at=event.vybe.edited_at)
        return FeedVybe(offset=offset, vybe=replace(vybe, shared=newer))
    return None


def _encoded(event: FeedVybe | FeedRemoval) -> tuple[Packet, FeedVybe | FeedRemoval]:
    """Encode a change once, for all."""
    return Packet(Kind.PULSE, event.offset, JSON.encode(event), MSGPACK.encode(event)), event


def _packet(event: Event) -> Packet:
    return Packet(Kind.PULSE, 0, JSON.encode(event), MSGPACK.encode(event))


def _nothing(old: Packet, _change: Packet) -> Packet:
    """The feed has no replay, so nothing in it is renewed."""
    return old


@handles(ListFeed, limit=PAGES)
async def list_feed(call: Call, command: ListFeed) -> FeedListed:
    """Page through one's feed."""
    found = await feed.page(call.node.stores.pool, call.session.user_id, command.before, command.limit + 1)
    page = found[: command.limit]
    return FeedListed(id=command.id, vybes=page, next=page[-1].id if len(found) > command.limit else None)


@handles(OpenFeed, alone=True, limit=PAGES)
async def open_feed(call: Call, command: OpenFeed) -> FeedOpened:
    """Hear of what is new from now on."""
    node, connection = call.node, call.connection
    if FEED not in connection.rooms and len(connection.rooms) >= node.hub.limits.rooms:
        raise Refused(ErrorCode.TOO_MANY_ROOMS)
    await node.feed.begin()
    if not connection.open:
        raise Refused(ErrorCode.NOT_FOUND)  # nobody hears it
    offset = node.feed.enter(connection)
    epoch = node.stores.epoch
    return FeedOpened(id=command.id, epoch=epoch, offset=offset, missed=missed(command, epoch, offset))


@handles(CloseFeed, alone=True)
def close_feed(call: Call, command: CloseFeed) -> FeedClosed:
    """Hear no longer of what is new. Where the feed is not open it is closed already."""
    room = call.connection.rooms.get(FEED)
    if room is not None:
        call.node.hub.leave(call.connection, room, at_once=True)
    return FeedClosed(id=command.id)
