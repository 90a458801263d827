"""What the stand-in remembers, and that a restart loses nothing of it."""

from __future__ import annotations

import json
from pathlib import Path

from server.gateways.standin.ledger import Ledger, Object
from tests.gateways.standin.booth import booth


async def test_a_restart_loses_nothing(tmp_path: Path) -> None:
    """Objects, idempotency keys and the time that was skipped are in one file."""
    file = tmp_path / "standin.json"
    async with booth(file=file) as first:
        subscription = await first.subscribed()
        made = await first.post("/v1/customers", key="k")
        first.stand_in.ledger.skipped = 7
        await first.post("/v1/customers")
    async with booth(file=file) as second:
        assert second.stand_in.ledger.get("subscription", subscription["id"]) == subscription
        again = await second.post("/v1/customers", key="k")
        assert again.json() == made.json()
        assert second.stand_in.ledger.skipped == 7


def test_without_a_file_nothing_is_written(tmp_path: Path) -> None:
    """And with one, a half-written file never takes its place."""
    told: list[Object] = []
    Ledger(lambda: 0.0, told.append).save()
    file = tmp_path / "standin.json"
    ledger = Ledger(lambda: 100.5, told.append, file)
    ledger.tell("x", ledger.add("customer", standin={"secret": 1}, inner=[{"standin": 2, "a": 3}]))
    ledger.save()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["standin.json"]
    assert json.loads(file.read_text())["skipped"] == 0.0
    (event,) = told
    assert event["created"] == 100
    assert event["data"]["object"]["inner"] == [{"a": 3}]
    assert "standin" not in event["data"]["object"]
