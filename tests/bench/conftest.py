"""One real server, started as the testers start it, for all scenarios."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.ground import Ground, Site, opened

DURABLE_ENOUGH = {"LOOPROOMS_PRESENCE_GRACE_SECONDS": "0.5"}


@pytest.fixture(scope="session")
def ground() -> Iterator[Ground]:
    """Run a server with stores in memory."""
    memory = Path("/dev/shm")
    data = Path(tempfile.mkdtemp(prefix="lr-bench-", dir=memory if memory.is_dir() else None))
    data.chmod(0o711)
    try:
        with opened(Site(data=data, settings=DURABLE_ENOUGH)) as ground:
            yield ground
    finally:
        shutil.rmtree(data)
