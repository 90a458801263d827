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


async def test_the_links_lead_on(openapi: Document) -> None:
    """What an answer is good for is an operation that there is, with parameters and fields of its own, which the answer has."""
    by_id = {operation["operationId"]: operation for _, _, operation in operations(openapi)}
    found = []
    for _, _, operation in operations(openapi):
        for response in operation["responses"].values():
            for link in response.get("links", {}).values():
                target = by_id[link["operationId"]]
                found.append((operation["operationId"], link["operationId"]))
                assert link["description"]
                known = {parameter["name"] for parameter in target.get("parameters", ())}
                assert link.get("parameters", {}).keys() <= known
                answer = resolved(openapi, response["content"]["application/json"]["schema"]["$ref"])
                if "requestBody" in link:
                    wanted = target["requestBody"]["content"]["application/json"]["schema"]["$ref"]
                    assert link["requestBody"].keys() <= resolved(openapi, wanted)["properties"].keys()
                for pointer in [*link.get("parameters", {}).values(), *link.get("requestBody", {}).values()]:
                    assert pointer.removeprefix("$response.body#/").split("/")[0] in answer["properties"]
    for step in ("register refresh", "refresh sessions", "sessions end_session", "checkout subscription"):
        assert tuple(step.split()) in found


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
        file = "206" in good  # of one may ask for a part, or whether it has changed
        assert good == ["200", "206", "304"] if file else len(good) == 1, path
        for status, response in operation["responses"].items():
            assert response["description"]
            if status >= "400":
                kinds = {"application/problem+json", *({"text/html"} if "Pages" in operation["tags"] else ())}
                assert "application/problem+json" in response["content"]
                assert set(response["content"]) <= kinds


async def test_openapi_has_every_route(site: Site, openapi: Document) -> None:
    """What is served is described, but for the documents themselves; what is described is served."""
    served = {route.path for route in site.app.routes}  # type: ignore[attr-defined] # all are of Starlette's Route
    documents = {
        "/",
        "/home.css",
        "/home.js",
        "/live.js",
        "/favicon.ico",
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
    """Only the person's own data, what they upload, and payments need an access token, and the description says so."""
    signed_in = {path for path, _, operation in operations(openapi) if operation["security"]}
    payments = {f"/payments/{name}" for name in ("checkout", "passes", "portal", "subscription")}
    media = {"/uploads", "/uploads/{upload}", "/media/{media}"}
    assert signed_in == payments | media | {
        path for path in openapi["paths"] if path.split("/")[1] in ("me", "creators")
    }
    assert openapi["components"]["securitySchemes"]["accessToken"]["scheme"] == "bearer"


async def test_every_field_is_described(openapi: Document) -> None:
    """Every object has a sentence, and so has every field, parameter and header."""
    for name, schema in openapi["components"]["schemas"].items():
        assert schema["description"], name
        for field, kind in schema.get("properties", {}).items():
            said = [part.get("description") for part in (kind, *kind.get("anyOf", ()))]
            assert any(said), f"{name}.{field}"
    for path, _, operation in operations(openapi):
        for parameter in operation.get("parameters", ()):
            assert parameter["description"], path
        for response in operation["responses"].values():
            assert all(header["description"] for header in response.get("headers", {}).values()), path


async def test_every_json_body_has_an_example(site: Site, openapi: Document) -> None:
    """What one may send is shown for each operation, and is not refused for its shape or its media type."""
    shown = 0
    for path, method, operation in operations(openapi):
        body = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if body is None or path == "/payments/webhook":
            continue
        shown += 1
        schema = resolved(openapi, body["schema"]["$ref"])
        assert set(schema.get("required", ())) <= set(body["example"]) <= set(schema["properties"]), path
        answer = await site.client.request(method, path.replace("{provider}", "google"), json=body["example"])
        assert answer.status_code not in (400, 415, 422, 500), f"{path}: {answer.text}"
    assert shown >= 16


async def test_what_has_no_body_says_so(site: Site, openapi: Document) -> None:
    """An answer that is only a status is described as one: a client that looks for JSON in it would be misled."""
    answer = await site.post("/waitlist", email="somebody@example.org")
    assert (answer.status_code, answer.content) == (202, b"")
    assert "content" not in openapi["paths"]["/waitlist"]["post"]["responses"]["202"]
    export = openapi["paths"]["/me/exports/{export}/document"]["get"]["responses"]["200"]["content"]
    assert export == {"application/json": {"schema": {"type": "object"}}}


async def test_bodies_that_are_no_json_are_described(openapi: Document) -> None:
    """Forms and what the payment provider sends have their media type and their fields, which stand nowhere else."""
    kinds = {
        path: list(methods["post"]["requestBody"]["content"])
        for path, methods in openapi["paths"].items()
        if path in ("/account/{page}", "/auth/{provider}/callback", "/payments/webhook")
    }
    form = ["application/x-www-form-urlencoded"]
    assert kinds == {
        "/account/{page}": form,
        "/auth/{provider}/callback": form,
        "/payments/webhook": ["application/json"],
    }
    webhook = openapi["paths"]["/payments/webhook"]["post"]
    assert [(one["in"], one["name"]) for one in webhook["parameters"]] == [("header", "Stripe-Signature")]


async def test_every_page_is_named(site: Site, openapi: Document) -> None:
    """The pages that the path may name are those that there are, and a refusal on one is a page, as it is announced."""
    (parameter,) = openapi["paths"]["/account/{page}"]["get"]["parameters"]
    for page in parameter["schema"]["enum"]:
        assert (await site.client.get(f"/account/{page}")).status_code == 200
    refused = await site.client.post("/account/verify", data={"token": "x"})
    described = openapi["paths"]["/account/{page}"]["post"]["responses"][str(refused.status_code)]
    assert refused.status_code == 410
    assert refused.headers["content-type"].partition(";")[0] in described["content"]


async def test_headers_are_true(site: Site, openapi: Document) -> None:
    """A header that every answer is said to have is there."""
    account = await site.register()
    headers = {"authorization": f"Bearer {account['access_token']}"}
    for path, sent in (("/me", headers), ("/me", {}), ("/health/live", {}), ("/auth/providers", {})):
        answer = await site.client.get(path, headers=sent)
        described = openapi["paths"][path]["get"]["responses"][str(answer.status_code)].get("headers", {})
        needed = {name.lower() for name, header in described.items() if header.get("required")}
        assert needed <= set(answer.headers)
        assert bool(needed) == (path != "/health/live")


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
