"""What a span of time has cost, by the kernel's accounting: every node, the stores, and the testers themselves."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence

import msgspec

from bench.kernel import Cost, cost_of, costs
from bench.result import LESS, Figure

BUSY = 0.9
"""The share of a core from which a tester's process counts as the bottleneck."""
SAMPLE_SECONDS = 1.0


class Reading(msgspec.Struct):
    """What had been spent at a moment (monotonic seconds): by role on the server's side, by process on ours."""

    at: float
    server: dict[str, Cost]
    testers: list[Cost]


class Usage(msgspec.Struct):
    """What was spent between two readings. CPU in seconds."""

    seconds: float
    cpu: dict[str, float]
    resident: dict[str, int]
    """Bytes at the end."""
    testers: list[float]
    """Shares of a core."""

    @property
    def server(self) -> float:
        """CPU of all nodes, without the stores."""
        return sum(cpu for role, cpu in self.cpu.items() if is_node(role))

    def share(self, role: str) -> float:
        """Return how much of a core a role has used."""
        return self.cpu[role] / self.seconds if self.seconds else 0.0

    @property
    def tester_was_busy(self) -> bool:
        """Whether a figure of this span may be the tester's, not the server's."""
        return max(self.testers, default=0.0) > BUSY


def is_node(role: str) -> bool:
    """Say whether a role is a node, not a store."""
    return role.startswith(("server", "node"))


class Meter:
    """Reads what the server's processes and the testers' have cost. `nodes` are the server's, none if its cost is not known."""

    def __init__(self, nodes: Sequence[int], testers: Sequence[int]) -> None:
        self._nodes = nodes
        self._testers = testers

    def read(self) -> Reading:
        """Read everything now."""
        server: defaultdict[str, Cost] = defaultdict(Cost)
        for number, pid in enumerate(self._nodes, 1):
            for role, cost in costs(pid).items():
                name = f"node {number}" if role == "server" and len(self._nodes) > 1 else role
                server[name] += cost
        return Reading(time.monotonic(), dict(server), [cost_of(pid) for pid in self._testers])

    def watch(
        self, until: float, every: float = SAMPLE_SECONDS, heed: Callable[[Reading], None] = lambda _: None
    ) -> list[Reading]:
        """Read now, then each `every` seconds, and at `until` (monotonic seconds); `heed` is called with each."""
        readings = [self.read()]
        heed(readings[0])
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, every if left > every * 1.5 else left))
            readings.append(self.read())
            heed(readings[-1])
        return readings


def usage(first: Reading, last: Reading) -> Usage:
    """Return what was spent between two readings."""
    spent = {role: last.server[role] - first.server.get(role, Cost()) for role in last.server}
    seconds = last.at - first.at
    return Usage(
        seconds=seconds,
        cpu={role: cost.cpu for role, cost in spent.items()},
        resident={role: cost.resident for role, cost in last.server.items()},
        testers=[
            (after - before).cpu / seconds for before, after in zip(first.testers, last.testers, strict=True)
        ],
    )


def share_figures(used: Usage) -> list[Figure]:
    """Return how much of a core each role has used, in percent."""
    return [
        Figure(f"share of a core, {role}", round(used.share(role) * 100, 2), "%", LESS) for role in used.cpu
    ]


def memory_of_nodes(reading: Reading) -> int:
    """Return the resident bytes of all nodes, without the stores."""
    return sum(cost.resident for role, cost in reading.server.items() if is_node(role))
