"""The stand-in's API: who asks, in which version, whether it was asked before, and the answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from server.gateways.standin.forms import checked, parsed
from server.gateways.standin.ledger import KEY_SECONDS, VERSION, Ledger, Object, public
from server.gateways.standin.problems import StripeProblem
from server.gateways.standin.table import Operation

_LONGEST_KEY: Final = 255
_MOST_BYTES: Final = 262144


class Api:
    """Answers what is asked with `key`. `done` is called after each operation that changed something."""

    def __init__(self, ledger: Ledger, table: list[Operation], key: str, done: Callable[[], None]) -> None:
        self._ledger = ledger
        self._table = [(one.method, _pattern(one.path), one) for one in table]
        self._key = key
        self._done = done
        self.asked: list[str] = []
        """Method and path of everything that was asked, for those who look."""

    async def respond(self, request: Request) -> Response:
        """Answer one request."""
        body = await request.body()
        self.asked.append(f"{request.method} {request.url.path}")
        try:
            if len(body) > _MOST_BYTES:
                raise StripeProblem(400, "request_too_large", "The request is too large.")
            self._check_caller(request, body)
            text = body.decode() if request.method == "POST" else request.url.query
            operation, ids, form = self._found(request, text)
            return self._answered(request, operation, ids, form)
        except StripeProblem as problem:
            return _response(problem.status, problem.body())
        except UnicodeDecodeError:
            return _response(400, StripeProblem(400, "parameter_invalid", "Invalid encoding").body())

    def _check_caller(self, request: Request, body: bytes) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or key != self._key:
            raise StripeProblem(401, "api_key_invalid", "Invalid API Key provided.")
        version = request.headers.get("stripe-version", VERSION)
        if version != VERSION:
            raise StripeProblem(400, "api_version_invalid", f"Invalid Stripe API version: {version}")
        kind = request.headers.get("content-type", "").partition(";")[0]
        if body and kind != "application/x-www-form-urlencoded":
            raise StripeProblem(400, "content_type_invalid", "Send application/x-www-form-urlencoded.")

    def _found(self, request: Request, text: str) -> tuple[Operation, dict[str, str], dict[str, Any]]:
        for method, pattern, operation in self._table:
            if method == request.method and (match := pattern.fullmatch(request.url.path)):
                return operation, match.groupdict(), checked(parsed(text), operation.shape)
        message = f"Unrecognized request URL ({request.method}: {request.url.path})."
        raise StripeProblem(404, "url_invalid", message)

    def _answered(
        self, request: Request, operation: Operation, ids: dict[str, str], form: dict[str, Any]
    ) -> Response:
        if operation.method == "GET":
            return _response(200, public(operation.run(form, ids)))
        key = request.headers.get("idempotency-key") if operation.method == "POST" else None
        asked = hashlib.sha256(json.dumps([request.url.path, form], sort_keys=True).encode()).hexdigest()
        if key is not None and (known := self._known(key, asked)) is not None:
            return _response(known["status"], known["answer"], replayed=True)
        status, answer = 200, None
        try:
            answer = public(operation.run(form, ids))
        except StripeProblem as problem:
            if not problem.done:
                raise
            status, answer = problem.status, problem.body()
        if key is not None:
            at = self._ledger.now()
            self._ledger.keys[key] = {"at": at, "asked": asked, "status": status, "answer": answer}
        self._done()
        return _response(status, answer)

    def _known(self, key: str, asked: str) -> Object | None:
        """Return what was answered to the same under this key, a no too. Raises `StripeProblem` when it was something else."""
        if len(key) > _LONGEST_KEY:
            raise StripeProblem(400, "idempotency_key_invalid", "The idempotency key is too long.")
        known = self._ledger.keys.get(key)
        if known is None or known["at"] <= self._ledger.now() - KEY_SECONDS:
            return None
        if known["asked"] != asked:
            message = "Keys for idempotent requests can only be used with the same parameters they were first used with."
            raise StripeProblem(400, "idempotency_key_reused", message, kind="idempotency_error")
        return known


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[A-Za-z0-9_]+)", path))


def _response(status: int, body: Object, *, replayed: bool = False) -> Response:
    headers = {"stripe-version": VERSION, "request-id": "req_standin"}
    if replayed:
        headers["idempotent-replayed"] = "true"
    return Response(json.dumps(body, indent=2), status, headers, "application/json")
