"""How much somebody may ask for, wherever they ask it: what nodes count together, by address, person or mailbox.

A limit stands next to what it limits: where commands are handled, where requests are. Whoever pays, and whoever works here,
may do more; but nobody may guess more, so what guards sign-in is taken without a session.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, Protocol

from protocol.refusals import ErrorCode, Refused
from storage.redis.limits import Limit, Limiter, Verdict

TIERS: Final[Mapping[str, float]] = {"PREMIUM_MONTHLY": 2.0, "PREMIUM_YEARLY": 2.0, "CREATOR_PRO": 4.0}
"""How many times as much a tier may do."""
ROLES: Final[Mapping[str, float]] = {"CREATOR": 2.0, "MODERATOR": 4.0, "ADMIN": 10.0}


class Standing(Protocol):
    """Whose limits they are: a live session, or what an access token says."""

    @property
    def role(self) -> str:
        """One of the four."""

    @property
    def tier(self) -> str:
        """What is paid for."""


class Quotas:
    """The shared limits of one node. `factor` multiplies all of them: for a load tester, who is many people at one address."""

    def __init__(self, limiter: Limiter, factor: float = 1.0) -> None:
        self.limiter = limiter
        self._factor = factor

    def spend(self, limit: Limit, who: str, standing: Standing | None = None) -> Verdict:
        """Take one at once, by what this node knows: for what is frequent."""
        return self.limiter.spend(self.sized(limit, standing), who)

    async def take(self, limit: Limit, who: str, standing: Standing | None = None) -> Verdict:
        """Take one, if it is there."""
        return await self.limiter.take(self.sized(limit, standing), who)

    async def demand(self, limit: Limit, who: str) -> None:
        """Take one. Raises `Refused` (rate_limited) when it is not there."""
        check(await self.take(limit, who))

    async def look(self, limit: Limit, who: str) -> Verdict:
        """Say whether one is there."""
        return await self.limiter.look(self.sized(limit), who)

    async def charge(self, limit: Limit, who: str) -> None:
        """Take one, there or not."""
        await self.limiter.charge(self.sized(limit), who)

    def sized(self, limit: Limit, standing: Standing | None = None) -> Limit:
        """Return `limit` as it is for somebody; without a standing, as it is for everyone."""
        factor = self._factor if standing is None else self._factor * factor_of(standing)
        return limit if factor == 1.0 else _times(limit, factor)


def factor_of(standing: Standing) -> float:
    """Return how many times as much somebody may do as anyone may."""
    return max(TIERS.get(standing.tier, 1.0), ROLES.get(standing.role, 1.0))


_times = lru_cache(maxsize=1024)(Limit.times)


def check(verdict: Verdict) -> None:
    """Raise `Refused` (rate_limited) for a verdict that says no."""
    if not verdict.allowed:
        raise rate_limited(verdict)


def rate_limited(verdict: Verdict) -> Refused:
    """Return how a verdict that says no is told."""
    return Refused(ErrorCode.RATE_LIMITED, retry_after=max(0.001, round(verdict.retry_after, 3)))
