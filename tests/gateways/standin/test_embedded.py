"""Where pretend money is taken, and where it never is."""

from __future__ import annotations

from pathlib import Path

import httpx2

from server.gateways.standin.embedded import pretending
from server.settings import PRETEND_KEY, Settings


async def test_an_embedded_run_has_a_stand_in(tmp_path: Path) -> None:
    """With a secret of its own each time, on a port of loopback, and its memory in the data folder."""
    secrets = set()
    for _ in range(2):
        async with pretending(Settings(public_url="https://rooms.example"), tmp_path) as settings:
            assert (settings.stripe_secret_key, settings.pretends) == (PRETEND_KEY, True)
            assert settings.stripe_api_base.startswith("http://127.0.0.1:")
            secrets.add(settings.stripe_webhook_secret)
            async with httpx2.AsyncClient(trust_env=False) as client:
                made = await client.post(
                    f"{settings.stripe_api_base}/v1/customers",
                    headers={"authorization": f"Bearer {PRETEND_KEY}"},
                )
            assert made.status_code == 200
    assert len(secrets) == 2
    assert (tmp_path / "standin.json").exists()


async def test_beside_one_that_runs(tmp_path: Path) -> None:
    """A command finds it, and asks it; when it has ended the next one is another."""
    async with pretending(Settings(), tmp_path) as first:
        for _ in range(2):
            async with pretending(Settings(), tmp_path) as beside:
                assert beside.stripe_api_base == first.stripe_api_base
                assert (beside.stripe_secret_key, beside.pretends) == (PRETEND_KEY, True)
    async with pretending(Settings(), tmp_path) as later:
        assert len(later.stripe_webhook_secret) == len(first.stripe_webhook_secret)


async def test_nobody_else_has_one(tmp_path: Path) -> None:
    """With a key of Stripe, or with a Postgres of one's own, nothing is pretended."""
    paid = Settings(stripe_secret_key="sk_live_x", stripe_webhook_secret="whsec_x")
    async with pretending(paid, tmp_path) as settings:
        assert settings is paid
        assert not settings.pretends
    production = Settings(database_url="postgresql:///rooms")
    async with pretending(production, None) as settings:
        assert settings is production
        assert (settings.stripe_secret_key, settings.pretends) == ("", False)
