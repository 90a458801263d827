"""Secrets of the embedded run, made once and kept in its data folder. Any other deployment brings its own."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

SIGNING_KEYS: Final = "signing.keys"
SEALING_KEYS: Final = "sealing.keys"
DEMO_PASSWORD: Final = "demo.password"  # noqa: S105 - the name of a file


def new_key() -> str:
    """Make a key to sign or to seal with, as it stands in the settings: ``id:secret``.

    The id begins with when it was made, to the millisecond (UTC): `made_at` reads that.
    """
    now = time.time_ns() // 1_000_000
    made = f"{time.strftime('%Y%m%d%H%M%S', time.gmtime(now // 1000))}{now % 1000:03}"
    secret = urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    return f"{made}-{secrets.token_hex(2)}:{secret}"


def made_at(key: str) -> str:
    """Return when a key was made, in a form that can be compared; the empty text, which is before all, for one not made here."""
    match = re.match(r"\d{17}(?=-[0-9a-f]{4}:)", key)
    return "" if match is None else match[0]


def kept(file: Path, make: Callable[[], str]) -> tuple[list[str], bool]:
    """Return the lines of a file that only its owner reads, and whether it was made just now, with what `make` returns."""
    try:
        lines = file.read_text("ascii").split()
    except FileNotFoundError:
        lines = []
    if lines:
        return lines, False
    made = make()
    write_lines(file, [made])
    return [made], True


def put_first(file: Path, key: str) -> list[str]:
    """Put a new key before those of a file, and return them all: the first is used, all are good."""
    keys = [key, *file.read_text("ascii").split()]
    write_lines(file, keys)
    return keys


def write_lines(file: Path, lines: Sequence[str]) -> None:
    """Write a file that only its owner reads: whole or not at all, whenever the process may end."""
    growing = file.with_suffix(".new")
    growing.unlink(missing_ok=True)
    handle = os.open(growing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as stream:
            # Whoever reads it now must still be able to, whoever writes it.
            with contextlib.suppress(FileNotFoundError):
                os.fchown(handle, file.stat().st_uid, file.stat().st_gid)
            stream.write("\n".join(lines) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        growing.replace(file)
    except OSError:
        growing.unlink(missing_ok=True)
        raise
