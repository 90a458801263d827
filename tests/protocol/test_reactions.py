"""Only what is positive can be said by a reaction."""

from __future__ import annotations

from uuid import UUID

import pytest

from protocol.reactions import AddReaction, Reaction, Target, TargetKind
from tests.protocol.wires import read, refused_field

TARGET = {"kind": "looproom", "id": str(UUID(int=1))}


def test_the_eight() -> None:
    """These and no others; each by its name in capitals."""
    assert [str(kind) for kind in Reaction] == [
        "HEART",
        "CLAP",
        "FIRE",
        "PEACE",
        "INSPIRE",
        "STRENGTH",
        "GRATITUDE",
        "MINDFUL",
    ]
    target = Target(kind=TargetKind.LOOPROOM, id=UUID(int=1))
    for kind in Reaction:
        assert read(type="reaction.add", target=TARGET, reaction=kind) == AddReaction(target, kind)


@pytest.mark.parametrize("reaction", ["ANGRY", "heart", "", None, 1])
@pytest.mark.parametrize("command", ["reaction.add", "reaction.remove"])
def test_nothing_else(command: str, reaction: object) -> None:
    """There is no way to spell a negative one."""
    assert refused_field(type=command, target=TARGET, reaction=reaction) == "$.reaction"


@pytest.mark.parametrize("target", [{"kind": "person"}, {"kind": "LOOPROOM"}, {"id": "1"}, {"id": None}])
def test_targets(target: dict[str, object]) -> None:
    """A looproom, a vybe or a comment, by its id: nobody reacts to a person."""
    path = refused_field(type="reaction.add", target={**TARGET, **target}, reaction="HEART")
    assert path == f"$.target.{next(iter(target))}"
