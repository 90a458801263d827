"""Downloads: pictures for whoever knows their URL, what looprooms play for whoever may be in them; whole or in parts.

How one shows that one may have what a looproom plays: an app sends its access token (``Authorization``). A page can't, because a
``<video>`` fetches for itself; so the page asks once for a cookie (``POST /me/media-cookie``), which its browser then sends along.
Neither stands in a URL. A signed URL of some minutes would have worked in a ``<video>``, too; but URLs are logged by proxies, kept
in histories and passed on, such a one would be good for whoever holds it, an hour's film would outlive it, and what is revoked
would be open until it ends. The cookie is sealed, kept from every script, sent to this host alone and from pages of its own site
alone, good for a session that lives, and good for nothing but this. So every request is decided by what holds in its moment.

Nothing that is served is ever a page: its type is fixed and not to be guessed, it runs no script (``sandbox``), and content is
saved rather than shown when it is opened by itself.
"""

from __future__ import annotations

import base64
import secrets
import time
from typing import TYPE_CHECKING, Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from protocol.envelope import NOBODY, SessionId, UserId
from protocol.media import MediaKind
from protocol.refusals import ErrorCode, Refused
from server.containers import TYPES
from server.gateways import pictures
from server.gateways.objects import Stored
from server.http.callers import REFUSALS, caller_of, claims_of
from server.http.cookies import cookie, kept, only_from_page
from server.http.endpoint import Endpoint, Parameter, WithCookies
from server.http.pace import pace_of
from server.http.problems import response_of
from server.http.ranges import Range, ranges_of
from server.http.uploads import named
from server.hub.identity import Session
from server.media import Shown, live_session, picture_of, play
from storage.media import Media
from storage.sealing import BrokenSeal

if TYPE_CHECKING:
    from server.node import Node

COOKIE: Final = "__Host-looprooms-media"
COOKIE_SECONDS: Final = 43200.0
"""A page asks for another one in time; what it is good for ends with the session, or with what may be seen, in that moment."""
CHUNK: Final = 131072
LEAST_BYTES: Final = 1
"""A download may be as slow as it is; a player that takes nothing for a while comes back with a range."""
POLICY: Final = "default-src 'none'; frame-ancestors 'none'; sandbox"
_SEAL: Final = "cookies.media"
_FOR_GOOD: Final = "public, max-age=31536000, immutable"
_FOR_NOBODY: Final = "private, no-store"
_ENDINGS: Final = {
    "video/mp4": "mp4",
    "audio/mp4": "m4a",
    "video/webm": "webm",
    "audio/webm": "webm",
    "audio/mpeg": "mp3",
    "audio/ogg": "ogg",
    "audio/wav": "wav",
}

_MEDIA: Final = Parameter("media", "path", "Its id, as its URL says.", form="uuid")
_RANGE: Final = Parameter("range", "header", "The bytes that are wanted, as `bytes=0-`.", required=False)
_IF_RANGE: Final = Parameter("if-range", "header", "The `ETag` that the range belongs to.", required=False)
_IF_NONE_MATCH: Final = Parameter(
    "if-none-match", "header", "The `ETag` of what is there already.", required=False
)


class Downloads:
    """The operations that give files, of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def give_cookie(self, request: Request) -> WithCookies:
        """Let a page's browser fetch what looprooms play: in a `<video>` or an `<audio>`, which can send no token.

        The cookie is good for twelve hours, as long as the session lives, and for nothing else.
        """
        caller = await caller_of(self._node, request)
        only_from_page(request)
        said = f"{caller.session} {caller.account.id} {int(time.time() + COOKIE_SECONDS)}"
        sealed = self._node.stores.sealer.seal(_SEAL, NOBODY.id, said)
        value = base64.urlsafe_b64encode(sealed).decode().rstrip("=")
        return WithCookies(None, (cookie(COOKIE, value, seconds=COOKIE_SECONDS),))

    async def fetch_media(self, request: Request) -> Response:
        """Fetch a picture, or what a looproom plays: whole, or the parts that `Range` names.

        A picture is open to whoever knows its URL. For content send your access token, or, from a page, the cookie that
        `POST /me/media-cookie` gives. Whoever has a preview of a looproom gets the part of the bytes that the preview is of the
        whole, and must ask for ranges.
        """
        found = await picture_of(self._node, named(request, "media"))
        if found.kind is MediaKind.CONTENT:
            shown = await play(self._node, await self._session(request), found)
        else:
            shown = Shown(found)
        return await self._answer(request, shown)

    async def _session(self, request: Request) -> Session:
        if "authorization" in request.headers:
            claims = claims_of(self._node, request)
            return await live_session(self._node, claims.session, claims.user)
        session, user = self._cookie(request)
        return await live_session(self._node, session, user)

    def _cookie(self, request: Request) -> tuple[SessionId, UserId]:
        """Read whose cookie it is. Raises `Refused` (token_invalid)."""
        value = kept(request, COOKIE)
        try:
            sealed = base64.urlsafe_b64decode((value or "") + "===")
            said = self._node.stores.sealer.open(_SEAL, NOBODY.id, sealed)
        except (ValueError, BrokenSeal):
            detail = "Send an access token, or the cookie that POST /me/media-cookie gives."
            raise Refused(ErrorCode.TOKEN_INVALID, detail) from None
        session, user, end = said.split()
        if int(end) < time.time():
            raise Refused(ErrorCode.TOKEN_EXPIRED)
        return SessionId(UUID(session)), UserId(UUID(user))

    async def _answer(self, request: Request, shown: Shown) -> Response:
        media = shown.media
        headers = _headers(media)
        if _is_known(request, headers["etag"]):
            return Response(status_code=304, headers=headers)
        try:
            ranges = _ranges(request, headers["etag"], shown)
        except Refused as refused:
            return response_of(refused, {"content-range": f"bytes */{media.size}"})
        body = Body(request, media, ranges, headers)
        if request.method != "HEAD":
            body.stored = await self._node.objects.open(media.id)
            if body.stored is None:
                raise Refused(ErrorCode.NOT_FOUND)
        return body


class Body(Response):
    """A file on its way, a piece at a time, no faster than it is taken. `stored` is None when only the head is wanted."""

    def __init__(
        self, request: Request, media: Media, ranges: list[Range] | None, headers: dict[str, str]
    ) -> None:
        self._request = request
        self.stored: Stored | None = None
        self._ranges = ranges or [Range(0, media.size)]
        self._before = [b""]
        self._after = b""
        media_type = media.media_type
        if ranges is not None and len(ranges) > 1:
            boundary = secrets.token_hex(16)
            self._before = [
                f"\r\n--{boundary}\r\ncontent-type: {media_type}\r\n"
                f"content-range: {one.content_range(media.size)}\r\n\r\n".encode()
                for one in ranges
            ]
            self._after = f"\r\n--{boundary}--\r\n".encode()
            media_type = f"multipart/byteranges; boundary={boundary}"
        elif ranges is not None:
            headers = headers | {"content-range": ranges[0].content_range(media.size)}
        length = sum(map(len, self._ranges)) + sum(map(len, self._before)) + len(self._after)
        headers = headers | {"content-length": str(length), "content-type": media_type}
        super().__init__(status_code=200 if ranges is None else 206, headers=headers)

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it. Whoever goes away meanwhile gets no more."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if self.stored is not None:
            try:
                if not await self._send(self.stored, send):
                    return
            finally:
                self.stored.close()
        await send({"type": "http.response.body", "body": self._after, "more_body": False})

    async def _send(self, stored: Stored, send: Send) -> bool:
        pace = pace_of(self._request)
        pace.least = LEAST_BYTES
        for before, one in zip(self._before, self._ranges, strict=True):
            ahead, start = before, one.start
            while start < one.end:
                data = await stored.read(start, min(CHUNK, one.end - start))
                if not data or await self._request.is_disconnected():
                    return False  # what is cut short is noticed by its length
                await send({"type": "http.response.body", "body": ahead + data, "more_body": True})
                pace.moved += len(data)
                start += len(data)
                ahead = b""
        return True


def _headers(media: Media) -> dict[str, str]:
    content = media.kind is MediaKind.CONTENT
    headers = {
        "accept-ranges": "bytes",
        "cache-control": _FOR_NOBODY if content else _FOR_GOOD,
        "content-security-policy": POLICY,
        "cross-origin-resource-policy": "same-site",
        "etag": f'"{media.sha256.hex()}"',
    }
    if content:
        headers["content-disposition"] = f'attachment; filename="looproom.{_ENDINGS[media.media_type]}"'
    return headers


def _is_known(request: Request, etag: str) -> bool:
    known = request.headers.get("if-none-match", "")
    return known.strip() == "*" or etag in (one.strip().removeprefix("W/") for one in known.split(","))


def _ranges(request: Request, etag: str, shown: Shown) -> list[Range] | None:
    """Return the parts that are wanted and may be had; None: the whole. Raises `Refused`: range_refused, premium_required."""
    wanted = request.headers.get("range")
    if request.headers.get("if-range", etag) != etag:
        wanted = None
    ranges = ranges_of(wanted, shown.media.size)
    if shown.most is None:
        return ranges
    if ranges is None or len(ranges) > 1:
        raise Refused(ErrorCode.PREMIUM_REQUIRED, "A preview is sent in ranges, one at a time.")
    (one,) = ranges
    closing = shown.media.closing_from
    if closing is not None and one.start >= closing:
        return ranges
    if one.start >= shown.most:
        raise Refused(ErrorCode.PREMIUM_REQUIRED)
    return [Range(one.start, min(one.end, shown.most))]


def endpoints(downloads: Downloads) -> list[Endpoint]:
    """List the operations that give files."""
    return [
        Endpoint(
            method="POST",
            path="/me/media-cookie",
            summary="Let a page play",
            handle=downloads.give_cookie,
            status=204,
            signed_in=True,
            refuses=REFUSALS,
            group="Media",
        ),
        Endpoint(
            method="GET",
            path="/media/{media}",
            summary="A picture, or what a looproom plays",
            handle=downloads.fetch_media,
            parameters=(_MEDIA, _RANGE, _IF_RANGE, _IF_NONE_MATCH),
            serves=(pictures.MEDIA_TYPE, *TYPES),
            refuses=(
                ErrorCode.NOT_FOUND,
                ErrorCode.PREMIUM_REQUIRED,
                ErrorCode.PASS_REQUIRED,
                ErrorCode.RANGE_REFUSED,
                *REFUSALS,
            ),
            group="Media",
        ),
    ]
