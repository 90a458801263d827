"""The page that shows the documents: plain HTML made here, a style and a script of our own, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any, Final

import msgspec

from protocol.refusals import ErrorCode, Refused
from server.http.documents import TITLE
from server.http.endpoint import JSON
from server.http.problems import MEDIA_TYPE, problem_of

STYLE: Final = Path(__file__).with_name("docs.css")
SCRIPT: Final = Path(__file__).with_name("docs.js")
POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)

Schema = dict[str, Any]

_OPTIONAL: Final = "<span class=tag>optional</span>"


def render(openapi: Schema, contract: Schema) -> str:
    """Return the page for an OpenAPI description and the websocket's contract, as `documents` makes them."""
    http_schemas = openapi["components"]["schemas"]
    defs = contract["$defs"]
    commands, events = contract["x-commands"], contract["x-events"]
    answers = {entry["answer"] for entry in commands}
    by_tag = {_tag(schema): name for name, schema in defs.items() if _tag(schema)}
    parts = [name for name, schema in defs.items() if not _tag(schema)]
    body = [
        _section("start", "Start here", _start(contract)),
        *(
            _section(
                _anchor("http", tag["name"]), tag["name"], _operations(openapi, tag["name"], http_schemas)
            )
            for tag in openapi["tags"]
        ),
        _section("http-objects", "HTTP objects", _objects(http_schemas, "http-")),
        _section("commands", "Commands", _commands(commands, defs)),
        _section(
            "answers",
            "Answers",
            (_message(tag, defs[by_tag[tag]], "answer") for tag in sorted(answers | {"error"})),
        ),
        _section(
            "events", "Events", (_message(entry["type"], defs[entry["schema"]], "event") for entry in events)
        ),
        _section("objects", "Objects in messages", _objects({name: defs[name] for name in parts}, "ws-")),
        _section("errors", "Error codes", [_errors(contract["x-errors"])]),
        _section("closing", "Close codes", [_closing(contract["x-close-codes"])]),
    ]
    return _PAGE.format(
        title=escape(TITLE), navigation=_navigation(openapi, commands, events), body="".join(body)
    )


def _start(contract: Schema) -> Iterator[str]:
    yield (
        "<p>Accounts and tokens are made over HTTP. Everything that happens in a looproom goes over one websocket at "
        f"<code>{escape(contract['x-path'])}</code>, with the subprotocol "
        + " or ".join(f"<code>{escape(name)}</code>" for name in contract["x-subprotocols"])
        + ".</p>"
    )
    yield (
        "<ol><li>Sign in: <code>POST /auth/login</code> answers with an access token.</li>"
        "<li>Open the websocket and say <a href='#ws-hello'><code>hello</code></a> with it, within 5 seconds.</li>"
        "<li>Join a looproom: <a href='#ws-room.join'><code>room.join</code></a>. From then on its events are pushed to you.</li>"
        "<li>Connection lost? Say <code>hello</code> again with your positions in <code>resume</code>: what you missed is replayed."
        "</li></ol>"
    )
    yield (
        "<p>Every command carries an <code>id</code> of your choice and has one answer with the same. Errors have a "
        "<a href='#errors'>code</a>, a closed connection has a <a href='#closing'>close code</a> that says whether to come "
        "back. For programs: <a href='/openapi.json'>openapi.json</a> and <a href='/schema.json'>schema.json</a>.</p>"
    )
    refused = problem_of(Refused(ErrorCode.RATE_LIMITED, retry_after=2.5))
    yield (
        f"<p>Over HTTP a refusal is <code>{MEDIA_TYPE}</code> (RFC 9457). Go by its <code>code</code>: the same request helps "
        "only where the table says so, and no sooner than after <code>retry_after</code> seconds.</p>"
        f"<pre>{escape(msgspec.json.format(msgspec.json.encode(refused)).decode(), quote=False)}</pre>"
    )


def _operations(openapi: Schema, group: str, schemas: Schema) -> Iterator[str]:
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            if group not in operation["tags"]:
                continue
            rows = []
            for status, response in operation["responses"].items():
                media: Schema = next(iter(response.get("content", {}).values()), {})
                content: Schema = media.get("schema", {})
                said = _inline(response["description"])
                if "$ref" in content:
                    said = f"{said}: {_type(content, 'http-')}"
                elif content and status < "400":
                    said = f"{said}: <code>{escape(next(iter(response['content'])))}</code>"
                for link in response.get("links", {}).values():
                    said += f"<br><a href='#{escape(link['operationId'])}'>{_inline(link['description'])}</a>"
                rows.append(f"<tr><td><code>{escape(status)}</code></td><td>{said}</td></tr>")
            lock = " <span class=tag>access token</span>" if operation["security"] else ""
            yield (
                f"<article id='{escape(operation['operationId'])}'><h3><span class='method {method}'>{method.upper()}</span> "
                f"<code>{escape(path)}</code>{lock}</h3>{_described(operation)}"
                + _parameters(operation.get("parameters", ()))
                + _body(operation.get("requestBody", {"content": {}})["content"], schemas)
                + f"<table class=answers><tbody>{''.join(rows)}</tbody></table></article>"
            )


def _body(content: Schema, schemas: Schema) -> str:
    """Say what one sends: its fields, in what encoding if it is not JSON, and one as it may be sent."""
    said = ""
    for media_type, body in content.items():
        if media_type != JSON:
            said += f"<p>Sent as <code>{escape(media_type)}</code>.</p>"
        if "schema" not in body:
            continue
        said += _fields(_resolved(body["schema"], schemas), "http-")
        if "example" in body:
            text = msgspec.json.format(msgspec.json.encode(body["example"])).decode()
            said += f"<pre>{escape(text, quote=False)}</pre>"
    return said


def _parameters(parameters: Iterable[Schema]) -> str:
    rows = [
        f"<tr><td><code>{escape(parameter['name'])}</code> {'' if parameter['required'] else _OPTIONAL}</td>"
        f"<td>in the {escape(parameter['in'])}: {_type(parameter['schema'], 'http-')}</td>"
        f"<td>{_inline(parameter['description'])}</td></tr>"
        for parameter in parameters
    ]
    return f"<table class=fields><tbody>{''.join(rows)}</tbody></table>" if rows else ""


def _commands(commands: Iterable[Schema], defs: Schema) -> Iterator[str]:
    for entry in commands:
        answer = entry["answer"]
        note = f"<p class=answered>Answered by <a href='#ws-{escape(answer)}'><code>{escape(answer)}</code></a>.</p>"
        yield _message(entry["type"], defs[entry["schema"]], "command", note)


def _message(tag: str, schema: Schema, kind: str, note: str = "") -> str:
    return (
        f"<article id='ws-{escape(tag)}'><h3><span class='kind {kind}'>{kind}</span> <code>{escape(tag)}</code></h3>"
        f"{_described(schema)}{_fields(schema, 'ws-')}{note}</article>"
    )


def _objects(schemas: Schema, prefix: str) -> Iterator[str]:
    for name, schema in schemas.items():
        yield (
            f"<article id='{prefix}{escape(name)}'><h3><code>{escape(name)}</code></h3>"
            f"{_described(schema)}{_fields(schema, prefix)}</article>"
        )


def _described(schema: Schema) -> str:
    return "".join(f"<p>{_inline(text)}</p>" for text in schema.get("description", "").split("\n\n") if text)


def _fields(schema: Schema, prefix: str) -> str:
    if "enum" in schema:
        return f"<p>{_type(schema, prefix)}</p>"
    required = set(schema.get("required", ()))
    rows = []
    for name, field in schema.get("properties", {}).items():
        if name == "type" and _tag(schema):
            continue
        need = "" if name in required else _OPTIONAL
        rows.append(
            f"<tr><td><code>{escape(name)}</code> {need}</td><td>{_type(field, prefix)}</td>"
            f"<td>{_inline(_meaning(field))}</td></tr>"
        )
    return f"<table class=fields><tbody>{''.join(rows)}</tbody></table>" if rows else ""


def _meaning(field: Schema) -> str:
    """Return what is said of a field; where it may be null, that stands with what else it may be."""
    choices: list[Schema] = [field, *field.get("anyOf", ())]
    return next((choice["description"] for choice in choices if "description" in choice), "")


def _type(schema: Schema, prefix: str) -> str:
    """Say in HTML what a value is."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"<a href='#{prefix}{escape(name)}'>{escape(name)}</a>"
    for choice in ("anyOf", "allOf", "oneOf"):
        if choice in schema:
            return " or ".join(_type(part, prefix) for part in schema[choice])
    if "enum" in schema:
        return " ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    kind = escape(str(schema.get("format") or schema.get("type", "anything")))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}), prefix)}{_bounds(schema, 'minItems', 'maxItems', ' items')}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"{_type(schema['additionalProperties'], prefix)} by name"
    return kind + (
        _bounds(schema, "minLength", "maxLength", " characters") or _bounds(schema, "minimum", "maximum", "")
    )


def _bounds(schema: Schema, least: str, most: str, unit: str) -> str:
    low, high = schema.get(least), schema.get(most)
    if high is not None and high < 2**53 - 1:
        return f" <small>{low if low is not None else 'at most'}{' to ' if low is not None else ' '}{high}{unit}</small>"
    return f" <small>from {low}{unit}</small>" if low is not None else ""


def _errors(errors: Iterable[Schema]) -> str:
    rows = (
        f"<tr id='{escape(entry['code'])}'><td><code>{escape(entry['code'])}</code></td><td>{entry['status']}</td>"
        f"<td>{'yes' if entry['retryable'] else 'no'}</td><td>{_inline(entry['advice'])}</td></tr>"
        for entry in errors
    )
    return _table(("Code", "HTTP", "Try again?", "What to do"), rows)


def _closing(codes: Iterable[Schema]) -> str:
    rows = (
        f"<tr><td><code>{entry['code']}</code></td><td>{'yes' if entry['reconnect'] else 'no'}</td>"
        f"<td>{_inline(entry['meaning'])}</td></tr>"
        for entry in codes
    )
    return _table(("Code", "Come back?", "Meaning"), rows)


def _table(heads: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    return f"<table class=codes><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _navigation(openapi: Schema, commands: Iterable[Schema], events: Iterable[Schema]) -> str:
    blocks = [("", [("start", "Start here")])]
    for tag in openapi["tags"]:
        links = [
            (operation["operationId"], f"{method.upper()} {path}")
            for path, methods in openapi["paths"].items()
            for method, operation in methods.items()
            if tag["name"] in operation["tags"]
        ]
        blocks.append((tag["name"], links))
    blocks.append(("Commands", [(f"ws-{entry['type']}", entry["type"]) for entry in commands]))
    blocks.append(("Events", [(f"ws-{entry['type']}", entry["type"]) for entry in events]))
    blocks.append(("Codes", [("errors", "Error codes"), ("closing", "Close codes")]))
    return "".join(
        (f"<h4>{escape(head)}</h4>" if head else "")
        + "".join(f"<a href='#{escape(anchor)}'>{escape(text)}</a>" for anchor, text in links)
        for head, links in blocks
    )


def _section(anchor: str, title: str, parts: Iterable[str]) -> str:
    return f"<section id='{escape(anchor)}'><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def _inline(text: str) -> str:
    """Escape a docstring; what stands between backticks becomes code."""
    pieces = escape(" ".join(text.replace("``", "`").split())).split("`")
    return "".join(f"<code>{piece}</code>" if odd % 2 else piece for odd, piece in enumerate(pieces))


def _resolved(schema: Schema, schemas: Schema) -> Schema:
    found: Schema = schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    return found


def _tag(schema: Schema) -> str:
    values = schema.get("properties", {}).get("type", {}).get("enum", [""])
    return str(values[0])


def _anchor(prefix: str, name: str) -> str:
    return f"{prefix}-{name.lower().replace(' ', '-')}"


_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}: HTTP and websocket</title>
<link rel="stylesheet" href="/docs.css">
<script src="/docs.js" defer></script>
</head>
<body>
<nav aria-label="Contents">
<p class="brand">{title}</p>
<input id="filter" type="search" placeholder="Filter" aria-label="Filter" hidden>
{navigation}
</nav>
<main>
<header><h1>{title}</h1><p>HTTP and websocket, version 1</p></header>
{body}
</main>
</body>
</html>
"""
