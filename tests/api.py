"""Does every answer of HTTP keep to what `/openapi.json` says? An independent tool makes the requests: `make api`.

schemathesis reads the description, and asks a server that really runs for everything in it: with good bodies and bad ones, with
methods that a path does not have, with what one answer gives as what the next one takes. It has an environment of its own
(`requirements-api.lock`), because its plugin makes every run of pytest slower. It asks twice, as somebody who is signed in and as
nobody. The seed is fixed, so the same code is asked the same.

Whatever happens, the server must answer as announced, log no bug, and never say 5xx. What is told to schemathesis beside the
description, and why, stands in `tests/api.toml`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.serving import serving
from tests.http.provider import (
    APP,
    KEY_ID,
    SECRET,
    TEAM,
    WEB,
    StandIn,
    apple_client_key,
    pem,
    standing_in,
)
from tests.http.serving import PASSWORD

SEED: Final = 1
EXAMPLES: Final = 30
QUICK_EXAMPLES: Final = 3
TOOL: Final = Path(".venv-api/bin/schemathesis")
CONFIGURATION: Final = Path(__file__).with_suffix(".toml")
LOGGED: Final = "bench-server.log"
SIGNED_IN: Final = f"""
# A new account when the last one has left or ended its sessions: registering again with an address is never refused.
[auth.dynamic.openapi.accessToken]
path = "/auth/register"
payload = {{ email = "schemathesis@example.org", password = "{PASSWORD}", name = "Schemathesis" }}
extract_selector = "/access_token"
retry_on = [401]
"""
NOBODY: Final = """
[auth]
auto-signup = false
"""


def command(url: str, folder: Path, *, signed_in: bool, examples: int, quick: bool) -> Sequence[str | Path]:
    """Return what to run; its configuration is written into `folder`."""
    configuration = folder / ("signed-in.toml" if signed_in else "nobody.toml")
    configuration.write_text(CONFIGURATION.read_text("utf-8") + (SIGNED_IN if signed_in else NOBODY), "utf-8")
    return [
        TOOL.absolute(),
        f"--config-file={configuration}",
        "run",
        f"{url}/openapi.json",
        f"--seed={SEED}",
        f"--max-examples={examples}",
        "--phases=" + ("examples,coverage" if quick else "examples,coverage,fuzzing,stateful"),
        "--generation-database=none",
        "--continue-on-failure",
        "--no-color",
    ]


def providers(google: StandIn, apple: StandIn) -> dict[str, str]:
    """Return the settings with which a server offers both."""
    return {
        "LOOPROOMS_GOOGLE_CLIENT_ID": WEB,
        "LOOPROOMS_GOOGLE_CLIENT_SECRET": SECRET,
        "LOOPROOMS_GOOGLE_APP_IDS": APP,
        "LOOPROOMS_GOOGLE_URL": google.url,
        "LOOPROOMS_APPLE_CLIENT_ID": WEB,
        "LOOPROOMS_APPLE_TEAM_ID": TEAM,
        "LOOPROOMS_APPLE_KEY_ID": KEY_ID,
        "LOOPROOMS_APPLE_PRIVATE_KEY": pem(apple_client_key()),
        "LOOPROOMS_APPLE_APP_IDS": APP,
        "LOOPROOMS_APPLE_URL": apple.url,
    }


def asked(folder: Path, settings: dict[str, str], *, examples: int, quick: bool) -> list[str]:
    """Run a server and have it asked, twice; return what is wrong, in sentences."""
    wrong = []
    with serving(folder / "data", settings=settings) as target:
        for signed_in in (True, False):
            who = "somebody who is signed in" if signed_in else "nobody"
            print(f"As {who}:", flush=True)
            run = command(target.urls[0], folder, signed_in=signed_in, examples=examples, quick=quick)
            status = subprocess.run(run, cwd=folder, check=False).returncode
            if status:
                wrong.append(f"As {who}: schemathesis ended with {status}; see above.")
    log = (folder / "data" / LOGGED).read_text("utf-8", "replace")
    if "Traceback" in log:
        wrong.append(f"The server has logged a bug:\n{log[-8000:]}")
    return wrong


async def _asked(folder: Path, *, examples: int, quick: bool) -> list[str]:
    redirect = "http://127.0.0.1/never-reached"
    async with standing_in("google", redirect) as google, standing_in("apple", redirect) as apple:
        settings = providers(google, apple)
        return await asyncio.to_thread(asked, folder, settings, examples=examples, quick=quick)


def main() -> None:
    """Ask, and end with what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.api", description="Does HTTP keep to its OpenAPI?")
    parser.add_argument("--quick", action="store_true", help="what CI runs: no random bodies")
    parser.add_argument("--examples", type=int, help=f"random bodies an operation (default: {EXAMPLES})")
    given = parser.parse_args()
    if not TOOL.exists():
        sys.exit(f"There is no {TOOL}; `make api` installs it.")
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="lr-api-", dir=memory if memory.is_dir() else None))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    try:
        examples = given.examples or (QUICK_EXAMPLES if given.quick else EXAMPLES)
        wrong = asyncio.run(_asked(folder, examples=examples, quick=given.quick))
    finally:
        shutil.rmtree(folder)
    if wrong:
        sys.exit("\n".join(wrong))
    print("Every answer is as announced.")


if __name__ == "__main__":
    main()
