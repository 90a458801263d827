"""Sound and moving pictures, as files: what each is by its own bytes, and what is taken out of it.

Nothing is decoded and nothing re-encoded: that is for tools with a sandbox of their own. A file is walked from its first byte to
its last, as the container that it was said to be. It is refused when it is another one, ends early, goes on behind its end, or
has parts that no player needs and no list here knows; so a page or an archive that hides in front, behind or in between does
not pass. What tells about people - places, names, dates, covers, comments - becomes zeros in its place.

What stays: what the sound and the pictures themselves show, and whatever an encoder has written among their bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from server.containers import boxes, ebml, mpeg, ogg, riff
from server.containers.source import Container, Source, Unreadable

__all__ = ["TYPES", "Container", "Unreadable", "cleared"]

TYPES: Final[Mapping[str, Callable[[Source], Container]]] = {
    "video/mp4": boxes.read,
    "audio/mp4": boxes.read,
    "video/webm": ebml.read,
    "audio/webm": ebml.read,
    "audio/mpeg": mpeg.read,
    "audio/ogg": ogg.read,
    "audio/wav": riff.read,
}
"""The media types that are taken, and what reads each."""


def cleared(path: Path, media_type: str) -> Container:
    """Read a file as what it was said to be, and clear it in its place. Raises `Unreadable`. It blocks: call it in a thread."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        found = TYPES[media_type](Source(descriptor))
        if found.video is not media_type.startswith("video/"):
            raise Unreadable
        found.clear(descriptor)
    finally:
        os.close(descriptor)
    return found
