"""Webhooks of the stand-in: signed, sent until they are taken, twice, late, or not at all."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from protocol.refusals import Refused
from server.gateways.cards import check_signature
from server.gateways.standin import deliveries as sending
from server.gateways.standin.deliveries import Deliveries, encoded
from tests.waiting import until

SECRET = "whsec_x"


class Hearer:
    """Answers webhooks as it is told to, and keeps what it heard."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.heard: list[tuple[bytes, str]] = []
        self.url = ""

    @property
    def ids(self) -> list[str]:
        """The events, in the order in which they came."""
        return [json.loads(body)["id"] for body, _ in self.heard]

    async def hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take one request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
        }
        body = await reader.readexactly(int(fields["content-length"]))
        self.heard.append((body, fields["stripe-signature"]))
        status = self.statuses.pop(0) if self.statuses else 204
        writer.write(f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def hearing() -> AsyncIterator[tuple[Hearer, Deliveries]]:
    """Run somebody who takes webhooks, and what sends them."""
    hearer = Hearer()
    server = await asyncio.start_server(hearer.hear, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    deliveries = Deliveries(f"http://127.0.0.1:{port}/hook", SECRET)
    deliveries.start()
    try:
        yield hearer, deliveries
    finally:
        await deliveries.aclose()
        server.close()
        await server.wait_closed()


def event(number: int) -> dict[str, object]:
    """Return an event."""
    return {"id": f"evt_{number}", "type": "x"}


async def test_they_are_signed() -> None:
    """The bytes as they are; a server of ours believes them."""
    async with hearing() as (hearer, deliveries):
        deliveries.add(event(1))
        await until(lambda: hearer.heard)
        body, header = hearer.heard[0]
        assert body == encoded(event(1))
        check_signature(body, header, (SECRET,), time.time())
        with pytest.raises(Refused):
            check_signature(body, header, ("whsec_y",), time.time())


async def test_they_come_until_they_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the answer is, and when there is none."""
    monkeypatch.setattr(sending, "PAUSES", (0.01,))
    async with hearing() as (hearer, deliveries):
        hearer.statuses = [500, 422, 302]
        url, deliveries.url = deliveries.url, "http://127.0.0.1:9/nobody"
        deliveries.add(event(1))
        await asyncio.sleep(0.05)
        deliveries.url = url
        await until(lambda: deliveries.taken == ["evt_1"])
        assert hearer.ids == ["evt_1"] * 4
        assert [status for _, status in deliveries.refused] == [500, 422, 302]


async def test_they_come_as_badly_as_one_likes() -> None:
    """Three times, not at all, or when one sends them oneself."""
    async with hearing() as (hearer, deliveries):
        deliveries.copies = 3
        deliveries.add(event(1))
        await until(lambda: hearer.ids == ["evt_1"] * 3)
        deliveries.lost = True
        deliveries.add(event(2))
        deliveries.lost, deliveries.copies, deliveries.held = False, 1, []
        deliveries.add(event(3))
        assert deliveries.held == [event(3)]
        assert await deliveries.send(event(3)) == 204
        assert hearer.ids == ["evt_1"] * 3 + ["evt_3"]
