"""Start: how long is it from the command that starts the server to the first welcome of somebody who is signed in?

The data folder is there already, as it is for everyone but the first time; stores, schema and node start each time anew.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Annotated

import msgspec
from msgspec import Meta

from bench.ground import Site, opened
from bench.machine import machine_line
from bench.result import LESS, Figure, Plot, Result, new_result
from bench.tongue import Seat
from bench.visitor import House, Visitor


class Question(msgspec.Struct, kw_only=True):
    """What is asked."""

    rounds: Annotated[int, Meta(description="How often it is started.")] = 3


def ask(question: Question, site: Site) -> Result:
    """Put the question."""
    with opened(site) as ground:  # the first time, which makes the folder and an account
        token = ground.people(1)[0]
        conditions = dict(ground.conditions)
    seconds = []
    for _ in range(question.rounds):
        began = time.monotonic()
        with opened(site) as ground:
            house = House(ground.addresses, ground.subprotocol)
            asyncio.run(_welcome(Visitor(house, Seat(token, ""))))
            seconds.append(time.monotonic() - began)
    found = new_result(
        "start",
        __doc__,
        f"start: {question.rounds} times",
        question,
        {**conditions, "machine": machine_line()},
    )
    found.figures = [
        Figure("first welcome after", round(statistics.median(seconds), 2), "s", LESS),
        Figure("first welcome at the latest after", round(max(seconds), 2), "s", LESS),
    ]
    rounds = [(float(number), round(one, 3)) for number, one in enumerate(seconds, 1)]
    found.plots = [Plot("First welcome", "time", "seconds", {"from the command": rounds})]
    return found


async def _welcome(visitor: Visitor) -> None:
    await visitor.come()
    gone = visitor.drop()
    if gone is not None:
        await gone
