"""Media: pictures of people and looprooms, and what looprooms play. The bytes go over HTTP (`/media`); here is what is told of them.

A URL of ours is a path on this server. A picture is open to whoever knows its URL, and never changes; what a looproom plays is
open to who may be in the looproom, for as long as they may.
"""

from __future__ import annotations

from enum import StrEnum

from protocol.envelope import Event, PersonEvent, RoomId


class MediaKind(StrEnum):
    """What an upload is for."""

    AVATAR = "AVATAR"
    THUMBNAIL = "THUMBNAIL"
    CONTENT = "CONTENT"


class MediaType(StrEnum):
    """What may be uploaded: pictures of people and looprooms, sound and moving pictures that looprooms play."""

    JPEG = "image/jpeg"
    PNG = "image/png"
    WEBP = "image/webp"
    GIF = "image/gif"
    MP4 = "video/mp4"
    M4A = "audio/mp4"
    WEBM = "video/webm"
    WEBM_SOUND = "audio/webm"
    MP3 = "audio/mpeg"
    OGG = "audio/ogg"
    WAV = "audio/wav"


class AvatarChanged(PersonEvent, tag="person.avatar"):
    """Your picture is another one from now on, on all your connections; without `avatar` you have none."""

    avatar: str | None = None


class RoomMedia(Event, tag="room.media"):
    """The looproom that you are in has another picture, or plays something else: these are the URLs from now on.

    It is passing; who comes later reads the same in the looproom itself.
    """

    room: RoomId
    thumbnail: str | None = None
    content_url: str | None = None
    duration_seconds: int | None = None


Events = AvatarChanged | RoomMedia
