"""One operation of the HTTP side: a typed function, and what everyone must know about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from protocol.refusals import ErrorCode, Refused
from storage.redis.limits import Limit

MOST_BODY_BYTES: Final = 65536
JSON: Final = "application/json"
FORM: Final = "application/x-www-form-urlencoded"


class Parameter(Struct, frozen=True):
    """A part of the path, of the query or of the headers that `handle` reads from the request.

    `choices` are all that it can be, where they are few; `form` is a format of JSON Schema.
    """

    name: str
    place: Literal["path", "query", "header"]
    meaning: str
    required: bool = True
    choices: tuple[str, ...] = ()
    form: str = ""


class Link(Struct, frozen=True, kw_only=True):
    """What one can do next with a good answer: `operation` is the name of another one's `handle`.

    `parameters` and `body` say which of its parameters and fields are taken from where in the answer (RFC 6901).
    """

    operation: str
    meaning: str
    parameters: dict[str, str] = {}
    body: dict[str, str] = {}


class WithCookies(Struct, frozen=True):
    """An answer, and the ``Set-Cookie`` headers that go with it."""

    answer: Struct | None
    cookies: tuple[str, ...]


class Endpoint(Struct, frozen=True, kw_only=True):
    """A method of a path. `handle` gets the request, and the body if `body` says of what type it is.

    With `reads`, `handle` reads the body itself, which is of that media type; `body` only describes it, where it is not just bytes.
    `example` is a body as one may be sent. What `serves` names are the media types of a good response that is a file, of which one
    may ask for a part.

    `links` say what its good answer is good for. `answer` is the type of a good response; a `Response` that `handle` returns goes out as it is. `refuses` are the codes that
    only this operation has; those that any can have are in `documents`. What it `shows` are refusals that people read: they come
    as the page that they concern. `limits` are what an address may ask of this operation beside what anyone may ask of all (see
    `gate`); an `unlimited` one has no limit at all.
    """

    method: str
    path: str
    summary: str
    handle: Callable[..., Awaitable[Any]]
    parameters: tuple[Parameter, ...] = ()
    body: type[Struct] | None = None
    reads: str | None = None
    example: Struct | None = None
    answer: type[Struct] | None = None
    media_type: str = JSON
    status: int = 200
    serves: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    refuses: tuple[ErrorCode, ...] = ()
    shows: tuple[ErrorCode, ...] = ()
    signed_in: bool = False
    limits: tuple[Limit, ...] = ()
    unlimited: bool = False
    group: str

    async def respond(self, request: Request) -> Response:
        """Check the body, call `handle`, and encode what it returns. Raises `Refused`."""
        if self.body is None or self.reads is not None:
            result = await self.handle(request)
        else:
            result = await self.handle(request, decode_body(self.body, await read_body(request)))
        if isinstance(result, Response):
            return result
        if isinstance(result, WithCookies):
            response = self._encoded(result.answer)
            for cookie in result.cookies:
                response.headers.append("set-cookie", cookie)
            return response
        return self._encoded(result)

    def _encoded(self, answer: Struct | None) -> Response:
        headers = {"cache-control": "no-store"}
        if answer is None:
            return Response(status_code=self.status, headers=headers)
        return Response(msgspec.json.encode(answer), self.status, headers, JSON)


async def read_body(request: Request, media_type: str = JSON, most: int = MOST_BODY_BYTES) -> bytes:
    """Read a body of at most `most` bytes. Raises `Refused` (media_type_refused, too_large)."""
    kind, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().replace('"', "")
    if kind.strip().lower() != media_type or charset not in ("", "charset=utf-8"):
        raise Refused(ErrorCode.MEDIA_TYPE_REFUSED, f"Send {media_type}.")
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(ErrorCode.MEDIA_TYPE_REFUSED, "Send the body as it is, without a content encoding.")
    length = request.headers.get("content-length", "0")
    # A server class other than ours might let nonsense through; ours does not.
    if not length.isdecimal() or int(length) > most:
        raise Refused(ErrorCode.TOO_LARGE)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise Refused(ErrorCode.TOO_LARGE)
    return bytes(body)


def decode_body(kind: type[Struct], body: bytes) -> Struct:
    """Decode a body. Raises `Refused`: malformed for what is no JSON, invalid with its path for a wrong field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `")
        path = path.rstrip("`") or "$"
        raise Refused(ErrorCode.INVALID, f"{problem} (at {path}).", path=path) from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise Refused(ErrorCode.MALFORMED, "Send one JSON object as the body.") from None
