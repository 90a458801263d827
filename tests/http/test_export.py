"""Everything about a person in one document: whole, for that person alone, and for a day."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from server.node import Node
from storage import privacy
from storage.privacy import PARTS, ask_export, find_export, make_export
from tests.http.conftest import Servers
from tests.leaving import DEVICE, Member, Town, town
from tests.posting import comment, post, share
from tests.stores import until_blocked

SAID = "the plums that were in the icebox"


@pytest.fixture
async def place(servers: Servers) -> AsyncIterator[Town]:
    """Give a node with a database of its own."""
    async with town(await servers.settings(), 1) as running:
        yield running


async def exported(member: Member) -> dict[str, Any]:
    """Ask for everything, wait for it, and fetch it."""
    asked = await member.ask("POST", "/me/export")
    assert asked.status_code == 202, asked.text
    state = await finished(member, asked.json()["id"])
    assert state["progress"] == 1
    answer = await member.ask("GET", f"/me/exports/{state['id']}/document")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-disposition"] == f'attachment; filename="looprooms-{state["id"]}.json"'
    document: dict[str, Any] = msgspec.json.decode(answer.content)
    return document


async def finished(member: Member, export: str) -> dict[str, Any]:
    """Wait until an export is finished; return its state. What it says of itself only grows."""
    progress = [0.0]
    async with asyncio.timeout(10):
        while True:
            answer = await member.ask("GET", f"/me/exports/{export}")
            assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
            state: dict[str, Any] = answer.json()
            progress.append(state["progress"])
            assert progress == sorted(progress)
            if state["finished"]:
                return state


async def test_everything_is_in_it(place: Town) -> None:
    """Who one is, where one is signed in, what one said, changed, gave, heard and hosts."""
    room, own = await place.room(), await place.room("a-room-of-her-own")
    ada, bo = await place.member("Ada"), await place.member("Bo")
    await place.pool.execute("update rooms set host_id = $1 where id = $2", ada.id, own)
    await place.pool.execute("insert into previews (room_id, user_id) values ($1, $2)", room, ada.id)
    mine, theirs = await ada.come(None, room), await bo.come(None, room)
    first = await mine.say(room, SAID, key="first")
    await mine.call("chat.edit", room=str(room), line=first["line"]["id"], text=f"{SAID}, edited")
    gone = await mine.say(room, "never mind", key="second")
    await mine.call("chat.remove", room=str(room), line=gone["line"]["id"])
    await theirs.say(room, "what Bo said")
    await mine.call("reaction.add", target={"kind": "looproom", "id": str(room)}, reaction="PEACE")
    vybe = await post(mine, SAID, "ANONYMOUS", looproom=str(own))
    passed_on = await share(mine, (await post(theirs, "what Bo posted"))["id"])
    await comment(mine, passed_on["shared"]["id"], SAID)
    document = await exported(ada)
    assert list(document) == [part.name for part in PARTS]
    (profile,) = document["profile"]
    assert (profile["id"], profile["name"], profile["role"]) == (str(ada.id), "Ada", "MEMBER")
    (identity,) = document["identities"]
    assert (identity["provider"], identity["address"], identity["subject"]) == ("EMAIL", ada.email, None)
    (session,) = document["sessions"]
    assert session["device"] == DEVICE
    assert [line["text"] for line in document["chat_lines"]] == [f"{SAID}, edited", ""]
    assert document["chat_lines"][0]["looproom"] == "a-room"
    assert [change["kind"] for change in document["chat_changes"]] == ["REVISION", "REMOVAL"]
    (reaction,) = document["reactions"]
    assert (reaction["kind"], reaction["target_id"]) == ("PEACE", str(room))
    (hosted,) = document["looprooms"]
    assert hosted["slug"] == "a-room-of-her-own"
    (preview,) = document["previews"]
    assert preview == {"looproom": "a-room", "used_seconds": 0.0}
    assert {key["key"] for key in document["keys"]} >= {"first", "second"}
    assert [str(one["id"]) for one in document["exports"]]
    posted = [(one["text"], one["looproom"], one["posted_as"]) for one in document["vybes"]]
    assert posted == [(SAID, "a-room-of-her-own", vybe["author"]["name"]), ("", None, None)]
    assert [one["text"] for one in document["comments"]] == [SAID]
    text = msgspec.json.encode(document).decode()
    for others in (str(bo.id), bo.email, "what Bo said", "what Bo posted", "password_hash", "argon2"):
        assert others not in text


async def test_it_is_sealed(place: Town) -> None:
    """Nothing of the document can be read in the database."""
    room = await place.room()
    ada = await place.member("Ada")
    await (await ada.come(None, room)).say(room, SAID)
    await exported(ada)
    pieces = (await place.dump())["export_pieces"]
    assert pieces
    assert SAID.encode().hex() not in pieces
    assert str(ada.id).encode().hex() not in pieces


async def test_a_long_history(place: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written and fetched in pieces, and is whole."""
    monkeypatch.setattr(privacy, "PIECE_CHARACTERS", 10_000)
    room = await place.room()
    ada = await place.member("Ada")
    await place.pool.execute(
        'insert into chat_lines (room_id, "offset", author_id, text) '
        "select $1, n, $2, 'line \\ \"' || n || ' ' || repeat('é', 100) from generate_series(1, 3000) n",
        room,
        ada.id,
    )
    document = await exported(ada)
    assert [line["offset"] for line in document["chat_lines"]] == list(range(1, 3001))
    assert document["chat_lines"][41]["text"] == f'line \\ "42 {"é" * 100}'
    assert await place.pool.fetchval("select count(*) from export_pieces") > 50


async def test_nobody_elses(place: Town) -> None:
    """Somebody else's export is as unknown as one that never was, and so is one that has expired."""
    ada, bo = await place.member("Ada"), await place.member("Bo")
    export = (await ada.ask("POST", "/me/export")).json()["id"]
    await finished(ada, export)
    for member, path in (
        (bo, f"/me/exports/{export}"),
        (bo, f"/me/exports/{export}/document"),
        (ada, f"/me/exports/{uuid4()}"),
        (ada, f"/me/exports/{uuid4()}/document"),
        (ada, "/me/exports/nonsense"),
    ):
        answer = await member.ask("GET", path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    answer = await place.sites[0].client.get(f"/me/exports/{export}/document")
    assert answer.json()["code"] == "token_invalid"
    await place.pool.execute("update exports set expires_at = now()")
    for path in (f"/me/exports/{export}", f"/me/exports/{export}/document"):
        assert (await ada.ask("GET", path)).json()["code"] == "not_found"
    await privacy.forget_exports(place.pool)
    assert await place.pool.fetchval("select count(*) from export_pieces") == 0


async def test_asked_for_again_while_it_is_made(place: Town) -> None:
    """It is the same one, also for many who ask at once; it can't be fetched yet; when it is finished, asking makes another."""
    await place.sites[0].node.jobs.aclose()
    ada = await place.member("Ada")
    answers = await asyncio.gather(*(ada.ask("POST", "/me/export") for _ in range(4)))
    assert {answer.status_code for answer in answers} == {202}
    (export,) = {answer.json()["id"] for answer in answers}
    waiting = await ada.ask("GET", f"/me/exports/{export}/document")
    assert (waiting.status_code, waiting.json()["code"]) == (409, "not_ready")
    assert (await ada.ask("GET", f"/me/exports/{export}")).json()["progress"] == 0
    stores = place.sites[0].node.stores
    await make_export(stores.pool, stores.sealer, UUID(export))
    assert (await ada.ask("GET", f"/me/exports/{export}/document")).status_code == 200
    assert (await ada.ask("POST", "/me/export")).json()["id"] != export


async def test_one_that_nobody_finishes(place: Town) -> None:
    """An export that was given up is not waited for: asked for again, it is another one."""
    await place.sites[0].node.jobs.aclose()
    ada = await place.member("Ada")
    first = await ask_export(place.pool, ada.id)
    await place.pool.execute("update exports set created_at = now() - interval '61 minutes'")
    assert (await ask_export(place.pool, ada.id)).id != first.id


async def test_its_node_dies_in_the_middle(place: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another node makes it from the beginning, and what the first one goes on to write is not in it."""
    monkeypatch.setattr(privacy, "PIECE_CHARACTERS", 100)
    await place.sites[0].node.jobs.aclose()
    room = await place.room()
    ada = await place.member("Ada")
    visitor = await ada.come(None, room)
    for number in range(20):
        await visitor.say(room, f"{SAID} {number}")
    stores = place.sites[0].node.stores
    export = await ask_export(stores.pool, ada.id)
    dying = asyncio.create_task(make_export(stores.pool, stores.sealer, export.id))
    while not await place.pool.fetchval("select count(*) from export_pieces"):  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0)
    await visitor.say(room, "said later")
    await asyncio.gather(dying, make_export(stores.pool, stores.sealer, export.id))
    found = await find_export(stores.pool, export.id, ada.id)
    assert found is not None
    assert found.finished
    pieces = [piece async for piece in privacy.read_export(stores.pool, stores.sealer, export.id, ada.id)]
    document = msgspec.json.decode("".join(pieces))
    assert [line["text"] for line in document["chat_lines"]][-1] == "said later"
    assert len(pieces) == await place.pool.fetchval("select count(*) from export_pieces")


async def test_a_piece_is_committed_while_another_node_begins(place: Town) -> None:
    """The last piece of the run before is dropped with the others, however late its commit came."""
    await place.sites[0].node.jobs.aclose()
    ada = await place.member("Ada")
    stores = place.sites[0].node.stores
    export = await ask_export(stores.pool, ada.id)
    async with place.pool.acquire() as connection:
        writing = connection.transaction()
        await writing.start()
        await connection.execute("update exports set rows_done = 1 where id = $1", export.id)
        await connection.execute(
            "insert into export_pieces (id, export_id, place, sealed_text) values (gen_random_uuid(), $1, 0, '')",
            export.id,
        )
        beginning = asyncio.create_task(make_export(stores.pool, stores.sealer, export.id))
        await until_blocked(place.pool)
        await writing.commit()
    await beginning
    pieces = [piece async for piece in privacy.read_export(stores.pool, stores.sealer, export.id, ada.id)]
    assert msgspec.json.decode("".join(pieces))["chat_lines"] == []


async def test_its_person_leaves_in_the_middle(place: Town) -> None:
    """There is nothing to be made any more, and that is no error."""
    await place.sites[0].node.jobs.aclose()
    ada = await place.member("Ada")
    export = await ask_export(place.pool, ada.id)
    assert (await ada.leave()).status_code == 204
    stores = place.sites[0].node.stores
    await make_export(stores.pool, stores.sealer, export.id)
    assert await place.pool.fetchval("select count(*) from export_pieces") == 0


async def test_a_few_a_day(servers: Servers) -> None:
    """One can't keep the server busy with it."""
    async with town(await servers.settings(LOOPROOMS_LIMITS_FACTOR="1"), 1) as place:
        ada = await place.member("Ada")
        codes = [(await ada.ask("POST", "/me/export")).status_code for _ in range(6)]
        assert codes == [202] * 5 + [429]


async def test_a_node_that_starts_goes_on(place: Town) -> None:
    """What was asked for when no node was free is made by the next one."""
    await place.sites[0].node.jobs.aclose()
    ada = await place.member("Ada")
    export = (await ada.ask("POST", "/me/export")).json()["id"]
    node = await Node.open(place.sites[0].node.settings)
    try:
        await finished(ada, export)
    finally:
        await node.aclose()
