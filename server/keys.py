"""Secrets of the embedded run, made once and kept in its data folder. Any other deployment brings its own."""

from __future__ import annotations

import os
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
    """Make a key to sign or to seal with, as it stands in the settings: ``id:secret``. The id says when it was made."""
    secret = urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    return f"{time.strftime('%Y%m%d', time.gmtime())}-{secrets.token_hex(3)}:{secret}"


def kept(file: Path, make: Callable[[], str]) -> tuple[list[str], bool]:
    """Return the lines of a file that only its owner reads, and whether it was made just now, with what `make` returns."""
    try:
        lines = file.read_text("ascii").split()
    except FileNotFoundError:
        lines = []
    if lines:
        return lines, False
    made = make()
    _write(file, [made])
    return [made], True


def put_first(file: Path, key: str) -> list[str]:
    """Put a new key before those of a file, and return them all: the first is used, all are good."""
    keys = [key, *file.read_text("ascii").split()]
    _write(file, keys)
    return keys


def _write(file: Path, lines: Sequence[str]) -> None:
    growing = file.with_suffix(".new")
    growing.unlink(missing_ok=True)
    handle = os.open(growing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write("\n".join(lines) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    growing.replace(file)
