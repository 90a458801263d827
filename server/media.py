"""Media: uploads from their beginning until they are shown, and who may see what.

An upload is announced first: what it is for, what it is, how large. It is checked then whether they may - one's own picture, the
picture and the content of looprooms that one hosts - and a place for its bytes is reserved. Then the bytes come, in one piece or
in several, and go to a file as they come. With the last one the file is looked at: a picture is made anew, sound and moving
pictures are read through and cleared of what tells about people. Then, in one transaction, it is put where it belongs.

A picture is for everyone who knows its URL, and is never changed, so it may be kept by whoever has it. What a looproom plays is
for those who may be in it, and every request is asked for that anew. Whoever has a preview gets the part of the bytes that the
preview is of the whole, from the beginning, and what a player needs of the end; never more, however often they ask.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import UUID, uuid4

from msgspec import Struct

from protocol.envelope import RoomId, SessionId, UserId
from protocol.media import MediaKind
from protocol.refusals import ErrorCode, Refused
from protocol.rooms import ContentKind, Room
from server import containers
from server.containers import Container, Unreadable, cleared
from server.gateways import pictures
from server.gateways.objects import Incoming, Objects
from server.gateways.pictures import Pictures
from server.hub.identity import Session
from server.jobs import performs
from server.limits import check, factor_of
from server.previews import without_limit
from server.rooms import visible
from server.session import Changed, ended_code, session_of
from storage import media
from storage.jobs import Periodic
from storage.media import ClearMedia, Media, Upload, url_of
from storage.redis.limits import Limit

if TYPE_CHECKING:
    from server.node import Node

UPLOADS: Final = Limit("uploads", burst=50, rate=50 / 86400)
"""Uploads that a person may begin."""
PICTURE_BYTES: Final = 10 * 1048576
"""Largest picture that is taken; what is made of it has some tens of kilobytes."""
SIZES: Final = {MediaKind.AVATAR: (256, 256), MediaKind.THUMBNAIL: (1280, 720)}
"""Width and height of what is made of pictures."""
BLOCK: Final = 262144
"""Bytes that are gathered before they are written."""
TOUCH_SECONDS: Final = 10.0
ORPHANED_SECONDS: Final = 3600.0
"""A file that no row knows is left over from a crash, once it is older than any transaction."""
_AT_ONCE: Final = 500


class Uploads:
    """The uploads to one node."""

    def __init__(self, node: Node, objects: Objects) -> None:
        self._node = node
        self._objects = objects
        self._pictures = Pictures()
        self.finished: Counter[str] = Counter()
        """By kind."""
        self.refused: Counter[str] = Counter()
        """By kind: what could not be read as what it was said to be."""
        self.received = 0
        """Bytes."""

    async def begin(
        self, session: Session, kind: MediaKind, ref: str | None, media_type: str, size: int
    ) -> Upload:
        """Reserve the place of an upload, if this person may make it.

        Raises `Refused`: invalid, not_found, forbidden, media_type_refused, too_large, quota_reached, rate_limited, unavailable.
        """
        settings, pool = self._node.settings, self._node.stores.pool
        if (ref is None) is not (kind is MediaKind.AVATAR):
            detail = "Name the looproom, unless it is your own picture."
            raise Refused(ErrorCode.INVALID, detail, path="$.room")
        room = None if ref is None else await self._room(ref, session)
        types = _types(kind, None if room is None else room.content)
        if media_type not in types:
            raise Refused(ErrorCode.MEDIA_TYPE_REFUSED, f"Send one of {', '.join(types)}.")
        if size > (settings.upload_bytes if kind is MediaKind.CONTENT else PICTURE_BYTES):
            raise Refused(ErrorCode.TOO_LARGE)
        check(await self._node.quotas.take(UPLOADS, str(session.user_id), session))
        upload = Upload(
            id=uuid4(),
            user=session.user_id,
            kind=kind,
            room=None if room is None else room.id,
            media_type=media_type,
            size=size,
        )
        await media.begin(pool, upload, int(settings.stored_bytes * factor_of(session)))
        return upload

    async def find(self, upload: UUID, user: UserId) -> Upload:
        """Return an upload of a person. Raises `Refused` (not_found)."""
        found = await media.find_upload(self._node.stores.pool, upload, user)
        if found is None:
            raise Refused(ErrorCode.NOT_FOUND)
        return found

    async def received_of(self, upload: Upload) -> int:
        """Return how many bytes of an upload have come."""
        return upload.size if upload.finished else await self._objects.received(upload.id)

    async def receive(self, upload: Upload, offset: int, body: AsyncIterator[bytes]) -> None:
        """Take bytes of an upload from `offset` on; with the last one it is shown.

        From 0 on it begins anew. Raises `Refused`: offset_refused when that is not where it stands; too_large for more than was
        said, media_refused for something else than was said, not_found for a room that is not theirs any more: these end it;
        busy, unavailable: it can be gone on with.
        """
        incoming = await self._objects.receive(upload.id)
        try:
            if offset == 0 and incoming.size:
                await incoming.restart()
            if offset != incoming.size:
                raise Refused(ErrorCode.OFFSET_REFUSED)
            await self._take(upload, incoming, body)
            if incoming.size == upload.size:
                await self._show(upload, incoming)
        except Refused as refused:
            if refused.code in (ErrorCode.TOO_LARGE, ErrorCode.MEDIA_REFUSED, ErrorCode.NOT_FOUND):
                await incoming.discard()
                await media.give_up(self._node.stores.pool, upload.id)
            raise
        finally:
            incoming.close()

    async def abandon(self, upload: Upload) -> None:
        """Give an upload up; one that is finished stays what it is. Raises `Refused` (busy) while it is being received."""
        if upload.finished:
            return
        incoming = await self._objects.receive(upload.id)
        await incoming.discard()
        incoming.close()
        await media.give_up(self._node.stores.pool, upload.id)

    async def drop(self, name: UUID, session: Session) -> None:
        """Take a file away from where it is shown: one's own, or, as a moderator, anyone's. Raises `Refused` (not_found)."""
        dropped = await media.drop(self._node.stores.pool, name, session.user_id, moderates=session.moderates)
        if dropped is None:
            raise Refused(ErrorCode.NOT_FOUND)
        self._node.person_events.publish(dropped.told)
        if dropped.room is not None:
            self._announce(dropped.room)

    async def _room(self, ref: str, session: Session) -> Room:
        room = await self._node.catalogue.find(ref)
        if not visible(room, session):
            raise Refused(ErrorCode.NOT_FOUND)
        if not session.is_one(room.host, room.id):
            raise Refused(ErrorCode.FORBIDDEN, "Only the host of a looproom gives it a picture and content.")
        return room

    async def _take(self, upload: Upload, incoming: Incoming, body: AsyncIterator[bytes]) -> None:
        """Write what comes, in blocks; what came before the connection broke, too."""
        clock = asyncio.get_running_loop().time
        waiting = bytearray()
        touched = await self._touch(upload)
        try:
            async for piece in body:
                if incoming.size + len(waiting) + len(piece) > upload.size:
                    raise Refused(ErrorCode.TOO_LARGE)
                waiting += piece
                self.received += len(piece)
                if len(waiting) >= BLOCK:
                    await incoming.write(bytes(waiting))
                    waiting.clear()
                if clock() - touched >= TOUCH_SECONDS:
                    touched = await self._touch(upload)
        finally:
            if waiting:
                await incoming.write(bytes(waiting))

    async def _touch(self, upload: Upload) -> float:
        if not await media.touch(self._node.stores.pool, upload.id):
            raise Refused(ErrorCode.NOT_FOUND)
        return asyncio.get_running_loop().time()

    async def _show(self, upload: Upload, incoming: Incoming) -> None:
        """Make of the bytes what others may see, keep it, and put it where it belongs."""
        try:
            found = await self._cleared(upload, incoming)
        except Refused as refused:
            self.refused[upload.kind.value] += refused.code is ErrorCode.MEDIA_REFUSED
            raise
        name, size = uuid4(), incoming.size
        made = Media(
            id=name,
            user=upload.user,
            kind=upload.kind,
            room=upload.room,
            media_type=upload.media_type if upload.kind is MediaKind.CONTENT else pictures.MEDIA_TYPE,
            size=size,
            sha256=await incoming.keep(name),
            duration_ms=found.duration_ms,
            opening_bytes=found.opening,
            closing_from=found.closing,
        )
        try:
            told = await media.finish(self._node.stores.pool, upload, made)
        except Refused as refused:
            # Only of these it is certain that nothing was committed.
            if refused.code in (ErrorCode.NOT_FOUND, ErrorCode.SESSION_ENDED):
                await self._objects.delete([name])
            raise
        self.finished[upload.kind.value] += 1
        self._node.person_events.publish(told)
        if made.room is not None:
            self._announce(made.room)

    async def _cleared(self, upload: Upload, incoming: Incoming) -> Container:
        """Look at a whole file, and take out of it what is not to be shown. Raises `Refused` (media_refused)."""
        if upload.kind is not MediaKind.CONTENT:
            await self._pictures.remake(incoming.path, upload.media_type, SIZES[upload.kind])
            incoming.changed()
            return Container(video=False)
        try:
            found = await incoming.work(partial(cleared, media_type=upload.media_type))
        except Unreadable:
            raise Refused(ErrorCode.MEDIA_REFUSED) from None
        if found.changes:
            incoming.changed()
        return found

    def _announce(self, room: RoomId) -> None:
        self._node.announcements.announce(Changed(shown=[room]))


def _types(kind: MediaKind, content: ContentKind | None) -> tuple[str, ...]:
    """Return the media types that may be uploaded for something."""
    if kind is not MediaKind.CONTENT:
        return pictures.TYPES
    wanted = {ContentKind.VIDEO: "video/", ContentKind.AUDIO: "audio/"}.get(content or ContentKind.MIXED, "")
    return tuple(one for one in containers.TYPES if one.startswith(wanted))


# Who may see what.


class Shown(Struct, frozen=True):
    """A file that somebody may have, or, with `most`, only its first bytes and those from `closing_from` on."""

    media: Media
    most: int | None = None


async def picture_of(node: Node, name: UUID) -> Media:
    """Return a file, whoever asks. Raises `Refused` (not_found)."""
    found = await media.find_media(node.stores.pool, name)
    if found is None:
        raise Refused(ErrorCode.NOT_FOUND)
    return found


async def live_session(node: Node, session: SessionId, user: UserId) -> Session:
    """Return what somebody who asks over HTTP may do, as it is now. Raises `Refused` (session_ended, unavailable)."""
    live = await node.sessions.find(session)
    if ended_code(live) is not None or live.user_id != user:
        raise Refused(ErrorCode.SESSION_ENDED)
    return session_of(node, live, 0.0)


async def play(node: Node, session: Session, found: Media) -> Shown:
    """Decide how much of what a room plays somebody gets. Raises `Refused`: not_found, premium_required, pass_required.

    The time of a preview runs while they ask, whether they are in the room or not.
    """
    room = await node.catalogue.find(str(found.room))
    if not visible(room, session) or room.content_url != url_of(found.id):
        raise Refused(ErrorCode.NOT_FOUND)
    if without_limit(room, session):
        return Shown(found)
    await node.previews.left(room, session.user_id)
    return Shown(found, preview_bytes(found, room))


def preview_bytes(found: Media, room: Room) -> int:
    """Return how many bytes from the beginning a preview is. Where nobody knows how long the whole plays, it is none."""
    known = room.duration_seconds if found.duration_ms is None else found.duration_ms / 1000
    if not known:
        return 0
    share = min(1.0, room.preview_seconds / known)
    end = found.size if found.closing_from is None else found.closing_from
    return min(end, found.opening_bytes + int((end - found.opening_bytes) * share))


# What is done by jobs.


class ForgetMedia(Periodic, tag="media.forget"):
    """Deletes what nothing shows any more, and gives up uploads that went silent."""


class FindOrphans(Periodic, tag="media.orphans"):
    """Deletes files that no row knows."""


@performs(ClearMedia)
async def clear(node: Node, job: ClearMedia) -> None:  # noqa: ARG001 - whosever they were
    """Delete the files of somebody who has left."""
    await delete_gone(node)


@performs(ForgetMedia, every=60.0)
async def forget(node: Node, job: ForgetMedia) -> None:  # noqa: ARG001 - whichever minute it is
    """Delete what is to go."""
    await media.forget_uploads(node.stores.pool)
    await delete_gone(node)


@performs(FindOrphans, every=3600.0)
async def find_orphans(node: Node, job: FindOrphans) -> None:  # noqa: ARG001 - whichever hour it is
    """Delete what a crash has left between a file and its row."""
    names = await node.objects.names(ORPHANED_SECONDS)
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        known = await media.known(node.stores.pool, some)
        await node.objects.delete([name for name in some if name not in known])


async def delete_gone(node: Node) -> None:
    """Delete the files that nothing has shown for long enough, and then their rows."""
    while names := await media.gone(node.stores.pool, _AT_ONCE):
        await node.objects.delete(names)
        await media.forget(node.stores.pool, names)
