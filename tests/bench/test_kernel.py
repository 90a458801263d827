"""What processes cost, and what a span of time has cost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from bench.kernel import Cost, cost_of, costs, descriptors, family, raise_limit_of_files
from bench.meter import Meter, Reading, Usage, memory_of_nodes, share_figures, usage

_BURN = "import time; t = time.process_time()\nwhile time.process_time() < t + 0.3: pass\nprint(flush=True); input()"


@pytest.fixture
def burner() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has used 0.3 s of CPU, and waits."""
    process = subprocess.Popen([sys.executable, "-c", _BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.communicate(b"\n")


def test_a_process_is_charged_for_what_it_used(burner: subprocess.Popen[bytes]) -> None:
    """By the kernel, not by the clock; memory is resident memory; it is among our descendants."""
    cost = cost_of(burner.pid)
    assert 0.25 < cost.cpu < 1.5
    assert 1 << 20 < cost.resident < 1 << 28
    assert burner.pid in family(os.getpid())
    assert costs(burner.pid)["server"].cpu >= cost.cpu
    assert descriptors(burner.pid) >= 3


def test_a_process_that_is_gone_cost_nothing() -> None:
    """So a server that dies does not end the measurement with a traceback."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert cost_of(process.pid) == Cost()
    assert descriptors(process.pid) == 0


def test_a_span_is_the_difference_of_two_readings(burner: subprocess.Popen[bytes]) -> None:
    """What was used before it does not count; several nodes are told apart, and a tester is another column."""
    meter = Meter([burner.pid, os.getpid()], [burner.pid])
    readings = meter.watch(time.monotonic() + 0.1, every=0.05)
    assert len(readings) >= 2
    used = usage(readings[0], readings[-1])
    assert {"node 1", "node 2"} <= set(used.cpu)
    assert used.cpu["node 1"] < 0.05
    assert used.testers[0] < 0.5
    assert memory_of_nodes(readings[-1]) > 1 << 20


def test_a_busy_tester_is_told() -> None:
    """From nine tenths of a core on a figure may be the tester's."""
    before = Reading(0.0, {"server": Cost(1.0, 10)}, [Cost(0.0), Cost(0.0)])
    after = Reading(10.0, {"server": Cost(6.0, 30), "postgres": Cost(1.0, 5)}, [Cost(1.0), Cost(9.5)])
    used = usage(before, after)
    assert (used.server, used.share("server"), used.share("postgres")) == (5.0, 0.5, 0.1)
    assert used.testers == [0.1, 0.95]
    assert used.tester_was_busy
    assert [figure.value for figure in share_figures(used)] == [50.0, 10.0]
    assert not Usage(seconds=1.0, cpu={}, resident={}, testers=[]).tester_was_busy


def test_as_many_files_as_may_be() -> None:
    """Ten thousand connections need as many descriptors, on both sides."""
    assert raise_limit_of_files() >= 1024
