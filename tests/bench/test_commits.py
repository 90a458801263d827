"""Group commit against one statement each, for a moment."""

from __future__ import annotations

from pathlib import Path

from bench.commits import Question, ask, result
from bench.result import described


async def test_every_way_commits(tmp_path: Path) -> None:
    """Each way is measured in each round, nothing is refused, and the table names the ratios."""
    question = Question(people=8, connections=4, seconds=0.1, rounds=2)
    ways = await ask(question, tmp_path, None)
    assert len(ways) == 5
    for way in ways.values():
        assert len(way.done) == len(way.seconds) == 2
        assert min(way.done) > 0
        assert way.refused == 0
        assert len(way.latencies) == sum(way.done)
    assert "group commit to one each, reactions" in described(result(question, ways))
