"""Every answer is one that the documents announce: all tests of the HTTP side are held to that, through their client."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Any

import httpx2
import msgspec

from server.http.problems import MEDIA_TYPE

OF_NO_OPERATION = (HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
"""What is answered before it is known what was asked for."""

Document = dict[str, Any]


class Announced:
    """Compares answers with an OpenAPI description. Paths that are not in it are the documents themselves, or not there."""

    def __init__(self, described: Document) -> None:
        self._paths = [
            (
                re.compile(
                    re.sub(r"\{[a-z]+\}", "[^/]+", re.escape(path).replace(r"\{", "{").replace(r"\}", "}"))
                ),
                methods,
            )
            for path, methods in sorted(described["paths"].items(), key=lambda found: found[0].count("{"))
        ]

    async def check(self, answer: httpx2.Response) -> None:
        """Fail for a status, a media type or a code that is not announced."""
        path, method = answer.request.url.path, answer.request.method.lower()
        methods = next((methods for pattern, methods in self._paths if pattern.fullmatch(path)), None)
        if methods is None or method == "options" or answer.status_code in OF_NO_OPERATION:
            return
        operation: Document = methods["get" if method == "head" else method]
        what = f"{method.upper()} {path} answered {answer.status_code}"
        announced = operation["responses"].get(str(answer.status_code))
        assert announced is not None, what
        kind = answer.headers.get("content-type", "").partition(";")[0]
        assert kind in announced.get("content", {"": None}), f"{what} with {kind!r}"
        if kind == MEDIA_TYPE:
            code = msgspec.json.decode(await answer.aread())["code"] if method != "head" else None
            codes = announced["content"][kind]["schema"]["allOf"][1]["properties"]["code"]["enum"]
            assert code is None or code in codes, f"{what} with {code}"
