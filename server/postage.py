"""How many letters go out: so many an hour from all nodes together, and so many to one mailbox of those that anybody can ask for.

What asks for a letter is limited where it is asked (`server.http.auth`). This is the last fence behind all of that, at the one
door that every letter leaves by: a mistake in any of the others, or somebody with a thousand addresses, costs the reputation of
the sender nothing, and a stranger's mailbox stays usable. Over it a letter waits; it is not lost, and not tried in vain.

A letter is counted when it has gone out, so those that go out at the same moment may be a few too many: they are paid back by the
next ones. Word of what was done to an account - another password, another address - waits for no mailbox's sake: whoever could
fill that up would silence it.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

from server.emails import mailbox
from server.jobs import NotYet
from server.limits import Quotas
from storage.redis.limits import Limit, Verdict

TO_ONE: Final = Limit("letters-to", burst=10, rate=1 / 3600)
"""Letters to a mailbox that anybody can have sent there; further ones wait."""
SPREAD_SECONDS: Final = 300.0
"""What waits for the same moment comes back within so long after it, not all at once."""


class Postage:
    """What one node has sent, and may send. `per_hour` is of all nodes."""

    def __init__(self, quotas: Quotas, per_hour: int) -> None:
        self._quotas = quotas
        self._all = Limit("letters-out", burst=max(1.0, per_hour / 10), rate=per_hour / 3600)
        self.outcomes: Counter[str] = Counter(sent=0, waited=0, unsent=0, undeliverable=0)

    async def open(self) -> None:
        """Raise `NotYet` while no more may go out: asked before a letter is prepared."""
        self._wait(await self._quotas.look(self._all, "all"), spread=SPREAD_SECONDS)

    async def open_to(self, email: str) -> None:
        """Raise `NotYet` while a mailbox has had enough of what anybody can ask for."""
        self._wait(await self._quotas.look(TO_ONE, mailbox(email)), spread=1.0)

    async def sent(self, email: str, *, asked: bool) -> None:
        """Count a letter that has gone out; one that was `asked` for against its mailbox, too."""
        await self._quotas.charge(self._all, "all")
        if asked:
            await self._quotas.charge(TO_ONE, mailbox(email))
        self.outcomes["sent"] += 1

    def _wait(self, verdict: Verdict, *, spread: float) -> None:
        if not verdict.allowed:
            self.outcomes["waited"] += 1
            raise NotYet(after=verdict.retry_after + random.uniform(0, spread))
