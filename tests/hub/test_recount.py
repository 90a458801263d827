"""Totals of reactions, read from a real Postgres: together, again when in doubt, and later when it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest

from protocol.envelope import RoomId
from protocol.reactions import Reaction
from protocol.refusals import ErrorCode, Refused
from server.hub import recount as module
from server.hub.recount import Recount
from storage import reactions
from storage.postgres.pool import Pool
from storage.reactions import Total, Totals
from tests.waiting import until

ADD = "insert into reaction_totals (target_id, kind, target_kind, total, revision) values ($1, $2, 'looproom', $3, $4)"


class Subject:
    """A recount, what it has counted, and how often it has asked."""

    def __init__(self, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counted: list[tuple[RoomId, Totals]] = []
        self.readings = 0
        self.away = False
        self.now = 0.0
        self._read: Callable[..., Awaitable[dict[UUID, Totals]]] = reactions.totals
        monkeypatch.setattr(reactions, "totals", self._totals)
        self.recount = Recount(pool, self._counted, clock=lambda: self.now)

    def _counted(self, room: RoomId, totals: Totals) -> None:
        self.counted.append((room, totals))

    async def _totals(self, pool: Pool, rooms: list[UUID]) -> dict[UUID, Totals]:
        self.readings += 1
        if self.away:
            raise Refused(ErrorCode.UNAVAILABLE)
        return await self._read(pool, rooms)


@pytest.fixture
def subject(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """Give a recount on a fresh database."""
    return Subject(pool, monkeypatch)


async def test_rooms_that_open_together(subject: Subject, pool: Pool) -> None:
    """Rooms that open at the same time are read in few statements, those without reactions too."""
    rooms = [RoomId(uuid4()) for _ in range(50)]
    await pool.execute(ADD, rooms[0], "HEART", 5, 2)
    await pool.execute(ADD, rooms[0], "CLAP", 0, 4)
    await asyncio.gather(*[subject.recount.load(room) for room in rooms])
    assert subject.readings <= 2
    counted = dict(subject.counted)
    assert counted.keys() == set(rooms)
    assert counted[rooms[0]] == {Reaction.HEART: Total(5, 2), Reaction.CLAP: Total(0, 4)}
    assert counted[rooms[1]] == {}


async def test_postgres_is_away(subject: Subject) -> None:
    """A room opens without totals when they cannot be read, and stays in doubt until they can."""
    room = RoomId(uuid4())
    subject.away = True
    await subject.recount.load(room)
    with pytest.raises(Refused):
        await subject.recount.round()
    assert subject.counted == []
    subject.away = False
    await subject.recount.round()
    await subject.recount.round()
    assert subject.counted == [(room, {})]
    assert subject.readings == 3


async def test_room_that_was_closed(subject: Subject) -> None:
    """A room that was closed is not read."""
    room = RoomId(uuid4())
    subject.recount.soon([room])
    subject.recount.forget(room)
    await subject.recount.round()
    assert subject.readings == 0


async def test_runs_by_itself(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads what is in doubt at once, all rooms now and then, and goes on after a failure."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(module, "ALL_SECONDS", 0.02)
    one, other = RoomId(uuid4()), RoomId(uuid4())
    subject.away = True
    running = asyncio.create_task(subject.recount.run([other]))
    try:
        subject.recount.soon([one])
        await until(lambda: subject.readings > 1)
        subject.away = False
        await until(lambda: (one, {}) in subject.counted)
        subject.now += 1
        await until(lambda: (other, {}) in subject.counted)
        subject.counted = None  # type: ignore[assignment] # a failure inside
        subject.recount.soon([one])
        await asyncio.sleep(0.05)
        subject.counted = []
        subject.recount.soon([one])
        await until(lambda: subject.counted)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
