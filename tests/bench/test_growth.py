"""Growth: every axis against real servers, small, and what is said of a line that bends."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.fanout import Figures
from bench.ground import Site
from bench.growth import Point, Question, ask, notes, result
from bench.meter import Usage
from bench.turns import Turns


@pytest.fixture
def site() -> Iterator[Site]:
    """Where servers of this test keep their data."""
    memory = Path("/dev/shm")
    data = Path(tempfile.mkdtemp(prefix="lr-growth-", dir=memory if memory.is_dir() else None))
    data.chmod(0o711)
    yield Site(data=data)
    shutil.rmtree(data)


def test_every_point_has_a_server_of_its_own(site: Site, tmp_path: Path) -> None:
    """One node and two: each point is measured, nothing is lost, and the lock is held."""
    question = Question(
        connections="20", rooms="", on_nodes="2", messages="", lines=20, members=8, seconds=0.4, warmup=0.1
    )
    turns = Turns(tmp_path / "lock")
    found = ask(question, site, turns)
    turns.release()
    assert found.value("missing, connections") == found.value("missing, nodes") == 0
    assert found.value("CPU per delivery, nodes 2") > 0
    assert found.plots[0].title == "Memory over connections"
    with pytest.raises(Exception, match="no figure"):
        found.value("missing, rooms")


def _point(at: float, cpu: float, *, deliveries: int = 1_000_000, offered: float = 1000.0) -> Point:
    used = Usage(seconds=1.0, cpu={"server": cpu}, resident={}, testers=[0.5])
    figures = Figures(
        deliveries=deliveries,
        seconds=1.0,
        deliveries_per_second=1000.0,
        offered_per_second=offered,
        said=1,
        acknowledged=1,
        expected=1,
        received=1,
        missing=0,
        short_connections=0,
        duplicates=0,
        disorder=0,
        pulses=0,
        bytes=0,
        others={},
        cpu_per_delivery={},
        usage=used,
        latencies={},
        answers={},
        late={},
        memory_per_connection=10_240.0,
    )
    return Point(at, figures)


def test_a_line_that_bends_says_why() -> None:
    """Cheaper with more to say, dearer over more nodes, and full where less is delivered than offered."""
    assert "one write carries" in notes("messages", [_point(10, 8.0), _point(1000, 2.0)])[0]
    assert "smaller share of the room" in notes("nodes", [_point(1, 2.0), _point(4, 3.0)])[0]
    flat = notes("connections", [_point(1000, 2.0), _point(10_000, 2.05)])
    assert flat == ["connections: a delivery costs 2.00 us at 1000 and 2.05 us at 10000 (+2%)"]
    assert notes("messages", [_point(10, 8.0), _point(1000, 2.0, offered=5000)])[1] == (
        "messages 1000: full, 1,000 of 5,000 deliveries/s"
    )
    assert notes("rooms", [_point(1, 1.0)]) == []


def test_memory_is_a_plot_of_its_own() -> None:
    """By connection, in KiB."""
    found = result(Question(), {"connections": [_point(1000, 2.0), _point(2000, 2.0)]})
    assert found.plots[0].lines == {"all nodes": [(1000, 10.0), (2000, 10.0)]}
    assert found.value("memory per connection, connections 2000") == 10.0
