"""The stand-in of an embedded run: started beside the private Postgres where nothing else is said about payments."""

from __future__ import annotations

import asyncio
import fcntl
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TextIO

import msgspec

from server.settings import PRETEND_KEY, Settings

FILE: Final = "standin.json"
PLACE: Final = "standin.at"
"""Where it is, in a file that its process holds locked."""
PATIENCE: Final = 5.0
"""Seconds in which one that has just been started has said where it is."""


@asynccontextmanager
async def pretending(settings: Settings, folder: Path | None) -> AsyncIterator[Settings]:
    """Run a stand-in until the block ends, or find the one of a server that runs, and give the settings that use it.

    Nothing is done where Stripe is, or where Postgres is not the embedded one (`folder` is None): a server that is meant
    for people never takes pretend money by accident.
    """
    if settings.stripe_secret_key or folder is None:
        yield settings
        return
    with (folder / PLACE).open("a+") as place:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield _using(settings, await _said(place), "whsec_of_the_one_that_runs")
            return
        place.truncate(0)
        async with _running(settings, folder) as (base, secret):
            place.write(f"{base}\n")
            place.flush()
            yield _using(settings, base, secret)


@asynccontextmanager
async def _running(settings: Settings, folder: Path) -> AsyncIterator[tuple[str, str]]:
    from server.gateways.standin.standin import StandIn, serving

    here = msgspec.structs.replace(settings, public_url="").home
    secret = f"whsec_{secrets.token_hex(16)}"
    stand_in = StandIn(f"{here}/payments/webhook", secret=secret, file=folder / FILE)
    async with serving(stand_in) as running:
        yield running.base, secret


async def _said(place: TextIO) -> str:
    """Return where the one that runs is. Raises `TimeoutError` when it does not say it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            place.seek(0)
            if (base := place.read()).endswith("\n"):
                return base.strip()
            await asyncio.sleep(0.05)


def _using(settings: Settings, base: str, secret: str) -> Settings:
    return msgspec.structs.replace(
        settings, stripe_secret_key=PRETEND_KEY, stripe_webhook_secret=secret, stripe_api_base=base
    )
