"""Pictures are made anew before anyone sees them: by a process for each, a few at a time, within seconds.

See `picture_process` for what it does, and why it is one of its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from asyncio.subprocess import DEVNULL
from pathlib import Path
from typing import Final

from protocol.refusals import ErrorCode, Refused

_LOGGER = logging.getLogger("looprooms.pictures")

AT_ONCE: Final = 2
WAITING: Final = 50
"""Pictures that may wait for their turn."""
PATIENCE: Final = 15.0
"""Seconds that one waits for it: whose upload it is, is not taken for silent meanwhile (`storage.media.FORGOTTEN_SECONDS`)."""
SECONDS: Final = 10.0
"""How long one may take; its own bound is `picture_process.MOST_SECONDS` of a core."""
PROCESS: Final = Path(__file__).with_name("picture_process.py")
"""What is run. It is not imported: nothing of a decoder is in this process."""
REFUSED: Final = 65
"""How it ends for what is no picture."""
MEDIA_TYPE: Final = "image/webp"
"""What all pictures become."""
TYPES: Final = ("image/jpeg", "image/png", "image/webp", "image/gif")
"""The media types that are taken."""
_NEEDED: Final = ("LD_LIBRARY_PATH",)
"""What an interpreter may need of the environment; nothing else of it gets there."""


class Pictures:
    """Makes the pictures of one node."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def remake(self, path: Path, media_type: str, size: tuple[int, int]) -> None:
        """Replace the picture in a file by one of that size (width, height) that holds nothing else.

        Raises `Refused`: media_refused for what is no such picture, or too large a one; busy.
        """
        if self._waiting >= WAITING:
            raise Refused(ErrorCode.BUSY, retry_after=2.0)
        self._waiting += 1
        try:
            async with asyncio.timeout(PATIENCE):
                await self._places.acquire()
            try:
                await self._remake(path, media_type, size)
            finally:
                self._places.release()
        except TimeoutError:
            raise Refused(ErrorCode.BUSY, retry_after=2.0) from None
        finally:
            self._waiting -= 1

    async def _remake(self, path: Path, media_type: str, size: tuple[int, int]) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            PROCESS,
            path,
            media_type,
            *map(str, size),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=DEVNULL,
            env={name: os.environ[name] for name in _NEEDED if name in os.environ},
        )
        try:
            async with asyncio.timeout(SECONDS):
                ended = await process.wait()
            if ended not in (0, REFUSED):
                _LOGGER.warning("a picture ended its process with %d", ended)
            if ended:
                raise Refused(ErrorCode.MEDIA_REFUSED)
        except TimeoutError:
            raise Refused(ErrorCode.MEDIA_REFUSED, "It takes too long to read.") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
