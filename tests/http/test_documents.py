"""The documents are complete, and true to what is served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from protocol.closing import CloseCode, reconnects
from protocol.contract import ANSWERS, COMMANDS, EVENTS, tag_of
from protocol.refusals import ErrorCode
from server.http.documents import answer_of, contract
from tests.http.serving import PASSWORD, Site

Document = dict[str, Any]


@pytest.fixture
def site(standing: Site) -> Site:
    """Share a node."""
    return standing


@pytest.fixture
async def openapi(site: Site) -> Document:
    """Fetch the OpenAPI description."""
    answer = await site.client.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    found: Document = answer.json()
    return found


def operations(openapi: Document) -> Iterator[tuple[str, str, Document]]:
    """List every operation."""
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def references(value: Any) -> Iterator[str]:
    """List every reference in a document."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name == "$ref":
                yield part
            else:
                yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def resolved(document: Document, reference: str) -> Any:
    """Follow a reference inside a document."""
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return found


async def test_openapi_is_whole(openapi: Document) -> None:
    """Every reference leads somewhere, every operation has an id of its own, a summary, an answer and its refusals."""
    assert openapi["openapi"].startswith("3.1")
    for reference in references(openapi):
        assert resolved(openapi, reference)
    ids = [operation["operationId"] for _, _, operation in operations(openapi)]
    assert len(ids) == len(set(ids)) >= 8
    for path, _, operation in operations(openapi):
        assert operation["summary"]
        assert operation["description"]
        good = [status for status in operation["responses"] if status < "400"]
        assert len(good) == 1, path
        for status, response in operation["responses"].items():
            assert response["description"]
            if status >= "400":
                assert list(response["content"]) == ["application/problem+json"]


async def test_openapi_has_every_route(site: Site, openapi: Document) -> None:
    """What is served is described, but for the documents themselves; what is described is served."""
    served = {route.path for route in site.app.routes}  # type: ignore[attr-defined] # all are of Starlette's Route
    documents = {
        "/",
        "/docs",
        "/docs.css",
        "/docs.js",
        "/openapi.json",
        "/schema.json",
        "/account.css",
        "/account.js",
        "/pay",
        "/pay.css",
        "/pay.js",
    }
    assert served - documents == set(openapi["paths"])


async def test_openapi_is_true(site: Site, openapi: Document) -> None:
    """Real answers have exactly the fields that are described, and refusals have statuses and codes that are announced."""
    account = await site.register()
    headers = {"authorization": f"Bearer {account['access_token']}"}
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("post", "/auth/register", {"json": {"email": "b@example.org", "password": PASSWORD, "name": "B"}}),
        ("post", "/auth/register", {"json": {"email": "b@example.org", "password": PASSWORD, "name": "B"}}),
        ("post", "/auth/register", {"json": {"email": "b@example.org", "password": "password", "name": "B"}}),
        ("post", "/auth/register", {"json": {}}),
        ("post", "/auth/login", {"json": {"email": "b@example.org", "password": PASSWORD}}),
        ("post", "/auth/login", {"json": {"email": "b@example.org", "password": "wrong wrong"}}),
        ("post", "/auth/login", {"content": b"x"}),
        ("post", "/auth/refresh", {"json": {"refresh_token": account["refresh_token"]}}),
        ("post", "/auth/refresh", {"json": {"refresh_token": "x"}}),
        ("get", "/me", {"headers": headers}),
        ("get", "/me", {}),
        ("get", "/me", {"headers": {"host": "evil.example"}}),
        ("get", "/health/live", {}),
        ("get", "/health/ready", {}),
        ("get", "/metrics", {}),
        ("post", "/auth/logout", {"json": {"refresh_token": "x"}}),
    ]
    for method, path, arguments in calls:
        answer = await site.client.request(method, path, **arguments)
        described = openapi["paths"][path][method]["responses"][str(answer.status_code)]
        if answer.status_code == 204:
            assert "content" not in described
            continue
        kind = answer.headers["content-type"].partition(";")[0]
        schema = described["content"][kind]["schema"]
        if answer.status_code >= 400:
            assert answer.json()["code"] in schema["allOf"][1]["properties"]["code"]["enum"]
            schema = schema["allOf"][0]
        if "$ref" in schema:
            schema = resolved(openapi, schema["$ref"])
            assert set(schema["required"]) <= set(answer.json()) <= set(schema["properties"]), path


async def test_openapi_says_who_must_sign_in(openapi: Document) -> None:
    """Only the person's own data and payments need an access token, and the description says so."""
    signed_in = {path for path, _, operation in operations(openapi) if operation["security"]}
    payments = {f"/payments/{name}" for name in ("checkout", "passes", "portal", "subscription")}
    assert signed_in == payments | {
        path for path in openapi["paths"] if path.split("/")[1] in ("me", "creators")
    }
    assert openapi["components"]["securitySchemes"]["accessToken"]["scheme"] == "bearer"


async def test_every_struct_is_described(openapi: Document) -> None:
    """Every object has a sentence, and so has every field that is not told by its name."""
    for name, schema in openapi["components"]["schemas"].items():
        assert schema["description"], name


async def test_schema_json(site: Site) -> None:
    """The websocket's contract names every command with its answer, every event, every code; its references lead somewhere."""
    answer = await site.client.get("/schema.json")
    assert answer.headers["content-type"] == "application/schema+json"
    found = answer.json()
    assert found == contract()
    assert {entry["type"] for entry in found["x-commands"]} == {tag_of(command) for command in COMMANDS}
    answers = {tag_of(kind) for kind in ANSWERS}
    for entry in found["x-commands"]:
        assert entry["answer"] in answers
        assert entry["schema"] in found["$defs"]
    assert {entry["type"] for entry in found["x-events"]} == {tag_of(event) for event in EVENTS}
    assert {entry["code"] for entry in found["x-errors"]} == {code.value for code in ErrorCode}
    assert {entry["code"]: entry["reconnect"] for entry in found["x-close-codes"]} == {
        code.value: reconnects(code) for code in CloseCode
    }
    for reference in references(found):
        assert resolved(found, reference)


def test_answers_are_of_commands() -> None:
    """Each command names the answer that its type parameter says."""
    assert {tag_of(command): tag_of(answer_of(command)) for command in COMMANDS}["chat.send"] == "chat.sent"
    assert {tag_of(command): tag_of(answer_of(command)) for command in COMMANDS}["hello"] == "welcome"
