"""The way to a service outside: who waits, who does not, and what is counted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter

import pytest

from protocol.refusals import Refused
from server.gateways.gate import TOGETHER, WAITING, Gate, Unanswered


@pytest.fixture
def gate() -> Gate:
    """Give a way to a service, with a short deadline."""
    return Gate("It", time.monotonic, seconds=0.05)


async def answer() -> int:
    """Answer at once."""
    return 7


async def say_nothing() -> int:
    """Answer with what is none."""
    raise Unanswered("status 503", after=9.0)


async def hang() -> int:
    """Never answer."""
    await asyncio.Event().wait()
    return 0


async def stumble() -> int:
    """Fail by a bug of ours."""
    raise ZeroDivisionError


async def test_what_becomes_of_calls_is_counted(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """Answers, calls without one, and calls that are not made; what is no word about the service is none of them."""
    assert await gate.ask(answer) == 7
    with caplog.at_level(logging.WARNING), pytest.raises(Refused) as refused:
        await gate.ask(say_nothing)
    assert (refused.value.retry_after, caplog.messages) == (9.0, ["It does not answer: status 503"])
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await gate.ask(stumble)
        with pytest.raises(Refused):
            await gate.ask(hang)
    assert gate.breaker.open
    for _ in range(4):
        with pytest.raises(Refused):
            await gate.ask(answer)
    assert gate.outcomes == Counter(answered=1, failed=3, spared=4)


async def test_few_at_a_time(gate: Gate) -> None:
    """Some are under way, some wait, and the next is told so at once."""
    gate.seconds = 60
    calls = [asyncio.create_task(gate.ask(hang)) for _ in range(WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(Refused):
        await gate.ask(answer)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert gate.outcomes == Counter(spared=1)
    assert await gate.ask(answer) == 7
    assert TOGETHER < WAITING
