"""The log of a node that was asked everything there is, well and badly: no secret, no address, no word of what people wrote."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from protocol.contract import COMMANDS, tag_of
from protocol.session import Hello
from server.process import logs
from server.process.logs import start_logging
from storage import chat
from tests.http.conftest import Servers
from tests.http.serving import PASSWORD
from tests.leaving import DEVICE, Member, Town, town
from tests.protocol.messages import sample

CANARY = "c4nary"
TELLING = re.compile(
    r"select |insert |Traceback|\.py\b|site-packages|asyncpg|Postgres|uvicorn|starlette", re.IGNORECASE
)
"""What an error must not say of how we are made."""
WRITTEN = f'{CANARY} in a coal mine \x1b[31m\u2028\n{{"level": "info"}}'


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Log as a node does that is to log as much as it can."""
    loggers = [logging.getLogger(name) for name in ("", *logs._OURS)]
    levels, handlers = [one.level for one in loggers], loggers[0].handlers[:]
    hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
    start_logging("debug", "json")
    stream = io.StringIO()
    handler = loggers[0].handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(stream)
    yield stream
    loggers[0].handlers[:] = handlers
    for one, level in zip(loggers, levels, strict=True):
        one.setLevel(level)
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
    logging.captureWarnings(capture=False)


def filled(value: Any, canary: str) -> Any:
    """Return a message with every text in it replaced, but for its type."""
    match value:
        case dict():
            return {name: part if name == "type" else filled(part, canary) for name, part in value.items()}
        case list():
            return [filled(part, canary) for part in value]
        case str():
            return canary
        case _:
            return value


def bodies(described: dict[str, Any], operation: dict[str, Any]) -> list[Any]:
    """Return what may be sent to an operation: every text a canary, once as it should be and once of the wrong type."""
    content = operation.get("requestBody", {}).get("content", {})
    schemas = [form["schema"] for form in content.values() if "schema" in form]
    if not schemas:  # nothing is sent, or bytes
        return [None]
    (schema,) = schemas
    if "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    names = list(schema.get("properties", {}))
    return [
        dict.fromkeys(names, f"{CANARY}.{uuid4().hex}@example.org"),
        {name: [WRITTEN] for name in names},
        WRITTEN,
    ]


async def ask_everything(place: Town, member: Member) -> int:
    """Send something to every operation of the description, signed in and not; return how many answers were ours to explain."""
    site = place.sites[0]
    described = (await site.client.get("/openapi.json")).json()
    failed = 0
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            if (method, path) == ("delete", "/me"):
                continue  # at the end
            for headers in ({}, member.headers, {"authorization": f"Bearer {CANARY}"}):
                for body in bodies(described, operation):
                    answer = await site.client.request(
                        method,
                        path.replace("{", "").replace("}", ""),
                        headers={**headers, "user-agent": f"{CANARY} browser"},
                        **({} if body is None else {"json": body}),
                    )
                    failed += answer.status_code == 500
                    if path != "/.well-known/jwks.json":  # public keys are everyone's
                        assert answer.headers["cache-control"] == "no-store", (path, answer.status_code)
                    if answer.status_code >= 400:
                        assert TELLING.search(f"{answer.text} {answer.headers}") is None, answer.text
    return failed


async def say_everything(place: Town, member: Member, slug: str) -> None:
    """Send every command, with texts that are right and with texts that are not."""
    room = await place.room(slug)
    visitor = await member.come(None, room)
    for command in COMMANDS:
        if command is Hello:
            continue
        wire = {name: value for name, value in msgspec.to_builtins(sample(command)).items() if name != "id"}
        for fields in (filled(wire, CANARY), filled(wire, WRITTEN), wire, {**wire, "room": slug}):
            await visitor.join(room)  # the command before may have left it
            await visitor.call(**({"type": tag_of(command)} | fields))
    await visitor.call("chat.send", room=slug, text=WRITTEN, key="canary")
    await visitor.call("creator.apply", about=WRITTEN)
    visitor.connection.frame(0x1, f'{{"type": "{CANARY}", "id": 1}}'.encode())
    visitor.connection.frame(0x1, f"{CANARY} is no JSON".encode())
    visitor.connection.frame(0x2, CANARY.encode())


async def test_nothing_personal_is_logged(
    servers: Servers, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every operation and every command, the bugs of our own among them: each line is one object, and none tells anything."""
    generous = {"LOOPROOMS_LIMITS_FACTOR": "100000", "LOOPROOMS_COMMANDS_BURST": "100000"}
    async with town(await servers.settings(**generous), 1) as place:
        member = await place.member(CANARY)
        failed = await ask_everything(place, member)
        await say_everything(place, member, "first")

        async def broken(*_: object, **__: object) -> None:
            await place.pool.execute("insert into users (name) values ($1)", WRITTEN * 10)

        monkeypatch.setattr(chat, "lines_before", broken)
        await say_everything(place, member, "second")
        assert (await member.ask("POST", "/me/export")).status_code in (202, 429)
        await place.cleared("person.export")
        assert (await member.leave()).status_code == 204
        await place.cleared()
    assert failed == 0
    logged = lines.getvalue()
    entries = [json.loads(line) for line in logged.splitlines()]
    assert any("a RecallChat failed; reference" in entry["message"] for entry in entries)
    assert all(entry.keys() <= {"at", "level", "logger", "message", "traceback"} for entry in entries)
    assert "\x1b" not in logged
    for secret in (CANARY, member.email, PASSWORD, member.access_token, member.refresh_token, DEVICE):
        found = [entry for entry in entries if secret.lower() in json.dumps(entry).lower()]
        assert found == [], secret
