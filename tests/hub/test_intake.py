"""What clients send is taken in slices of a turn, in order, and what has waited too long is known to have."""

from __future__ import annotations

import pytest

from server.hub.intake import LATE_SECONDS, SLICE_SECONDS, Intake
from tests.clocks import HandTurned


class Sender:
    """A source whose bytes take some time, and what became of them: `taken` says whether they were late."""

    def __init__(self, intake: Intake, loop: HandTurned, seconds: float = 0.0) -> None:
        self.intake = intake
        self.loop = loop
        self.seconds = seconds
        self.taken: list[tuple[bytes, bool]] = []
        self.holds: list[str] = []

    def say(self, data: bytes) -> None:
        """Send, as its connection would hand it over."""
        if self.intake.admits(self.loop.now):
            self.take(data)
        else:
            self.intake.put(self, data, self.loop.now)

    def take(self, data: bytes) -> None:
        """Take some time."""
        self.taken.append((data, self.intake.late))
        self.loop.now += self.seconds
        if data == b"a bug":
            raise ZeroDivisionError

    def hold_reading(self, why: str) -> None:
        """Note it."""
        self.holds.append(why)

    def release_reading(self, why: str) -> None:
        """Note it."""
        assert self.holds.pop() == why


def scene(seconds: float, count: int) -> tuple[Intake, HandTurned, list[Sender]]:
    """Return so many whose bytes each take so long."""
    loop = HandTurned()
    intake = Intake(loop.loop)
    return intake, loop, [Sender(intake, loop, seconds) for _ in range(count)]


def test_quiet() -> None:
    """In quiet times everything is taken as it comes, and nothing is left to do afterwards."""
    intake, loop, (one, other) = scene(0.0, 2)
    for _ in range(3):
        one.say(b"a")
        other.say(b"b")
        loop.turn()
        assert loop.waiting == 0
    assert one.taken == [(b"a", False)] * 3
    assert (len(intake), intake.put_aside) == (0, 0)


def test_slices() -> None:
    """A turn takes what comes for so long; the others are not read, and taken in their order, a slice in each turn."""
    intake, loop, senders = scene(SLICE_SECONDS * 0.3, 10)
    for sender in senders:
        sender.say(b"a")
    assert [len(sender.taken) for sender in senders] == [1] * 4 + [0] * 6
    assert [sender.holds for sender in senders] == [[]] * 4 + [["intake"]] * 6
    assert (len(intake), intake.put_aside) == (6, 6)
    loop.turn()
    assert [len(sender.taken) for sender in senders] == [1] * 8 + [0] * 2
    assert [sender.holds for sender in senders] == [[]] * 8 + [["intake"]] * 2
    loop.settle()
    assert [sender.taken for sender in senders] == [[(b"a", False)]] * 10
    assert (len(intake), loop.waiting) == (0, 0)


def test_nobody_overtakes() -> None:
    """While some wait, whoever sends waits behind them; what one has sent stays in its order."""
    intake, loop, (slow, first, second) = scene(2 * SLICE_SECONDS, 3)
    slow.say(b"a")
    first.say(b"b")
    loop.now += SLICE_SECONDS / 8
    second.say(b"c")
    first.say(b"d")  # its transport had read that already
    slow.seconds = first.seconds = second.seconds = SLICE_SECONDS / 8
    loop.turn()
    assert first.taken == [(b"bd", False)]
    assert second.taken == [(b"c", False)]
    assert len(intake) == 0


def test_late() -> None:
    """What was put aside for too long is marked, and only that."""
    intake, loop, (slow, first, second) = scene(2 * SLICE_SECONDS, 3)
    slow.say(b"a")
    first.say(b"b")
    loop.now += LATE_SECONDS - SLICE_SECONDS / 2
    second.say(b"c")
    loop.now += SLICE_SECONDS
    first.seconds = 0.0
    loop.turn()
    assert (first.taken, second.taken) == ([(b"b", True)], [(b"c", False)])
    assert not intake.late


def test_gone() -> None:
    """Of one who is gone nothing is taken any more."""
    intake, loop, (slow, gone, other) = scene(2 * SLICE_SECONDS, 3)
    for sender in (slow, gone, other):
        sender.say(b"a")
    intake.forget(gone)
    intake.forget(gone)
    loop.settle()
    assert (gone.taken, len(other.taken)) == ([], 1)


def test_bug() -> None:
    """A bug in what one has sent keeps nobody else from being heard."""
    intake, loop, (slow, broken, other) = scene(2 * SLICE_SECONDS, 3)
    slow.say(b"a")
    broken.say(b"a bug")
    other.say(b"b")
    with pytest.raises(ZeroDivisionError):
        loop.turn()
    loop.settle()
    assert other.taken == [(b"b", False)]
    assert (intake.late, loop.waiting) == (False, 0)
