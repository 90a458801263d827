"""Passwords: argon2id, off the loop, in a small pool of its own.

A hash takes about 20 ms of one core and 19 MiB. Two threads, so that a storm of sign-ins neither takes every core nor
blocks other work that goes to threads; they run at a lower priority than the loop. The queue is bounded: past it one is
told to come again, instead of waiting for an answer that nobody wants any more.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Final, TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from protocol.refusals import ErrorCode, Refused
from server.common_passwords import WORDS

SHORTEST: Final = 8
LONGEST: Final = 1024
"""Characters. The upper bound keeps a request from hashing for long."""
THREADS: Final = 2
MOST_WAITING: Final = 256
"""Two or three seconds of hashing."""

_HASHER: Final = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1, type=Type.ID)
_RUNS: Final = (
    "abcdefghijklmnopqrstuvwxyzabcdefgh",
    "01234567890123456789",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertzuiopasdfghjklyxcvbnm",
    "azertyuiopqsdfghjklmwxcvbn",
)
_LOWER_PRIORITY: Final = 5

ResultT = TypeVar("ResultT")


@cache
def hash_of_nobody() -> str:
    """Return what an unknown address is checked against: made like any other, of something that nobody knows."""
    return _HASHER.hash(os.urandom(32))


class Passwords:
    """Hashes and checks. `hashed` counts the hashes that were computed."""

    def __init__(self, *, threads: int = THREADS, most_waiting: int = MOST_WAITING) -> None:
        self._threads = threads
        self._most_waiting = most_waiting
        self._pool = ThreadPoolExecutor(threads, "argon2", initializer=_step_back)
        self._waiting = 0
        self._seconds_each = 0.02
        self.hashed = 0

    async def hash(self, password: str) -> str:
        """Return what is stored of a password that `check_strength` has let pass. Raises `Refused` (busy)."""
        return await self._run(lambda: _HASHER.hash(_normalised(password)))

    async def matches(self, stored: str | None, password: str) -> bool:
        """Say whether `password` is the one behind `stored`; for None the same work ends in False. Raises `Refused` (busy)."""
        found = await self._run(lambda: _verified(stored or hash_of_nobody(), password))
        return found and stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Say whether a hash was made with other parameters than today's, so that it should be made anew."""
        return _HASHER.check_needs_rehash(stored)

    async def _run(self, work: Callable[[], ResultT]) -> ResultT:
        if self._waiting >= self._most_waiting:
            wait = self._waiting * self._seconds_each / self._threads
            raise Refused(ErrorCode.BUSY, retry_after=round(wait + 1, 1))
        self._waiting += 1
        self.hashed += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, self._timed, work)
        future.add_done_callback(self._done)
        return await future

    def _timed(self, work: Callable[[], ResultT]) -> ResultT:
        began = time.monotonic()
        try:
            return work()
        finally:
            self._seconds_each += (time.monotonic() - began - self._seconds_each) / 8

    def _done(self, _: object) -> None:
        self._waiting -= 1


def check_strength(password: str, *personal: str, path: str = "$.password") -> None:
    """Raise `Refused` (password_weak) for one that is too short, too long, common, or one of the `personal` words."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise Refused(ErrorCode.PASSWORD_WEAK, path=path)
    folded = _normalised(password).casefold()
    stem = re.sub(r"[\d\W_]+$", "", folded)
    known = WORDS | {word.casefold() for word in personal if word}
    if folded in known or stem in known or len(set(folded)) < 3 or _is_run(folded):
        raise Refused(ErrorCode.PASSWORD_WEAK, path=path)


def _is_run(text: str) -> bool:
    """Say whether `text` only follows the alphabet, the digits or the keyboard, in either direction."""
    return any(text in run or text[::-1] in run for run in _RUNS)


def _normalised(password: str) -> str:
    """The same characters typed on another keyboard may come as other code points."""
    return unicodedata.normalize("NFKC", password)


def _verified(stored: str, password: str) -> bool:
    try:
        return _HASHER.verify(stored, _normalised(password))
    except (VerificationError, InvalidHashError):
        return False


def _step_back() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWER_PRIORITY)
