"""What is remembered: Postgres is the memory, the one system of record; Redis is the nerve.

Redis routes events between nodes and holds what is ephemeral (who is here, leases, limits). It may be lost at any moment,
and nothing durable is lost with it. Statements stand as SQL in the module of their domain, next to the function that runs
them.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.envelope import Epoch
from storage.postgres.pool import Pool
from storage.redis.broker import Broker
from storage.redis.pool import Redis
from storage.sealing import Sealer


@dataclass(frozen=True, slots=True)
class Stores:
    """The open stores of one node. `epoch` names the history that Postgres holds; personal fields pass through `sealer`."""

    pool: Pool
    redis: Redis
    broker: Broker
    epoch: Epoch
    sealer: Sealer
