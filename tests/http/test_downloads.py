"""Downloads over real sockets: whole or in parts, for whoever may have them in that moment, and never as anything but what it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import httpx2
import msgspec
import pytest

from protocol.refusals import ErrorCode
from server.gateways.objects import Stored
from server.http import downloads
from server.http.cookies import cookie
from server.http.downloads import COOKIE, COOKIE_SECONDS
from server.media import picture_of, preview_bytes
from storage import passes
from tests.gallery import Gallery, gallery, jpeg, uploaded
from tests.http.conftest import Servers
from tests.http.serving import serving
from tests.http.test_connection import Hurried
from tests.leaving import Member, Town
from tests.recordings import mp4, wav
from tests.waiting import until

PAGE = "http://127.0.0.1:8000"
SOUND = bytes(range(256)) * 4000
"""Seventeen minutes of it, at 1,000 bytes a second."""


@pytest.fixture(scope="module")
async def place(servers: Servers) -> AsyncIterator[Gallery]:
    """Run two nodes."""
    async with gallery(await servers.settings()) as running:
        yield running


@pytest.fixture(scope="module")
async def ada(place: Gallery) -> Member:
    """Make a host."""
    return await place.member("Ada")


@pytest.fixture(scope="module")
async def picture(ada: Member) -> str:
    """Upload a picture; return its URL."""
    return await uploaded(ada, jpeg(size=(256, 256)))


def code(answer: httpx2.Response) -> tuple[int, str]:
    """Read the status and the code of a refusal."""
    return answer.status_code, answer.json()["code"]


async def get(place: Gallery, url: str, who: Member | None = None, **headers: str) -> httpx2.Response:
    """Fetch something, as somebody or nobody."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await place.sites[1].client.get(url, headers=(who.headers if who is not None else {}) | sent)


async def test_a_picture(place: Gallery, picture: str) -> None:
    """It is for everyone, for good, and nothing but a picture."""
    answer = await get(place, picture)
    assert answer.status_code == 200
    assert len(answer.content) == int(answer.headers["content-length"])
    assert {name: answer.headers[name] for name in _PICTURE} == _PICTURE


_PICTURE = {
    "content-type": "image/webp",
    "cache-control": "public, max-age=31536000, immutable",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
    "cross-origin-resource-policy": "same-site",
    "accept-ranges": "bytes",
}


async def test_it_has_not_changed(place: Gallery, picture: str) -> None:
    """Whoever has it already is told so, and told nothing else."""
    etag = (await get(place, picture)).headers["etag"]
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        answer = await get(place, picture, if_none_match=known)
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == etag
    assert (await get(place, picture, if_none_match='"other"')).status_code == 200


async def test_only_its_head(place: Gallery, picture: str) -> None:
    """HEAD says what GET would, and sends nothing of it."""
    whole = await get(place, picture)
    head = await place.sites[0].client.head(picture)
    for name in ("content-length", "content-type", "etag", "accept-ranges"):
        assert head.headers[name] == whole.headers[name]
    part = await place.sites[0].client.head(picture, headers={"range": "bytes=0-9"})
    assert (part.status_code, part.headers["content-length"]) == (206, "10")


async def test_parts(place: Gallery, picture: str) -> None:
    """One range is sent as it is, a few in parts of one answer; what the file has not is refused with how much it has."""
    answer = await get(place, picture)
    whole, etag = answer.content, answer.headers["etag"]
    size = len(whole)
    part = await get(place, picture, range="bytes=10-19")
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{size}"
    assert (await get(place, picture, range="bytes=-7")).content == whole[-7:]
    few = await get(place, picture, range="bytes=0-4, 20-29, -3")
    kind, _, boundary = few.headers["content-type"].partition("; boundary=")
    assert (few.status_code, kind) == (206, "multipart/byteranges")
    first, *parts, last = few.content.split(f"\r\n--{boundary}".encode())
    assert (first, last) == (b"", b"--\r\n")
    assert [one.partition(b"\r\n\r\n")[2] for one in parts] == [whole[:5], whole[20:30], whole[-3:]]
    assert all(b"content-type: image/webp\r\n" in one for one in parts)
    past = await get(place, picture, range=f"bytes={size}-")
    assert code(past) == (416, ErrorCode.RANGE_REFUSED)
    assert past.headers["content-range"] == f"bytes */{size}"
    assert (await get(place, picture, range="bytes=0-4", if_range=etag)).status_code == 206
    assert (await get(place, picture, range="bytes=0-4", if_range='"old"')).content == whole


async def test_ten_thousand_ranges(place: Gallery, picture: str) -> None:
    """As many as fit into a request cost no more than the whole, which is what one gets; more are too much for a request."""
    whole = await get(place, picture)
    many = await get(place, picture, range="bytes=" + ",".join(f"{n % 9}-{n % 9}" for n in range(7000)))
    assert (many.status_code, many.content) == (200, whole.content)
    more = await get(place, picture, range="bytes=" + ",".join(f"{n % 9}-{n % 9}" for n in range(10_000)))
    assert more.status_code == 431


async def test_what_is_not_there(place: Gallery, ada: Member) -> None:
    """What is no id, what never was, and what nothing shows any more are the same."""
    dropped = await uploaded(ada, jpeg("blue"))
    await ada.ask("DELETE", dropped)
    answers = [await get(place, url) for url in ("/media/x", f"/media/{uuid4()}", dropped)]
    assert [code(answer) for answer in answers] == [(404, ErrorCode.NOT_FOUND)] * 3
    lost = await uploaded(ada, jpeg("green"))
    for path in place.folder.rglob(lost.rpartition("/")[2]):
        path.unlink()
    assert code(await get(place, lost)) == (404, ErrorCode.NOT_FOUND)


# What looprooms play.


async def test_content_is_for_members(place: Gallery, ada: Member) -> None:
    """Who is signed in gets what an open looproom plays, as a file that nobody keeps; nobody else does."""
    bo = await place.member("Bo")
    room = await place.room(ada)
    url = await uploaded(ada, wav(sound=SOUND), "audio/wav", "CONTENT", room)
    answer = await get(place, url, bo)
    assert answer.status_code == 200
    assert SOUND in answer.content
    assert answer.headers["content-type"] == "audio/wav"
    assert answer.headers["cache-control"] == "private, no-store"
    assert answer.headers["content-disposition"] == 'attachment; filename="looproom.wav"'
    assert code(await get(place, url)) == (401, ErrorCode.TOKEN_INVALID)
    assert code(await get(place, url, authorization="Bearer x")) == (401, ErrorCode.TOKEN_INVALID)
    await place.pool.execute("update sessions set ended_at = now() where user_id = $1", bo.id)
    assert code(await get(place, url, bo)) == (401, ErrorCode.SESSION_ENDED)


@pytest.mark.parametrize("status", ["DRAFT", "RESTRICTED", "ARCHIVED"])
async def test_content_of_what_is_hidden(place: Gallery, ada: Member, status: str) -> None:
    """It is its host's and moderators' alone, from the moment on in which the looproom is hidden."""
    bo, mo = await place.member("Bo"), await place.member("Mo")
    await place.pool.execute("update users set role = 'MODERATOR' where id = $1", mo.id)
    room = await place.room(ada)
    url = await uploaded(ada, wav(), "audio/wav", "CONTENT", room)
    await place.pool.execute("update rooms set status = $2::room_status where id = $1", room, status)
    for site in place.sites:
        await site.node.catalogue.read(room)
    assert code(await get(place, url, bo)) == (404, ErrorCode.NOT_FOUND)
    assert [(await get(place, url, who)).status_code for who in (ada, mo)] == [200, 200]


@pytest.mark.parametrize("who", ["host", "member"])
async def test_content_behind_a_block(place: Gallery, ada: Member, who: str) -> None:
    """Whoever of the two blocks the other: what a looproom of the one plays is not there for the other, from that moment on."""
    bo, cy = await place.member("Bo"), await place.member("Cy")
    url = await uploaded(ada, wav(), "audio/wav", "CONTENT", await place.room(ada))
    assert (await get(place, url, bo)).status_code == 200
    pair = (ada.id, bo.id) if who == "host" else (bo.id, ada.id)
    await place.pool.execute("insert into blocks (blocker_id, blocked_id) values ($1, $2)", *pair)
    assert code(await get(place, url, bo)) == (404, ErrorCode.NOT_FOUND)
    assert [(await get(place, url, other)).status_code for other in (ada, cy)] == [200, 200]


async def test_content_that_was_replaced(place: Gallery, ada: Member) -> None:
    """Only what a looproom plays now is to be had."""
    room = await place.room(ada)
    old = await uploaded(ada, wav(), "audio/wav", "CONTENT", room)
    new = await uploaded(ada, wav(sound=SOUND), "audio/wav", "CONTENT", room)
    assert [(await get(place, url, ada)).status_code for url in (old, new)] == [404, 200]
    await place.pool.execute(
        "update rooms set content_url = 'https://elsewhere.example/' where id = $1", room
    )
    await place.sites[1].node.catalogue.read(room)
    assert code(await get(place, new, ada)) == (404, ErrorCode.NOT_FOUND)


async def test_content_that_is_sold(place: Gallery, ada: Member) -> None:
    """It is for who has a pass, and for nobody who merely pays for premium; there is no preview of it."""
    bo, cy = await place.member("Bo"), await place.member("Cy")
    room = await place.room(ada, month_cents=500)
    url = await uploaded(ada, wav(), "audio/wav", "CONTENT", room)
    await place.pool.execute("update users set tier = 'PREMIUM_MONTHLY' where id = $1", bo.id)
    now = int(time.time())
    async with place.pool.acquire() as connection, connection.transaction():
        await passes.grant(connection, "paid", cy.id, room, now + 86400, now)
    assert code(await get(place, url, bo)) == (402, ErrorCode.PASS_REQUIRED)
    assert (await get(place, url, cy)).status_code == 200


async def test_a_preview(place: Gallery, ada: Member) -> None:
    """A free member gets the part of the bytes that the preview is of the whole, in ranges, while it lasts, and never more."""
    bo, cy = await place.member("Bo"), await place.member("Cy")
    await place.pool.execute("update users set tier = 'PREMIUM_MONTHLY' where id = $1", cy.id)
    room = await place.room(ada, premium=True, preview_seconds=102)
    url = await uploaded(ada, wav(sound=SOUND), "audio/wav", "CONTENT", room)
    whole = (await get(place, url, cy)).content
    assert len(whole) == len(wav(sound=SOUND))
    assert code(await get(place, url, bo)) == (402, ErrorCode.PREMIUM_REQUIRED)
    part = await get(place, url, bo, range="bytes=0-")
    got = len(part.content)
    assert (part.status_code, part.content) == (206, whole[:got])
    assert got == pytest.approx(len(whole) / 10, rel=0.01)
    assert part.headers["content-range"] == f"bytes 0-{got - 1}/{len(whole)}"
    assert (await get(place, url, bo, range=f"bytes={got - 5}-{got + 5}")).content == whole[got - 5 : got]
    for beyond in (f"bytes={got}-", "bytes=-10", f"bytes={len(whole) - 1}-", "bytes=0-1,5-6"):
        assert code(await get(place, url, bo, range=beyond)) == (402, ErrorCode.PREMIUM_REQUIRED)
    assert await place.pool.fetchval("select count(*) from previews where user_id = $1", bo.id) == 1
    await place.pool.execute("update previews set used_seconds = 102 where user_id = $1", bo.id)
    assert code(await get(place, url, bo, range="bytes=0-")) == (402, ErrorCode.PREMIUM_REQUIRED)


async def test_a_preview_of_what_has_its_index_last(place: Gallery, ada: Member) -> None:
    """The index at the end is sent, too, since a player needs it for the first second already."""
    bo = await place.member("Bo")
    room = await place.room(ada, premium=True, preview_seconds=10)
    data = mp4(front=False, seconds=20)
    url = await uploaded(ada, data, "video/mp4", "CONTENT", room)
    index = data.index(b"moov") - 4
    assert len((await get(place, url, bo, range=f"bytes={index}-")).content) == len(data) - index
    first = await get(place, url, bo, range="bytes=0-")
    assert len(first.content) < index * 0.6
    assert code(await get(place, url, bo, range=f"bytes={index - 1}-")) == (402, ErrorCode.PREMIUM_REQUIRED)


async def test_a_preview_of_nobody_knows_how_long(place: Gallery, ada: Member) -> None:
    """Where neither the file nor the looproom says how long it plays, nothing of it is a preview; a longer one is no more than all."""
    room = await place.room(ada, premium=True, preview_seconds=10)
    url = await uploaded(ada, wav(sound=SOUND), "audio/wav", "CONTENT", room)
    found = await picture_of(place.sites[0].node, UUID(url.rpartition("/")[2]))
    looproom = await place.sites[0].node.catalogue.read(room)
    unknown = msgspec.structs.replace(found, duration_ms=None)
    assert preview_bytes(unknown, msgspec.structs.replace(looproom, duration_seconds=None)) == 0
    assert 0 < preview_bytes(unknown, looproom) < found.size / 50
    assert preview_bytes(found, msgspec.structs.replace(looproom, preview_seconds=10**6)) == found.size


# What a page has.


async def given(place: Gallery, who: Member) -> str:
    """Let a page ask for the cookie; return it as its browser sends it."""
    answer = await place.sites[0].client.post("/me/media-cookie", headers=who.headers | {"origin": PAGE})
    assert answer.status_code == 204, answer.text
    said = answer.headers["set-cookie"]
    assert said.endswith(f"; Max-Age={COOKIE_SECONDS:.0f}; Path=/; Secure; HttpOnly; SameSite=Strict")
    return said.partition(";")[0]


async def test_a_page_plays(place: Gallery, ada: Member) -> None:
    """Its browser sends the cookie along, to any node; it ends with the session, and stands for nobody else."""
    bo = await place.member("Bo")
    room = await place.room(ada)
    url = await uploaded(ada, wav(), "audio/wav", "CONTENT", room)
    own = await given(place, bo)
    assert bo.access_token not in own
    assert (await get(place, url, cookie=own)).status_code == 200
    assert (await get(place, url, cookie=own, range="bytes=0-9")).status_code == 206
    assert code(await get(place, url, cookie=own[:-2] + "AA")) == (401, ErrorCode.TOKEN_INVALID)
    assert code(await get(place, url, cookie=f"{COOKIE}=x")) == (401, ErrorCode.TOKEN_INVALID)
    for path in ("/me", "/me/sessions"):
        assert (await get(place, path, cookie=own)).status_code == 401
    await place.pool.execute("update sessions set ended_at = now() where user_id = $1", bo.id)
    assert code(await get(place, url, cookie=own)) == (401, ErrorCode.SESSION_ENDED)


async def test_a_cookie_is_given_to_pages_alone(
    place: Gallery, ada: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an allowed page there is none, and an old one is none any more."""
    client = place.sites[0].client
    assert code(await client.post("/me/media-cookie", headers=ada.headers)) == (403, ErrorCode.ORIGIN_REFUSED)
    foreign = await client.post("/me/media-cookie", headers=ada.headers | {"origin": "https://evil.example"})
    assert code(foreign) == (403, ErrorCode.ORIGIN_REFUSED)
    monkeypatch.setattr(downloads, "COOKIE_SECONDS", -1.0)
    monkeypatch.setattr(downloads, "cookie", lambda name, value, seconds: cookie(name, value, seconds=1))
    old = (await client.post("/me/media-cookie", headers=ada.headers | {"origin": PAGE})).headers[
        "set-cookie"
    ]
    room = await place.room(ada)
    url = await uploaded(ada, wav(), "audio/wav", "CONTENT", room)
    assert code(await get(place, url, cookie=old.partition(";")[0])) == (401, ErrorCode.TOKEN_EXPIRED)


# Whoever reads slowly, or not at all.


async def test_a_reader_that_stops(place: Gallery, ada: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is read from the disk than is taken; and when the reader has gone, the file is closed."""
    room = await place.room(ada)
    url = await uploaded(ada, wav(sound=bytes(16 * 1048576)), "audio/wav", "CONTENT", room)
    site = place.sites[0]
    node = site.node
    opened: list[Watched] = []
    real = node.objects.open

    class Watched:
        """A file that counts."""

        def __init__(self, stored: Stored) -> None:
            self.stored, self.size, self.given, self.closed = stored, stored.size, 0, False

        async def read(self, start: int, length: int) -> bytes:
            data = await self.stored.read(start, length)
            self.given += len(data)
            return data

        def close(self) -> None:
            self.closed = True
            self.stored.close()

    async def watch(name: UUID) -> Stored | None:
        stored = await real(name)
        assert stored is not None
        opened.append(Watched(stored))
        return opened[-1]

    monkeypatch.setattr(node.objects, "open", watch)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=65536)
    writer.write(
        f"GET {url} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ada.access_token}\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    still = time.monotonic()
    given = -1

    def stands() -> bool:
        nonlocal still, given
        if opened[0].given != given:
            given, still = opened[0].given, time.monotonic()
        return time.monotonic() - still > 0.3

    await until(stands)
    assert given < 12 * 1048576
    assert not opened[0].closed
    writer.transport.abort()
    await until(lambda: opened[0].closed)
    assert opened[0].given < 12 * 1048576


async def test_a_reader_that_is_slow(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever takes a little at each look gets all of it, though there is never room for more; whoever takes nothing is cut off."""
    monkeypatch.setattr(Hurried, "IDLE_SECONDS", 5.0)
    settings = await servers.settings()
    async with serving(settings, Hurried) as site:
        place = Gallery(Town([site]), settings)
        ada = await place.member()
        size = 24 * 1048576
        url = await uploaded(ada, wav(sound=bytes(size)), "audio/wav", "CONTENT", await place.room(ada))
        request = f"GET {url} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ada.access_token}\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=65536)
        writer.write(request.encode())
        await reader.readuntil(b"\r\n\r\n")
        taken = looks = 0
        while taken < size:
            taken += len(await reader.read(2 * 1048576))
            looks += 1
            await asyncio.sleep(0.05 if looks < 30 else 0)
        writer.transport.abort()
        assert looks * 0.05 > 5 * Hurried.LOOK_SECONDS
        await until(lambda: len(site.connections) == 1)  # that of the client
        _, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=65536)
        writer.write(request.encode())
        await until(lambda: len(site.connections) == 2)
        await until(lambda: len(site.connections) == 1)
        writer.transport.abort()
