"""What is logged: one entry a line, whatever a stranger put into it."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from server.logs import JsonLines, TextLines, start_logging

FORGED = 'a\nlevel=error "x" \x1b[31m\u2028\x00\x9b'


def record(message: str, *arguments: object, failed: bool = False) -> logging.LogRecord:
    """Make a record, with a traceback if something failed."""
    info = None
    if failed:
        try:
            raise ValueError(FORGED)
        except ValueError:
            info = sys.exc_info()
    return logging.LogRecord("looprooms.chat", logging.WARNING, "", 1, message, arguments, info)


@pytest.mark.parametrize("failed", [False, True])
def test_json_is_one_object_a_line(failed: bool) -> None:
    """Level, logger, moment, message and traceback can be read back, and nothing breaks the line."""
    line = JsonLines().format(record("%s said", FORGED, failed=failed))
    assert line.isprintable()
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"]) == (
        "warning",
        "looprooms.chat",
        f"{FORGED} said",
    )
    assert entry["at"].endswith("Z")
    assert ("traceback" in entry) == failed


def test_text_is_one_line_without_control_characters() -> None:
    """Colours, line breaks and separators of a stranger come out escaped."""
    line = TextLines().format(record("%s said", FORGED))
    assert line.endswith('warning a\\nlevel=error "x" \\u001b[31m\\u2028\\u0000\\u009b said')


def test_a_traceback_follows_its_line() -> None:
    """It keeps its line breaks, and nothing else that a terminal obeys."""
    first, *rest = TextLines().format(record("it failed", failed=True)).split("\n")
    assert first.endswith("warning it failed")
    assert rest[0].startswith("Traceback")
    assert "\x1b" not in "".join(rest)


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """Give the root logger, and put back what it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.parametrize(
    ("form", "formatter"), [("json", JsonLines), ("text", TextLines), ("auto", JsonLines)]
)
def test_the_form_is_chosen(root: logging.Logger, form: str, formatter: type[logging.Formatter]) -> None:
    """`auto` is JSON where stderr is no terminal, as here."""
    start_logging("error", form)  # type: ignore[arg-type] # parametrized
    assert [type(handler.formatter) for handler in root.handlers] == [formatter]
    assert root.level == logging.ERROR
    assert logging.getLogger("uvicorn.error").level == logging.ERROR
