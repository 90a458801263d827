"""While busy, gather: what comes during a batch goes along with the next, and each gets its own answer, whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.refusals import ErrorCode, Refused
from storage.postgres.gather import ANSWER_SECONDS, Gather
from storage.postgres.pool import PersonGone
from tests.clocks import in_no_time


class Store:
    """Doubles numbers, a batch at a time, and fails as the test wants."""

    def __init__(self, **how: Any) -> None:
        self.batches: list[list[int]] = []
        self.began: list[float] = []
        self.seconds = 0.1
        self.poison: set[int] = set()
        self.refuses: dict[int, Exception] = {}
        self.raises: list[BaseException] = []
        self.gather: Gather[int, int] = Gather(self._run, **how)

    async def _run(self, items: Sequence[int]) -> Sequence[int | Exception]:
        self.batches.append(list(items))
        self.began.append(asyncio.get_running_loop().time() - 1000.0)
        await asyncio.sleep(self.seconds)
        if self.raises:
            raise self.raises.pop(0)
        if self.poison & set(items):
            raise asyncpg.DataError("a poisoned row")
        return [self.refuses.get(item, 2 * item) for item in items]


def at_once(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test on a loop in which waiting takes no time."""

    def run() -> None:
        in_no_time(test())

    run.__doc__ = test.__doc__
    return run


def code_of(result: object) -> object:
    """Return the code of a refusal, and anything else as it is."""
    return result.code if isinstance(result, Refused) else result


async def outcomes(*futures: asyncio.Future[int]) -> list[object]:
    """Return the results of all, refusals by their code, other exceptions by their type."""
    results = await asyncio.gather(*futures, return_exceptions=True)
    return [code_of(result) if isinstance(result, (int, Refused)) else type(result) for result in results]


@at_once
async def test_quiet() -> None:
    """In quiet times each goes alone, at once."""
    store = Store()
    for number in (1, 2, 3):
        assert await store.gather.ask(number) == 2 * number
    assert store.batches == [[1], [2], [3]]
    assert store.began == pytest.approx([0.0, 0.1, 0.2])
    assert (store.gather.batches, store.gather.items, len(store.gather)) == (3, 3, 0)


@at_once
async def test_busy() -> None:
    """All that comes while a batch is under way is the next one, in the order in which it came."""
    store = Store()
    futures = [store.gather.submit(1)]
    await asyncio.sleep(0.05)
    futures += [store.gather.submit(number) for number in range(2, 50)]
    assert len(store.gather) == 48
    assert await asyncio.gather(*futures) == [2 * number for number in range(1, 50)]
    assert store.batches == [[1], list(range(2, 50))]


@at_once
async def test_large_batches_are_cut() -> None:
    """No batch is larger than the limit."""
    store = Store(limit=4)
    futures = [store.gather.submit(number) for number in range(10)]
    await store.gather.drain()
    assert [future.result() for future in futures] == [2 * number for number in range(10)]
    assert store.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@at_once
async def test_bounded() -> None:
    """Whoever would wait behind too many is told that the server is busy; the others are served."""
    store = Store(waiting=3)
    futures = [store.gather.submit(number) for number in range(3)]
    with pytest.raises(Refused) as refusal:
        _ = store.gather.submit(3)
    assert (refusal.value.code, refusal.value.retry_after) == (ErrorCode.BUSY, 1.0)
    with pytest.raises(Refused):
        await store.gather.ask(4)
    assert await outcomes(*futures) == [0, 2, 4]


# Failures.


@at_once
async def test_one_is_refused() -> None:
    """An exception among the results is its submitter's alone."""
    store = Store()
    store.refuses = {2: Refused(ErrorCode.KEY_REUSED)}
    futures = [store.gather.submit(number) for number in (1, 2, 3)]
    assert await outcomes(*futures) == [2, ErrorCode.KEY_REUSED, 6]
    assert len(store.batches) == 1


@at_once
async def test_a_poisoned_row_fails_alone() -> None:
    """A batch that fails because of the data is halved until what is poisoned is alone: 49 are stored, 1 is told."""
    store = Store()
    store.poison = {17}
    futures = [store.gather.submit(number) for number in range(50)]
    assert await outcomes(*futures) == [2 * n if n != 17 else asyncpg.DataError for n in range(50)]
    assert len(store.batches) <= 2 * 6 + 1
    assert [number for batch in store.batches if 17 not in batch for number in batch] == [
        number for number in range(50) if number != 17
    ]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.sets(st.integers(0, 39), max_size=5))
def test_any_poison(count: int, poison: set[int]) -> None:
    """Whichever rows are poisoned, exactly they fail, and every other one is run once in a batch that succeeds."""

    async def run() -> None:
        store = Store()
        store.poison = poison
        futures = [store.gather.submit(number) for number in range(count)]
        assert await outcomes(*futures) == [
            asyncpg.DataError if number in poison else 2 * number for number in range(count)
        ]
        stored = [number for batch in store.batches if not poison & set(batch) for number in batch]
        assert stored == [number for number in range(count) if number not in poison]

    in_no_time(run())


@at_once
async def test_a_person_who_is_gone() -> None:
    """That somebody is no longer there is theirs alone, although it is a refusal."""
    store = Store()
    store.raises = [PersonGone(), PersonGone(), PersonGone()]
    futures = [store.gather.submit(number) for number in (1, 2, 3, 4)]
    assert await outcomes(*futures) == [PersonGone().code, 4, 6, 8]
    assert store.batches == [[1, 2, 3, 4], [1, 2], [1], [2], [3, 4]]


@pytest.mark.parametrize("error", [asyncpg.DeadlockDetectedError(), asyncpg.SerializationError()])
def test_what_is_nobodys_fault_is_tried_again(error: Exception) -> None:
    """A deadlock or a conflict of transactions is not told to anyone, unless it goes on and on."""

    async def run() -> None:
        store = Store()
        store.raises = [error] * 4
        assert await store.gather.ask(1) == 2
        assert store.batches == [[1]] * 5
        store.raises = [error] * 5
        futures = [store.gather.submit(number) for number in (2, 3)]
        assert await outcomes(*futures) == [ErrorCode.BUSY] * 2
        assert len(store.batches) == 10

    in_no_time(run())


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Refused(ErrorCode.UNAVAILABLE), ErrorCode.UNAVAILABLE),
        (OSError("no route"), OSError),
        (asyncpg.InterfaceError("closed"), asyncpg.InterfaceError),
    ],
)
def test_the_store_is_away(error: Exception, told: object) -> None:
    """All are told at once, those too who wait for the next batch, which would fail like this one. The next ones are tried."""

    async def run() -> None:
        store = Store()
        store.raises = [error]
        futures = [store.gather.submit(number) for number in (1, 2)]
        await asyncio.sleep(0.05)
        futures += [store.gather.submit(number) for number in (3, 4)]
        assert await outcomes(*futures) == [told] * 4
        assert store.batches == [[1, 2]]
        assert await store.gather.ask(5) == 10

    in_no_time(run())


@at_once
async def test_a_late_answer() -> None:
    """One who has waited long enough is told to try again; that does not undo what is under way, nor hurt the others."""
    store = Store()
    store.seconds = 1.5 * ANSWER_SECONDS
    asking = asyncio.create_task(store.gather.ask(1))
    patient = store.gather.submit(2)
    began = asyncio.get_running_loop().time()
    with pytest.raises(Refused) as refusal:
        await asking
    assert (refusal.value.code, refusal.value.retry_after) == (ErrorCode.UNAVAILABLE, 1.0)
    assert asyncio.get_running_loop().time() - began == pytest.approx(ANSWER_SECONDS, abs=0.1)
    assert await patient == 4
    assert sorted(number for batch in store.batches for number in batch) == [1, 2]
    store.seconds = 0.5
    assert await store.gather.ask(3) == 6


@at_once
async def test_late_before_it_has_begun() -> None:
    """Whose time is over before their item has begun is told that the server is busy, and the item is not run any more."""
    store = Store(within=1.0)
    store.seconds = 1.6
    futures = [asyncio.create_task(store.gather.ask(1))]
    await asyncio.sleep(0.05)
    futures += [asyncio.create_task(store.gather.ask(number)) for number in (2, 3)]
    patient = store.gather.submit(4)
    assert await outcomes(*futures) == [ErrorCode.UNAVAILABLE, ErrorCode.BUSY, ErrorCode.BUSY]
    assert await patient == 8
    assert (store.batches, store.gather.dropped) == ([[1], [4]], 2)


@at_once
async def test_given_up() -> None:
    """What nobody waits for any more is not run if it has not begun; what was submitted is, whoever waits for it."""
    store = Store()
    first = asyncio.create_task(store.gather.ask(1))
    await asyncio.sleep(0.05)
    asking = [asyncio.create_task(store.gather.ask(number)) for number in (2, 3)]
    await asyncio.sleep(0)
    submitted = [store.gather.submit(number) for number in (4, 5)]
    asking[0].cancel()
    submitted[0].cancel()
    assert [await first, await asking[1], await submitted[1]] == [2, 6, 10]
    assert (store.batches, store.gather.dropped) == ([[1], [3, 4, 5]], 1)


@at_once
async def test_queue_is_as_long_as_it_is_served() -> None:
    """Whoever would wait for more than half of the time is told at once, and whoever is let in is served in time."""
    store = Store(within=1.0, limit=2)
    futures, refused = [], []
    loop = asyncio.get_running_loop()
    for number in range(200):  # twice what can be carried: two in 0.1 s
        future: asyncio.Future[int] = loop.create_future()
        try:
            store.gather.put(number, future)
        except Refused as busy:
            refused.append(busy)
        else:
            futures.append((number, future))
        await asyncio.sleep(0.025)
    await store.gather.drain()
    assert [await future for _, future in futures] == [2 * number for number, _ in futures]
    assert 80 < len(refused) < 100  # half of what came after the queue had its length
    assert {(busy.code, busy.retry_after) for busy in refused} == {(ErrorCode.BUSY, 1.0)}
    assert all(len(batch) == 2 for batch in store.batches[1:-1])


def test_one_timer_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wait, their time is kept by one timer, and by none when nobody waits."""

    async def run() -> None:
        store = Store()
        loop = asyncio.get_running_loop()
        timers = 0
        call_at = loop.call_at

        def counting(*args: Any, **kwargs: Any) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return call_at(*args, **kwargs)

        monkeypatch.setattr(loop, "call_at", counting)
        for number in range(500):
            store.gather.put(number, loop.create_future())
        assert timers == 1
        store.seconds = 1.9
        await store.gather.drain()
        assert timers <= 1 + 1 + 16  # the first, the store's own, and as often as one looks
        before = timers
        await asyncio.sleep(10.0)
        assert timers <= before + 1

    in_no_time(run())


@at_once
async def test_giving_up() -> None:
    """Submitters who have gone away keep nobody from their answer, whether theirs was a result or an error."""
    store = Store()
    store.refuses = {2: Refused(ErrorCode.KEY_REUSED)}
    futures = [store.gather.submit(number) for number in (1, 2, 3)]
    await asyncio.sleep(0.05)
    futures[0].cancel()
    futures[1].cancel()
    assert await futures[2] == 6


@at_once
async def test_cancelled() -> None:
    """When the work itself is cancelled its submitters are too, and the next one finds it working."""
    store = Store()
    futures = [store.gather.submit(number) for number in (1, 2)]
    await asyncio.sleep(0.05)
    assert store.gather._worker is not None
    store.gather._worker.cancel()
    assert await outcomes(*futures) == [asyncio.CancelledError] * 2
    assert await store.gather.ask(3) == 6


@at_once
async def test_drain() -> None:
    """Draining waits for all that was submitted, also for what is submitted meanwhile, and for nothing when all is done."""
    store = Store()
    await store.gather.drain()
    first = store.gather.submit(1)
    draining = asyncio.create_task(store.gather.drain())
    await asyncio.sleep(0.05)
    second = store.gather.submit(2)
    await draining
    assert (first.result(), second.result()) == (2, 4)


@at_once
async def test_draining_what_is_cancelled() -> None:
    """Work that is cancelled keeps nobody who drains waiting."""
    store = Store()
    future = store.gather.submit(1)
    draining = asyncio.create_task(store.gather.drain())
    await asyncio.sleep(0.05)
    assert store.gather._worker is not None
    store.gather._worker.cancel()
    await draining
    assert future.cancelled()


@at_once
async def test_pause() -> None:
    """With a pause a storm is a batch now and then; the first after a quiet time goes at once."""
    store = Store(pause=1.0)
    futures = []
    for number in range(30):
        futures.append(store.gather.submit(number))
        await asyncio.sleep(0.09)
    await store.gather.drain()
    assert [future.result() for future in futures] == [2 * number for number in range(30)]
    assert store.began == pytest.approx([0.0, 1.0, 2.0, 3.0], abs=0.001)
    await asyncio.sleep(10.0)
    before = asyncio.get_running_loop().time() - 1000.0
    await store.gather.ask(30)
    assert store.began[-1] == pytest.approx(before)
