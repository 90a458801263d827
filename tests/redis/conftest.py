"""A private Valkey for each test that asks for one: it starts within 40 ms and may be killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.redis.valkeys import Valkey


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """Give a running, empty Valkey of one's own."""
    with Valkey() as server:
        yield server
