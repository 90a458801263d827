"""What a process of testers counts, against a server that errs on purpose."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from bench.crowd import Crowd, Outcome, Plan, Span
from bench.roomlog import Unexpected
from bench.tongue import Looprooms, Seat
from tests.bench.peer import Peer


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    yield peer
    await peer.stop()


@pytest.fixture(autouse=True)
def collecting() -> Iterator[None]:
    """A crowd that measures stops the garbage collector of its process, which is ours here."""
    yield
    gc.enable()
    gc.unfreeze()


async def _run(peer: Peer, *, cue: bool = False, subprotocol: str = "looprooms.v1+json") -> Outcome:
    plan = Plan(
        addresses=[("127.0.0.1", await peer.start())],
        tongue=Looprooms(subprotocol, cue=cue),
        listeners=[Seat("token", "a-room")] * 6,
        authors=[Seat("author", "a-room")] * 2,
        size=60,
        sample=1,
    )
    crowd = Crowd(plan)
    try:
        return await _steps(crowd)
    finally:
        crowd.close()


async def _steps(crowd: Crowd) -> Outcome:
    assert await crowd.connect() == {"a-room": 0}
    assert await crowd.arm() == 8
    now = time.monotonic_ns()
    said = await crowd.run(
        Span(rate=200, start=now, measure_from=now + 100_000_000, measure_until=now + 300_000_000)
    )
    assert (said["a-room"].sent, said["a-room"].acknowledged) == (60, 60)
    return await crowd.finish({"a-room": 60}, {"a-room": 0}, 0.3, 5.0)


@pytest.mark.parametrize("subprotocol", ["looprooms.v1+json", "looprooms.v1+msgpack"])
@pytest.mark.parametrize("cue", [False, True], ids=["chat", "cue"])
async def test_everything_that_came_is_counted(peer: Peer, cue: bool, subprotocol: str) -> None:
    """Each of eight members has all sixty events, pings and answers in between notwithstanding."""
    peer.pings = True
    outcome = await _run(peer, cue=cue, subprotocol=subprotocol)
    assert (outcome.received, outcome.missing, outcome.duplicates, outcome.disorder) == (480, 0, 0, 0)
    assert outcome.others == {}
    assert 0 < outcome.delivered <= 480
    assert outcome.bytes > 0


async def test_latencies_are_of_the_measured_span(peer: Peer) -> None:
    """Six sampled listeners time the forty events of the span, and each of them has one answer."""
    outcome = await _run(peer)
    assert sum(outcome.latencies.values()) == 6 * 40
    assert sum(outcome.answers.values()) == 40
    assert sum(outcome.late.values()) == 60


async def test_what_one_member_misses_is_counted(peer: Peer) -> None:
    """Three lines that one member is not sent are three missing ones, of one member."""
    peer.skip = {2: {10, 11, 30}, 5: {59}}
    outcome = await _run(peer)
    assert (outcome.received, outcome.missing, outcome.short, outcome.duplicates) == (476, 4, 2, 0)


async def test_what_all_miss_is_counted(peer: Peer) -> None:
    """A line that nobody is sent is a gap in the offsets, and missing everywhere."""
    peer.skip = {index: {10} for index in range(8)}
    outcome = await _run(peer)
    assert (outcome.missing, outcome.short, outcome.disorder) == (8, 8, 1)


async def test_what_comes_twice_is_counted(peer: Peer) -> None:
    """Two lines that a member is sent twice are two duplicates, and nothing is missing."""
    peer.repeat = {0: {10}, 7: {59}}
    outcome = await _run(peer)
    assert (outcome.received, outcome.missing, outcome.duplicates) == (480, 0, 2)


async def test_a_refused_handshake_is_told() -> None:
    """Nobody listens there: one sentence, no traceback of sockets."""
    plan = Plan(
        addresses=[("127.0.0.1", 1)],
        tongue=Looprooms("looprooms.v1+json"),
        listeners=[Seat("token", "a-room")],
        authors=[],
        size=60,
        sample=1,
    )
    with pytest.raises(Unexpected, match="cannot connect"):
        await Crowd(plan).connect()
