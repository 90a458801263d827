"""Uploads over real sockets: announced, sent as they are, taken up again, refused, bounded, and never half shown."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID, uuid4

import httpx2
import pytest

from protocol.refusals import ErrorCode
from server import media as domain
from server.gateways.pictures import Pictures
from server.http import uploads
from server.http.connection import HttpConnection
from server.media import UPLOADS
from server.settings import Settings
from tests.gallery import Gallery, announced, begin_raw, gallery, jpeg, sent, status, uploaded
from tests.http.conftest import Servers
from tests.http.serving import serving
from tests.leaving import Member, Town
from tests.recordings import GPS, PAGE, mp3, mp4, wav, webm
from tests.waiting import until

LIMIT = 110 * 1048576


@pytest.fixture(scope="module")
async def own(servers: Servers) -> Settings:
    """Give settings that allow what these tests do, and say where media are."""
    return await servers.settings(
        LOOPROOMS_MEDIA_FOLDER=str(servers.folder / "far" / "away"),
        LOOPROOMS_UPLOAD_BYTES=str(LIMIT),
        LOOPROOMS_STORED_BYTES=str(3 * LIMIT),
        LOOPROOMS_LIMITS_FACTOR="1000",
    )


@pytest.fixture(scope="module")
async def place(own: Settings) -> AsyncIterator[Gallery]:
    """Run two nodes."""
    async with gallery(own) as running:
        yield running


def code(answer: httpx2.Response) -> tuple[int, str]:
    """Read the status and the code of a refusal."""
    return answer.status_code, answer.json()["code"]


def resident() -> int:
    """Return the bytes of memory that this process, server and client, has."""
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_picture_of_oneself(place: Gallery) -> None:
    """It is shown from the answer on, to oneself and to others; what was sent is not kept."""
    ada = await place.member()
    before = place.files()
    answer = await announced(ada, jpeg())
    assert answer.status_code == 201
    upload = answer.json()
    assert (upload["kind"], upload["received"], "media" in upload) == ("AVATAR", 0, False)
    answer = await sent(ada, upload["id"], jpeg())
    assert answer.status_code == 200, answer.text
    shown = answer.json()["media"]
    assert shown["type"] == "image/webp"
    assert answer.headers["upload-offset"] == str(len(jpeg()))
    assert (await ada.ask("GET", "/me")).json()["avatar"] == shown["url"]
    picture = await place.sites[1].client.get(shown["url"])
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/webp")
    assert len(picture.content) == shown["bytes"]
    assert place.files() - before == {shown["url"].rpartition("/")[2]}


async def test_they_are_counted(place: Gallery) -> None:
    """An operator sees how many were finished and refused, of which kind, and how many bytes came."""
    ada = await place.member()
    await uploaded(ada, jpeg())
    upload = (await announced(ada, PAGE)).json()["id"]
    await sent(ada, upload, PAGE)
    metrics = (await ada.site.client.get("/metrics")).text
    uploads = ada.site.node.uploads
    name = ada.site.node.id.hex()
    for line in (
        f'looprooms_uploads_total{{kind="AVATAR",node="{name}"}} {float(uploads.finished["AVATAR"])}',
        f'looprooms_uploads_refused_total{{kind="AVATAR",node="{name}"}} {float(uploads.refused["AVATAR"])}',
        f'looprooms_uploaded_bytes_total{{node="{name}"}} {float(uploads.received)}',
    ):
        assert line in metrics
    assert uploads.finished["AVATAR"] > 0
    assert uploads.refused["AVATAR"] > 0
    assert uploads.received >= len(jpeg()) + len(PAGE)


async def test_a_lost_answer(place: Gallery) -> None:
    """Whoever missed the answer asks, or sends all of it again, and nothing is shown a second time."""
    ada = await place.member()
    upload = (await announced(ada, jpeg())).json()["id"]
    first = (await sent(ada, upload, jpeg())).json()
    assert (await sent(ada, upload, jpeg(), place.sites[1])).json() == first
    assert (await ada.ask("GET", f"/uploads/{upload}")).json() == first
    assert (await ada.ask("DELETE", f"/uploads/{upload}")).status_code == 204
    assert (await ada.ask("GET", "/me")).json()["avatar"] == first["media"]["url"]


async def test_gone_on_with_after_a_break(place: Gallery) -> None:
    """A connection breaks in the middle: another node knows how far it came, takes the rest, and the whole is right."""
    ada = await place.member()
    room = await place.room(ada)
    data = wav(sound=bytes(range(256)) * 2000)
    upload = (await announced(ada, data, "audio/wav", "CONTENT", room)).json()["id"]
    _, writer = await begin_raw(ada, upload, len(data), data[:300_000])
    await until(lambda: place.sites[0].node.uploads.received >= 300_000)
    writer.transport.abort()
    there = place.sites[1]

    async def came() -> int:
        answer = await there.client.head(f"/uploads/{upload}", headers=ada.headers)
        return int(answer.headers["upload-offset"])

    await until(lambda: _is(came(), 300_000))
    wrong = await sent(ada, upload, data[200_000:], there, headers={"upload-offset": "200000"})
    assert code(wrong) == (409, ErrorCode.OFFSET_REFUSED)
    some = await sent(ada, upload, data[300_000:400_000], there, headers={"upload-offset": "300000"})
    assert (some.json()["received"], "media" in some.json()) == (400_000, False)
    rest = await sent(ada, upload, data[400_000:], headers={"upload-offset": "400000"})
    url = rest.json()["media"]["url"]
    got = await there.client.get(url, headers=ada.headers)
    assert len(got.content) == len(data)
    assert bytes(range(256)) * 2000 in got.content
    assert GPS not in got.content
    stored = await place.pool.fetchrow("select sha256, bytes from media where id = $1", UUID(url[7:]))
    assert stored is not None
    assert stored["sha256"] == hashlib.sha256(got.content).digest()


async def _is(found: object, expected: object) -> bool:
    return bool(await found == expected)  # type: ignore[misc]


async def test_who_leaves_while_it_is_looked_at(place: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of somebody who leaves for good in the moment in which their picture is made, no file stays."""
    ada = await place.member()
    upload = (await announced(ada, jpeg())).json()["id"]
    before = place.files()
    made = Pictures.remake

    async def made_too_late(*arguments: Any) -> None:
        await made(*arguments)
        assert (await ada.leave()).status_code == 204

    monkeypatch.setattr(Pictures, "remake", made_too_late)
    assert code(await sent(ada, upload, jpeg())) == (401, ErrorCode.SESSION_ENDED)
    assert place.files() == before


async def test_begun_anew(place: Gallery) -> None:
    """Sent from the beginning again, what came before is forgotten."""
    ada = await place.member()
    upload = (await announced(ada, jpeg())).json()["id"]
    assert (await sent(ada, upload, PAGE)).json()["received"] == len(PAGE)
    assert "media" in (await sent(ada, upload, jpeg())).json()


async def test_a_hundred_megabytes(place: Gallery) -> None:
    """They pass through without being held: client and server together need less than ten more while they come."""
    ada = await place.member()
    room = await place.room(ada)
    await uploaded(ada, wav(), "audio/wav", "CONTENT", room)
    size = 100 * 1048576
    head = wav(sound=b"!")
    start = head.index(b"data")
    head = (
        head[:4]
        + (size - 8).to_bytes(4, "little")
        + head[8:start]
        + b"data"
        + (size - start - 8).to_bytes(4, "little")
    )
    upload = (await announced(ada, size, "audio/wav", "CONTENT", room)).json()["id"]
    before = most = resident()
    reader, writer = await begin_raw(ada, upload, size, head)
    left, block = size - len(head), bytes(65536)
    while left:
        writer.write(block[:left])
        left -= min(left, len(block))
        await writer.drain()
        most = max(most, resident())
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    writer.close()
    assert status(answer) == 200, answer
    assert max(most, resident()) - before < 10 * 1048576


async def test_one_byte_too_many(place: Gallery) -> None:
    """More than the limit is not announced, and more than was announced not taken, however it is sent; nothing of it stays."""
    ada = await place.member()
    room = await place.room(ada)
    assert code(await announced(ada, LIMIT + 1, "video/mp4", "CONTENT", room)) == (413, ErrorCode.TOO_LARGE)
    assert (await announced(ada, LIMIT, "video/mp4", "CONTENT", room)).status_code == 201
    assert code(await announced(ada, 10 * 1048576 + 1)) == (413, ErrorCode.TOO_LARGE)
    data = jpeg()
    upload = (await announced(ada, data)).json()["id"]
    assert code(await sent(ada, upload, data + b"!")) == (413, ErrorCode.TOO_LARGE)

    async def pieces() -> AsyncIterator[bytes]:
        yield data
        yield b"!"

    chunked = await ada.site.client.put(f"/uploads/{upload}", content=pieces(), headers=ada.headers)
    assert code(chunked) == (413, ErrorCode.TOO_LARGE)
    assert upload not in place.incoming()
    assert (await ada.ask("GET", f"/uploads/{upload}")).status_code == 404


async def test_a_flood_behind_a_refusal(place: Gallery) -> None:
    """Whoever sends a lot more than was said reads why it was refused, and is not read for ever."""
    ada = await place.member()
    upload = (await announced(ada, 100_000)).json()["id"]
    reader, writer = await begin_raw(ada, upload, 100_000_000, bytes(600_000))
    assert status(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)) == 413

    blocks = 0

    async def go_on() -> None:
        nonlocal blocks
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            blocks += 1

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(go_on(), 10)
    writer.transport.abort()
    assert blocks * 65536 < 20_000_000


class Hurried(HttpConnection):
    """The limits, in less time."""

    BODY_SECONDS: ClassVar[float] = 0.6
    HEAD_SECONDS: ClassVar[float] = 0.6
    LOOK_SECONDS: ClassVar[float] = 0.3


async def test_slow_and_dripped(own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that comes slowly is waited for beyond the time that others have; one that drips is cut off, and can be swept."""
    monkeypatch.setattr(uploads, "LEAST_BYTES", 1000)
    async with serving(own, Hurried) as site:
        place = Gallery(Town([site]), own)
        ada = await place.member()
        data = jpeg(size=(1500, 1500))
        upload = (await announced(ada, data)).json()["id"]
        reader, writer = await begin_raw(ada, upload, len(data))
        began = asyncio.get_running_loop().time()
        step = len(data) // 40
        for at in range(0, len(data), step):
            writer.write(data[at : at + step])
            await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() - began > 3 * Hurried.BODY_SECONDS
        assert status(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)) == 200
        writer.close()
        upload = (await announced(ada, 100_000)).json()["id"]
        reader, writer = await begin_raw(ada, upload, 100_000, b"a")

        async def drip() -> None:
            while True:
                await asyncio.sleep(0.05)
                writer.write(b"a")

        dripping = asyncio.create_task(drip())
        assert status(await asyncio.wait_for(reader.read(), 5)) == 408
        dripping.cancel()
        writer.transport.abort()
        # Nobody holds it any more: thirty seconds without a byte, and it goes.
        path = place.folder / "incoming" / upload
        await until(path.exists)

        def swept() -> bool:
            if path.exists():
                os.utime(path, (0, 0))
            site.node.objects.sweep()  # type: ignore[attr-defined] # it is a folder here
            return not path.exists()

        await until(swept)


async def test_who_may(place: Gallery) -> None:
    """One's own picture, and what belongs to the looprooms that one hosts; of what is not there and what is hidden is told nothing."""
    ada, bo = await place.member("Ada"), await place.member("Bo")
    room = await place.room(ada)
    draft = await place.room(ada, status="DRAFT")
    for kind in ("THUMBNAIL", "CONTENT"):
        media_type = "image/png" if kind == "THUMBNAIL" else "audio/mpeg"
        assert code(await announced(bo, 9, media_type, kind, room)) == (403, ErrorCode.FORBIDDEN)
        hidden = await announced(bo, 9, media_type, kind, draft)
        nowhere = await announced(bo, 9, media_type, kind, uuid4())
        assert hidden.json() == nowhere.json()
        assert code(hidden) == (404, ErrorCode.NOT_FOUND)
        assert (await announced(ada, 9, media_type, kind, draft)).status_code == 201
        assert code(await announced(ada, 9, media_type, kind)) == (422, ErrorCode.INVALID)
    assert code(await announced(ada, 9, room=room)) == (422, ErrorCode.INVALID)
    await place.pool.execute("insert into blocks (blocker_id, blocked_id) values ($1, $2)", ada.id, bo.id)
    assert code(await announced(bo, 9, "image/png", "THUMBNAIL", room)) == (404, ErrorCode.NOT_FOUND)
    upload = (await announced(ada, jpeg())).json()["id"]
    for method, path in (("GET", "/uploads/{}"), ("PUT", "/uploads/{}"), ("DELETE", "/uploads/{}")):
        theirs, unknown = [await bo.ask(method, path.format(one)) for one in (upload, uuid4())]
        assert theirs.json() == unknown.json()
        assert code(theirs) == (404, ErrorCode.NOT_FOUND)
    url = await uploaded(ada, jpeg())
    assert code(await bo.ask("DELETE", url)) == (404, ErrorCode.NOT_FOUND)
    assert (await ada.ask("DELETE", url)).status_code == 204
    assert code(await ada.ask("DELETE", url)) == (404, ErrorCode.NOT_FOUND)
    assert "avatar" not in {key for key, value in (await ada.ask("GET", "/me")).json().items() if value}


async def test_a_host_no_more(place: Gallery) -> None:
    """Whoever is not the host any more when the last byte comes has put nothing there, and nothing of it stays."""
    ada, bo = await place.member("Ada"), await place.member("Bo")
    room = await place.room(ada)
    upload = (await announced(ada, mp3(), "audio/mpeg", "CONTENT", room)).json()["id"]
    await place.pool.execute("update rooms set host_id = $2 where id = $1", room, bo.id)
    before = place.files()
    assert code(await sent(ada, upload, mp3())) == (404, ErrorCode.NOT_FOUND)
    assert place.files() - before == set()
    assert await place.pool.fetchval("select content_url from rooms where id = $1", room) is None
    assert await place.pool.fetchval("select count(*) from media where room_id = $1", room) == 0


@pytest.mark.parametrize(
    ("content", "kind", "media_type", "expected"),
    [
        ("VIDEO", "CONTENT", "audio/mpeg", 415),
        ("AUDIO", "CONTENT", "video/mp4", 415),
        ("AUDIO", "CONTENT", "audio/mpeg", 201),
        ("MIXED", "CONTENT", "video/webm", 201),
        ("MIXED", "CONTENT", "text/html", 422),
        ("MIXED", "CONTENT", "image/png", 415),
        ("MIXED", "THUMBNAIL", "image/svg+xml", 422),
        ("MIXED", "THUMBNAIL", "video/mp4", 415),
    ],
)
async def test_types(place: Gallery, content: str, kind: str, media_type: str, expected: int) -> None:
    """What is taken is on a list, and fits the looproom; the answer says what does."""
    ada = await place.member()
    room = await place.room(ada, content)
    answer = await announced(ada, 9, media_type, kind, room)
    assert answer.status_code == expected
    if expected == 415:
        assert answer.json()["detail"].startswith("Send one of ")


@pytest.mark.parametrize(
    ("kind", "media_type", "data"),
    [
        ("THUMBNAIL", "image/png", PAGE),
        ("THUMBNAIL", "image/png", jpeg()),
        ("CONTENT", "video/mp4", PAGE * 100),
        ("CONTENT", "video/mp4", mp4(last=b"PK\3\4" + PAGE)),
        ("CONTENT", "video/webm", webm(last=PAGE)),
        ("CONTENT", "audio/wav", mp3()),
    ],
)
async def test_something_else_than_was_said(place: Gallery, kind: str, media_type: str, data: bytes) -> None:
    """It is refused, nothing of it stays, its place is free again, and what was shown before is shown still."""
    ada = await place.member()
    room = await place.room(ada, thumbnail="/before", content_url="/before")
    before, counted = place.files(), place.sites[0].node.uploads.refused[kind]
    upload = (await announced(ada, data, media_type, kind, room)).json()["id"]
    assert code(await sent(ada, upload, data)) == (422, ErrorCode.MEDIA_REFUSED)
    assert place.files() == before
    assert (await ada.ask("GET", f"/uploads/{upload}")).status_code == 404
    row = await place.pool.fetchrow("select thumbnail, content_url from rooms where id = $1", room)
    assert row is not None
    assert tuple(row.values()) == ("/before", "/before")
    assert place.sites[0].node.uploads.refused[kind] == counted + 1


async def test_no_form(place: Gallery) -> None:
    """A form is not parsed, and what is packed is not unpacked: the body is the file."""
    ada = await place.member()
    upload = (await announced(ada, jpeg())).json()["id"]
    for headers in ({"content-type": "multipart/form-data; boundary=x"}, {"content-encoding": "gzip"}):
        assert code(await sent(ada, upload, jpeg(), headers=headers)) == (415, ErrorCode.MEDIA_TYPE_REFUSED)
    for offset in ("-1", "1e3", "x", "9" * 30, "7"):
        answer = await sent(ada, upload, b"", headers={"upload-offset": offset})
        assert code(answer) == (409, ErrorCode.OFFSET_REFUSED)


async def test_names_are_no_paths(place: Gallery) -> None:
    """What stands for an id and is none finds nothing, whatever it spells; all files have names that the server made."""
    ada = await place.member()
    for name in (
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e%2fmain.key",
        "a%00b",
        "C:%5Cboot.ini",
        str(uuid4()) + "%2f..",
    ):
        for path in (f"/uploads/{name}", f"/media/{name}"):
            answer = await ada.site.client.get(path, headers=ada.headers)
            assert answer.status_code == 404, path
    await uploaded(ada, jpeg())
    assert all(UUID(name) for name in place.files())


async def test_one_at_a_time(place: Gallery) -> None:
    """While one connection sends, another one is told to come back, on whatever node; then it is free again."""
    ada = await place.member()
    upload = (await announced(ada, jpeg())).json()["id"]
    _, writer = await begin_raw(ada, upload, len(jpeg()), jpeg()[:100])
    await until(lambda: upload in place.incoming())
    for site in place.sites:
        assert code(await sent(ada, upload, jpeg(), site)) == (503, ErrorCode.BUSY)
    assert code(await ada.ask("DELETE", f"/uploads/{upload}")) == (503, ErrorCode.BUSY)
    writer.transport.abort()

    async def taken() -> bool:
        return (await sent(ada, upload, jpeg())).status_code == 200

    await until(taken)


async def test_given_up(place: Gallery) -> None:
    """What is given up is not there any more, and its place is free."""
    ada = await place.member()
    upload = (await announced(ada, jpeg())).json()["id"]
    await sent(ada, upload, jpeg()[:50])
    assert upload in place.incoming()
    assert (await ada.ask("DELETE", f"/uploads/{upload}")).status_code == 204
    assert upload not in place.incoming()
    assert code(await ada.ask("DELETE", f"/uploads/{upload}")) == (404, ErrorCode.NOT_FOUND)


async def test_how_much_one_may_store(place: Gallery) -> None:
    """Announced and stored bytes count together, up to a limit that is larger for creators; what is dropped is free again."""
    ada = await place.member()
    room = await place.room(ada)
    answers = [await announced(ada, LIMIT, "video/mp4", "CONTENT", room) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [201, 201, 201, 409]
    assert answers[3].json()["code"] == ErrorCode.QUOTA_REACHED
    await place.pool.execute("update users set role = 'CREATOR' where id = $1", ada.id)
    assert (await announced(ada, LIMIT, "video/mp4", "CONTENT", room)).status_code == 201
    await place.pool.execute("update users set role = 'MEMBER' where id = $1", ada.id)
    for answer in answers[:3]:
        await ada.ask("DELETE", f"/uploads/{answer.json()['id']}")
    assert (await announced(ada, LIMIT, "video/mp4", "CONTENT", room)).status_code == 201


async def test_how_often(place: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person may begin so many a day, on all nodes together."""
    monkeypatch.setattr(domain, "UPLOADS", UPLOADS.times(3 / 1000 / UPLOADS.burst))
    ada = await place.member()
    for turn in range(3):
        ada.site = place.sites[turn % 2]
        assert (await announced(ada, 9)).status_code == 201
    answer = await announced(ada, 9)
    assert code(answer) == (429, ErrorCode.RATE_LIMITED)
    assert int(answer.headers["retry-after"]) > 0


async def test_a_session_that_ends(place: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever leaves for good while their picture comes has none: nothing is shown, and no file stays."""
    ada: Member = await place.member()
    before = place.files()
    upload = (await announced(ada, jpeg())).json()["id"]
    _, writer = await begin_raw(ada, upload, len(jpeg()), jpeg()[:-1])
    await until(lambda: upload in place.incoming())
    assert (await ada.leave()).status_code == 204
    writer.write(jpeg()[-1:])
    await until(lambda: upload not in place.incoming() or place.files() - before != {upload})
    writer.transport.abort()
    assert await place.pool.fetchval("select count(*) from media where user_id = $1", ada.id) == 0
