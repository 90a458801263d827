"""The bounded queue between the socket's reader and the one who iterates."""

from __future__ import annotations

import asyncio

import pytest

from protocol.client.inbox import Inbox


async def test_items_come_out_in_order() -> None:
    """First in, first out, whether someone waits already or not."""
    inbox: Inbox[int] = Inbox(10)
    waiting = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    for number in range(3):
        inbox.put(number)
    assert [await waiting, await inbox.get(), await inbox.get()] == [0, 1, 2]


async def test_a_full_inbox_says_so_and_calls_when_half_is_taken() -> None:
    """The reader stands still at the limit and goes on when half of it is free."""
    inbox: Inbox[int] = Inbox(4)
    for number in range(4):
        inbox.put(number)
    assert inbox.full
    change = asyncio.create_task(inbox.change())
    await asyncio.sleep(0)
    await inbox.get()
    await asyncio.sleep(0)
    assert not change.done()
    await inbox.get()
    await asyncio.sleep(0)
    assert change.done()
    await change


async def test_a_nudge_lets_the_reader_look_again() -> None:
    """The reader can be called although nothing was taken."""
    inbox: Inbox[int] = Inbox(1)
    change = asyncio.create_task(inbox.change())
    await asyncio.sleep(0)
    inbox.nudge()
    await asyncio.wait_for(change, 1)


async def test_what_waits_is_handed_out_before_the_end() -> None:
    """The end stands behind the items; then it is raised, again and again."""
    inbox: Inbox[int] = Inbox(4)
    inbox.put(1)
    inbox.end(ConnectionError("over"))
    inbox.end(None)
    inbox.put(2)
    assert await inbox.get() == 1
    for _ in range(2):
        with pytest.raises(ConnectionError, match="over"):
            await inbox.get()


async def test_an_end_without_an_error_stops_the_iteration_of_who_waits() -> None:
    """Someone who waits learns of the end too."""
    inbox: Inbox[int] = Inbox(4)

    async def first() -> str:
        try:
            return f"item {await inbox.get()}"
        except StopAsyncIteration:
            return "stopped"

    waiting = asyncio.create_task(first())
    await asyncio.sleep(0)
    inbox.end(None)
    assert await asyncio.wait_for(waiting, 1) == "stopped"


async def test_a_cancelled_get_loses_nothing() -> None:
    """An item that comes after someone gave up waiting is there for the next."""
    inbox: Inbox[int] = Inbox(4)
    waiting = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    inbox.put(7)
    assert await inbox.get() == 7


async def test_the_newest_item_can_be_replaced() -> None:
    """What nobody has looked at yet may be brought up to date."""
    inbox: Inbox[int] = Inbox(4)
    inbox.put(1)
    inbox.put(2)
    inbox.replace_last(3)
    assert inbox.last == 3
    assert [await inbox.get(), await inbox.get()] == [1, 3]
    assert Inbox[int](4).last is None


async def test_who_gives_up_waiting_takes_nothing_along() -> None:
    """A wait that was given up is taken over by the next one, and no item is lost between them."""
    inbox: Inbox[int] = Inbox(4)
    first = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    first.cancel()
    second = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put(7)
    assert await second == 7
    assert first.cancelled()
