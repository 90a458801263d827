"""Media, told live and forgotten in time: everyone on every node sees what is new, and what is old, or a person's who left, goes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from protocol.envelope import RoomId
from server import media as domain
from server.media import FindOrphans, ForgetMedia, find_orphans, forget
from server.session import Changed
from storage import media
from storage.media import FORGOTTEN_SECONDS, KEPT_SECONDS, TOLD_SECONDS
from storage.privacy import PARTS
from tests.gallery import Gallery, announced, gallery, jpeg, sent, uploaded
from tests.http.conftest import Servers, servers
from tests.recordings import mp3, wav
from tests.visitors import Visitor
from tests.waiting import until

__all__ = ["servers"]


@pytest.fixture(scope="module")
async def place(servers: Servers) -> AsyncIterator[Gallery]:
    """Run two nodes."""
    async with gallery(await servers.settings(LOOPROOMS_SWITCH_SECONDS="0")) as running:
        yield running


def heard(visitor: Visitor, kind: str) -> list[dict[str, Any]]:
    """Return the events of a kind."""
    return [message for message in visitor.heard if message["type"] == kind]


def faces(visitor: Visitor, room: RoomId) -> dict[str, str | None]:
    """Return whom somebody has seen in a room, each as they look last."""
    seen: dict[str, str | None] = {}
    for message in visitor.heard:
        if message["type"] == "room.joined":
            seen |= {one["name"]: one.get("avatar") for one in message["members"]}
        if message["type"] == "room.pulse":
            changed = [*message.get("joins", ()), *message.get("state", {}).get("members", ())]
            seen |= {one["name"]: one.get("avatar") for one in changed}
    return seen


async def test_a_new_picture_is_seen_at_once(place: Gallery) -> None:
    """On all connections of the person, and by everyone in the room with them, on whatever node; and so is that there is none."""
    room = await place.room(await place.member("Host"))
    ada, bo = await place.member("Ada"), await place.member("Bo")
    here, there = await ada.come(place.sites[0], room), await ada.come(place.sites[1])
    other = await bo.come(place.sites[1], room)
    await until(lambda: faces(other, room).get("Ada", "not there") is None)
    url = await uploaded(ada, jpeg())
    for mine in (here, there):
        await until(lambda mine=mine: [one["avatar"] for one in heard(mine, "person.avatar")] == [url])  # type: ignore[misc]
    await until(lambda: faces(other, room)["Ada"] == url)
    line = await here.say(room, "look")
    assert line["line"]["author"]["avatar"] == url
    assert not heard(other, "person.avatar")
    assert not [message for message in other.heard if message.get("leaves")]
    await ada.ask("DELETE", url)
    await until(lambda: len(heard(here, "person.avatar")) == 2)
    assert "avatar" not in heard(here, "person.avatar")[1]
    await until(lambda: faces(other, room)["Ada"] is None)


async def test_whoever_was_away_hears_of_it(place: Gallery) -> None:
    """It is an event of the person, with its offset: after a break it is replayed."""
    ada = await place.member("Ada")
    visitor = await ada.come()
    position = {"epoch": visitor.welcome["epoch"], "offset": visitor.welcome["person"].get("offset", 0)}
    visitor.connection.reset()
    url = await uploaded(ada, jpeg())
    back = Visitor()
    back.connection = await _open(place, back)
    welcome = await back.call("hello", token=ada.access_token, person=position)
    assert welcome["person"]["recovered"]
    await until(lambda: [one["avatar"] for one in heard(back, "person.avatar")] == [url])
    assert welcome["user"]["avatar"] == url


async def _open(place: Gallery, visitor: Visitor) -> Any:
    from tests.nodes.raw import open_raw

    return await open_raw(place.sites[0].port, visitor.heard.append)


async def test_a_new_picture_of_somebody_anonymous(place: Gallery) -> None:
    """Nobody learns of it: a pseudonym has no picture, and nothing happens where it is seen."""
    room = await place.room(await place.member("Host"))
    ada, bo = await place.member("Ada"), await place.member("Bo")
    mine = await ada.come()
    await mine.call("person.anonymous", on=True)
    await mine.join(room)
    other = await bo.come(place.sites[1], room)
    url = await uploaded(ada, jpeg())
    await until(lambda: heard(mine, "person.avatar"))
    line = await mine.say(room, "look")
    await other.hear(line["offset"])
    await other.settle()
    assert url not in repr(other.heard)
    assert "Ada" not in repr(other.heard)


async def test_what_a_room_shows(place: Gallery) -> None:
    """Everyone in it is told, on every node, once for each change, with all that it shows now; and whoever asks finds it."""
    ada, bo = await place.member("Ada"), await place.member("Bo")
    room = await place.room(ada)
    mine, theirs = await ada.come(place.sites[0], room), await bo.come(place.sites[1], room)
    picture = await uploaded(ada, jpeg(), kind="THUMBNAIL", room=room)
    for visitor in (mine, theirs):
        await until(lambda visitor=visitor: len(heard(visitor, "room.media")) == 1)  # type: ignore[misc]
        told = heard(visitor, "room.media")[0]
        assert (told["room"], told["thumbnail"], told.get("content_url")) == (str(room), picture, None)
    sound = await uploaded(ada, wav(), "audio/wav", "CONTENT", room)
    await until(lambda: len(heard(theirs, "room.media")) == 2)
    told = heard(theirs, "room.media")[1]
    assert (told["thumbnail"], told["content_url"], told["duration_seconds"]) == (picture, sound, 10)
    for visitor in (mine, theirs):
        found = (await visitor.call("room.get", room=str(room)))["room"]
        assert (found["thumbnail"], found["content_url"], found["duration_seconds"]) == (picture, sound, 10)
    await ada.ask("DELETE", sound)
    await until(lambda: len(heard(theirs, "room.media")) == 3)
    told = heard(theirs, "room.media")[2]
    assert (told["thumbnail"], told.get("content_url")) == (picture, None)


async def test_an_address_elsewhere_of_what_is_paid_for(place: Gallery) -> None:
    """What a paid looproom plays is told only where it lies here: elsewhere nobody asks who may have it."""
    ada = await place.member("Ada")
    visitor = await ada.come()
    for columns, told in (
        ({}, True),
        ({"premium": True}, False),
        ({"month_cents": 500}, False),
        ({"session_cents": 500}, False),
    ):
        room = await place.room(ada, content_url="https://elsewhere.example/film", **columns)
        found = (await visitor.call("room.get", room=str(room)))["room"]
        assert ("content_url" in found) is told
        listed = (await visitor.call("room.list", limit=100))["rooms"]
        assert ("content_url" in next(one for one in listed if one["id"] == str(room))) is told


async def test_a_moderator_takes_it_away(place: Gallery) -> None:
    """Anyone's, before everyone's eyes, and that they did so is among the decisions; who is none finds nothing."""
    ada, bo, mo = await place.member("Ada"), await place.member("Bo"), await place.member("Mo")
    await place.pool.execute("update users set role = 'MODERATOR' where id = $1", mo.id)
    room = await place.room(ada)
    visitor = await bo.come(place.sites[1], room)
    for kind in ("AVATAR", "THUMBNAIL"):
        url = await uploaded(ada, jpeg(), kind=kind, room=None if kind == "AVATAR" else room)
        assert (await bo.ask("DELETE", url)).status_code == 404
        assert (await mo.ask("DELETE", url)).status_code == 204
        assert (await bo.ask("GET", url)).status_code == 404
    assert "thumbnail" not in (await visitor.call("room.get", room=str(room)))["room"]
    assert not (await ada.ask("GET", "/me")).json()["avatar"]
    rows = await place.pool.fetch(
        "select detail, actor_id from decisions where decision = 'media' and subject_id = $1 order by id",
        ada.id,
    )
    assert [tuple(row) for row in rows] == [("avatar", mo.id), ("thumbnail", mo.id)]


async def test_whoever_reads_slowly_is_told_too(place: Gallery) -> None:
    """What a room shows is passing, but not left out for somebody for whom other things are waiting."""
    ada, bo = await place.member("Ada"), await place.member("Bo")
    room = await place.room(ada)
    visitor = await bo.come(place.sites[1], room)
    node = place.sites[1].node
    (connection,) = node.hub.members.of_user(bo.id)
    await place.pool.execute("update rooms set thumbnail = '/media/another' where id = $1", room)
    connection.pause_writing()
    node.announcements.look(Changed(shown=[room]))
    await until(lambda: connection.waiting > 0)
    assert not heard(visitor, "room.media")
    connection.resume_writing()
    await until(lambda: [one["thumbnail"] for one in heard(visitor, "room.media")] == ["/media/another"])


# What goes.


async def tidy(place: Gallery) -> None:
    """Do what is done every minute."""
    await forget(place.sites[0].node, ForgetMedia(period=0))


async def age(place: Gallery, column: str, table: str, url: str, seconds: float) -> None:
    """Let something be older than it is."""
    await place.pool.execute(
        f"update {table} set {column} = {column} - make_interval(secs => $2) where id = $1",
        UUID(url.rpartition("/")[2]),
        seconds,
    )


async def test_what_was_replaced_goes_later(place: Gallery) -> None:
    """A picture that somebody's screen may show yet is there for a while, and then is not, neither its file nor its row."""
    ada = await place.member("Ada")
    old, new = await uploaded(ada, jpeg("red")), await uploaded(ada, jpeg("blue"))
    await tidy(place)
    assert {url.rpartition("/")[2] for url in (old, new)} <= place.files()
    await age(place, "dropped_at", "media", old, KEPT_SECONDS)
    await tidy(place)
    assert old.rpartition("/")[2] not in place.files()
    rows = await place.pool.fetch("select id from media where user_id = $1", ada.id)
    assert [str(row["id"]) for row in rows] == [new.rpartition("/")[2]]
    assert (await ada.ask("GET", new)).status_code == 200


async def test_uploads_are_forgotten(place: Gallery) -> None:
    """One that went silent frees its place, one that is finished can be asked for a while longer."""
    ada = await place.member("Ada")
    silent = (await announced(ada, 1000)).json()["id"]
    done = (await announced(ada, jpeg())).json()["id"]
    url = (await sent(ada, done, jpeg())).json()["media"]["url"]
    for upload in (silent, done):
        await age(place, "touched_at", "uploads", upload, FORGOTTEN_SECONDS)
    await tidy(place)
    assert (await ada.ask("GET", f"/uploads/{silent}")).status_code == 404
    assert (await sent(ada, silent, bytes(1000))).status_code == 404
    assert (await ada.ask("GET", f"/uploads/{done}")).json()["media"]["url"] == url
    await age(place, "touched_at", "uploads", done, TOLD_SECONDS)
    await tidy(place)
    assert (await ada.ask("GET", f"/uploads/{done}")).status_code == 404
    assert (await ada.ask("GET", url)).status_code == 200


async def test_what_a_crash_has_left(place: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node dies between keeping a file and its row: nothing is shown, and the file is found and deleted, and no other."""
    ada = await place.member("Ada")
    shown = await uploaded(ada, jpeg())
    before = place.files()

    async def dies(*_: object) -> None:
        raise RuntimeError("killed")

    upload = (await announced(ada, jpeg())).json()["id"]
    with monkeypatch.context() as patched:
        patched.setattr(media, "finish", dies)
        ada.site.client.event_hooks, hooks = {}, ada.site.client.event_hooks
        assert (await sent(ada, upload, jpeg())).status_code == 500
        ada.site.client.event_hooks = hooks
    (orphan,) = place.files() - before
    assert (await ada.ask("GET", "/me")).json()["avatar"] == shown
    node = place.sites[0].node
    await find_orphans(node, FindOrphans(period=0))
    assert orphan in place.files()
    monkeypatch.setattr(domain, "_AT_ONCE", 1)
    for path in place.folder.rglob("*"):
        _old(path)
    await find_orphans(node, FindOrphans(period=0))
    assert place.files() == before


def _old(path: Path) -> None:
    if path.is_file():
        os.utime(path, (0, 0))


async def test_whoever_leaves_takes_it_along(place: Gallery) -> None:
    """Their picture, what they gave their looprooms, and what they had begun to upload are gone within moments; nothing else is."""
    ada, bo = await place.member("Ada"), await place.member("Bo")
    room = await place.room(ada)
    stays = await uploaded(bo, jpeg())
    before = place.files()
    urls = [
        await uploaded(ada, jpeg("blue")),
        await uploaded(ada, jpeg("green")),
        await uploaded(ada, jpeg(), kind="THUMBNAIL", room=room),
        await uploaded(ada, mp3(), "audio/mpeg", "CONTENT", room),
    ]
    begun = (await announced(ada, 1000)).json()["id"]
    assert len(place.files() - before) == 4
    assert (await ada.leave()).status_code == 204
    assert [(await bo.ask("GET", url)).status_code for url in urls] == [404] * 4
    await place.place.cleared("media.clear")
    assert place.files() == before
    assert (await bo.ask("GET", stays)).status_code == 200
    dumped = await place.place.dump()
    for table in ("media", "uploads", "rooms"):
        for trace in (str(ada.id), begun, *(url.rpartition("/")[2] for url in urls)):
            assert trace not in dumped[table]


async def test_it_is_part_of_an_export(place: Gallery) -> None:
    """Whoever asks for everything gets what they have stored, and what they have begun."""
    ada = await place.member("Ada")
    url = await uploaded(ada, jpeg())
    await announced(ada, 1000)
    parts = {part.name: part for part in PARTS}
    stored = await place.pool.fetch(parts["media"].rows, ada.id)
    assert [f"/media/{row['id']}" for row in stored] == [url]
    assert [row["bytes"] for row in await place.pool.fetch(parts["uploads"].rows, ada.id)] == [
        len(jpeg()),
        1000,
    ]
