"""The stores of `tests.stores` and the nodes of `tests.standing`, for every test file that does not bring its own."""

from __future__ import annotations

from tests.standing import nodes, room
from tests.stores import database_url, pool, postgres, valkey

__all__ = ["database_url", "nodes", "pool", "postgres", "room", "valkey"]
