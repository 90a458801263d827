"""What processes have cost, by the kernel's accounting (/proc), and on which cores they run."""

from __future__ import annotations

import os
import resource
from collections import defaultdict
from pathlib import Path

import msgspec

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Cost(msgspec.Struct):
    """CPU seconds, in user and in kernel mode together, and resident memory in bytes."""

    cpu: float = 0.0
    resident: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.cpu + other.cpu, self.resident + other.resident)

    def __sub__(self, earlier: Cost) -> Cost:
        return Cost(self.cpu - earlier.cpu, self.resident - earlier.resident)


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children[int(fields[1])].append(int(entry.name))
    found = [pid]
    for parent in found:  # the list grows while it is read
        found += children[parent]
    return found


def costs(pid: int) -> dict[str, Cost]:
    """Return the cost of a server so far: ``server`` (its processes), ``postgres`` and ``valkey`` (embedded ones).

    What ended children of these processes have cost is included.
    """
    total: defaultdict[str, Cost] = defaultdict(Cost)
    for member in family(pid):
        total[_role(member)] += cost_of(member)
    return total


def cost_of(pid: int) -> Cost:
    """Return the cost of one process, with that of its ended children; nothing when it is gone."""
    fields = _stat(pid)
    if fields is None:
        return Cost()
    own = _run_seconds(pid)
    if own is None:
        own = (int(fields[11]) + int(fields[12])) / _TICK
    children = (int(fields[13]) + int(fields[14])) / _TICK
    return Cost(cpu=own + children, resident=int(fields[21]) * _PAGE)


def _run_seconds(pid: int) -> float | None:
    """Return the time for which all threads of a process have run, by the nanosecond; None where the kernel does not say.

    The fields of ``stat`` count in ticks of 10 ms, which is too coarse for a span of a second.
    """
    try:
        tasks = [task.joinpath("schedstat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return None
    return sum(int(text.split()[0]) for text in tasks) / 1e9


def descriptors(pid: int) -> int:
    """Return how many files a process and all that descend from it have open."""
    total = 0
    for member in family(pid):
        try:
            total += sum(1 for _ in Path(f"/proc/{member}/fd").iterdir())
        except OSError:
            continue
    return total


def raise_limit_of_files() -> int:
    """Let this process and those that it starts open as many files as they may; return how many that is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def pin(pid: int, cores: set[int], role: str) -> None:
    """Bind the processes of a server that have this role, and all their threads, to `cores`."""
    for member in family(pid):
        if _role(member) == role:
            for task in _tasks(member):
                os.sched_setaffinity(task, cores)


def _role(pid: int) -> str:
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "server"
    if "postgres" in name:
        return "postgres"
    return "valkey" if "valkey" in name or "redis" in name else "server"


def _tasks(pid: int) -> list[int]:
    try:
        return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []


def _stat(pid: int) -> list[bytes] | None:
    """Return the fields after the name: state, parent, ... (proc_pid_stat(5)); None when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
