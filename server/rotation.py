"""Signing keys rotate in three steps, of which none loses a token:

1. add: the new key stands last, so every node, and whoever caches the published keys, learns to verify with it;
2. promote: it stands first and signs from now on; the one before it still verifies;
3. retire: once the last token of the old key has expired, that key goes.

Between the first two there must be time for everybody to learn, between the last two the life of an access token. In a file
that is done by `rotate`, which ends with two live keys, the old one among them until the next rotation; running nodes follow
the file by `KeyFile`. Where the keys stand in the environment each step is a deployment: `after_next_step` says what to set.

Which step is next is read from the keys themselves: their ids say when they were made. So a rotation that was interrupted
goes on where it was.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from server.process.keys import made_at, new_key, write_lines
from server.settings import TYPES

_LOGGER = logging.getLogger("looprooms.keys")

READ_SECONDS: Final = 2.0
"""How often a node looks whether the file has changed."""
PUBLISHED_SECONDS: Final = 30
"""How long others may keep the published keys."""
LEARN_SECONDS: Final = PUBLISHED_SECONDS + 2 * READ_SECONDS
"""Time for everybody to learn of a new key."""
EXPIRED_SECONDS: Final = 15.0
"""What a token of a retired key may still be good for after its end: leeway, and a refresh that is repeated."""


class CannotRotate(Exception):  # noqa: N818 - a sentence for the operator
    """The keys can't be rotated now; the message is one sentence for the operator."""


class Step(StrEnum):
    """What comes next for some keys."""

    ADD = "add"
    PROMOTE = "promote"
    RETIRE = "retire"


def next_step(keys: Sequence[str]) -> Step:
    """Say what comes next. Raises `CannotRotate` for keys whose ids don't tell which is newer."""
    if len(keys) == 1:
        return Step.ADD
    newest = max(keys, key=made_at)
    if not made_at(newest):
        raise CannotRotate(
            "The ids of these keys don't say which is the newer one. Keep one of them alone; the next one comes from here."
        )
    return Step.RETIRE if newest == keys[0] else Step.PROMOTE


def after_next_step(keys: Sequence[str]) -> tuple[Step, list[str]]:
    """Return the next step, and the keys as they stand after it. Raises `CannotRotate`."""
    step = next_step(keys)
    if step is Step.ADD:
        return step, [*keys, new_key()]
    newest = max(keys, key=made_at)
    if step is Step.PROMOTE:
        return step, [newest, *(key for key in keys if key != newest)]
    return step, [newest]


def rotate(
    file: Path,
    *,
    token_seconds: float,
    learn_seconds: float = LEARN_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    said: Callable[[str], None],
) -> None:
    """Put a new key to work: retire the last rotation's old one, add, wait, promote. Each step is told to `said`.

    `token_seconds` is the life of an access token. Raises `CannotRotate` when it is too early to retire.
    """
    with _alone(file):
        keys = signing_keys_in(file)
        if next_step(keys) is Step.RETIRE:
            keys = _retire(file, keys, token_seconds, said)
        if next_step(keys) is Step.ADD:
            keys = _take(file, keys, said)
        if (wait := learn_seconds - _age(file)) > 0:
            said(f"waiting {wait:.0f} s, until everybody knows the new key")
            sleep(wait)
        _take(file, keys, said)


def retire(file: Path, *, token_seconds: float, said: Callable[[str], None]) -> None:
    """Take the old key of the last rotation out. Raises `CannotRotate` when there is none, or when it is too early."""
    with _alone(file):
        keys = signing_keys_in(file)
        if next_step(keys) is not Step.RETIRE:
            raise CannotRotate("No key waits to be retired.")
        _retire(file, keys, token_seconds, said)


def signing_keys_in(file: Path) -> list[str]:
    """Read the keys of a file. Raises `CannotRotate`."""
    try:
        lines = re.split(r"[\s,]+", file.read_text("ascii").strip())
    except FileNotFoundError:
        raise CannotRotate(f"{file} does not exist yet; it is made by the first start.") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise CannotRotate(f"{file} can't be read: {reason}.") from None
    try:
        keys: tuple[str, ...] = msgspec.convert(tuple(lines), TYPES["signing_keys"])
    except msgspec.ValidationError:
        keys = ()
    if not keys or len({key.partition(":")[0] for key in keys}) != len(keys):
        raise CannotRotate(f"{file} does not hold signing keys, `id:seed` each on a line of its own.")
    return list(keys)


class KeyFile:
    """Follows a file of signing keys for a node: `take` gets all of them at the start, and again whenever they change.

    What can't be read, or is no key, is logged once and changes nothing.
    """

    def __init__(self, file: Path, take: Callable[[Sequence[str]], None]) -> None:
        self._file = file
        self._take = take
        self._seen: tuple[int, ...] | None = None

    async def run(self) -> None:
        """Look every `READ_SECONDS`, for ever."""
        while True:
            await asyncio.sleep(READ_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Take the keys if the file has changed since the last look."""
        try:
            keys = await asyncio.to_thread(self._changed)
        except CannotRotate as reason:
            _LOGGER.error("the signing keys stay as they were: %s", reason)  # noqa: TRY400 - one sentence
            return
        if keys is not None:
            self._take(keys)
            ids = [key.partition(":")[0] for key in keys]
            _LOGGER.info("signing with the key %s, verifying with %s", ids[0], ", ".join(ids))

    def _changed(self) -> list[str] | None:
        try:
            found = self._file.stat()
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
        except OSError:
            seen = (0, 0, 0)
        if seen == self._seen:
            return None
        self._seen = seen
        return signing_keys_in(self._file)


def _retire(file: Path, keys: list[str], token_seconds: float, said: Callable[[str], None]) -> list[str]:
    early = token_seconds + EXPIRED_SECONDS - _age(file)
    if early > 0:
        raise CannotRotate(
            f"The key of before has signed tokens that are still good; try again in {early:.0f} s."
        )
    return _take(file, keys, said)


def _take(file: Path, keys: list[str], said: Callable[[str], None]) -> list[str]:
    step, after = after_next_step(keys)
    try:
        write_lines(file, after)
    except OSError as error:
        raise CannotRotate(f"{file} can't be written: {error.strerror}.") from None
    changed = {
        Step.ADD: f"added the key {_id(after[-1])}",
        Step.PROMOTE: f"the key {_id(after[0])} signs from now on, {_id(after[-1])} still verifies",
        Step.RETIRE: f"retired the key {_id(keys[-1])}",
    }
    said(changed[step])
    return after


def _age(file: Path) -> float:
    """Return the seconds since the last step."""
    return time.time() - file.stat().st_mtime


def _id(key: str) -> str:
    return key.partition(":")[0]


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Keep other rotations out. Raises `CannotRotate` when there is one."""
    try:
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CannotRotate(f"{file} can't be read: {error.strerror}.") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise CannotRotate("The keys are being rotated already.") from None
    finally:
        os.close(folder)
