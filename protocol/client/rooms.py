"""The rooms that this client is in, and its own person: which events it hands out, and what a return brings.

A plain object between the websockets and the inbox: messages in, occurrences out, and three wishes, made through the
functions it is given: `resume` (an offset was skipped: come again with our positions), `join` and `leave` (the server and
this client do not agree about a room).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final
from uuid import UUID

from protocol.client.inbox import Inbox
from protocol.client.positions import OwnPosition, Positions, Verdict
from protocol.client.states import CaughtUp, Occurrence, PersonSnapshot, Snapshot
from protocol.contract import EVENTS, AnyEvent
from protocol.envelope import Epoch, Error, Offset, PersonEvent, RoomId
from protocol.presence import RoomPulse, RoomState
from protocol.rooms import Departure, RoomJoined, RoomLeft
from protocol.session import PersonPosition, PersonState, Position, Resumed
from protocol.subscriptions import Subscription, Tier

log = logging.getLogger("looprooms.client")

DURABLE: Final = frozenset(event for event in EVENTS if {"room", "offset"} <= set(event.__struct_fields__))
"""Events with a place in a room's history."""

_OF_A_ROOM: Final = frozenset(event for event in EVENTS if "room" in event.__struct_fields__)


class Rooms:
    """All rooms of one client. `positions` is where it stands in each, `own` where in the events of its person."""

    def __init__(
        self,
        inbox: Inbox[Occurrence],
        *,
        resume: Callable[[], None],
        join: Callable[[RoomId], None],
        leave: Callable[[RoomId], None],
    ) -> None:
        self.positions = Positions()
        self.own = OwnPosition()
        self._inbox = inbox
        self._resume = resume
        self._join = join
        self._leave = leave
        self._gaps: dict[RoomId, bool] = {}  # room -> whether a resume has been tried since the gap was seen
        self._joining: set[RoomId] = set()
        self._catching: dict[RoomId, Offset] = {}
        self._asked_own: PersonPosition | None = None
        self._catching_own: Offset = 0
        self._own_gap = False
        self._missed = 0
        self._away = False

    # While connected

    def take(self, event: AnyEvent) -> None:
        """Hand out an event, unless it is none of ours or was handed out before."""
        kind = type(event)
        if isinstance(event, PersonEvent):
            if self._advance_own(event.person_offset):
                self._inbox.put(event)
                self._tell()
            return
        if kind in DURABLE:
            # DURABLE has only classes with both fields, which a type checker can't know.
            if self._advance(event.room, event.offset):  # type: ignore[union-attr]
                self._inbox.put(event)
                self._tell()
            return
        if kind in _OF_A_ROOM:
            if event.room not in self.positions:  # type: ignore[union-attr]  # the same
                return
            if isinstance(event, Departure):
                self._forget(event.room)
        self._inbox.put(event)
        self._tell()

    def pass_over(self, room: RoomId, offset: Offset) -> None:
        """Keep in step with a durable event that only a newer client could read."""
        self._advance(room, offset)
        self._tell()

    def pass_over_own(self, offset: Offset) -> None:
        """Keep in step with an event of the person that only a newer client could read."""
        self._advance_own(offset)
        self._tell()

    def joined(self, answer: RoomJoined) -> None:
        """Start to follow a room."""
        self.positions.enter(answer.room.id, answer.epoch, answer.offset)

    def left(self, answer: RoomLeft) -> None:
        """Stop following a room."""
        self._forget(answer.room)
        self._tell()

    def _advance(self, room: RoomId, offset: Offset) -> bool:
        verdict = self.positions.take(room, offset)
        if verdict is Verdict.NEXT:
            if self._gaps:
                self._gaps.pop(room, None)
            if self._catching and room in self._catching:
                self._missed += 1
                if offset >= self._catching[room]:
                    del self._catching[room]
            return True
        if verdict is Verdict.EARLY:
            self._skipped(room)
        return False

    def _advance_own(self, offset: Offset) -> bool:
        verdict = self.own.take(offset)
        if verdict is Verdict.NEXT:
            if offset <= self._catching_own:
                self._missed += 1
            return True
        if verdict is Verdict.EARLY and not self._own_gap:
            log.info("an event of the person after %d is missing", self.own.offset)
            self._own_gap = True
            self._resume()
        return False

    def _skipped(self, room: RoomId) -> None:
        tried = self._gaps.get(room)
        if tried is None:
            log.info("an event after %d is missing in %s", self.positions.offset(room), room)
            self._gaps[room] = False
            self._resume()
        elif tried:
            self._join_again(room)  # the replay did not bring it, so only a snapshot will do

    def _forget(self, room: RoomId) -> None:
        self.positions.leave(room)
        self._gaps.pop(room, None)
        self._catching.pop(room, None)

    # Coming back

    def lost(self) -> None:
        """The connection is gone; a `CaughtUp` will follow the next replay."""
        if not self._away:
            self._away = True
            self._missed = 0

    def resumed(self, asked: Iterable[Position], results: Iterable[Resumed]) -> None:
        """Take over a new websocket that was asked for the positions `asked` and answered with `results`."""
        self._joining.clear()
        self._catching.clear()
        for room in self._gaps:
            self._gaps[room] = True
        said = {RoomId(UUID(position.room)): position for position in asked}
        answered = {result.id or RoomId(UUID(result.room)): result for result in results}
        for room, result in answered.items():
            self._take_up(room, result, said.get(room))
        for room in self.positions:
            if room not in answered:
                self._join_again(room)  # joined on the old websocket meanwhile, or one too many for a hello
        self._tell()

    def asking(self) -> PersonPosition | None:
        """Return the position in the person's events, for the hello of the next websocket."""
        self._asked_own = self.own.resume()
        return self._asked_own

    def stands(self, epoch: Epoch, state: PersonState | None) -> None:
        """Take over where the person's events stand on a new websocket; called before `resumed`."""
        self._own_gap = False
        self._catching_own = 0
        if state is None:
            return
        if state.recovered:
            self._catching_own = state.offset
        elif self._asked_own is None:
            self.own.reset(epoch, state.offset)
        elif self._asked_own.offset > state.offset or not self.own.reaches(epoch, state.offset):
            self.own.reset(epoch, state.offset)
            known = state.subscription or Subscription(tier=Tier.FREE)
            self._inbox.put(PersonSnapshot(epoch=epoch, offset=state.offset, subscription=known))

    def _take_up(self, room: RoomId, result: Resumed, said: Position | None) -> None:
        if result.error is not None:
            self._depart(room, result.error, result.message or "")
        elif room not in self.positions:
            self._leave(room)  # it was left on the old websocket while the new one was being opened
        elif result.recovered:
            if result.offset > self.positions.offset(room):
                self._catching[room] = result.offset
            if result.state is not None:
                self._inbox.put(RoomPulse(room, state=result.state))
        elif result.epoch is not None:
            ahead = said is not None and said.offset > result.offset
            if ahead or not self.positions.reaches(room, result.epoch, result.offset):
                self._start_over(
                    Snapshot(
                        room=room,
                        epoch=result.epoch,
                        offset=result.offset,
                        recent=result.recent,
                        state=result.state,
                    )
                )

    def _join_again(self, room: RoomId) -> None:
        if room not in self._joining:
            self._joining.add(room)
            self._join(room)

    def rejoined(self, room: RoomId, answer: RoomJoined | Error) -> None:
        """Take the answer to a `join` of ours."""
        self._joining.discard(room)
        if isinstance(answer, Error):
            self._depart(room, answer.code, answer.message)
        elif room in self.positions and not self.positions.reaches(room, answer.epoch, answer.offset):
            self._start_over(
                Snapshot(
                    room=room,
                    epoch=answer.epoch,
                    offset=answer.offset,
                    recent=answer.recent,
                    state=RoomState(
                        online=answer.online,
                        members=answer.members,
                        complete=answer.complete,
                        reactions=answer.reactions,
                        confidence=answer.confidence,
                        typing=answer.typing,
                    ),
                )
            )
        self._tell()

    def _start_over(self, snapshot: Snapshot) -> None:
        self.positions.reset(snapshot.room, snapshot.epoch, snapshot.offset)
        self._gaps.pop(snapshot.room, None)
        self._catching.pop(snapshot.room, None)
        self._inbox.put(snapshot)

    def _depart(self, room: RoomId, code: str, message: str) -> None:
        if room in self.positions:
            self._forget(room)
            self._inbox.put(Departure(room, code, message))

    def _tell(self) -> None:
        if self._away and not self._catching and not self._joining and self.own.offset >= self._catching_own:
            self._away = False
            missed, self._missed = self._missed, 0
            self._inbox.put(CaughtUp(missed=missed))
