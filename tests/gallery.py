"""Two nodes that share their media, people who upload something, and what they upload."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

from protocol.envelope import RoomId
from server.settings import Settings
from storage.postgres.pool import Pool
from tests.hosting import make_room
from tests.http.serving import Site
from tests.leaving import Member, Town, town


def jpeg(colour: str = "red", size: tuple[int, int] = (300, 200)) -> bytes:
    """Make a picture."""
    made = io.BytesIO()
    Image.new("RGB", size, colour).save(made, "JPEG")
    return made.getvalue()


class Gallery:
    """The nodes, and whoever comes."""

    def __init__(self, place: Town, settings: Settings) -> None:
        self.place = place
        self.folder = Path(settings.media_folder or Path(settings.data_dir) / "media")
        self._rooms = 0

    @property
    def pool(self) -> Pool:
        """The connections of the first node."""
        return self.place.pool

    @property
    def sites(self) -> list[Site]:
        """The nodes."""
        return self.place.sites

    async def member(self, name: str = "Ada") -> Member:
        """Make an account."""
        return await self.place.member(name)

    async def room(self, host: Member, content: str = "MIXED", **columns: Any) -> RoomId:
        """Make a looproom of somebody's."""
        self._rooms += 1
        room = await make_room(self.pool, f"gallery-{self._rooms}")
        columns = {"host_id": host.id, "content": content, **columns}
        casts = {"content": "::content_kind", "status": "::room_status"}
        for name, value in columns.items():
            await self.pool.execute(
                f"update rooms set {name} = $2{casts.get(name, '')} where id = $1", room, value
            )
        return room

    def files(self) -> set[str]:
        """Name all files that are there, kept or being received."""
        return {path.name for path in self.folder.rglob("*") if path.is_file()}

    def incoming(self) -> set[str]:
        """Name the files that are being received, or were."""
        return {path.name for path in (self.folder / "incoming").glob("*")}


async def announced(
    member: Member,
    data: bytes | int,
    media_type: str = "image/jpeg",
    kind: str = "AVATAR",
    room: object = None,
) -> httpx2.Response:
    """Announce an upload."""
    body: dict[str, Any] = {
        "kind": kind,
        "type": media_type,
        "bytes": data if isinstance(data, int) else len(data),
    }
    if room is not None:
        body["room"] = str(room)
    return await member.ask("POST", "/uploads", **body)


async def sent(
    member: Member, upload: str, data: bytes, site: Site | None = None, headers: dict[str, str] | None = None
) -> httpx2.Response:
    """Send the bytes of an upload, to any node."""
    client = (site or member.site).client
    return await client.put(f"/uploads/{upload}", content=data, headers=member.headers | (headers or {}))


async def uploaded(
    member: Member, data: bytes, media_type: str = "image/jpeg", kind: str = "AVATAR", room: object = None
) -> str:
    """Upload something; return its URL."""
    answer = await announced(member, data, media_type, kind, room)
    assert answer.status_code == 201, answer.text
    answer = await sent(member, answer.json()["id"], data)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["media"]["url"])


async def begin_raw(
    member: Member, upload: str, length: int, first: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Begin to send an upload on a socket of its own, and send some of it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", member.site.port)
    writer.write(
        f"PUT /uploads/{upload} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {member.access_token}\r\n"
        f"Content-Length: {length}\r\n\r\n".encode()
        + first
    )
    return reader, writer


def status(answer: bytes) -> int:
    """Read the status of a response."""
    return int(answer.split(b" ", 2)[1])


@asynccontextmanager
async def gallery(settings: Settings) -> AsyncIterator[Gallery]:
    """Run the nodes until the block ends."""
    async with town(settings) as place:
        yield Gallery(place, settings)
