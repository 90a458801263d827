"""What describes the server, made from the types that it runs on: OpenAPI for HTTP, JSON Schema for the websocket."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from inspect import cleandoc
from typing import Any, Final, get_args

import msgspec
from msgspec import Struct

from protocol.closing import CloseCode, reconnects
from protocol.contract import COMMANDS, EVENTS, JSON_SUBPROTOCOL, MSGPACK_SUBPROTOCOL, json_schema, tag_of
from protocol.envelope import Command
from protocol.refusals import ErrorCode
from server.http.endpoint import JSON, Endpoint, Link, Parameter
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
    decoded = endpoint.body is not None and endpoint.reads is None
    codes = {*endpoint.refuses, *endpoint.shows, *ANY_REQUEST, *(ANY_BODY if decoded else ())}
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
    operation: dict[str, Any] = {
        "operationId": endpoint.handle.__name__,
        "tags": [endpoint.group],
        "summary": endpoint.summary,
        "description": cleandoc(endpoint.handle.__doc__ or endpoint.summary),
        "security": [{"accessToken": []}] if endpoint.signed_in else [],
        "responses": {str(endpoint.status): _good(endpoint, references)}
        | _parts_of(endpoint)
        | _refused(endpoint, references[Problem]),
    }
    if endpoint.parameters:
        operation["parameters"] = [
            {
                "name": parameter.name,
                "in": parameter.place,
                "required": parameter.required,
                "description": parameter.meaning,
                "schema": _schema_of(parameter),
            }
            for parameter in endpoint.parameters
        ]
    if endpoint.body is not None:
        body: dict[str, Any] = {"schema": references[endpoint.body]}
        if endpoint.example is not None:
            body["example"] = {
                name: value
                for name, value in msgspec.to_builtins(endpoint.example).items()
                if value is not None
            }
        operation["requestBody"] = {"required": True, "content": {endpoint.reads or JSON: body}}
    elif endpoint.reads is not None:
        operation["requestBody"] = {"required": True, "content": {endpoint.reads: {}}}
    return operation


def _schema_of(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if parameter.choices:
        schema["enum"] = list(parameter.choices)
    if parameter.form:
        schema["format"] = parameter.form
    return schema


def _good(endpoint: Endpoint, references: dict[type[Struct], dict[str, Any]]) -> dict[str, Any]:
    response: dict[str, Any] = {"description": HTTPStatus(endpoint.status).phrase}
    if endpoint.serves:
        response["content"] = {kind: {} for kind in endpoint.serves}
    elif endpoint.answer is not None:
        response["content"] = {endpoint.media_type: {"schema": references[endpoint.answer]}}
    elif endpoint.status == HTTPStatus.OK:
        kind = "object" if endpoint.media_type == JSON else "string"
        response["content"] = {endpoint.media_type: {"schema": {"type": kind}}}
    headers = {} if endpoint.unlimited else dict(LIMIT_HEADERS)
    if endpoint.status == HTTPStatus.SEE_OTHER:
        headers["Location"] = "Where the browser goes on."
    if headers:
        response["headers"] = {name: _header(meaning, required=True) for name, meaning in headers.items()}
    if endpoint.links:
        response["links"] = {link.operation: _link(link) for link in endpoint.links}
    return response


def _link(link: Link) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": link.operation, "description": link.meaning}
    if link.parameters:
        described["parameters"] = _taken(link.parameters)
    if link.body:
        described["requestBody"] = _taken(link.body)
    return described


def _taken(places: Mapping[str, str]) -> dict[str, str]:
    """Say in OpenAPI's words where in the answer each of these is found."""
    return {name: f"$response.body#{pointer}" for name, pointer in places.items()}


def _parts_of(endpoint: Endpoint) -> dict[str, Any]:
    """Describe what else a file may be answered with: a part of it, several, or that it has not changed."""
    if not endpoint.serves:
        return {}
    headers = {name: _header(meaning, required=True) for name, meaning in LIMIT_HEADERS.items()}
    return {
        "206": {
            "description": "The bytes that were asked for.",
            "headers": headers,
            "content": {kind: {} for kind in (*endpoint.serves, "multipart/byteranges")},
        },
        "304": {"description": "What `If-None-Match` names is still it.", "headers": headers},
    }


def _header(meaning: str, kind: str = "string", *, required: bool = False) -> dict[str, Any]:
    header: dict[str, Any] = {"description": meaning, "schema": {"type": kind}}
    return header | {"required": True} if required else header


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
        if any(code in endpoint.shows for code in codes):
            response["content"][endpoint.media_type] = {"schema": {"type": "string"}}
        headers = {}
        if any(code.retryable for code in codes):
            headers["Retry-After"] = _header("Seconds to wait.", "integer")
        if ErrorCode.RATE_LIMITED in codes:
            headers |= {name: _header(meaning) for name, meaning in LIMIT_HEADERS.items()}
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = _header("`Bearer`, and whether it was the token.", required=True)
        if headers:
            response["headers"] = headers
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
