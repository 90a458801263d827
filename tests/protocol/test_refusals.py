"""The two ways to say no, and what each reason carries."""

from __future__ import annotations

from http import HTTPStatus

import pytest

from protocol.closing import CloseCode
from protocol.refusals import Disconnect, ErrorCode, Refused

CODES = pytest.mark.parametrize("code", ErrorCode, ids=str)


@CODES
def test_every_code_can_be_told(code: ErrorCode) -> None:
    """A code is a word in lower case, its advice a sentence, its status one of HTTP's errors."""
    assert code.value == str(code)
    assert code.value.replace("_", "").isalpha()
    assert code.value.islower()
    assert code.advice.endswith(".")
    assert HTTPStatus(code.status).value >= 400


@CODES
def test_what_may_be_tried_again(code: ErrorCode) -> None:
    """The statuses that mean "later" or "our fault" are the retryable ones, and no others."""
    assert code.retryable == (code.status in (429, 500, 503))


def test_each_has_its_word() -> None:
    """No two codes share a word: an enum would silently make one the alias of the other."""
    assert len(ErrorCode.__members__) == len(set(ErrorCode))


def test_refused() -> None:
    """A refusal says the code's advice unless it has something better to say."""
    plain = Refused(ErrorCode.NOT_FOUND)
    assert (plain.code, plain.message, plain.retry_after, plain.path) == (
        ErrorCode.NOT_FOUND,
        ErrorCode.NOT_FOUND.advice,
        None,
        None,
    )
    said = Refused(ErrorCode.RATE_LIMITED, "Slower.", retry_after=2.5, path="$.text")
    assert (said.message, said.retry_after, said.path, str(said)) == ("Slower.", 2.5, "$.text", "Slower.")


def test_disconnect() -> None:
    """A disconnect says the code's meaning unless it has something better to say."""
    assert Disconnect(CloseCode.SLOW).reason == CloseCode.SLOW.meaning
    said = Disconnect(CloseCode.BANNED, "For a week.")
    assert (said.code, said.reason, str(said)) == (CloseCode.BANNED, "For a week.", "For a week.")
