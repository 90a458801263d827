"""Uploads: announced with JSON, then sent as they are, to be gone on with where a connection broke.

There is no form and no parser of forms: the body of a ``PUT`` is the file. Its shape is that of the draft for resumable uploads
(draft-ietf-httpbis-resumable-upload) as far as one needs it: ``Upload-Offset`` says in a request where its bytes belong, and in
every answer where the upload stands. A name that a client has for its file is never asked for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from protocol.envelope import RoomRef
from protocol.media import MediaKind, MediaType
from protocol.refusals import ErrorCode, Refused
from server.http.callers import REFUSALS, claims_of
from server.http.endpoint import JSON, Endpoint, Link, Parameter
from server.http.pace import Pace, pace_of
from server.hub.identity import Session
from server.media import live_session
from storage.media import Upload, url_of

if TYPE_CHECKING:
    from server.node import Node

OFFSET: Final = "upload-offset"
BYTES: Final = "application/octet-stream"
LEAST_BYTES: Final = 20480
"""Bytes that an upload must bring in the ten seconds between two looks: who sends fewer drips."""

_UPLOAD: Final = Parameter("upload", "path", "Its id, as the answer to announcing it says.", form="uuid")
_PLACE: Final = Parameter(
    "upload-offset",
    "header",
    "Where the first byte of the body belongs; 0, which begins anew, if it is not sent.",
    required=False,
)
_MEDIA: Final = Parameter("media", "path", "Its id, as its URL says.", form="uuid")


class NewUpload(Struct, kw_only=True):
    """What is to be uploaded."""

    kind: Annotated[
        MediaKind,
        Meta(description="Your own picture, or the picture or the content of a looproom that you host."),
    ]
    room: Annotated[RoomRef | None, Meta(description="The looproom, by its slug or id.")] = None
    type: Annotated[MediaType, Meta(description="Its media type: one that fits the kind.")]
    bytes: Annotated[int, Meta(ge=1, le=2**53 - 1, description="How many bytes it has, exactly.")]


class ShownMedia(Struct, kw_only=True):
    """What came of an upload: it is shown from now on."""

    url: Annotated[str, Meta(description="Where it is: a path on this server.")]
    type: Annotated[str, Meta(description="Its media type now.")]
    bytes: Annotated[int, Meta(description="How many bytes it has now.")]


class UploadState(Struct, kw_only=True, omit_defaults=True):
    """How far an upload is. It is finished when `media` is there; it is forgotten after 30 seconds without a byte."""

    id: Annotated[UUID, Meta(description="What the path of this upload names.")]
    kind: Annotated[MediaKind, Meta(description="What it is for.")]
    room: Annotated[UUID | None, Meta(description="Of which looproom.")] = None
    type: Annotated[str, Meta(description="The media type that was said.")]
    bytes: Annotated[int, Meta(description="How many bytes were said.")]
    received: Annotated[int, Meta(description="How many have come, as `Upload-Offset` says, too.")]
    media: Annotated[ShownMedia | None, Meta(description="What came of it.")] = None


class OwnUploads:
    """The operations on uploads, of one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def announce_upload(self, request: Request, body: NewUpload) -> Response:
        """Announce an upload: whether you may make it is decided here, and a place for its bytes is kept.

        Then send the file itself with `PUT /uploads/{upload}`.
        """
        session = await self._session(request)
        upload = await self._node.uploads.begin(session, body.kind, body.room, body.type, body.bytes)
        return await self._answer(upload, status=201)

    async def upload_state(self, request: Request) -> Response:
        """Say how far an upload is: after a broken connection, where to go on; after a lost answer, what came of it."""
        return await self._answer(await self._own(request))

    async def send_upload(self, request: Request) -> Response:
        """Send the bytes of an upload, as they are, all of them or some; with the last one it is shown.

        A picture is made anew, in one size and as WebP. Sound and moving pictures stay as they are, but for what tells about
        people: places, names, dates, covers and comments become zeros. After a broken connection ask how far it is, and go on
        from there within 30 seconds.
        """
        upload = await self._own(request)
        offset = _offset(request)
        left = request.headers.get("content-length", "0")
        if not left.isdecimal() or offset + int(left) > upload.size:
            raise Refused(ErrorCode.TOO_LARGE)
        if not upload.finished:
            pace = pace_of(request)
            pace.least = LEAST_BYTES
            await self._node.uploads.receive(upload, offset, _paced(request, pace))
        return await self._answer(await self._own(request))

    async def abandon_upload(self, request: Request) -> None:
        """Give an upload up. What is finished is deleted with `DELETE /media/{media}`."""
        await self._node.uploads.abandon(await self._own(request))

    async def drop_media(self, request: Request) -> None:
        """Take a picture or content of yours away from where it is shown; a moderator may take anyone's away.

        Its URL finds nothing from then on; but a picture may be kept for good by whoever had it.
        """
        session = await self._session(request)
        await self._node.uploads.drop(named(request, "media"), session)

    async def _own(self, request: Request) -> Upload:
        session = await self._session(request)
        return await self._node.uploads.find(named(request, "upload"), session.user_id)

    async def _session(self, request: Request) -> Session:
        claims = claims_of(self._node, request)
        return await live_session(self._node, claims.session, claims.user)

    async def _answer(self, upload: Upload, status: int = 200) -> Response:
        received = await self._node.uploads.received_of(upload)
        state = UploadState(
            id=upload.id,
            kind=upload.kind,
            room=upload.room,
            type=upload.media_type,
            bytes=upload.size,
            received=received,
        )
        if upload.media is not None and upload.made_type is not None and upload.made_size is not None:
            state.media = ShownMedia(url=url_of(upload.media), type=upload.made_type, bytes=upload.made_size)
        headers = {"cache-control": "no-store", OFFSET: str(received)}
        return Response(msgspec.json.encode(state), status, headers, JSON)


def named(request: Request, parameter: str) -> UUID:
    """Return the id that the path names. Raises `Refused` (not_found) for what is none."""
    try:
        return UUID(request.path_params[parameter])
    except ValueError:
        raise Refused(ErrorCode.NOT_FOUND) from None


def _offset(request: Request) -> int:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("multipart/") or request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(ErrorCode.MEDIA_TYPE_REFUSED, "Send the bytes of the file as they are.")
    offset = request.headers.get(OFFSET, "0")
    if not (offset.isascii() and offset.isdecimal()) or len(offset) > 18:
        raise Refused(ErrorCode.OFFSET_REFUSED)
    return int(offset)


async def _paced(request: Request, pace: Pace) -> AsyncIterator[bytes]:
    async for piece in request.stream():
        pace.moved += len(piece)
        yield piece


_BEGUN: Final = (
    Link(operation="upload_state", meaning="Ask how far it is.", parameters={"upload": "/id"}),
    Link(operation="abandon_upload", meaning="Give it up.", parameters={"upload": "/id"}),
)


def endpoints(uploads: OwnUploads) -> list[Endpoint]:
    """List the operations on uploads."""
    return [
        Endpoint(
            method="POST",
            path="/uploads",
            summary="Announce an upload",
            handle=uploads.announce_upload,
            body=NewUpload,
            example=NewUpload(kind=MediaKind.AVATAR, type=MediaType.JPEG, bytes=48211),
            answer=UploadState,
            links=_BEGUN,
            status=201,
            signed_in=True,
            refuses=(
                ErrorCode.NOT_FOUND,
                ErrorCode.FORBIDDEN,
                ErrorCode.QUOTA_REACHED,
                ErrorCode.RATE_LIMITED,
                *REFUSALS,
            ),
            group="Media",
        ),
        Endpoint(
            method="GET",
            path="/uploads/{upload}",
            summary="How far is it",
            handle=uploads.upload_state,
            parameters=(_UPLOAD,),
            answer=UploadState,
            signed_in=True,
            refuses=(ErrorCode.NOT_FOUND, *REFUSALS),
            group="Media",
        ),
        Endpoint(
            method="PUT",
            path="/uploads/{upload}",
            summary="Send the file",
            handle=uploads.send_upload,
            parameters=(_UPLOAD, _PLACE),
            reads=BYTES,
            answer=UploadState,
            signed_in=True,
            refuses=(
                ErrorCode.NOT_FOUND,
                ErrorCode.TOO_SLOW,
                ErrorCode.OFFSET_REFUSED,
                ErrorCode.TOO_LARGE,
                ErrorCode.MEDIA_TYPE_REFUSED,
                ErrorCode.MEDIA_REFUSED,
                ErrorCode.BUSY,
                *REFUSALS,
            ),
            group="Media",
        ),
        Endpoint(
            method="DELETE",
            path="/uploads/{upload}",
            summary="Give it up",
            handle=uploads.abandon_upload,
            parameters=(_UPLOAD,),
            status=204,
            signed_in=True,
            refuses=(ErrorCode.NOT_FOUND, ErrorCode.BUSY, *REFUSALS),
            group="Media",
        ),
        Endpoint(
            method="DELETE",
            path="/media/{media}",
            summary="Show it no more",
            handle=uploads.drop_media,
            parameters=(_MEDIA,),
            status=204,
            signed_in=True,
            refuses=(ErrorCode.NOT_FOUND, *REFUSALS),
            group="Media",
        ),
    ]
