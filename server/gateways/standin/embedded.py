"""The stand-in of an embedded run: started beside the private Postgres where nothing else is said about payments."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from server.settings import PRETEND_KEY, Settings

FILE: Final = "standin.json"


@asynccontextmanager
async def pretending(settings: Settings, folder: Path | None) -> AsyncIterator[Settings]:
    """Run a stand-in until the block ends, and give the settings that use it.

    Nothing is done where Stripe is, or where Postgres is not the embedded one (`folder` is None): a server that is meant
    for people never takes pretend money by accident.
    """
    if settings.stripe_secret_key or folder is None:
        yield settings
        return
    from server.gateways.standin.standin import StandIn, serving

    here = msgspec.structs.replace(settings, public_url="").home
    secret = f"whsec_{secrets.token_hex(16)}"
    stand_in = StandIn(f"{here}/payments/webhook", secret=secret, file=folder / FILE)
    async with serving(stand_in) as running:
        yield msgspec.structs.replace(
            settings,
            stripe_secret_key=PRETEND_KEY,
            stripe_webhook_secret=secret,
            stripe_api_base=running.base,
        )
