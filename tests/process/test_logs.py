"""What is logged: one entry a line, whatever a stranger put into it."""

from __future__ import annotations

import json
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import asyncpg
import pytest

from server import settings
from server.process import logs
from server.process.logs import JsonLines, TextLines, start_logging, told
from server.settings import Settings
from server.tokens import Tokens
from storage.postgres.pool import Pool

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
    """Give the root logger, and put back what it was, and what else is changed with it."""
    logger = logging.getLogger()
    ours = [logging.getLogger(name) for name in logs._OURS]
    handlers, levels = logger.handlers[:], [one.level for one in (logger, *ours)]
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    yield logger
    logger.handlers[:] = handlers
    for one, level in zip((logger, *ours), levels, strict=True):
        one.setLevel(level)
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
    logging.captureWarnings(capture=False)


@pytest.mark.parametrize(
    ("form", "formatter"), [("json", JsonLines), ("text", TextLines), ("auto", JsonLines)]
)
def test_the_form_is_chosen(root: logging.Logger, form: str, formatter: type[logging.Formatter]) -> None:
    """`auto` is JSON where stderr is no terminal, as here."""
    start_logging("error", form)  # type: ignore[arg-type] # parametrized
    assert [type(handler.formatter) for handler in root.handlers] == [formatter]
    assert root.level == logging.ERROR
    assert logging.getLogger("looprooms.chat").getEffectiveLevel() == logging.ERROR


def test_others_are_heard_from_warnings_on(root: logging.Logger) -> None:
    """What a library does on behalf of somebody is in no log, however much of ours is wanted."""
    start_logging("debug", "json")
    assert logging.getLogger("looprooms.chat").isEnabledFor(logging.DEBUG)
    assert logging.getLogger("storage.redis.broker").isEnabledFor(logging.DEBUG)
    for library in ("asyncio", "uvicorn.error", "httpx2", "stripe", "mail.log"):
        assert not logging.getLogger(library).isEnabledFor(logging.INFO)


def test_what_nobody_caught_is_a_line_too(root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """An exception that ends the process or a thread, or that nobody could be told of, and a warning: each is one object."""
    start_logging("info", "json")
    error = _caught(lambda: settings.default(WRITTEN))
    sys.excepthook(type(error), error, error.__traceback__)
    thread = threading.Thread(target=settings.default, args=(WRITTEN,))
    thread.start()
    thread.join()
    sys.unraisablehook(SimpleNamespace(exc_value=error))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn_explicit("something is old", UserWarning, "module.py", 1)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["level"] for line in lines] == ["critical", "error", "error", "warning"]
    assert all("KeyError" in line["traceback"] for line in lines[:3])
    assert WRITTEN not in json.dumps(lines)


WRITTEN = "what somebody wrote"


def _caught(call: Callable[[], object]) -> BaseException:
    """Return what a call raises."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    raise AssertionError("nothing was raised")


def test_what_our_code_says_is_told() -> None:
    """An exception that our code raises says what it says."""
    line = told(_caught(lambda: Tokens(Settings()))).splitlines()[-1]
    assert line == "ValueError: no key to sign access tokens with"


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        pytest.param(lambda: settings.default(WRITTEN), "KeyError", id="in a line of ours"),
        pytest.param(lambda: int(WRITTEN), "ValueError", id="in somebody else's"),
        pytest.param(lambda: json.loads(f"[{WRITTEN}"), "json.decoder.JSONDecodeError", id="in a library"),
    ],
)
def test_what_a_library_quotes_is_not_told(call: Callable[[], object], kind: str) -> None:
    """Its type and its place are enough."""
    text = told(_caught(call))
    assert text.startswith("Traceback")
    assert text.splitlines()[-1] == kind
    assert WRITTEN not in "".join(line for line in text.splitlines() if not line.startswith("    "))


async def test_what_postgres_quotes_is_not_told(pool: Pool) -> None:
    """It would quote the whole row; its code, the table and the constraint are told."""
    with pytest.raises(asyncpg.CheckViolationError) as raised:
        await pool.execute("insert into users (name) values ($1)", WRITTEN * 80)
    assert WRITTEN in f"{raised.value} {raised.value.detail}"
    text = told(raised.value)
    assert text.splitlines()[-1] == "asyncpg.exceptions.CheckViolationError: 23514 users users_name_check"
    assert WRITTEN not in text


def test_causes_and_groups_are_told() -> None:
    """Whatever stands behind an exception, in the order in which it happened, and once."""

    def fail() -> None:
        try:
            settings.default(WRITTEN)
        except KeyError as missing:
            try:
                raise OSError(28, "No space left on device", WRITTEN) from missing
            except OSError as full:
                raise ExceptionGroup("several", [full, TimeoutError()]) from full

    lines = [line for line in told(_caught(fail)).splitlines() if not line.startswith(" ")]
    assert lines == [
        "Traceback (most recent call last):",
        "KeyError",
        "which caused:",
        "Traceback (most recent call last):",
        "OSError: No space left on device",
        "which caused:",
        "Traceback (most recent call last):",
        "ExceptionGroup",
        "Traceback (most recent call last):",
        "TimeoutError",
    ]
