"""A stand-in for Stripe, for each test that asks for one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.gateways.standin.booth import Booth, booth


@pytest.fixture
async def stall() -> AsyncIterator[Booth]:
    """Open a stand-in without a node."""
    async with booth() as running:
        yield running
