"""One's own sessions: where one is signed in, and ending it, over HTTP and over the websocket."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import httpx2
import msgspec
import pytest

from protocol.closing import CloseCode
from tests.http.serving import PASSWORD, Site
from tests.http.test_families import hello, refresh


async def sign_in(site: Site, account: dict[str, Any], device: str = "Phone") -> dict[str, Any]:
    """Sign in once more, on another device."""
    answer = await site.client.post(
        "/auth/login",
        json={"email": account["email"], "password": PASSWORD},
        headers={"user-agent": device},
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def ask(site: Site, method: str, path: str, account: dict[str, Any]) -> httpx2.Response:
    """Send a request as somebody."""
    headers = {"authorization": f"Bearer {account['access_token']}"}
    return await site.client.request(method, path, headers=headers)


async def sessions(site: Site, account: dict[str, Any]) -> list[dict[str, Any]]:
    """List somebody's sessions over HTTP."""
    answer = await ask(site, "GET", "/me/sessions", account)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["sessions"])


async def call(connection: Any, kind: str, **fields: Any) -> dict[str, Any]:
    """Send a command over a websocket and return its answer."""
    await connection.send(msgspec.json.encode({"type": kind, "id": 9, **fields}).decode())
    answer: dict[str, Any] = msgspec.json.decode(await connection.recv())
    assert answer["id"] == 9
    return answer


async def closed(*connections: Any) -> list[int]:
    """Wait until websockets are closed, a second at most, and return the codes."""
    async with asyncio.timeout(1):
        await asyncio.gather(*(connection.wait_closed() for connection in connections))
    return [connection.close_code for connection in connections]


async def is_alive(connection: Any) -> bool:
    """Say whether a websocket still answers."""
    return bool((await call(connection, "session.ping"))["type"] == "session.ponged")


async def test_where_one_is_signed_in(site: Site) -> None:
    """The one that asks comes first, then the newest seen; both sides say the same; others' are not in it."""
    first = await site.register()
    await site.register()
    second = await sign_in(site, first, "Tablet")
    third = await sign_in(site, first, "Phone")
    await refresh(site, second["refresh_token"])
    found = await sessions(site, third)
    assert [entry["device"] for entry in found] == ["Phone", "Tablet", found[2]["device"]]
    assert [entry.get("current", False) for entry in found] == [True, False, False]
    assert found[1]["created"] < found[1]["seen"]
    connection = await hello(site, third)
    listed = await call(connection, "session.list")
    assert listed == {"type": "session.listed", "id": 9, "sessions": found}
    await connection.close()


async def test_what_has_ended_is_not_listed(site: Site) -> None:
    """Neither what was signed out, nor what was not used for so long that nobody can use it."""
    first = await site.register()
    signed_out = await sign_in(site, first)
    forgotten = await sign_in(site, first, "forgotten")
    await site.post("/auth/logout", refresh_token=signed_out["refresh_token"])
    session = site.node.tokens.verify(forgotten["access_token"]).session
    await site.node.stores.pool.execute(
        "update sessions set last_seen_at = now() - interval '31 days' where id = $1", session
    )
    assert len(await sessions(site, first)) == 1


async def test_ending_one_over_http(site: Site) -> None:
    """Its tokens are worth nothing, its connection closes within a second, the others go on; again is no error."""
    first = await site.register()
    second = await sign_in(site, first)
    doomed, staying = await hello(site, second), await hello(site, first)
    session = next(entry["id"] for entry in await sessions(site, first) if not entry.get("current"))
    for _ in range(2):
        assert (await ask(site, "DELETE", f"/me/sessions/{session}", first)).status_code == 204
    assert await closed(doomed) == [CloseCode.SESSION_ENDED]
    assert (await site.me(second["access_token"])).json()["code"] == "session_ended"
    assert (await refresh(site, second["refresh_token"])).json()["code"] == "session_ended"
    assert await is_alive(staying)
    await staying.close()


async def test_ending_all_others_over_http(site: Site) -> None:
    """The one that asks stays, and so does everybody else."""
    first, other = await site.register(), await site.register()
    more = [await sign_in(site, first) for _ in range(3)]
    doomed = [await hello(site, one) for one in more[:2]]
    staying = [await hello(site, first), await hello(site, other)]
    assert (await ask(site, "DELETE", "/me/sessions", first)).status_code == 204
    assert await closed(*doomed) == [CloseCode.SESSION_ENDED] * 2
    assert len(await sessions(site, first)) == 1
    assert (await refresh(site, more[2]["refresh_token"])).json()["code"] == "session_ended"
    for connection in staying:
        assert await is_alive(connection)
        await connection.close()


async def test_ending_one_over_the_socket(site: Site) -> None:
    """The same over the websocket; one's own session is answered before its connection closes."""
    first = await site.register()
    second = await sign_in(site, first)
    doomed, ending = await hello(site, second), await hello(site, first)
    listed = (await call(ending, "session.list"))["sessions"]
    answer = await call(ending, "session.revoke", session=listed[1]["id"])
    assert answer == {"type": "session.revoked", "id": 9, "count": 1}
    assert await closed(doomed) == [CloseCode.SESSION_ENDED]
    answer = await call(ending, "session.revoke", session=listed[0]["id"])
    assert answer["type"] == "session.revoked"
    assert await closed(ending) == [CloseCode.SESSION_ENDED]


async def test_ending_all_others_over_the_socket(site: Site) -> None:
    """The answer says how many there were."""
    first = await site.register()
    doomed = [await hello(site, await sign_in(site, first)) for _ in range(2)]
    ending = await hello(site, first)
    assert (await call(ending, "session.revoke", others=True))["count"] == 2
    assert await closed(*doomed) == [CloseCode.SESSION_ENDED] * 2
    assert (await call(ending, "session.revoke", others=True))["count"] == 0
    await ending.close()


async def test_neither_or_both(site: Site) -> None:
    """A command that names no session, or one and all others, is refused, and ends nothing."""
    first = await site.register()
    connection = await hello(site, first)
    session = (await call(connection, "session.list"))["sessions"][0]["id"]
    for fields in ({}, {"session": session, "others": True}):
        answer = await call(connection, "session.revoke", **fields)
        assert (answer["code"], answer["path"]) == ("invalid", "$.session")
    assert len(await sessions(site, first)) == 1
    await connection.close()


async def test_somebody_elses_is_as_unknown_as_none(site: Site) -> None:
    """Both answers are the same, to the byte, on both sides; and nothing ends."""
    first, other = await site.register(), await site.register()
    theirs = (await sessions(site, other))[0]["id"]
    over_http = [
        await ask(site, "DELETE", f"/me/sessions/{session}", first)
        for session in (theirs, uuid4(), "nonsense")
    ]
    assert {answer.content for answer in over_http} == {over_http[0].content}
    assert {answer.status_code for answer in over_http} == {404}
    connection = await hello(site, first)
    over_socket = [
        await call(connection, "session.revoke", session=session) for session in (theirs, str(uuid4()))
    ]
    assert over_socket[0] == over_socket[1]
    assert over_socket[0]["code"] == "not_found"
    assert len(await sessions(site, other)) == 1
    await connection.close()


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/me/sessions"), ("DELETE", "/me/sessions"), ("DELETE", "/me/sessions/x")]
)
async def test_nobody(site: Site, method: str, path: str) -> None:
    """Without an access token there is no answer but that."""
    answer = await site.client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
