"""Stopping: everyone is told when to come back, spread over time, and nobody waits for one who does not go."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.closing import CloseCode
from protocol.codec import JSON
from protocol.session import Drain
from server.hub.drain import DEPARTURES_PER_SECOND, departure_times, drain
from server.hub.hub import Hub, Limits
from tests.clocks import in_no_time
from tests.hub.scene import LIMITS, session_of
from tests.transport import Peer


@given(st.integers(0, 3000), st.floats(0.0, 60.0))
def test_departure_times(connections: int, most: float) -> None:
    """Each has a time within the window, evenly spread, never more a second than others take in unless time is short."""
    times = sorted(departure_times(connections, most))
    assert len(times) == connections
    if connections:
        window = min(most, connections / DEPARTURES_PER_SECOND)
        assert times[-1] == pytest.approx(window)
        gap = window / connections
        assert times == pytest.approx([gap * number for number in range(1, connections + 1)])


def test_departures_are_shuffled() -> None:
    """Who came first does not go first."""
    times = departure_times(100, 10.0)
    assert times != sorted(times)


class Node:
    """A hub on a loop in which waiting takes no time, with `guests` who said hello and one who did not."""

    def __init__(self, guests: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.hub = Hub(Limits(**LIMITS), self.loop)  # type: ignore[arg-type] # as in a scene
        self.hub.receive = lambda *_: None
        self.hub.wheel.start(self.loop)
        self.guests = [self.peer() for _ in range(guests)]
        for number, guest in enumerate(self.guests):
            connection = next(one for one in self.hub.members.connections if one.transport is guest.transport)
            connection.session = session_of(number)
        self.stranger = self.peer()

    def peer(self) -> Peer:
        """Let somebody shake hands."""
        return Peer(self.hub.connect(), self.loop, codec=JSON).open()


def test_drain() -> None:
    """Everyone is told a time, closed at that time and not before, and answers; those without a session go at once."""

    async def run() -> None:
        node = Node(guests=400)
        began = node.loop.time()
        draining = asyncio.create_task(drain(node.hub, most=30.0))
        await asyncio.sleep(0)
        node.stranger.flush()
        assert node.stranger.heard.closed == CloseCode.DRAINING
        told = {}
        for guest in node.guests:
            [notice] = guest.take()
            assert isinstance(notice, Drain)
            told[guest] = notice.reconnect_in
        assert max(told.values()) == 400 / DEPARTURES_PER_SECOND
        assert node.peer().response.status_code == 503  # type: ignore[union-attr] # it shook hands
        for guest, seconds in sorted(told.items(), key=lambda item: item[1]):
            await asyncio.sleep(began + seconds - 0.002 - node.loop.time())
            guest.flush()
            assert guest.heard.closed is None
            await asyncio.sleep(0.004)
            guest.flush()
            assert guest.heard.closed == CloseCode.DRAINING
        await draining
        assert node.hub.members.connections == set()
        assert node.loop.time() - began < 2.1
        assert node.hub.closes == {CloseCode.DRAINING: 401}

    in_no_time(run())


def test_one_who_does_not_go() -> None:
    """Who does not answer the close keeps the node a second longer, no more."""

    async def run() -> None:
        node = Node(guests=2)
        began = node.loop.time()
        await drain(node.hub, most=0.0)
        assert node.loop.time() - began == pytest.approx(1.0, abs=0.1)
        assert len(node.hub.members.connections) == 3
        await asyncio.sleep(4.0)
        assert node.hub.members.connections == set()
        node.hub.wheel.stop()

    in_no_time(run())


def test_nobody_there() -> None:
    """A node without connections has nothing to wait for."""

    async def run() -> None:
        node = Node(guests=0)
        node.stranger.leave()
        await asyncio.sleep(0)
        began = node.loop.time()
        await drain(node.hub, most=30.0)
        assert node.loop.time() == began
        assert node.hub.draining
        node.hub.wheel.stop()

    in_no_time(run())
