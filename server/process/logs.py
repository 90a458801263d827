"""What a node writes about itself: one JSON object a line for machines, or one line of text for people.

Whatever is logged may quote what a stranger sent, so control characters are escaped in both forms: nobody can forge a line.

What people write, their addresses and their secrets are in no line at all. Our own messages name ids and numbers; but what a
library says of what it could not do may quote what it was given (Postgres quotes whole rows). So of an exception its type
and its place are logged, and its text only where our code raised it.
"""

from __future__ import annotations

import linecache
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Literal

import asyncpg
import msgspec

_ESCAPED: Final = {
    code: f"\\u{code:04x}" for code in (*range(10), *range(11, 32), *range(127, 160), 0x2028, 0x2029)
}
"""What a terminal obeys or takes for the end of a line. JSON's encoder escapes the first 32 alone."""
_LEVEL_COLUMN: Final = 7
_ROOT: Final = Path(__file__).parents[2]
_OURS: Final = ("looprooms", "server", "storage", "protocol")
"""Names of our loggers, and of our packages."""


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
        if record.exc_info and record.exc_info[1] is not None:
            entry["traceback"] = told(record.exc_info[1])
        return msgspec.json.encode(entry).decode().translate(_ESCAPED)


class TextLines(logging.Formatter):
    """A line for people; a traceback follows it."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        message = record.getMessage().replace("\n", "\\n").translate(_ESCAPED)
        line = f"{clock} {record.levelname.lower():{_LEVEL_COLUMN}} {message}"
        if record.exc_info and record.exc_info[1] is not None:
            line += "\n" + told(record.exc_info[1]).translate(_ESCAPED)
        return line


def told(error: BaseException) -> str:
    """Write a traceback in which nothing is quoted but what our code says itself."""
    return "\n".join(_lines(error, set()))


def start_logging(level: str, form: Literal["json", "text", "auto"]) -> None:
    """Send everything to stderr from now on, also what nobody has caught. ``auto`` is text on a terminal, else JSON.

    Others' loggers are heard from warnings on: what they do is their business, what they ask for may be somebody's.
    """
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextLines() if text else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    chosen = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(logging.WARNING, chosen))
    for name in _OURS:
        logging.getLogger(name).setLevel(chosen)
    logging.captureWarnings(capture=True)
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _ended


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _lines(before, seen)
        cause = error.__cause__ is not None
        yield "which caused:" if cause else "and while that was handled:"
    yield "Traceback (most recent call last):"
    for frame in traceback.format_tb(error.__traceback__):
        yield frame.rstrip("\n")
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    text = _text(error)
    yield f"{name}: {text}" if text else name
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            if id(one) not in seen:
                yield from _lines(one, seen)


def _text(error: BaseException) -> str:
    """Return what an exception says, if it is ours to say; of one of Postgres, or of the system, what it is about."""
    if isinstance(error, asyncpg.PostgresError):
        about = (error.sqlstate, error.table_name, error.column_name, error.constraint_name)
        return " ".join(part for part in about if part)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return str(error) if place is not None and _raised_by_us(place) else ""


def _raised_by_us(place: TracebackType) -> bool:
    """Say whether a line of ours raises here: else it called what did."""
    file = Path(place.tb_frame.f_code.co_filename)
    if not file.is_relative_to(_ROOT) or file.relative_to(_ROOT).parts[0] not in _OURS:
        return False
    line = linecache.getline(str(file), place.tb_lineno, place.tb_frame.f_globals)
    return line.lstrip().startswith(("raise ", "assert "))


_LOGGER = logging.getLogger("looprooms")


def _uncaught(kind: type[BaseException], error: BaseException, place: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, place)
    else:
        _LOGGER.critical("the process ends", exc_info=(kind, error, place))


def _unraisable(unraisable: sys.UnraisableHookArgs) -> None:
    _LOGGER.error("something failed where nobody could be told", exc_info=unraisable.exc_value)


def _ended(ended: threading.ExceptHookArgs) -> None:
    _LOGGER.error("a thread ended", exc_info=ended.exc_value)
