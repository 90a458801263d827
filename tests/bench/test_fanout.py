"""The whole question, put to the stand-in by processes of testers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Literal

import pytest

from bench.crowd import Crowd
from bench.fanout import Figures, Question, measure, plans, result
from bench.lobby import seated
from bench.result import described
from bench.roomlog import Unexpected
from bench.team import employed
from bench.tongue import Looprooms, Seat
from tests.bench.peer import Peer


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    yield peer
    await peer.stop()


def _ask(question: Question, port: int) -> Figures:
    made = plans(
        question,
        Looprooms("looprooms.v1+json", cue=question.event == "cue"),
        [("127.0.0.1", port)],
        members=[[Seat("listener", "a-room")] * (question.members - question.authors)],
        authors=[[Seat("author", "a-room")] * question.authors],
    )
    with employed(Crowd, made) as team:
        return measure(question, team, [os.getpid()])


def test_seats() -> None:
    """Rooms are on all nodes and spoken in at the first; or each is on a node of its own, with everyone in it."""
    spread = seated(["a", "b"], ["1", "2", "3"], authors=1, places=2)
    assert [[seat.place for seat in room] for room in spread.listeners] == [[0, 1], [0, 1]]
    assert [[seat.place for seat in room] for room in spread.authors] == [[0], [0]]
    apart = seated(["a", "b", "c"], ["1", "2"], authors=2, places=2, host="h", apart=True)
    assert [[seat.place for seat in room] for room in apart.listeners] == [[0, 0], [1, 1], [0, 0]]
    assert [[(seat.token, seat.place) for seat in room] for room in apart.authors] == [
        [("h", place)] * 2 for place in (0, 1, 0)
    ]


@pytest.mark.parametrize("event", ["chat", "cue"])
async def test_the_figures_are_of_everyone(peer: Peer, event: Literal["chat", "cue"]) -> None:
    """Two processes of listeners and one of authors: every event reaches each of ten, and the costs are there."""
    question = Question(
        event=event, members=10, authors=2, clients=2, rate=100, seconds=0.5, warmup=0.2, sample=1
    )
    figures = await asyncio.to_thread(_ask, question, await peer.start())
    assert (figures.said, figures.acknowledged) == (70, 70)
    assert (figures.received, figures.missing, figures.duplicates, figures.disorder) == (700, 0, 0, 0)
    assert sum(figures.latencies.values()) == 8 * 50
    assert figures.usage.share("server") > 0
    assert len(figures.usage.testers) == 3
    kept = result(question, figures, {"settings": "its own"})
    assert (kept.value("missing"), kept.value("acknowledged")) == (0, 70)
    assert "out of order" in described(kept)


async def test_a_loss_is_in_the_report(peer: Peer) -> None:
    """A server that leaves one line out for one member does not pass for one that doesn't."""
    peer.skip = {3: {20}}
    question = Question(members=4, authors=1, rate=100, seconds=0.5, warmup=0.0)
    figures = await asyncio.to_thread(_ask, question, await peer.start())
    assert (figures.missing, figures.short_connections) == (1, 1)
    assert "1 missing of 200 at 1 connections" in described(result(question, figures, {}))


async def test_a_server_that_is_not_there_is_one_sentence() -> None:
    """What went wrong in a process of testers is told by the one that started it."""
    with pytest.raises(Unexpected, match="cannot connect"):
        await asyncio.to_thread(_ask, Question(members=2, authors=1), 1)
