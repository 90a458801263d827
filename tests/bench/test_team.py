"""Processes that take orders, and the moments at which they act."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from bench.histogram import Histogram
from bench.roomlog import Unexpected
from bench.team import employed, paced, until_true


class Worker:
    """What runs in a process of this test."""

    def __init__(self, plan: int) -> None:
        self.plan = plan
        self.done = 0

    def close(self) -> None:
        """Nothing is held."""

    async def add(self, number: int) -> int:
        """Keep something from one order to the next."""
        self.done += number
        return self.plan + self.done

    async def fail(self) -> None:
        """Find something that there is no place for."""
        raise Unexpected(f"worker {self.plan} found nothing")

    async def die(self) -> None:
        """End without a word."""
        os._exit(1)


def test_orders_go_to_all_and_answers_come_in_their_order() -> None:
    """A process keeps what it has between orders, and an order that fails is its sentence."""
    with employed(Worker, [100, 200]) as team:
        assert team.ask("add", 1) == [101, 201]
        assert team.ask("add", 2) == [103, 203]
        assert len(set(team.pids)) == 2
        with pytest.raises(Unexpected, match="worker 100 found nothing"):
            team.ask("fail")


def test_a_process_that_dies_is_told() -> None:
    """It is not waited for."""
    with employed(Worker, [1]) as team, pytest.raises(Unexpected, match="has died"):
        team.ask("die")


async def test_every_moment_is_acted_on_late_ones_too() -> None:
    """A tester that stands still for a while does all that was due meanwhile, and says how late it was."""
    start = time.monotonic_ns()
    late = Histogram()
    seen: list[tuple[int, int]] = []

    def act(number: int, due: int) -> None:
        seen.append((number, due - start))
        if number == 10:
            time.sleep(0.1)

    count = await paced(200, start, start + 200_000_000, act, late)
    assert count == len(seen) == len(late) == 40
    assert seen == [(number, number * 5_000_000) for number in range(40)]
    assert late.percentile(100) > 0.09


async def test_it_rests_between_two_moments() -> None:
    """Waiting for the next moment costs no core: the loop's timers know milliseconds, and nothing spins between them."""
    start = time.monotonic_ns()
    before = time.process_time()
    await paced(2000, start, start + 500_000_000, lambda _number, _due: None)
    assert time.process_time() - before < 0.25


async def test_waiting_ends_when_it_is_true_or_too_late() -> None:
    """And says which."""
    flag: list[int] = []
    asyncio.get_running_loop().call_later(0.05, flag.append, 1)
    assert await until_true(lambda: bool(flag), 2.0)
    assert not await until_true(lambda: False, 0.05)
