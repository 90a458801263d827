"""The wanted channels and what Redis is told of them, without a socket."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import hiredis
import pytest

from storage.redis.subscriptions import Subscriptions


class Recorder:
    """Stands in for a link, and for the Redis behind it: knows what it was told and confirms when asked to."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, list[str]]] = []
        self.subscribed: set[str] = set()
        self._unconfirmed: list[str] = []

    def send(self, commands: bytes, replies: int, then: Any) -> None:
        """Take a command as Redis would."""
        reader = hiredis.Reader(encoding="utf-8")
        reader.feed(commands)
        while command := reader.gets():
            verb, *channels = command
            self.commands.append((verb, channels))
            self._unconfirmed += channels
            (self.subscribed.update if verb == "SUBSCRIBE" else self.subscribed.difference_update)(channels)

    def confirm(self, subscriptions: Subscriptions, most: int = 1_000_000) -> None:
        """Answer so many of the channels that are not answered yet, in order."""
        now, self._unconfirmed = self._unconfirmed[:most], self._unconfirmed[most:]
        for channel in now:
            subscriptions.confirmed(channel)


@pytest.fixture
def link() -> Any:
    """Give a recorder in the place of a link."""
    return Recorder()


async def turn() -> None:
    """Let the loop run what was put off to its next turn."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_one_turn_is_few_commands(link: Any) -> None:
    """A thousand channels wanted in one turn travel in two commands, and each is confirmed."""
    subscriptions = Subscriptions()
    await subscriptions.attach(link)
    waiters = [subscriptions.want(f"c{number}") for number in range(1000)]
    await turn()
    assert [(verb, len(channels)) for verb, channels in link.commands] == [
        ("SUBSCRIBE", 512),
        ("SUBSCRIBE", 488),
    ]
    assert not any(waiter.done() for waiter in waiters)
    link.confirm(subscriptions)
    assert all(waiter.result() for waiter in waiters)
    assert len(subscriptions) == 1000


async def test_wanting_again_costs_nothing(link: Any) -> None:
    """A channel wanted twice is asked for once; wanted after it was confirmed, it is there at once."""
    subscriptions = Subscriptions()
    await subscriptions.attach(link)
    first, second = subscriptions.want("c"), subscriptions.want("c")
    await turn()
    link.confirm(subscriptions)
    assert first.result()
    assert second.result()
    assert subscriptions.want("c").result()
    await turn()
    assert link.commands == [("SUBSCRIBE", ["c"])]


async def test_forgotten_before_it_was_told(link: Any) -> None:
    """What is wanted and forgotten in one turn never reaches Redis, and who waited is told no."""
    subscriptions = Subscriptions()
    await subscriptions.attach(link)
    waiter = subscriptions.want("c")
    subscriptions.forget("c")
    subscriptions.forget("c")
    await turn()
    assert link.commands == []
    assert waiter.result() is False
    assert "c" not in subscriptions


async def test_an_old_confirmation_is_not_taken_for_the_new(link: Any) -> None:
    """Wanted, forgotten, wanted: the second one waits for the second confirmation, not for the first."""
    subscriptions = Subscriptions()
    await subscriptions.attach(link)
    first = subscriptions.want("c")
    await turn()
    subscriptions.forget("c")
    await turn()
    second = subscriptions.want("c")
    await turn()
    assert [verb for verb, _ in link.commands] == ["SUBSCRIBE", "UNSUBSCRIBE", "SUBSCRIBE"]
    link.confirm(subscriptions, 2)
    assert first.result() is False
    assert not second.done()
    link.confirm(subscriptions)
    assert second.result()


async def test_a_new_link_is_told_everything(link: Any) -> None:
    """After a loss a new link hears of every wanted channel; who waited over the loss gets their answer."""
    subscriptions = Subscriptions()
    await subscriptions.attach(link)
    kept = subscriptions.want("kept")
    await turn()
    link.confirm(subscriptions)
    subscriptions.detach()
    waiter = subscriptions.want("new")
    subscriptions.want("never").cancel()
    subscriptions.forget("never")
    await turn()
    again: Any = Recorder()
    settled = subscriptions.attach(again)
    assert again.subscribed == {"kept", "new"}
    assert kept.result()
    assert not waiter.done()
    assert not settled.done()
    again.confirm(subscriptions)
    assert waiter.result()
    assert settled.done()
    assert subscriptions.want("kept").result()


@pytest.mark.parametrize("seed", range(50))
async def test_the_last_word_counts(link: Any, seed: int) -> None:
    """However wanting, forgetting, confirming and losing links mix, at rest Redis has just what is wanted."""
    chance = random.Random(seed)
    subscriptions = Subscriptions()
    current: Any = link
    _ = subscriptions.attach(current)
    wanted: set[str] = set()
    waiters: dict[str, asyncio.Future[bool]] = {}
    for _ in range(300):
        channel = chance.choice("abcd")
        match chance.randrange(8):
            case 0 | 1:
                wanted.add(channel)
                waiters[channel] = subscriptions.want(channel)
            case 2 | 3:
                wanted.discard(channel)
                subscriptions.forget(channel)
            case 4 | 5:
                await turn()
            case 6:
                current.confirm(subscriptions, chance.randrange(4))
            case _ if chance.random() < 0.1:
                subscriptions.detach()
                current = Recorder()
                _ = subscriptions.attach(current)
            case _:
                pass
    await turn()
    current.confirm(subscriptions)
    assert wanted == current.subscribed
    assert {channel for channel in "abcd" if channel in subscriptions} == wanted
    assert all(waiter.done() for waiter in waiters.values())
    assert all(waiters[channel].result() for channel in wanted)
