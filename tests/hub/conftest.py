"""The hub's tests use real stores."""

from __future__ import annotations

from tests.stores import database_url, pool, postgres, valkey

__all__ = ["database_url", "pool", "postgres", "valkey"]
