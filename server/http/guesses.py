"""Slows down who guesses passwords: wrong ones are counted by address and by account, over all nodes; right ones cost nothing.

Each wrong answer takes one from two buckets that refill slowly; who has used one up waits, whatever they send. Guesses sent
at once, before the first was answered, put a bucket into debt.

Whoever guesses at one account from many addresses uses up the account's bucket, and would keep its owner out by that. So an
address from which somebody has signed in to an account lately is only slowed by its own bucket. Whether there is an account
makes no difference to any of this.
"""

from __future__ import annotations

import asyncio
import contextlib
from hashlib import blake2b
from typing import Final

from server.emails import mailbox
from server.limits import Quotas, check
from storage.redis.limits import Limit
from storage.redis.pool import Redis, RedisAway, get, put

BY_ADDRESS: Final = Limit("guesses-from", burst=20, rate=0.2)
"""Wrong passwords from one address, whoever is guessed."""
OF_ACCOUNT: Final = Limit("guesses-at", burst=20, rate=1 / 60)
"""Wrong passwords for one account, in any spelling of its address; from where its owner signed in lately it does not count."""
KNOWN_SECONDS: Final = 30 * 86400
"""How long an address is known as one of an account's own."""


class Guesses:
    """Wrong passwords, as all nodes count them."""

    def __init__(self, quotas: Quotas, redis: Redis) -> None:
        self._quotas = quotas
        self._redis = redis

    async def check(self, address: str, email: str) -> None:
        """Raise `Refused` (rate_limited) for one who must wait."""
        of_address, of_account = await asyncio.gather(
            self._quotas.look(BY_ADDRESS, address), self._quotas.look(OF_ACCOUNT, mailbox(email))
        )
        check(of_address)
        if not of_account.allowed and not await self._is_known(address, email):
            check(of_account)

    async def wrong(self, address: str, email: str) -> None:
        """Count a wrong password."""
        await asyncio.gather(
            self._quotas.charge(BY_ADDRESS, address), self._quotas.charge(OF_ACCOUNT, mailbox(email))
        )

    async def right(self, address: str, email: str) -> None:
        """Know the address from now on as one from which the account's owner comes."""
        if not self._quotas.limiter.away:
            with contextlib.suppress(RedisAway):
                await self._redis.run(put(_known(address, email), b"", px=KNOWN_SECONDS * 1000))

    async def _is_known(self, address: str, email: str) -> bool:
        if not self._quotas.limiter.away:
            with contextlib.suppress(RedisAway):
                return await self._redis.run(get(_known(address, email))) is not None
        return False


def _known(address: str, email: str) -> str:
    pair = f"{email} {address}"
    return "lr:known:" + blake2b(pair.encode(), digest_size=16).hexdigest()
