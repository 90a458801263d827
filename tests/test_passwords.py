"""Passwords: which are taken, how they are hashed, and that the loop and the queue are spared."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from protocol.refusals import ErrorCode, Refused
from server.common_passwords import WORDS
from server.passwords import Passwords, check_strength

GOOD = "violets under a lamp"


def is_weak(password: str, *personal: str) -> bool:
    """Say whether a password is refused."""
    try:
        check_strength(password, *personal)
    except Refused as refused:
        return (refused.code, refused.path) == (ErrorCode.PASSWORD_WEAK, "$.password")
    return False


@pytest.mark.parametrize(
    "password",
    [
        "",
        "seven77",
        "x" * 1025,
        "password",
        "PassWord",
        "password123",
        "password1234!!",
        "ｐａｓｓｗｏｒｄ",
        "iloveyou",
        "trustno1",
        "dragon123",
        "looprooms2026",
        "aaaaaaaa",
        "abababab",
        "12345678",
        "87654321",
        "1234567890",
        "abcdefgh",
        "qwertyuiop",
        "poiuytrewq",
        "asdfghjkl",
    ],
)
def test_weak(password: str) -> None:
    """Too short, too long, common, or a pattern: refused, however it is written."""
    assert is_weak(password)


@pytest.mark.parametrize(
    "password",
    [
        "8 chars.",
        GOOD,
        "кошка на окне",
        "🌸🌿🌙⭐🌊🔥🍀🎈",
        "correct horse lamp",
        "x y" + "z" * 1021,
        "Tr0ub4dor&3",
    ],
)
def test_good(password: str) -> None:
    """Everything else is taken: long ones, and those of any script."""
    assert not is_weak(password)


def test_personal() -> None:
    """One's own address or name is no password."""
    assert is_weak("ada@example.org", "ada@example.org", "ada", "Ada Lovelace")
    assert is_weak("Ada Lovelace", "ada@example.org", "ada", "Ada Lovelace")
    assert is_weak("ada123456", "ada@example.org", "ada", "Ada Lovelace")
    assert not is_weak("countess of numbers", "ada@example.org", "ada", "Ada Lovelace")
    assert not is_weak(GOOD, "")


def test_the_list() -> None:
    """The words stand as they are compared: folded, each once, some hundreds of them."""
    assert all(word == word.casefold() for word in WORDS)
    assert len(WORDS) > 400


async def test_matches() -> None:
    """The right password matches, another does not; nothing matches nobody, nor a hash that is none."""
    passwords = Passwords()
    stored = await passwords.hash(GOOD)
    assert stored != await passwords.hash(GOOD), "no salt"
    assert await passwords.matches(stored, GOOD)
    assert not await passwords.matches(stored, GOOD.upper())
    assert not await passwords.matches(None, GOOD)
    assert not await passwords.matches("not a hash", GOOD)
    assert not passwords.is_outdated(stored)


async def test_off_the_loop_and_bounded() -> None:
    """Hashes run in two threads of lower priority; the one past the bound is refused at once, and then there is room again."""
    passwords = Passwords(most_waiting=3)
    running = [asyncio.ensure_future(passwords.hash(GOOD)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Refused) as refused:
        await passwords.hash(GOOD)
    assert refused.value.code is ErrorCode.BUSY
    assert refused.value.retry_after is not None
    assert refused.value.retry_after >= 1
    threads = [
        thread for thread in threading.enumerate() if thread.name.startswith("argon2") and thread.native_id
    ]
    assert threads
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    await asyncio.gather(*running)
    assert max(os.getpriority(os.PRIO_PROCESS, thread.native_id or 0) for thread in threads) > own
    assert await passwords.matches(running[0].result(), GOOD)
    assert passwords.hashed == 4


async def test_one_who_gives_up_leaves_room() -> None:
    """A request that is cancelled does not take its place in the queue for ever."""
    passwords = Passwords(most_waiting=2)
    tasks = [asyncio.ensure_future(passwords.hash(GOOD)) for _ in range(2)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await passwords.hash(GOOD)
