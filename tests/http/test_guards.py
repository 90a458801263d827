"""What every request passes first, and every answer last: hosts, origins, headers, and what a bug tells."""

from __future__ import annotations

import logging

import pytest

from server.http import callers
from tests.http.conftest import Servers
from tests.http.serving import Site, serving

PATHS = [
    "/me",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/openapi.json",
    "/schema.json",
    "/docs",
    "/docs.css",
    "/account.css",
    "/account.js",
    "/",
]


@pytest.fixture
def site(standing: Site) -> Site:
    """Share a node."""
    return standing


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil.example:8000",
        "",
        "localhost@evil.example",
        "127.0.0.1.nip.io",
    ],
)
async def test_foreign_host(site: Site, host: str) -> None:
    """A name that is not ours is refused on every path: so no name can be rebound to this address."""
    for path in ("/health/live", "/docs", "/nothing"):
        answer = await site.client.get(path, headers={"host": host})
        assert (answer.status_code, answer.json()["code"]) == (400, "host_refused")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1:8000", "[::1]:8000", "[::1]"])
async def test_our_hosts(site: Site, host: str) -> None:
    """Our names are answered on any port, in any case."""
    assert (await site.client.get("/health/live", headers={"host": host})).status_code == 200


async def test_hosts_that_are_two_or_none(site: Site) -> None:
    """Exactly one Host: with two it depends on who reads, with none nothing is known."""
    for hosts in (
        b"",
        b"Host: localhost\r\nHost: evil.example\r\n",
        b"Host: localhost\r\nHost: localhost\r\n",
    ):
        answer = await site.raw(b"GET /health/live HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"host_refused" in answer


async def test_cors(site: Site) -> None:
    """A page of an allowed origin may ask, and read the answer; preflight says so."""
    origin = "http://localhost:8000"
    answer = await site.client.options(
        "/auth/login",
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type",
        },
    )
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == origin
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"].split(", ") == [
        "authorization",
        "content-type",
        "if-none-match",
        "if-range",
        "range",
        "upload-offset",
    ]
    assert answer.headers["access-control-allow-credentials"] == "true"
    for answer in (
        await site.client.get("/me", headers={"origin": origin}),
        await site.client.get("/nothing", headers={"origin": origin}),
    ):
        assert answer.headers["access-control-allow-origin"] == origin
        exposed = answer.headers["access-control-expose-headers"].split(", ")
        assert {"ratelimit", "ratelimit-policy", "retry-after", "upload-offset", "content-range"} <= {
            *exposed
        }
        assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "https://localhost:8000",
        "http://localhost:8000.evil.example",
        "http://localhost:8001",
        "",
    ],
)
async def test_foreign_origins(site: Site, origin: str) -> None:
    """A page of another origin is refused, asked first or not, and can't read why."""
    headers = {"origin": origin}
    preflight = {**headers, "access-control-request-method": "POST"}
    for answer in (
        await site.client.options("/auth/login", headers=preflight),
        await site.client.post("/auth/login", json={}, headers=headers),
        await site.client.get("/health/live", headers=headers),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "origin_refused")
        assert "access-control-allow-origin" not in answer.headers


async def test_headers_of_every_answer(site: Site) -> None:
    """Nothing of a person is cached, nothing is sniffed, framed or told to others; the server's make is nobody's business."""
    account = await site.register()
    personal = [
        await site.me(account["access_token"]),
        await site.me("x"),
        await site.post("/auth/login", email=account["email"], password="not this one"),
        await site.post("/auth/refresh", refresh_token=account["refresh_token"]),
        await site.post("/auth/logout", refresh_token=account["refresh_token"]),
    ]
    for answer in personal:
        assert answer.headers["cache-control"] == "no-store"
    for answer in [*personal, *[await site.client.get(path) for path in [*PATHS, "/nothing"]]]:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
        assert "set-cookie" not in answer.headers


async def test_a_bug_tells_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What went wrong is logged once, with a reference; the answer has the reference and nothing else."""

    async def broken(*_: object) -> None:
        raise RuntimeError("select secret from /srv/secret")

    monkeypatch.setattr(callers, "account_of_session", broken)
    account = await site.register()
    with caplog.at_level(logging.ERROR):
        answer = await site.me(account["access_token"])
    assert (answer.status_code, answer.json()["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert len(caplog.records) == 1
    reference = caplog.records[0].getMessage().rpartition(" ")[2]
    assert reference in answer.json()["detail"]
    assert caplog.records[0].exc_info is not None
    assert account["access_token"] not in caplog.text


async def test_no_secret_in_a_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Neither addresses, nor passwords, nor tokens are logged, whatever is asked."""
    with caplog.at_level(logging.DEBUG):
        account = await site.register()
        await site.post("/auth/login", email=account["email"], password="not this one")
        await site.post("/auth/refresh", refresh_token=account["refresh_token"])
        await site.me(account["access_token"])
        await site.client.get("/me", headers={"authorization": "Bearer x.y.z"})
    ours = "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("looprooms", "uvicorn"))
    )
    for secret in (
        account["email"],
        account["access_token"],
        account["refresh_token"],
        "not this one",
        "x.y.z",
    ):
        assert secret not in ours


@pytest.mark.parametrize(
    ("variables", "proto", "expected"),
    [
        ({}, "https", None),
        ({"LOOPROOMS_TRUSTED_PROXIES": "127.0.0.1"}, "https", "max-age=31536000"),
        ({"LOOPROOMS_TRUSTED_PROXIES": "127.0.0.1"}, "http, HTTPS", "max-age=31536000"),
        ({"LOOPROOMS_TRUSTED_PROXIES": "127.0.0.1"}, "https, http", None),
        ({"LOOPROOMS_TRUSTED_PROXIES": "127.0.0.1"}, None, None),
        ({"LOOPROOMS_PUBLIC_URL": "https://rooms.example.org"}, None, "max-age=31536000"),
        ({"LOOPROOMS_PUBLIC_URL": "http://rooms.example.org"}, "https", None),
    ],
)
async def test_behind_tls(
    servers: Servers, variables: dict[str, str], proto: str | None, expected: str | None
) -> None:
    """Behind TLS browsers are told to come by nothing else; a stranger's word for it is nothing."""
    headers = {} if proto is None else {"x-forwarded-proto": proto}
    async with serving(await servers.settings(**variables)) as site:
        for path in ("/health/live", "/docs", "/nothing"):
            answer = await site.client.get(path, headers=headers)
            assert answer.headers.get("strict-transport-security") == expected
