"""What describes the server, made from the types that it runs on: OpenAPI for HTTP, JSON Schema for the websocket."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Final, get_args

import msgspec
from msgspec import Struct

from protocol.closing import CloseCode, reconnects
from protocol.contract import COMMANDS, EVENTS, JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL, json_schema, tag_of
from protocol.envelope import Command
from protocol.refusals import ErrorCode
from server.http.endpoint import JSON, Endpoint
from server.http.problems import MEDIA_TYPE, Problem

VERSION: Final = "1"
TITLE: Final = "VYBE LOOPROOMS"

ANY_REQUEST: Final = (ErrorCode.HOST_REFUSED, ErrorCode.ORIGIN_REFUSED, ErrorCode.INTERNAL)
ANY_BODY: Final = (
    ErrorCode.MALFORMED,
    ErrorCode.INVALID,
    ErrorCode.TOO_LARGE,
    ErrorCode.TOO_SLOW,
    ErrorCode.MEDIA_TYPE_REFUSED,
)

LIMIT_HEADERS: Final = {
    "RateLimit-Policy": "How much may be asked: `q` requests in `w` seconds, for each limit that was looked at. Every answer has it.",
    "RateLimit": "What is left of it: `r` requests, all of them again in `t` seconds.",
}

_INTRODUCTION: Final = (
    "Accounts, health and documents over HTTP. Everything else goes over the websocket at `/ws`, which `/schema.json` "
    "describes."
)


def refusals_of(endpoint: Endpoint) -> list[ErrorCode]:
    """List every code that an operation may answer with, in the order of their status."""
    codes = {*endpoint.refuses, *ANY_REQUEST, *(ANY_BODY if endpoint.body is not None else ())}
    if not endpoint.unlimited:
        codes.add(ErrorCode.RATE_LIMITED)
    return sorted(codes, key=lambda code: (code.status, code.value))


def openapi(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of `endpoints`."""
    types: list[type[Struct]] = [Problem]
    for endpoint in endpoints:
        types += [kind for kind in (endpoint.body, endpoint.answer) if kind is not None]
    distinct = list(dict.fromkeys(types))
    schemas, components = msgspec.json.schema_components(distinct, ref_template="#/components/schemas/{name}")
    references = dict(zip(distinct, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, references)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": TITLE,
            "version": VERSION,
            "description": _INTRODUCTION,
            "license": {"name": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": group} for group in dict.fromkeys(endpoint.group for endpoint in endpoints)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "accessToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "The access token that register, login and refresh answer with.",
                }
            },
        },
    }


def _operation(endpoint: Endpoint, references: dict[type[Struct], dict[str, Any]]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": HTTPStatus(endpoint.status).phrase}
    if endpoint.answer is not None:
        good["content"] = {endpoint.media_type: {"schema": references[endpoint.answer]}}
    elif endpoint.status not in (HTTPStatus.NO_CONTENT, HTTPStatus.SEE_OTHER):
        good["content"] = {endpoint.media_type: {"schema": {"type": "string"}}}
    operation: dict[str, Any] = {
        "operationId": endpoint.handle.__name__,
        "tags": [endpoint.group],
        "summary": endpoint.summary,
        "description": endpoint.handle.__doc__ or endpoint.summary,
        "security": [{"accessToken": []}] if endpoint.signed_in else [],
        "responses": {str(endpoint.status): good} | _refused(endpoint, references[Problem]),
    }
    if endpoint.parameters:
        operation["parameters"] = [
            {
                "name": parameter.name,
                "in": parameter.place,
                "required": parameter.required,
                "description": parameter.meaning,
                "schema": {"type": "string"},
            }
            for parameter in endpoint.parameters
        ]
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": references[endpoint.body]}},
        }
    return operation


def _refused(endpoint: Endpoint, problem: dict[str, Any]) -> dict[str, Any]:
    by_status: dict[int, list[ErrorCode]] = {}
    for code in refusals_of(endpoint):
        by_status.setdefault(code.status, []).append(code)
    responses: dict[str, Any] = {}
    for status, codes in by_status.items():
        schema = {
            "allOf": [problem, {"properties": {"code": {"enum": [code.value for code in codes]}}}],
        }
        response: dict[str, Any] = {
            "description": " ".join(f"`{code.value}`: {code.advice}" for code in codes),
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        if any(code.retryable for code in codes):
            response["headers"] = {
                "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
            }
        if ErrorCode.RATE_LIMITED in codes:
            response["headers"] |= {
                name: {"description": meaning, "schema": {"type": "string"}}
                for name, meaning in LIMIT_HEADERS.items()
            }
        responses[str(status)] = response
    return responses


def contract() -> dict[str, Any]:
    """Return the JSON Schema of the websocket, with what a schema can't say: which answer a command has, and all codes."""
    return {
        **json_schema(),
        "x-path": "/ws",
        "x-subprotocols": [JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL],
        "x-commands": [
            {"type": tag_of(command), "schema": command.__name__, "answer": tag_of(answer_of(command))}
            for command in COMMANDS
        ],
        "x-events": [{"type": tag_of(event), "schema": event.__name__} for event in EVENTS],
        "x-errors": [
            {"code": code.value, "status": code.status, "retryable": code.retryable, "advice": code.advice}
            for code in ErrorCode
        ],
        "x-close-codes": [
            {"code": code.value, "name": code.name, "reconnect": reconnects(code), "meaning": code.meaning}
            for code in CloseCode
        ],
    }


def answer_of(command: type[Command[Any]]) -> type[Struct]:
    """Return the type that answers `command`."""
    bases: Iterable[Any] = getattr(command, "__orig_bases__", ())
    answer: type[Struct] = next(argument for base in bases for argument in get_args(base))
    return answer
