"""The published keys, and their rotation under load."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import jwt
import msgspec
import pytest

from server import rotation
from server.process.keys import new_key, write_lines
from tests.http.conftest import Servers
from tests.http.serving import Site, serving
from tests.http.test_families import hello, refresh


async def published(site: Site) -> httpx2.Response:
    """Fetch the published keys."""
    return await site.client.get("/.well-known/jwks.json")


async def test_anyone_can_check_a_token(site: Site) -> None:
    """A library that knows nothing of us verifies an access token with what is published, and nothing secret is."""
    account = await site.register()
    answer = await published(site)
    assert answer.headers["content-type"] == "application/jwk-set+json"
    assert answer.headers["cache-control"] == "public, max-age=30"
    keys = jwt.PyJWKSet.from_dict(answer.json())
    token = account["access_token"]
    key = keys[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, algorithms=["EdDSA"], audience="looprooms", issuer="looprooms")
    assert claims["sub"] == account["user"]["id"]
    assert set(answer.json()["keys"][0]) == {"kty", "crv", "alg", "use", "kid", "x"}


async def test_all_keys_that_verify_are_published(site: Site) -> None:
    """The next one before it signs, the last one while its tokens live."""
    first = (await published(site)).json()["keys"]
    site.node.tokens.take([*site.node.settings.signing_keys, new_key()])
    second = (await published(site)).json()["keys"]
    assert second[:1] == first
    assert len(second) == 2


async def test_rotation_under_load(servers: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While keys are added, promoted and retired, nobody's token is ever refused, and no session or connection ends."""
    monkeypatch.setattr(rotation, "READ_SECONDS", 0.05)
    monkeypatch.setattr(rotation, "EXPIRED_SECONDS", 2.0)
    file = tmp_path / "signing.keys"
    first = new_key()
    write_lines(file, [first])
    plain = await servers.settings(LOOPROOMS_ACCESS_TOKEN_SECONDS="5")
    settings = msgspec.structs.replace(plain, signing_keys=(first,), signing_keys_file=str(file))
    async with serving(settings) as site:
        accounts = [await site.register() for _ in range(6)]
        stop, third_key = asyncio.Event(), asyncio.Event()
        kids: set[str] = set()

        async def live(account: dict[str, Any]) -> int:
            """Renew, ask and say hello, over and over."""
            rounds = 0
            token = account["refresh_token"]
            while not stop.is_set():
                answer = await refresh(site, token)
                assert answer.status_code == 200, answer.text
                access, token = answer.json()["access_token"], answer.json()["refresh_token"]
                kids.add(jwt.get_unverified_header(access)["kid"])
                if len(kids) == 3:
                    third_key.set()
                assert (await site.me(access)).status_code == 200
                connection = await hello(site, {"access_token": access})
                await connection.close()
                rounds += 1
            return rounds

        living = [asyncio.create_task(live(account)) for account in accounts]

        def turn() -> None:
            rotation.rotate(file, token_seconds=5, learn_seconds=0.5, said=lambda _: None)

        await asyncio.to_thread(turn)
        with pytest.raises(rotation.CannotRotate):
            await asyncio.to_thread(turn)
        assert len(site.node.tokens.public_keys) == 2
        await asyncio.sleep(7.1)  # the life of the last token that the first key signed, and its leeway
        await asyncio.to_thread(turn)
        seen = asyncio.create_task(third_key.wait())
        await asyncio.wait((seen, *living), return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        rounds = await asyncio.gather(*living)
    assert min(rounds) > 3
    assert len(kids) == 3
    assert first.partition(":")[0] not in site.node.tokens.public_keys
