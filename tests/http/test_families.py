"""Refresh tokens: the numbered cases of `storage.session`, and what ends with a session."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import msgspec
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from protocol.closing import CloseCode
from server.http.grants import REPEAT_SECONDS
from server.tokens import Tokens
from storage.session import forget_sessions
from tests.http.serving import Site, new_key

_LATER = "update refresh_tokens set replaced_at = replaced_at - make_interval(secs => $1)"


async def refresh(site: Site, token: str) -> httpx2.Response:
    """Use a refresh token."""
    return await site.post("/auth/refresh", refresh_token=token)


async def refreshed(site: Site, token: str) -> str:
    """Use a refresh token that is good; return the next."""
    answer = await refresh(site, token)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["refresh_token"])


async def test_case_1_the_current_token(site: Site) -> None:
    """Each use gives another refresh token and a good access token, and the session goes on."""
    account = await site.register()
    seen = {account["refresh_token"]}
    token = account["refresh_token"]
    for _ in range(5):
        answer = await refresh(site, token)
        assert answer.status_code == 200
        assert (await site.me(answer.json()["access_token"])).status_code == 200
        token = answer.json()["refresh_token"]
        seen.add(token)
    assert len(seen) == 6
    assert await site.node.stores.pool.fetchval("select count(*) from sessions") == 1


async def test_case_2_the_last_one_again(site: Site) -> None:
    """The last token again, within the grace, has the same successor, which is still good."""
    account = await site.register()
    successors = [await refreshed(site, account["refresh_token"]) for _ in range(3)]
    assert len(set(successors)) == 1
    await refreshed(site, successors[0])


async def test_case_2_twenty_at_once(site: Site) -> None:
    """Twenty requests with one token at the same time all get one successor."""
    account = await site.register()
    successors = await asyncio.gather(*(refreshed(site, account["refresh_token"]) for _ in range(20)))
    assert len(set(successors)) == 1
    assert await site.node.stores.pool.fetchval("select count(*) from refresh_tokens") == 2


async def test_case_2_just_before_the_end_of_the_grace(site: Site) -> None:
    """The grace lasts ten seconds, not nine."""
    account = await site.register()
    token = await refreshed(site, account["refresh_token"])
    await site.node.stores.pool.execute(_LATER, REPEAT_SECONDS - 2)
    assert await refreshed(site, account["refresh_token"]) == token


async def test_case_3_after_the_grace(site: Site) -> None:
    """The last token after its grace was copied: the session ends, its newest token too."""
    account = await site.register()
    token = await refreshed(site, account["refresh_token"])
    await site.node.stores.pool.execute(_LATER, REPEAT_SECONDS + 0.1)
    await ends(site, account["refresh_token"], token, account["access_token"])


async def test_case_3_an_older_one(site: Site) -> None:
    """A token whose successor was used ends the session, even within the grace."""
    account = await site.register()
    second = await refreshed(site, account["refresh_token"])
    third = await refreshed(site, second)
    await ends(site, account["refresh_token"], third, account["access_token"])


async def ends(site: Site, replayed: str, newest: str, access_token: str) -> None:
    """Replay a token, and see that nothing of the session is left; another session is not touched."""
    other = await site.register()
    answer = await refresh(site, replayed)
    assert (answer.status_code, answer.json()["code"]) == (401, "session_ended")
    assert (await refresh(site, newest)).json()["code"] == "session_ended"
    assert (await site.me(access_token)).json()["code"] == "session_ended"
    reasons = await site.node.stores.pool.fetch(
        "select ended_because from sessions where ended_at is not null"
    )
    assert [row["ended_because"] for row in reasons] == ["refresh token reused"]
    await refreshed(site, other["refresh_token"])


async def test_case_3_race_of_thief_and_owner(site: Site) -> None:
    """Many uses of an old and of the current token at once end in one way: the session is over, once."""
    account = await site.register()
    second = await refreshed(site, account["refresh_token"])
    await site.node.stores.pool.execute(_LATER, REPEAT_SECONDS + 0.1)
    answers = await asyncio.gather(
        *(refresh(site, token) for _ in range(10) for token in (account["refresh_token"], second))
    )
    assert {answer.status_code for answer in answers} <= {200, 401}
    newest = next((answer.json()["refresh_token"] for answer in answers if answer.status_code == 200), second)
    assert (await refresh(site, newest)).json()["code"] == "session_ended"


async def test_case_4_unused_for_too_long(site: Site) -> None:
    """A token that was not used for its 30 days is worth nothing; each use makes it 30 again."""
    account = await site.register()
    pool = site.node.stores.pool
    days = await pool.fetchval("select extract(epoch from expires_at - now()) / 86400 from refresh_tokens")
    assert 29.99 < days <= 30
    await pool.execute("update refresh_tokens set expires_at = now() - interval '1 s'")
    answer = await refresh(site, account["refresh_token"])
    assert (answer.status_code, answer.json()["code"]) == (401, "session_ended")
    assert await pool.fetchval("select ended_at is null from sessions")


async def test_case_5_never_given_out(site: Site) -> None:
    """A made-up token is refused; so are an access token in its place and a text that is none."""
    account = await site.register()
    for token in ("x" * 43, account["access_token"][:200], "\x00", "é"):
        answer = await refresh(site, token)
        assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
    await refreshed(site, account["refresh_token"])


async def test_keys_rotate_within_the_grace(site: Site) -> None:
    """A new signing key between two uses changes neither the successor nor what is verified."""
    account = await site.register()
    token = await refreshed(site, account["refresh_token"])
    old = site.node.settings.signing_keys
    rotated = msgspec.structs.replace(site.node.settings, signing_keys=(new_key("b"), *old))
    site.node.tokens = Tokens(rotated)
    assert await refreshed(site, account["refresh_token"]) == token
    assert (await site.me(account["access_token"])).status_code == 200
    await refreshed(site, await refreshed(site, token))


async def test_a_key_that_is_gone(site: Site) -> None:
    """If the key that made a successor is no longer known, one signs in again, and is not taken for a thief."""
    account = await site.register()
    await refreshed(site, account["refresh_token"])
    site.node.tokens = Tokens(msgspec.structs.replace(site.node.settings, signing_keys=(new_key("b"),)))
    assert (await refresh(site, account["refresh_token"])).json()["code"] == "session_ended"
    assert await site.node.stores.pool.fetchval("select ended_at is null from sessions")


async def test_logout(site: Site) -> None:
    """Signing out ends the session by any token of its family; again, or with nonsense, it is no error."""
    account = await site.register()
    token = await refreshed(site, account["refresh_token"])
    for used in (account["refresh_token"], account["refresh_token"], token, "nonsense"):
        answer = await site.post("/auth/logout", refresh_token=used)
        assert (answer.status_code, answer.content) == (204, b"")
    assert (await refresh(site, token)).json()["code"] == "session_ended"
    assert (await site.me(account["access_token"])).json()["code"] == "session_ended"
    assert await site.node.stores.pool.fetchval("select ended_because from sessions") == "signed out"


async def test_live_connections_end_with_the_session(site: Site) -> None:
    """A websocket is closed within a second of signing out, and of a replay; another session's stays."""
    signed_out, stolen, other = [await site.register() for _ in range(3)]
    token = await refreshed(site, await refreshed(site, stolen["refresh_token"]))
    assert token
    connections = [await hello(site, account) for account in (signed_out, stolen, other)]
    await site.post("/auth/logout", refresh_token=signed_out["refresh_token"])
    assert (await refresh(site, stolen["refresh_token"])).json()["code"] == "session_ended"
    for connection in connections[:2]:
        async with asyncio.timeout(1):
            await connection.wait_closed()
        assert connection.close_code == CloseCode.SESSION_ENDED
    await connections[2].send('{"type":"session.ping","id":2}')
    assert msgspec.json.decode(await connections[2].recv())["type"] == "session.ponged"
    await connections[2].close()


async def hello(site: Site, account: dict[str, Any]) -> Any:
    """Connect a websocket and say hello."""
    connection = await connect(
        f"ws://127.0.0.1:{site.port}/ws", subprotocols=[Subprotocol("looprooms.v1+json")]
    )
    await connection.send(
        msgspec.json.encode({"type": "hello", "id": 1, "token": account["access_token"]}).decode()
    )
    try:
        welcome = msgspec.json.decode(await connection.recv())
    except ConnectionClosed as closed:
        raise AssertionError(closed) from None
    assert welcome["type"] == "welcome"
    return connection


async def test_old_sessions_are_forgotten(site: Site) -> None:
    """What nobody can use any more is deleted, with its tokens; what is used stays."""
    old, new = await site.register(), await site.register()
    pool = site.node.stores.pool
    await pool.execute(
        "update sessions set last_seen_at = now() - interval '31 days' where user_id = $1", old["user"]["id"]
    )
    await forget_sessions(pool, 30 * 86400.0)
    assert await pool.fetchval("select count(*) from refresh_tokens") == 1
    assert (await refresh(site, old["refresh_token"])).json()["code"] == "token_invalid"
    await refreshed(site, new["refresh_token"])
