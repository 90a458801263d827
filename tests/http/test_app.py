"""Every route: what is refused before a handler is reached, and in which words."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import msgspec
import pytest

from protocol.refusals import ErrorCode
from server.http import auth
from server.http.endpoint import MOST_BODY_BYTES
from tests.http.conftest import Servers
from tests.http.serving import Site, serving

STATUSES = {code.value: code.status for code in ErrorCode}
POSTS = ["/auth/register", "/auth/login", "/auth/refresh", "/auth/logout"]
GETS = [
    "/me",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/openapi.json",
    "/schema.json",
    "/docs",
    "/docs.css",
    "/",
]


@pytest.fixture(scope="module")
async def site(servers: Servers) -> AsyncIterator[Site]:
    """Give a node that all tests here share."""
    async with serving(await servers.settings()) as running:
        yield running


@pytest.mark.parametrize(
    "path", ["/nothing", "/auth", "/auth/login/", "/auth//login", "/me/x", "/%00", "/../etc/passwd"]
)
async def test_unknown_path(site: Site, path: str) -> None:
    """What is not there is a problem like any other."""
    answer = await site.client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "/docs#not_found",
        "title": "Not found",
        "status": 404,
        "detail": ErrorCode.NOT_FOUND.advice,
        "code": "not_found",
    }


@pytest.mark.parametrize(
    ("paths", "allowed"), [(POSTS, {"POST"}), (GETS, {"GET", "HEAD"})], ids=["POST", "GET"]
)
async def test_wrong_method(site: Site, paths: list[str], allowed: set[str]) -> None:
    """A method that a path does not have is refused, and those that it has are all named."""
    for path in paths:
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - allowed:
            answer = await site.client.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (405, "method_refused"), (method, path)
            assert {name.strip() for name in answer.headers["allow"].split(",")} == allowed


async def test_head(site: Site) -> None:
    """HEAD is GET without the body."""
    for path in ("/health/live", "/docs", "/openapi.json"):
        answer = await site.client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonx",
        "application/json; charset=latin-1",
    ],
)
async def test_media_type(site: Site, path: str, content_type: str | None) -> None:
    """A body that is not called JSON is not read: so no page can send one without being asked about it first."""
    headers = {} if content_type is None else {"content-type": content_type}
    answer = await site.client.post(path, content=b"{}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (415, "media_type_refused")


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON", 'application/json; charset="UTF-8"']
)
async def test_media_type_spellings(site: Site, content_type: str) -> None:
    """JSON may be written in its other ways."""
    answer = await site.client.post(
        "/auth/logout", content=b'{"refresh_token":"x"}', headers={"content-type": content_type}
    )
    assert answer.status_code == 204


async def test_encoded_body(site: Site) -> None:
    """A compressed body is not inflated."""
    answer = await site.client.post(
        "/auth/logout", content=b"x", headers={"content-type": "application/json", "content-encoding": "gzip"}
    )
    assert answer.status_code == 415


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_size(site: Site, chunked: bool) -> None:
    """64 KiB pass, a byte more does not, whether its length was told or not."""

    async def pieces(body: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(body), 5000):
            yield body[start : start + 5000]

    for size, status in ((MOST_BODY_BYTES, 204), (MOST_BODY_BYTES + 1, 413), (1_000_000, 413)):
        body = b'{"refresh_token":"x"}'.ljust(size)
        answer = await site.client.post(
            "/auth/logout",
            content=pieces(body) if chunked else body,
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == status
        if status == 413:
            assert answer.json()["code"] == "too_large"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b'{"refresh_token":"\xff"}',
        b'{"a":"\\ud800"}',
        b"[" * 60000,
        b'{"a":' * 10000,
        b"{} {}",
    ],
)
async def test_not_json(site: Site, body: bytes) -> None:
    """What is no JSON is malformed, also when it is nested deeply or no text."""
    answer = await site.client.post(
        "/auth/logout", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code in (400, 422)
    assert answer.json()["code"] in ("malformed", "invalid")


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"x"', b'{"refresh_token":[]}', b"{}"])
async def test_wrong_shape(site: Site, body: bytes) -> None:
    """JSON of another shape is invalid, and the place is named."""
    answer = await site.client.post(
        "/auth/logout", content=body, headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")
    assert answer.json()["path"].startswith("$")


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
    assert answer.headers["access-control-allow-headers"] == "authorization, content-type"
    assert "access-control-allow-credentials" not in answer.headers
    for answer in (
        await site.client.get("/me", headers={"origin": origin}),
        await site.client.get("/nothing", headers={"origin": origin}),
    ):
        assert answer.headers["access-control-allow-origin"] == origin
        assert answer.headers["access-control-expose-headers"] == "retry-after"
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
    for answer in [*personal, *[await site.client.get(path) for path in [*GETS, "/nothing"]]]:
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

    monkeypatch.setattr(auth, "account_of_session", broken)
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


async def test_every_problem_is_one(site: Site) -> None:
    """A problem's status is that of the response, its code is one of the protocol's, its type leads to the page."""
    page = (await site.client.get("/docs")).text
    answers = [
        await site.client.get("/nothing"),
        await site.client.post("/me"),
        await site.client.post("/auth/login"),
        await site.client.get("/me"),
        await site.post("/auth/login", email="a@example.org", password="not this one"),
    ]
    for answer in answers:
        problem = msgspec.json.decode(answer.content)
        assert answer.headers["content-type"] == "application/problem+json"
        assert problem["status"] == answer.status_code
        assert STATUSES[problem["code"]] == answer.status_code
        path, _, anchor = problem["type"].partition("#")
        assert path == "/docs"
        assert f"id='{anchor}'" in page
