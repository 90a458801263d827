"""Each scenario against a real server, small and short: it measures, and nothing is lost."""

from __future__ import annotations

from typing import Literal

import pytest

from bench import chat, fanout
from bench.ground import Ground


@pytest.mark.parametrize("event", ["chat", "cue"])
def test_everyone_hears_everything(ground: Ground, event: Literal["chat", "cue"]) -> None:
    """Two rooms of eight: every line, and every cue of their host, reaches each of them."""
    question = fanout.Question(
        event=event, members=8, rooms=2, rate=50, seconds=0.5, warmup=0.1, authors=2, sample=1
    )
    result = fanout.ask(question, ground)
    assert (result.value("missing"), result.value("duplicates"), result.value("out of order")) == (0, 0, 0)
    assert result.value("said") == result.value("acknowledged") == 60
    assert result.value("CPU per delivery, server") > 0
    assert result.curves[0].count == 6 * 2 * 25


def test_a_search_ends_where_the_rooms_are_full(ground: Ground) -> None:
    """Both steps are measured, nothing is lost, and with a limit that nothing can meet the first one is the last."""
    question = chat.Question(
        members=6, rooms=2, authors=2, rates="5,20", seconds=0.4, warmup=0.1, sample=1, limit=10_000
    )
    result = chat.ask(question, ground)
    assert result.value("missing") == result.value("out of order") == 0
    assert result.value("lines carried") in (10, 40)
    assert len(result.curves) == 2
    question.limit = 0.0001
    assert len(chat.ask(question, ground).curves) == 1
