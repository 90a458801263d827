"""A creator with an exclusive looproom, and people who buy passes to it."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx2

from protocol.envelope import RoomId
from server.gateways.standin.ledger import Object
from tests.hosting import make_room
from tests.meeting import Guest
from tests.shop import Shop


class Backstage:
    """One host and one room, in a shop."""

    def __init__(self, shop: Shop, host: Guest, room: RoomId) -> None:
        self.shop = shop
        self.host = host
        self.room = room

    async def ask(self, guest: Guest | None, kind: str = "session", **body: Any) -> httpx2.Response:
        """Begin to buy a pass."""
        wanted = {"room": str(self.room), "kind": kind, "key": uuid4().hex, **body}
        return await self.shop.ask(guest, "POST", "/payments/passes", **wanted)

    async def checkout(self, guest: Guest, kind: str = "session") -> Object:
        """Begin to buy a pass; return the checkout as the stand-in has it."""
        answer = await self.ask(guest, kind)
        assert answer.status_code == 201, answer.text
        return self.shop.stand_in.ledger.get("checkout.session", answer.json()["url"].rpartition("/")[2])

    async def buy(self, guest: Guest, kind: str = "session") -> Object:
        """Buy a pass; return the charge as the stand-in has it."""
        session = await self.checkout(guest, kind)
        self.shop.stand_in.billing.complete(session)
        return next(self.shop.stand_in.ledger.all("charge"))

    async def sums(self) -> dict[str, int]:
        """Return the balances of all accounts; a creator's is called ``earnings``."""
        rows = await self.shop.pool.fetch(
            "select split_part(account, ':', 1) as account, sum(cents)::bigint as cents from ledger_entries group by 1"
        )
        return {row["account"]: row["cents"] for row in rows if row["cents"]}


async def backstage(
    shop: Shop, *, month: int | None = 1500, session: int | None = 400, slug: str = "exclusive"
) -> Backstage:
    """Make a creator and their room, which costs so many cents."""
    host = await shop.guest()
    await shop.pool.execute("update users set role = 'CREATOR' where id = $1", host.user)
    room = await make_room(shop.pool, slug)
    await shop.pool.execute(
        "update rooms set host_id = $2, month_cents = $3, session_cents = $4 where id = $1",
        room,
        host.user,
        month,
        session,
    )
    return Backstage(shop, host, room)
