"""Accounts over HTTP: what one gets, what one is refused, and what nobody can find out."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from argon2 import PasswordHasher

from server.passwords import hash_of_nobody
from tests.http.conftest import Servers
from tests.http.serving import PASSWORD, Site, serving
from tests.redis.valkeys import Valkey
from tests.stores import valkey

__all__ = ["valkey"]


async def test_register_and_be_someone(site: Site) -> None:
    """Who registers is signed in: the access token says who they are."""
    answer = await site.post(
        "/auth/register", email=" Ada@Example.ORG ", password=PASSWORD, name="Ada\u202e  Lovelace\n"
    )
    assert answer.status_code == 201
    given = answer.json()
    assert given["token_type"] == "Bearer"
    assert given["expires_in"] == 600
    me = await site.me(given["access_token"])
    assert me.status_code == 200
    assert me.json() == given["user"]
    assert me.json()["name"] == "Ada Lovelace"
    assert me.json()["email"] == "ada@example.org"
    assert (me.json()["role"], me.json()["tier"]) == ("MEMBER", "FREE")


async def test_sign_in_again(site: Site) -> None:
    """Each sign-in is another session of the same person; the address is one however it is written."""
    first = await site.register()
    second = await site.post("/auth/login", email=first["email"].upper(), password=PASSWORD)
    assert second.status_code == 200
    assert second.json()["user"] == first["user"]
    assert second.json()["refresh_token"] != first["refresh_token"]
    count = await site.node.stores.pool.fetchval("select count(*) from sessions")
    assert count == 2


async def test_an_address_may_be_claimed_by_many(site: Site) -> None:
    """Who registers with an address that somebody else claims is another person; of two, the one who came last signs in first."""
    first = await site.post("/auth/register", email="ada@example.org", password=PASSWORD, name="Ada")
    second = await site.post("/auth/register", email="ADA@example.org", password=PASSWORD, name="Bob")
    assert [first.status_code, second.status_code] == [201, 201]
    assert first.json()["user"]["id"] != second.json()["user"]["id"]
    answer = await site.post("/auth/login", email="ada@example.org", password=PASSWORD)
    assert answer.json()["user"] == second.json()["user"]


async def test_wrong_and_unknown_are_the_same(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password and an unknown address: the same answer, the same statements, the same hashing."""
    account = await site.register()
    statements: list[str] = []
    connections = [await site.node.stores.pool.acquire() for _ in range(site.node.stores.pool.get_max_size())]
    for connection in connections:
        connection.add_query_logger(
            lambda query: statements.append(query.query) if "password_hash" in query.query else None
        )
    for connection in connections:
        await site.node.stores.pool.release(connection)

    async def attempt(email: str) -> tuple[int, bytes, dict[str, str], list[str], int]:
        statements.clear()
        hashed = site.passwords.hashed
        answer = await site.post("/auth/login", email=email, password="not this one")
        headers = {name: value for name, value in answer.headers.items() if name != "date"}
        return answer.status_code, answer.content, headers, list(statements), site.passwords.hashed - hashed

    wrong = await attempt(account["email"])
    unknown = await attempt("nobody@example.org")
    assert wrong == unknown
    assert wrong[0] == 401
    assert msgspec.json.decode(wrong[1])["code"] == "credentials_refused"
    assert len(wrong[3]) == 1
    assert wrong[4] == 2, "one for who has the address, one for who claims it"


async def test_the_dummy_hash_is_like_any_other(site: Site) -> None:
    """What an unknown address is checked against takes the parameters of a real hash."""
    await site.register()
    stored = await site.node.stores.pool.fetchval("select password_hash from identities")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert (
        hash_of_nobody().rpartition("$")[0].rpartition("$")[0] == stored.rpartition("$")[0].rpartition("$")[0]
    )


async def test_outdated_hash_is_renewed(site: Site) -> None:
    """A hash with yesterday's parameters is made anew at the next sign-in, and still fits."""
    account = await site.register()
    pool = site.node.stores.pool
    weak = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(PASSWORD)
    await pool.execute("update identities set password_hash = $1", weak)
    for _ in range(2):
        answer = await site.post("/auth/login", email=account["email"], password=PASSWORD)
        assert answer.status_code == 200
    assert (await pool.fetchval("select password_hash from identities")).startswith(
        "$argon2id$v=19$m=19456,t=2,"
    )


async def test_compatible_characters_are_one_password(site: Site) -> None:
    """A password typed in full-width characters is the same one."""
    await site.post("/auth/register", email="a@example.org", password="ｆｕｌｌ width ４２ moons", name="A")
    answer = await site.post("/auth/login", email="a@example.org", password="full width 42 moons")
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "code", "path"),
    [
        ({"password": "short"}, "password_weak", "$.password"),
        ({"password": "password"}, "password_weak", "$.password"),
        ({"password": "p" * 1025}, "password_weak", "$.password"),
        ({"password": "Person@Example.org"}, "password_weak", "$.password"),
        ({"name": "\u200b\u202e"}, "text_empty", "$.name"),
        ({"name": "n" * 81}, "invalid", "$.name"),
        ({"name": ""}, "invalid", "$.name"),
        ({"email": "no address"}, "invalid", "$.email"),
        ({"email": 5}, "invalid", "$.email"),
        ({"email": None}, "invalid", "$.email"),
    ],
)
async def test_what_cannot_be_registered(site: Site, body: dict[str, Any], code: str, path: str) -> None:
    """A field that can't be is named, and nothing is made."""
    good = {"email": "person@example.org", "password": PASSWORD, "name": "Person"}
    answer = await site.client.post("/auth/register", json=good | body)
    assert answer.status_code == 422
    assert (answer.json()["code"], answer.json()["path"]) == (code, path)
    assert await site.node.stores.pool.fetchval("select count(*) from users") == 0


async def test_unknown_fields_are_ignored(site: Site) -> None:
    """A newer client may say more; nobody can give themselves a role."""
    answer = await site.post(
        "/auth/register", email="a@example.org", password=PASSWORD, name="A", role="ADMIN", tier="CREATOR_PRO"
    )
    assert answer.status_code == 201
    assert (answer.json()["user"]["role"], answer.json()["user"]["tier"]) == ("MEMBER", "FREE")


async def test_banned(site: Site) -> None:
    """Who is banned can neither sign in, nor refresh, nor be anyone; a wrong password does not tell that."""
    account = await site.register()
    await site.node.stores.pool.execute("update users set banned_at = now()")
    answer = await site.post("/auth/login", email=account["email"], password=PASSWORD)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    answer = await site.post("/auth/login", email=account["email"], password="not this one")
    assert answer.json()["code"] == "credentials_refused"
    answer = await site.post("/auth/refresh", refresh_token=account["refresh_token"])
    assert answer.json()["code"] == "session_ended"
    assert (await site.me(account["access_token"])).json()["code"] == "session_ended"


@pytest.mark.parametrize("header", [None, "", "Bearer", "Basic abc", "Bearer a.b.c", "Bearer é"])
async def test_no_token(site: Site, header: str | None) -> None:
    """Without a good access token one is told to get one, in the words of RFC 6750."""
    headers = {} if header is None else {b"authorization": header.encode("latin-1")}
    answer = await site.client.get("/me", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'


async def test_guessing_is_slowed(servers: Servers, valkey: Valkey) -> None:
    """After some wrong passwords one must wait, whoever is guessed; no hash is computed meanwhile."""
    strict = await servers.settings(REDIS_URL=valkey.url, LOOPROOMS_LIMITS_FACTOR="1")
    async with serving(strict) as site:
        account = await site.register()
        guesses = 0
        while (
            answer := await site.post("/auth/login", email=f"n{guesses}@example.org", password="guess guess")
        ).is_error:
            if answer.status_code == 429:
                break
            assert answer.status_code == 401
            guesses += 1
        assert 20 <= guesses < 40  # on a slow machine one or the other has come back meanwhile
        assert int(answer.headers["retry-after"]) >= 1
        hashed = site.passwords.hashed
        answer = await site.post("/auth/login", email=account["email"], password=PASSWORD)
        assert answer.status_code == 429
        assert site.passwords.hashed == hashed


async def test_a_storm_of_sign_ins_is_served(site: Site) -> None:
    """Two hundred right passwords at once are all served, and the loop goes on meanwhile."""
    account = await site.register()
    loop = asyncio.get_running_loop()
    late: list[float] = []

    async def watch() -> None:
        while True:
            before = loop.time()
            await asyncio.sleep(0.01)
            late.append(loop.time() - before - 0.01)

    watching = asyncio.create_task(watch())
    answers = await asyncio.gather(
        *(site.post("/auth/login", email=account["email"], password=PASSWORD) for _ in range(200))
    )
    watching.cancel()
    assert {answer.status_code for answer in answers} == {200}
    assert len(late) > 20, "the loop stood still"


async def test_full_queue(servers: Servers) -> None:
    """Past the bound one is told to come again, at once."""
    async with serving(await servers.settings()) as site:
        site.passwords._most_waiting = 4
        answers = await asyncio.gather(
            *(site.post("/auth/login", email="a@example.org", password="whatever it is") for _ in range(12))
        )
        codes = [answer.json()["code"] for answer in answers]
        assert codes.count("busy") >= 1
        assert codes.count("credentials_refused") >= 4
        busy = next(answer for answer in answers if answer.json()["code"] == "busy")
        assert busy.status_code == 503
        assert int(busy.headers["retry-after"]) >= 1


async def test_secrets_are_not_stored(site: Site) -> None:
    """Neither a password nor a token stands in the database, nor what is personal: an address, a device."""
    account = await site.register()
    pool = site.node.stores.pool
    rows = [
        str(dict(row))
        for table in ("users", "identities", "sessions", "refresh_tokens")
        for row in await pool.fetch(f"select * from {table}")
    ]
    text = "\n".join(rows)
    assert account["user"]["name"] in text
    device = site.client.headers["user-agent"]
    for secret in (PASSWORD, account["refresh_token"], account["access_token"], account["email"], device):
        assert secret not in text
