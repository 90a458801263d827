"""What a node writes about itself: one JSON object a line for machines, or one line of text for people.

Whatever is logged may quote what a stranger sent, so control characters are escaped in both forms: nobody can forge a line.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Final, Literal

import msgspec

_ESCAPED: Final = {
    code: f"\\u{code:04x}" for code in (*range(10), *range(11, 32), *range(127, 160), 0x2028, 0x2029)
}
"""What a terminal obeys or takes for the end of a line. JSON's encoder escapes the first 32 alone."""
_LEVEL_COLUMN: Final = 7


class JsonLines(logging.Formatter):
    """One JSON object a line: `at` (UTC), `level`, `logger`, `message`, and `traceback` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        entry = {
            "at": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(entry).decode().translate(_ESCAPED)


class TextLines(logging.Formatter):
    """A line for people; a traceback follows it."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        message = record.getMessage().replace("\n", "\\n").translate(_ESCAPED)
        line = f"{clock} {record.levelname.lower():{_LEVEL_COLUMN}} {message}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info).translate(_ESCAPED)
        return line


def start_logging(level: str, form: Literal["json", "text", "auto"]) -> None:
    """Send everything to stderr from now on. ``auto`` is text on a terminal, else JSON."""
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextLines() if text else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for noisy in ("asyncio", "uvicorn", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
