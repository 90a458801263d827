"""Refusals over HTTP: ``application/problem+json`` (RFC 9457) with the codes of the websocket."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from protocol.refusals import ErrorCode, Refused

MEDIA_TYPE: Final = "application/problem+json"

_TOKEN_PROBLEMS = (ErrorCode.TOKEN_INVALID, ErrorCode.TOKEN_EXPIRED, ErrorCode.SESSION_ENDED)


class Problem(Struct, omit_defaults=True, kw_only=True):
    """Why a request was refused (RFC 9457). `code` is stable; everything else is for people."""

    type: Annotated[str, Meta(description="Where the code is explained.")]
    title: Annotated[str, Meta(description="The code in words.")]
    status: Annotated[int, Meta(description="The status of the response.")]
    detail: Annotated[str, Meta(description="What to do.")]
    code: Annotated[str, Meta(description="The reason, as in an `error` of the websocket.")]
    retry_after: Annotated[float | None, Meta(description="Seconds to wait before trying again.")] = None
    path: Annotated[str | None, Meta(description="The field that is wrong, as `$.email`.")] = None


def problem_of(refused: Refused, status: int | None = None) -> Problem:
    """Describe a refusal. `status` is the one of its code unless given."""
    code = refused.code
    return Problem(
        type=f"/docs#{code.value}",
        title=code.value.replace("_", " ").capitalize(),
        status=status or code.status,
        detail=refused.message,
        code=code.value,
        retry_after=refused.retry_after,
        path=refused.path,
    )


def response_of(refused: Refused, headers: Mapping[str, str] | None = None) -> Response:
    """Make the response that says no. `headers` are sent too."""
    problem = problem_of(refused)
    all_headers = {**(headers or {}), "cache-control": "no-store"}
    if refused.retry_after is not None:
        all_headers["retry-after"] = str(math.ceil(refused.retry_after))
    if problem.status == HTTPStatus.UNAUTHORIZED:
        error = ' error="invalid_token"' if refused.code in _TOKEN_PROBLEMS else ""
        all_headers["www-authenticate"] = f"Bearer{error}"
    return Response(msgspec.json.encode(problem), problem.status, all_headers, MEDIA_TYPE)


def answer_refused(_: Request, error: Exception) -> Response:
    """Answer a `Refused` that a handler raised."""
    assert isinstance(error, Refused)
    return response_of(error)


def answer_routing(_: Request, error: Exception) -> Response:
    """Answer what no route took: an unknown path, or a method that the path does not have."""
    assert isinstance(error, HTTPException)
    code = (
        ErrorCode.METHOD_REFUSED
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED
        else ErrorCode.NOT_FOUND
    )
    return response_of(Refused(code), error.headers)
