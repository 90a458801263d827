"""Keys of personal fields rotate in the background: each node that starts has everything sealed under its newest key.

A node of before may still seal under an older key while it runs. So an older key may go when every node has been started with the
new one first, and nothing is sealed under the older one any more; `looprooms keys reseal` says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct

from protocol.refusals import Refused
from server.settings import variable
from storage.postgres.pool import Pool
from storage.resealing import SEALED, reseal, seal_rest
from storage.sealing import Sealer

_LOGGER = logging.getLogger("looprooms.sealing")

PAUSE_SECONDS: Final = 0.01
"""Between two batches: what people do goes first."""
AGAIN_SECONDS: Final = 5.0


class Sealed(Struct, frozen=True):
    """How many fields were sealed, and how many don't open with any key."""

    done: int
    broken: int


async def seal_all(pool: Pool, sealer: Sealer, say: Callable[[int], None] = lambda _: None) -> Sealed:
    """Seal everything under the newest key. `say` is told how much is done. Stopped in the middle, it can be begun again.

    Raises `Refused` (unavailable).
    """
    done = broken = 0
    while count := await seal_rest(pool, sealer):
        done += count
        say(done)
        await asyncio.sleep(PAUSE_SECONDS)
    for sealed in SEALED:
        after = sealed.first
        while True:
            batch = await reseal(pool, sealer, sealed, after)
            if batch.after is None:
                break
            done, broken, after = done + batch.count, broken + batch.broken, batch.after
            say(done)
            await asyncio.sleep(PAUSE_SECONDS)
    return Sealed(done, broken)


async def seal_in_background(pool: Pool, sealer: Sealer) -> None:
    """Seal everything, however often Postgres is away meanwhile, and log what came of it."""
    while (sealed := await _attempt(pool, sealer)) is None:  # noqa: ASYNC110 - no event tells that Postgres is back
        await asyncio.sleep(AGAIN_SECONDS)
    if sealed.broken:
        _LOGGER.error("%d personal fields open with no key of %s", sealed.broken, variable("sealing_keys"))
    if sealed.done:
        _LOGGER.info("%d personal fields were sealed under the key %s", sealed.done, sealer.newest)


async def _attempt(pool: Pool, sealer: Sealer) -> Sealed | None:
    try:
        return await seal_all(pool, sealer)
    except Refused:
        return None


def told(sealed: Sealed, counts: Mapping[str, int], keys: Sequence[str]) -> str:
    """Say what became of the fields, and of the keys: `counts` are the fields by key id, `keys` those of the settings."""
    known = [key.partition(":")[0] for key in keys]
    setting = variable("sealing_keys")
    lines = [f"{sealed.done} fields were sealed anew."]
    if sealed.broken:
        lines.append(f"{sealed.broken} fields open with no key of {setting} and were left as they are.")
    lines += [
        f"  {counts[kid]:>9} under {kid}{' (newest)' if kid == known[0] else ''}" for kid in sorted(counts)
    ]
    if idle := [kid for kid in known[1:] if not counts.get(kid)]:
        lines.append(
            f"Nothing is sealed under {', '.join(idle)} any more: take it out of {setting} when every node has been started "
            f"with {known[0]} first. A backup of before is opened with the keys of before."
        )
    return "\n".join(lines)
