"""Signing in with an ID token that an app got on its device: what it proves, and every forgery of one."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.http.conftest import Servers
from tests.http.provider import APP, WEB, Someone, StandIn, rsa_key
from tests.http.serving import Site
from tests.http.world import ADA, KINDS, World, a_world


def hashed(nonce: str) -> str:
    """Return what an app tells the provider of its nonce."""
    return hashlib.sha256(nonce.encode()).hexdigest()


async def post(site: Site, kind: str, id_token: str, nonce: str, **more: str) -> httpx2.Response:
    """Sign in with an ID token."""
    return await site.post(f"/auth/{kind}/token", id_token=id_token, nonce=nonce, **more)


async def sign_in(world: World, kind: str, someone: Someone = ADA, **more: str) -> httpx2.Response:
    """Sign in as an app does."""
    nonce = secrets.token_urlsafe(16)
    return await post(world.site, kind, world.of(kind).id_token(someone, nonce=hashed(nonce)), nonce, **more)


def refused(answer: httpx2.Response) -> None:
    """Say that it was refused, and how."""
    assert (answer.status_code, answer.json()["code"]) == (401, "sign_in_refused"), answer.text


@pytest.mark.parametrize("kind", KINDS)
async def test_an_app_signs_in(world: World, kind: str) -> None:
    """It gets what any sign-in gives, with the refresh token in the body; in the browser one is the same person."""
    answer = await sign_in(world, kind, name="Ada Lovelace")
    assert answer.status_code == 200, answer.text
    given = answer.json()
    assert given["user"]["name"] == "Ada Lovelace"
    assert (await site_me(world, given)) == given["user"]
    assert isinstance(given["refresh_token"], str)
    assert await world.sign_in(kind) == f"/after#signed_in={kind}"
    assert (await world.me())["id"] == given["user"]["id"]


async def site_me(world: World, given: dict[str, Any]) -> dict[str, Any]:
    """Ask who one is."""
    return dict((await world.site.me(given["access_token"])).json())


@pytest.mark.parametrize("kind", KINDS)
async def test_an_id_token_counts_once(world: World, kind: str) -> None:
    """The same again, however it is written, is refused."""
    nonce = secrets.token_urlsafe(16)
    token = world.of(kind).id_token(ADA, nonce=hashed(nonce))
    assert (await post(world.site, kind, token, nonce)).status_code == 200
    refused(await post(world.site, kind, token, nonce))
    same = world.of(kind).id_token(ADA, nonce=hashed(nonce))
    refused(await post(world.site, kind, same, nonce))


@pytest.mark.parametrize("kind", KINDS)
async def test_the_token_alone_is_worth_nothing(world: World, kind: str) -> None:
    """Who has read the token knows the hash of the nonce, not the nonce."""
    nonce = secrets.token_urlsafe(16)
    token = world.of(kind).id_token(ADA, nonce=hashed(nonce))
    for guess in (hashed(nonce), nonce + "x", nonce.upper()):
        refused(await post(world.site, kind, token, guess))
    assert (await post(world.site, kind, token, nonce)).status_code == 200


def encoded(part: Any) -> str:
    """Write a part of a token."""
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forgeries(stand_in: StandIn, nonce: str) -> dict[str, str]:
    """Make every kind of token that must not count."""
    right = stand_in.id_token(ADA, nonce=nonce)
    header, payload, signature = right.split(".")
    claims = stand_in.said_of(ADA, nonce=nonce)
    public = rsa_key(1).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def signed(key: Any, **changed: Any) -> str:
        headers = {"kid": "one"} | changed
        headers = {name: value for name, value in headers.items() if value is not None}
        return jwt.encode(claims, key, algorithm="RS256", headers=headers)

    def by_hmac(alg: str) -> str:
        start = f"{encoded({'alg': alg, 'typ': 'JWT', 'kid': 'one'})}.{payload}"
        return f"{start}.{encoded(hmac.digest(public, start.encode(), 'sha256'))}"

    def other(**changed: Any) -> str:
        said = {name: value for name, value in (claims | changed).items() if value is not None}
        return jwt.encode(said, rsa_key(1), algorithm="RS256", headers={"kid": "one"})

    flipped = bytearray(base64.urlsafe_b64decode(signature + "=="))
    flipped[7] ^= 1
    now = int(time.time())
    return {
        "none": f"{encoded({'alg': 'none', 'kid': 'one'})}.{payload}.",
        "None": f"{encoded({'alg': 'None', 'kid': 'one'})}.{payload}.{signature}",
        "no signature": f"{header}.{payload}.",
        "HS256 with the public key": by_hmac("HS256"),
        "hs256": by_hmac("hs256"),
        "another key under its name": signed(rsa_key(2)),
        "an unknown name": signed(rsa_key(1), kid="unknown"),
        "no name": signed(rsa_key(1), kid=None),
        "a name that is none": f"{encoded({'alg': 'RS256', 'kid': 7})}.{payload}.{signature}",
        "a name that is a path": signed(rsa_key(1), kid="../../dev/null"),
        "the address of a key": signed(rsa_key(2), kid="two", jku="https://evil.example/keys"),
        "a key with it": signed(
            rsa_key(2), jwk=jwt.algorithms.RSAAlgorithm.to_jwk(rsa_key(2).public_key(), as_dict=True)
        ),
        "another algorithm": jwt.encode(claims, rsa_key(1), algorithm="RS512", headers={"kid": "one"}),
        "critical": signed(rsa_key(1), crit=["x"], x=1),
        "a flipped bit": f"{header}.{payload}.{encoded(bytes(flipped))}",
        "another payload": f"{header}.{encoded(claims | {'sub': 'victim'})}.{signature}",
        "an unknown client": other(aud="org.example.other"),
        "one of several clients": other(aud=[APP, "org.example.other"]),
        "another issuer": other(iss="https://accounts.google.com"),
        "an issuer with more": other(iss=f"{stand_in.url}/"),
        "expired": other(iat=now - 7200, exp=now - 3600),
        "of the future": other(iat=now + 3600, exp=now + 7200),
        "no end": other(exp=None),
        "an end that is no time": other(exp="soon"),
        "no subject": other(sub=None),
        "a subject with zero": other(sub="a\0b"),
        "nested": f"{encoded(b'[' * 5000)}.{payload}.{signature}",
        "no text": f"{encoded(bytes([0xFF]))}.{payload}.{signature}",
        "nonsense": "nonsense",
        "dots": "....",
    }


@pytest.mark.parametrize("kind", KINDS)
async def test_forgeries(world: World, kind: str) -> None:
    """Whatever is not signed by the provider for us, now, is refused in the same words; the genuine one is taken."""
    nonce = secrets.token_urlsafe(16)
    for name, token in forgeries(world.of(kind), hashed(nonce)).items():
        answer = await post(world.site, kind, token, nonce)
        assert (answer.status_code, answer.json()["code"]) == (401, "sign_in_refused"), name
    assert await world.people() == 0
    genuine = world.of(kind).id_token(ADA, nonce=hashed(nonce))
    assert (await post(world.site, kind, genuine, nonce)).status_code == 200


async def test_a_token_of_the_other_provider(world: World) -> None:
    """Keys and clients of one are nothing to the other, and the same subject at both is two people."""
    nonce = secrets.token_urlsafe(16)
    refused(await post(world.site, "apple", world.google.id_token(ADA, nonce=hashed(nonce)), nonce))
    nobody = Someone("the same subject")
    people = {(await sign_in(world, kind, nobody)).json()["user"]["id"] for kind in KINDS}
    assert len(people) == 2


async def test_a_thousand_unknown_keys(world: World) -> None:
    """A flood of invented names of keys fetches the keys once, not a thousand times, and keeps nobody out."""
    assert (await sign_in(world, "google")).status_code == 200
    nonce = secrets.token_urlsafe(16)
    claims = world.google.said_of(ADA, nonce=hashed(nonce))
    signature = world.google.id_token(ADA, nonce=hashed(nonce)).split(".")[2]
    for number in range(1000):
        header = encoded({"alg": "RS256", "kid": f"unknown {number}"})
        refused(await post(world.site, "google", f"{header}.{encoded(claims)}.{signature}", nonce))
    assert world.google.fetches() == 1
    assert (await sign_in(world, "google", Someone("another"))).status_code == 200


async def test_a_token_for_the_web_client(world: World) -> None:
    """An Android app gets tokens for the web client; those count, too."""
    nonce = secrets.token_urlsafe(16)
    token = world.google.id_token(ADA, nonce=hashed(nonce), client=WEB)
    assert (await post(world.site, "google", token, nonce)).status_code == 200


async def test_the_code_of_an_app(world: World) -> None:
    """With Apple's code we hold what must be revoked one day; a bad code does not keep anybody out."""
    answer = await sign_in(world, "apple", code=world.apple.app_code(ADA))
    assert answer.status_code == 200
    pool = world.site.node.stores.pool
    row = await pool.fetchrow("select * from provider_tokens")
    assert row is not None
    assert (str(row["user_id"]), row["client_id"]) == (answer.json()["user"]["id"], APP)
    (token,) = world.apple.refresh_tokens
    assert token.encode() not in row["sealed_token"]
    assert (await sign_in(world, "apple", code="nonsense")).status_code == 200
    assert (await sign_in(world, "google", Someone("other"), code="ignored")).status_code == 200
    assert await pool.fetchval("select count(*) from provider_tokens") == 1


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "$"),
        ({"id_token": "x"}, "$"),
        ({"id_token": "x", "nonce": "short"}, "$.nonce"),
        ({"id_token": "", "nonce": "n" * 16}, "$.id_token"),
        ({"id_token": "x" * 8193, "nonce": "n" * 16}, "$.id_token"),
        ({"id_token": "x", "nonce": 7}, "$.nonce"),
    ],
)
async def test_what_is_no_request(world: World, body: dict[str, Any], path: str) -> None:
    """A field that is missing or can't be is named."""
    answer = await world.site.post("/auth/google/token", **body)
    assert (answer.status_code, answer.json()["code"], answer.json()["path"]) == (422, "invalid", path)


async def test_a_page_with_an_id_token(world: World) -> None:
    """A page may sign in with one, too; its refresh token is kept by its browser, as ever."""
    nonce = secrets.token_urlsafe(16)
    token = world.google.id_token(ADA, nonce=hashed(nonce), client=WEB)
    answer = await world.browser.fetch("/auth/google/token", {"id_token": token, "nonce": nonce})
    assert answer.json()["refresh_token"] is None
    assert (await world.me())["name"] == "Ada Lovelace"


async def test_attempts_are_limited(servers: Servers) -> None:
    """Past its limit an address waits, whatever it sends."""
    async with a_world(servers, LOOPROOMS_LIMITS_FACTOR="0.1") as world:
        codes = [(await post(world.site, "google", "x", "n" * 16)).status_code for _ in range(10)]
    assert codes[0] == 401
    assert codes[-1] == 429
