"""Rotating the signing keys: which step comes next, what a file holds after each, and that a node follows it."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from server.process.keys import made_at, new_key, write_lines
from server.rotation import (
    EXPIRED_SECONDS,
    CannotRotate,
    KeyFile,
    Step,
    after_next_step,
    next_step,
    retire,
    rotate,
    signing_keys_in,
)

OLD = "20240101000000000-0001:" + "A" * 43
NEW = "20250101000000000-0002:" + "B" * 43
FOREIGN = "prod-7:" + "C" * 43
TOKEN_SECONDS = 600.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a file with one key, as the first start makes it."""
    file = tmp_path / "signing.keys"
    write_lines(file, [OLD])
    return file


def age(file: Path, seconds: float) -> None:
    """Let time pass since the last step."""
    at = time.time() - seconds
    os.utime(file, (at, at))


def rotated(file: Path, slept: list[float] | None = None) -> list[str]:
    """Rotate without waiting; return what was said."""
    said: list[str] = []
    sleep = (slept if slept is not None else []).append
    rotate(file, token_seconds=TOKEN_SECONDS, learn_seconds=34, sleep=sleep, said=said.append)
    return said


@pytest.mark.parametrize(
    ("keys", "step"),
    [
        ([OLD], Step.ADD),
        ([FOREIGN], Step.ADD),
        ([OLD, NEW], Step.PROMOTE),
        ([FOREIGN, NEW], Step.PROMOTE),
        ([OLD, FOREIGN, NEW], Step.PROMOTE),
        ([NEW, OLD], Step.RETIRE),
        ([NEW, FOREIGN], Step.RETIRE),
    ],
)
def test_what_comes_next(keys: list[str], step: Step) -> None:
    """It is read from the keys alone: which is the newest, and whether it signs."""
    assert next_step(keys) is step


def test_keys_of_unknown_age() -> None:
    """Of two keys that were not made here nobody knows which is newer, and nothing is guessed."""
    with pytest.raises(CannotRotate, match="newer"):
        next_step([FOREIGN, "prod-8:" + "D" * 43])


def test_a_whole_rotation_by_hand() -> None:
    """Add, promote, retire: three values, each with the keys of the one before and of the one after it."""
    values = [[OLD]]
    steps = []
    for _ in range(3):
        step, after = after_next_step(values[-1])
        steps.append(step)
        values.append(after)
    assert steps == [Step.ADD, Step.PROMOTE, Step.RETIRE]
    first, added, promoted, retired = values
    assert added[0] == first[0]
    assert promoted == [added[1], added[0]]
    assert retired == [promoted[0]]
    assert made_at(retired[0]) > made_at(OLD)


def test_new_keys_are_in_order() -> None:
    """A key that is made later says so, also within a second."""
    first = new_key()
    time.sleep(0.002)
    assert made_at(first) < made_at(new_key())
    assert made_at("20251125-a1b2c3:" + "A" * 43) == ""


def test_one_rotation(file: Path) -> None:
    """The new key is known for a while before it signs; afterwards two are live. The file stays its owner's alone."""
    slept: list[float] = []
    said = rotated(file, slept)
    keys = signing_keys_in(file)
    assert keys[1:] == [OLD]
    assert len(slept) == 1
    assert 33 < slept[0] <= 34
    assert [line.split()[0] for line in said] == ["added", "waiting", "the"]
    assert all("A" * 43 not in line for line in said)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_next_rotation(file: Path) -> None:
    """It retires the key of before first, but not before that key's last token has expired."""
    rotated(file)
    second = signing_keys_in(file)[0]
    with pytest.raises(CannotRotate, match="try again in 6"):
        rotated(file)
    age(file, TOKEN_SECONDS + EXPIRED_SECONDS - 2)
    with pytest.raises(CannotRotate, match=r"try again in [12] s"):
        rotated(file)
    assert signing_keys_in(file) == [second, OLD]
    age(file, TOKEN_SECONDS + EXPIRED_SECONDS)
    assert rotated(file)[0].startswith("retired")
    third, before = signing_keys_in(file)
    assert before == second
    assert third not in (second, OLD)


def test_an_interrupted_rotation_goes_on(file: Path) -> None:
    """Killed while it waited, it waits for the rest alone, and adds no third key."""
    write_lines(file, [OLD, NEW])
    age(file, 30)
    slept: list[float] = []
    rotated(file, slept)
    assert signing_keys_in(file) == [NEW, OLD]
    assert 3 < slept[0] <= 4


def test_retiring_by_itself(file: Path) -> None:
    """One may have a single key again, when it is time."""
    said: list[str] = []
    with pytest.raises(CannotRotate, match="No key"):
        retire(file, token_seconds=TOKEN_SECONDS, said=said.append)
    write_lines(file, [NEW, OLD])
    with pytest.raises(CannotRotate, match="still good"):
        retire(file, token_seconds=TOKEN_SECONDS, said=said.append)
    age(file, TOKEN_SECONDS + EXPIRED_SECONDS)
    retire(file, token_seconds=TOKEN_SECONDS, said=said.append)
    assert signing_keys_in(file) == [NEW]


def test_two_rotations_at_once(file: Path) -> None:
    """The second one is told, and does nothing."""

    def meanwhile(_: float) -> None:
        with pytest.raises(CannotRotate, match="already"):
            rotated(file)

    rotate(file, token_seconds=1, learn_seconds=34, sleep=meanwhile, said=lambda _: None)
    assert len(signing_keys_in(file)) == 2


@pytest.mark.parametrize("text", ["", "\n", "nonsense", f"{OLD}\n{OLD}", f"{OLD}\n{NEW[:-1]}", "é"])
def test_what_is_no_file_of_keys(file: Path, text: str) -> None:
    """It is said in one sentence, without what stands in it, and left as it is."""
    file.write_text(text)
    with pytest.raises(CannotRotate) as refused:
        rotated(file)
    assert str(file) in str(refused.value)
    assert "A" * 43 not in str(refused.value)
    assert file.read_text() == text


def test_a_file_of_somebody_else(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the new file could not be given to whom the old one belongs, nothing changes, and no key is left lying about."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(CannotRotate, match="can't be written: Operation not permitted"):
        rotated(file)
    assert signing_keys_in(file) == [OLD]
    assert list(file.parent.iterdir()) == [file]


def test_no_file(tmp_path: Path) -> None:
    """Nor is one made where there is none, or no folder."""
    for file in (tmp_path / "signing.keys", tmp_path / "nowhere" / "signing.keys"):
        with pytest.raises(CannotRotate):
            rotated(file)
        assert not file.exists()


async def test_a_node_follows_the_file(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What changes is taken, once; what can't be used is logged once, and the keys stay as they were."""
    taken: list[Sequence[str]] = []
    follower = KeyFile(file, taken.append)
    await follower.look()
    await follower.look()
    assert taken == [[OLD]]
    write_lines(file, [OLD, NEW])
    await follower.look()
    assert taken[1:] == [[OLD, NEW]]
    caplog.clear()
    with caplog.at_level(logging.ERROR):
        write_lines(file, ["half a key"])
        await follower.look()
        await follower.look()
        assert len(caplog.records) == 1
        await asyncio.to_thread(file.unlink)
        await follower.look()
        await follower.look()
        assert len(caplog.records) == 2
    assert len(taken) == 2
    write_lines(file, [f"{NEW},{OLD}"])
    await follower.look()
    assert taken[2:] == [[NEW, OLD]]
