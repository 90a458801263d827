"""The checker itself: a true history is clean, and each planted violation is found and named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.nodes.history import Fault, History

STORED = [(1, "a"), (2, "b"), (3, "c")]
OFFSETS = {key: offset for offset, key in STORED}


def told(*, order: str = "abc") -> History:
    """Return a history in which three lines were said one after the other and one reader saw them all."""
    history = History()
    for at, key in enumerate(order):
        history.sent("w", key, at)
        history.acknowledged(key, OFFSETS[key], at + 0.5)
    history.placed("r", 0)
    for offset, key in STORED:
        history.saw("r", offset, key)
    history.finish("r")
    return history


def faults(history: History, stored: list[tuple[int, str]] = STORED) -> set[Fault]:
    """Return what the checker finds."""
    return {violation.fault for violation in history.violations(stored)}


def test_a_true_history_is_clean() -> None:
    """Nothing is found where nothing is wrong."""
    assert faults(told()) == set()


def test_an_unknown_outcome_may_be_stored_or_not() -> None:
    """A key without an answer that is believed is allowed either way."""
    history = told()
    history.sent("w", "d", 9.0)
    assert faults(history) == set()
    history.saw("r", 4, "d")
    assert faults(history, [*STORED, (4, "d")]) == set()


def test_a_snapshot_allows_a_jump_and_is_counted() -> None:
    """A reader that is told so may miss events; joining is not counted, coming back by a snapshot is."""
    history = told()
    history.placed("late", 1)
    history.placed("late", 3)
    history.finish("late")
    assert faults(history) == set()
    assert history.snapshots == 1


def test_concurrent_lines_may_stand_in_any_order() -> None:
    """Lines whose times overlap have no order between them."""
    history = History()
    history.sent("w", "a", 0.0)
    history.sent("v", "b", 0.1)
    history.acknowledged("b", 1, 0.2)
    history.acknowledged("a", 2, 0.3)
    assert faults(history, [(1, "b"), (2, "a")]) == set()


def _lost(history: History) -> list[tuple[int, str]]:
    history.sent("w", "d", 9.0)
    history.acknowledged("d", 4, 9.5)
    return STORED


def _misplaced(history: History) -> list[tuple[int, str]]:
    history.acknowledged("a", 2, 9.0)
    return STORED


def _twice(history: History) -> list[tuple[int, str]]:
    history.saw("r", 4, "a")
    return [*STORED, (4, "a")]


def _hole(history: History) -> list[tuple[int, str]]:
    history.sent("w", "d", 9.0)
    history.saw("r", 5, "d")
    return [*STORED, (5, "d")]


def _refused(history: History) -> list[tuple[int, str]]:
    history.sent("w", "d", 9.0)
    history.refused("d")
    history.saw("r", 4, "d")
    return [*STORED, (4, "d")]


def _unknown(history: History) -> list[tuple[int, str]]:
    history.saw("r", 4, "z")
    return [*STORED, (4, "z")]


def _skipped(history: History) -> list[tuple[int, str]]:
    history.placed("q", 1)
    history.saw("q", 3, "c")
    return STORED


def _seen_twice(history: History) -> list[tuple[int, str]]:
    history.saw("r", 3, "c")
    return STORED


def _reversed(history: History) -> list[tuple[int, str]]:
    history.placed("r", 1)
    history.saw("r", 2, "b")
    history.saw("r", 3, "c")
    return STORED


def _phantom(history: History) -> list[tuple[int, str]]:
    history.saw("r", 4, "never")
    history.placed("r", 4)
    return STORED


def _behind(history: History) -> list[tuple[int, str]]:
    history.placed("q", 2)
    history.finish("q")
    return STORED


def _disorder(history: History) -> list[tuple[int, str]]:
    history.sent_lines["a"].at = 9.0
    return STORED


@pytest.mark.parametrize(
    ("plant", "fault"),
    [
        (_lost, Fault.LOST),
        (_misplaced, Fault.MISPLACED),
        (_twice, Fault.TWICE_STORED),
        (_hole, Fault.HOLE),
        (_refused, Fault.UNDONE_REFUSAL),
        (_unknown, Fault.UNKNOWN),
        (_skipped, Fault.SKIPPED),
        (_seen_twice, Fault.SEEN_TWICE),
        (_reversed, Fault.REVERSED),
        (_phantom, Fault.PHANTOM),
        (_behind, Fault.BEHIND),
        (_disorder, Fault.DISORDER),
    ],
)
def test_a_planted_violation_is_found(
    plant: Callable[[History], list[tuple[int, str]]], fault: Fault
) -> None:
    """Each way to break a promise is found, by its name."""
    history = told()
    stored = plant(history)
    assert fault in faults(history, stored)
