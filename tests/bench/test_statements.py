"""What statements took is read from the metrics of all nodes."""

from __future__ import annotations

from bench.ground import Ground
from bench.statements import at_most, between, counted

INFINITE = float("inf")


def test_only_what_ended_in_between_counts() -> None:
    """The counts of all nodes are added up, one that came later included, and what was counted before is taken away."""
    before = {("a", 0.01): 5.0, ("a", INFINITE): 9.0}
    after = {("a", 0.01): 100.0, ("a", INFINITE): 109.0, ("b", 0.01): 0.0, ("b", INFINITE): 1.0}
    assert between(before, after) == {0.01: 95.0, INFINITE: 101.0}


def test_the_bound_that_is_kept() -> None:
    """It is the least one within which so many percent are; of nothing it is nothing."""
    counts = {0.01: 94.0, 0.05: 96.0, INFINITE: 100.0}
    assert [at_most(counts, percent) for percent in (50, 94, 95, 97)] == [0.01, 0.01, 0.05, INFINITE]
    assert at_most({}, 95) == at_most({0.01: 0.0}, 95) == 0.0


def test_the_nodes_tell(ground: Ground) -> None:
    """A server counts its statements, and asking for them is none."""
    found = counted(ground.addresses)
    assert max(found.values()) > 0
    assert len({node for node, _ in found}) == 1
