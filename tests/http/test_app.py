"""Routes: what is there, by which methods, and what is not."""

from __future__ import annotations

import pytest

from protocol.refusals import ErrorCode
from tests.http.serving import Site

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
    "/account.css",
    "/account.js",
    "/",
]


@pytest.fixture
def site(standing: Site) -> Site:
    """Share a node."""
    return standing


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
    ("paths", "allowed"),
    [(POSTS, {"POST"}), (GETS[1:], {"GET", "HEAD"}), (["/me"], {"GET", "HEAD", "DELETE"})],
    ids=["POST", "GET", "several"],
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
